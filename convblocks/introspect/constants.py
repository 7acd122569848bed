"""What a tensor holds that does not depend on the input: a causal mask, a list of places, made of constants alone.

A trace keeps how such tensors were made, on whatever device that was. They are made again, on the CPU and with data,
when somebody asks.
"""

# What torch leaves without types.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from convblocks.introspect.aliasing import Ref, Scatter
from convblocks.introspect.arrays import LARGEST
from convblocks.introspect.operations import FACTORIES, name_of, operator

if TYPE_CHECKING:
    from convblocks.introspect.graph import Graph, Node


def known(graph: Graph, value: int) -> Tensor | None:
    """The elements of a tensor; None for what depends on the input, on a parameter, on chance, or has no data.

    A result must not be written into: it may share its memory with a buffer of the network.
    """
    if value not in graph.constants:
        # Said first, so that nothing is tried twice.
        graph.constants[value] = None
        node = graph.made.get(value)
        if node is not None:
            _make(graph, node)
    return graph.constants[value]


def _make(graph: Graph, node: Node) -> None:
    """Note the results of an operation whose operands are all known."""
    if any(math.prod(graph.shapes[value]) > LARGEST for value in node.outputs) or _drawn(node):
        return
    try:
        results = rerun(graph, node, lambda value: known(graph, value))
    except (NotKnown, RuntimeError, NotImplementedError, TypeError):
        return
    for value, item in zip(node.outputs, results, strict=False):
        if isinstance(item, Tensor) and tuple(item.shape) == graph.shapes[value]:
            graph.constants[value] = item


class NotKnown(Exception):
    """An operand has no known elements."""


def _drawn(node: Node) -> bool:
    """Whether chance, or what the memory held before or where, is in the results."""
    step = node.func.step.func if isinstance(node.func, Scatter) else node.func
    return torch.Tag.nondeterministic_seeded in step.tags or "empty" in node.op or "as_strided" in name_of(step)


def rerun(graph: Graph, node: Node, find: Callable[[int], Tensor | None]) -> Sequence[object]:
    """The results of an operation for the operands that `find` gives."""
    args: tuple[Any, ...] = _with_values(node.args, graph, node, find)
    kwargs = {key: _with_values(item, graph, node, find) for key, item in node.kwargs.items()}
    if kwargs.get("device") is not None:
        kwargs["device"] = torch.device("cpu")
    if isinstance(node.func, Scatter):
        base, piece = args[0].clone(), args[1]
        step = node.func.step
        if any(isinstance(item, Ref) for item in step.args[1:]):
            raise NotKnown
        view = step.func(base, *step.args[1:], **step.kwargs)
        (view[step.output] if isinstance(view, (list, tuple)) else view).copy_(piece)
        return [base]
    for written in operator(node.func).written_arguments(args, kwargs):
        copy = written.clone()
        args = tuple(copy if item is written else item for item in args)
        kwargs = {key: copy if item is written else item for key, item in kwargs.items()}
    result = node.func(*args, **kwargs)
    return cast("Sequence[object]", result) if isinstance(result, (list, tuple)) else [result]


# No function within `rerun`: one that calls itself holds itself, and with it the graph until a search for garbage.
def _with_values(item: Any, graph: Graph, node: Node, find: Callable[[int], Tensor | None]) -> Any:
    """An argument of the operation with the operands that `find` gives."""
    if isinstance(item, Ref):
        found = find(item.value)
        if found is None and node.op in FACTORIES:
            return torch.empty((), dtype=graph.dtypes[item.value]).expand(graph.shapes[item.value])
        if found is None:
            raise NotKnown
        return found
    if isinstance(item, (list, tuple)):
        items = [_with_values(part, graph, node, find) for part in cast("Sequence[Any]", item)]
        return items if isinstance(item, list) else tuple(items)
    return item
