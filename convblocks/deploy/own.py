"""What belongs to a module itself: its weights, the forward of its class, its hooks."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator

import torch
from torch import Tensor, nn

from convblocks.introspect.graph import Graph

CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_PLAIN = {kind.forward for kind in (*CONVS, nn.Linear)}


def plain(layer: nn.Module) -> bool:
    """Whether a layer runs the forward of torch's own class, and not one of a subclass or of the layer alone."""
    return getattr(layer.forward, "__func__", None) in _PLAIN


def weights(layer: nn.Module) -> tuple[Tensor | None, Tensor | None]:
    """The weight and the bias of a layer, where they are parameters."""
    weight, bias = (getattr(layer, name, None) for name in ("weight", "bias"))
    return (weight if isinstance(weight, nn.Parameter) else None, bias if isinstance(bias, Tensor) else None)


@contextlib.contextmanager
def probed(model: nn.Module) -> Generator[None, None, None]:
    """A bias of zeros, while it is entered, for every convolution that has none and a forward of its own.

    Folding gives it one: whether it would be read is seen from one that is there.
    """
    found = [m for m in model.modules() if isinstance(m, CONVS) and m.bias is None and not plain(m)]
    try:
        for layer in found:
            zeros = torch.zeros(layer.out_channels, dtype=layer.weight.dtype, device=layer.weight.device)
            layer.bias = nn.Parameter(zeros, requires_grad=False)
        yield
    finally:
        for layer in found:
            layer.bias = None


def has_hooks(module: nn.Module) -> bool:
    """Whether something watches the calls of a module, and would miss them."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(vars(module)[kind] for kind in kinds)


def hooked(graph: Graph) -> Iterator[int]:
    """The values that hooks of modules see, as what goes in or comes out."""
    for call in graph.calls:
        after = bool(vars(call.module)["_forward_hooks"])
        yield from call.inputs if after or vars(call.module)["_forward_pre_hooks"] else ()
        yield from call.outputs if after else ()
