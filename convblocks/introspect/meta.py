"""What common operations return on the meta device, without running them there.

torch answers many operations on meta tensors by a decomposition written in Python: a batch norm takes thirty times as
long as the convolution before it, and norms and activations together most of a trace. Their results have the shape of
an operand, which is all that a trace asks for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten

Shortcut = Callable[..., Any]
"""The result for the arguments of the operation; None where the operation has to be run to know (or to refuse)."""


def _like(x: Tensor, *_: Any, **__: Any) -> Tensor | None:
    return torch.empty_like(x) if x.is_floating_point() else None


def _itself(x: Tensor, *_: Any, **__: Any) -> Tensor | None:
    return x if x.is_floating_point() else None


def _alike(x: Any, y: Any) -> bool:
    return (
        isinstance(y, Tensor)
        and x.shape == y.shape
        and x.dtype == y.dtype
        and x.stride() == y.stride()
        and x.device == y.device
        and x.is_floating_point()
    )


def _like_both(x: Tensor, y: Any, **_: Any) -> Tensor | None:
    return torch.empty_like(x) if _alike(x, y) else None


def _first(x: Tensor, y: Any, **_: Any) -> Tensor | None:
    return x if _alike(x, y) else None


def _batch_norm(
    x: Tensor, weight: Any, bias: Any, mean: Tensor, variance: Tensor, training: bool, *_: Any
) -> tuple[Tensor, Tensor, Tensor] | None:
    if training or not x.is_floating_point():
        return None
    statistics = x.new_empty((x.shape[1],), dtype=mean.dtype)
    return torch.empty_like(x), statistics, statistics


def _layer_norm(x: Tensor, shape: list[int], *_: Any) -> tuple[Tensor, Tensor, Tensor] | None:
    count = len(shape)
    if not x.is_floating_point() or tuple(x.shape[-count:]) != tuple(shape):
        return None
    statistics = x.new_empty((*x.shape[:-count], *[1] * count), dtype=torch.promote_types(x.dtype, torch.float32))
    return x.new_empty(x.shape), statistics, statistics


def _addmm(bias: Tensor, left: Tensor, right: Tensor, **_: Any) -> Tensor | None:
    rows, inner = left.shape
    fits = right.shape[0] == inner and tuple(bias.shape) == (right.shape[1],)
    if not fits or not bias.dtype == left.dtype == right.dtype:
        return None
    return left.new_empty((rows, right.shape[1]))


def recurrent_shapes(name: str, args: tuple[Any, ...]) -> list[tuple[int, ...]] | None:
    """Shapes of the sequence and of the last states of `torch.lstm` and its like; None for packed sequences."""
    x, state = args[:2]
    if isinstance(args[2], Tensor) or isinstance(state, Tensor) == (name == "lstm") or x.dim() != 3:
        return None
    states: list[Tensor] = [state] if isinstance(state, Tensor) else list(state)
    weights: Sequence[Tensor] = args[2]
    first = weights[0]
    if first.dim() != 2 or first.shape[1] != x.shape[2]:
        return None
    bidirectional: bool = args[7]
    return [(*x.shape[:2], states[0].shape[2] * (1 + bidirectional)), *(tuple(t.shape) for t in states)]


ACTIVATIONS = (
    *("relu", "silu", "gelu", "sigmoid", "hardswish", "hardsigmoid"),
    *("hardtanh", "leaky_relu", "elu", "tanh", "mish"),
)
SHORTCUTS: dict[Any, Shortcut] = {
    **{getattr(aten, name).default: _like for name in ACTIVATIONS},
    **{getattr(aten, f"{name}_").default: _itself for name in ACTIVATIONS},
    aten.add.Tensor: _like_both,
    aten.mul.Tensor: _like_both,
    aten.add_.Tensor: _first,
    aten.mul_.Tensor: _first,
    aten.native_batch_norm.default: _batch_norm,
    aten.native_layer_norm.default: _layer_norm,
    aten.addmm.default: _addmm,
}


def run(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What `func` returns for tensors on the meta device."""
    shortcut = SHORTCUTS.get(func)
    result = shortcut(*args, **kwargs) if shortcut is not None else None
    return func(*args, **kwargs) if result is None else result
