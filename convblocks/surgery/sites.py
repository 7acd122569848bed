"""Where an operation may be replaced: by a module that runs it alone, and that nothing else depends on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeAlias, TypeVar, cast

from torch import nn

from convblocks.deploy.flow import Flow
from convblocks.introspect.graph import Node
from convblocks.introspect.layers import Window, window_of
from convblocks.layers._depthwise import DepthwiseConv2d

Model = TypeVar("Model", bound=nn.Module)
Select: TypeAlias = "Callable[[str, nn.Module], bool]"


def image_size(input_size: Sequence[int]) -> tuple[int, int, int]:
    """Return `input_size` where it is (channels, height, width)."""
    sizes = list(cast("Sequence[object]", input_size))
    if len(sizes) != 3 or not all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in sizes):
        raise ValueError(f"input_size must be (channels, height, width), positive whole numbers, got {input_size!r}")
    return input_size[0], input_size[1], input_size[2]


def windows(flow: Flow) -> Iterator[tuple[Node, Window, str]]:
    """Every convolution and pooling over two axes, with the name of its module, or of the forward it stands in."""
    seen: set[int] = set()
    for node in flow.graph.nodes:
        window = window_of(flow.graph, node)
        module = flow.module(node)
        if window is None or window.kind in ("global pool", "transposed conv") or len(window.kernel) != 2:
            continue
        where = flow.graph.where(node)
        if module is None or any(module.children()) or not where:
            yield node, window, f"{node.op} in {where or 'forward'}"
        elif id(module) not in seen:
            seen.add(id(module))
            yield node, window, where


def obstacle(flow: Flow, node: Node, kinds: tuple[type[nn.Module], ...]) -> str:
    """Why the module that ran an operation cannot be replaced by another; "" where it can."""
    module = flow.module(node)
    if module is None or any(module.children()):
        return "is computed by a plain function"
    if not flow.graph.where(node):
        return "is the network itself"
    if type(module) not in kinds:
        return f"is a {type(module).__name__}, whose own forward would be lost"
    return flow.obstacle(module) or (flow.altered(node, module) if isinstance(module, nn.Conv2d) else "")


def put(model: nn.Module, name: str, module: nn.Module) -> None:
    """Set the module of that name, in the mode of its parent."""
    if not name:
        raise ValueError(f"model is a bare {type(model).__name__}: wrap it in an nn.Sequential")
    above, _, place = name.rpartition(".")
    parent = model.get_submodule(above)
    setattr(parent, place, module.train(parent.training))


def check_called(model: nn.Module, input_size: Sequence[int], names: Iterable[str]) -> None:
    """Raise where what was put into a network does not run in it.

    Raises:
        ValueError: the forward pass has another way to what stood there before, such as a list that is no ModuleList.
    """
    flow = Flow(model, input_size)
    for name in names:
        if not flow.uses[id(model.get_submodule(name))]:
            raise ValueError(
                f"{name} cannot be replaced: the forward pass calls it by another name, such as a place in a list"
            )


def short(values: Sequence[int]) -> str:
    """`3` for (3, 3), `3x5` for (3, 5)."""
    return str(values[0]) if len(set(values)) == 1 else "x".join(map(str, values))


def by_kernel(kernel: Sequence[int]) -> str:
    """`3x3` for (3, 3)."""
    return "x".join(map(str, kernel))


CONVS: tuple[type[nn.Module], ...] = (nn.Conv2d, DepthwiseConv2d)
