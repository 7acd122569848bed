"""Results of operations that go element by element."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from convblocks.introspect.meta.memory import (
    INTEGERS,
    Shortcut,
    dense_strides,
    is_channels_last,
    like,
    of_type,
)

aten = torch.ops.aten


def _itself(x: Tensor, *_: Any, **__: Any) -> Tensor | None:
    return x if x.is_floating_point() else None


def _alike(x: Tensor, y: Tensor) -> bool:
    return x.shape == y.shape and x.dtype == y.dtype and x.stride() == y.stride() and x.is_floating_point()


def _within(small: Tensor, full: Tensor) -> bool:
    """Whether `small` is broadcast to `full`, both are of one type, and the strides are those of `full`."""
    vector = sum(n > 1 for n in small.shape) <= 1
    return (
        small.dtype == full.dtype
        and full.is_floating_point()
        and small.is_contiguous()
        and (full.is_contiguous() or (vector and is_channels_last(full)))
        and small.dim() <= full.dim()
        and all(n in (1, m) for n, m in zip(reversed(small.shape), reversed(full.shape), strict=False))
    )


def _covers(x: Tensor, y: Tensor) -> bool:
    """Whether `y` is broadcast to `x`, both are of one type, and `x`, as the first operand, decides the strides."""
    return (
        x.dtype == y.dtype
        and x.is_floating_point()
        and x.dim() >= y.dim()
        and all(n in (1, m) for n, m in zip(reversed(y.shape), reversed(x.shape), strict=False))
        and dense_strides(x) is not None
    )


def _both(x: Tensor, y: Any, **_: Any) -> Tensor | None:
    if not isinstance(y, Tensor):
        if type(y) is float and x.dtype in INTEGERS:
            return of_type(x, torch.get_default_dtype())
        return like(x) if type(y) in (int, float) else None
    if _alike(x, y) or _within(y, x) or _covers(x, y):
        return like(x)
    return like(y) if _within(x, y) else _broadcast(x, y)


def _broadcast(x: Tensor, y: Tensor) -> Tensor | None:
    """Operands of one type that are broadcast to one another, or that lie in memory each in its way."""
    rank = max(x.dim(), y.dim())
    (one, ones), (other, others) = _in_front(x, rank), _in_front(y, rank)
    fits = x.dtype == y.dtype and x.is_floating_point() and x.numel() and y.numel()
    if not fits or any(n != m and 1 not in (n, m) for n, m in zip(one, other, strict=True)):
        return None
    shape = [max(n, m) for n, m in zip(one, other, strict=True)]
    if 1 in shape:
        # Where such a dimension is sorted to, and what it moves, goes by a stride that says nothing.
        return None
    steps = [
        [step if n == m else 0 for n, m, step in zip(lengths, shape, given, strict=True)]
        for lengths, given in ((one, ones), (other, others))
    ]
    strides, step = [1] * rank, 1
    for dim in _innermost_first(shape, steps):
        strides[dim] = step
        step *= shape[dim]
    return torch.empty_strided(shape, strides, dtype=x.dtype, device="meta")


def _in_front(x: Tensor, rank: int) -> tuple[list[int], list[int]]:
    """Shape and strides with new dimensions in front."""
    new = rank - x.dim()
    return [1] * new + list(x.shape), [0] * new + list(x.stride())


def _innermost_first(shape: Sequence[int], steps: Sequence[Sequence[int]]) -> list[int]:
    """The dimensions by the strides of the first operand that tells two apart, as torch sorts them."""

    def after(a: int, b: int) -> int:
        for step in steps:
            if step[a] and step[b] and (step[a] != step[b] or shape[a] > shape[b]):
                return step[a] - step[b] or 1
        return 0

    order = list(reversed(range(len(shape))))
    # What is told apart from neither neighbour stays where it is, so that the way of sorting decides.
    for place in range(1, len(order)):
        for other in reversed(range(place)):
            found = after(order[other], order[place])
            if found > 0:
                order[other], order[place] = order[place], order[other]
                place = other
            elif found < 0:
                break
    return order


def _added(x: Tensor, y: Tensor, z: Tensor, *, value: Any = 1) -> Tensor | None:
    """A sum with a product of two."""
    fits = type(value) in (int, float) and all(_alike(item, z) or _within(item, z) for item in (x, y))
    return like(z) if fits and z.is_contiguous() else None


def _first(x: Tensor, y: Any, **_: Any) -> Tensor | None:
    if not isinstance(y, Tensor):
        return _itself(x) if type(y) in (int, float) else None
    return x if _alike(x, y) or _within(y, x) or _covers(x, y) else None


def _between(x: Tensor, *bounds: Any) -> Tensor | None:
    """Bounds that are one number each say nothing of shape and type, if they are of its kind."""
    given = [bound for bound in bounds if bound is not None]
    tensors = [bound for bound in given if isinstance(bound, Tensor)]
    numbers = all(bound.dim() == 0 and bound.is_floating_point() for bound in tensors)
    plain = numbers and all(type(bound) in (int, float) for bound in given if not isinstance(bound, Tensor))
    return like(x) if given and plain and (x.dim() or not tensors) else None


def _divided(x: Tensor, y: Any, **_: Any) -> Tensor | None:
    """Rounded down, it is another format than that of its operands that torch may give."""
    return _both(x, y) if x.is_contiguous() else None


ELEMENTWISE = (
    *("relu", "silu", "gelu", "sigmoid", "hardswish", "hardsigmoid"),
    *("hardtanh", "leaky_relu", "elu", "tanh", "mish", "sqrt", "rsqrt", "exp"),
)


ARITHMETIC = ("add", "sub", "mul", "div")


SHORTCUTS: dict[Any, Shortcut] = {
    **{getattr(aten, name).default: like for name in ELEMENTWISE},
    **{getattr(aten, f"{name}_").default: _itself for name in ELEMENTWISE},
    **{getattr(aten, name).Tensor: _both for name in ARITHMETIC},
    **{getattr(aten, f"{name}_").Tensor: _first for name in ARITHMETIC},
    aten.div.Tensor_mode: _divided,
    aten.pow.Tensor_Scalar: _both,
    aten.mul.Scalar: _both,
    aten.addcmul.default: _added,
    aten.maximum.default: _both,
    aten.minimum.default: _both,
    aten.clamp_min.default: like,
    aten.clamp.default: _between,
    aten.clamp.Tensor: _between,
    aten.neg.default: like,
}
