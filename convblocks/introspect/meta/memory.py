"""How results lie in memory on the meta device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Shortcut = Callable[..., Any]
"""The result for the arguments of the operation; None where the operation has to be run to know (or to refuse)."""


def empty(x: Tensor, shape: Sequence[int]) -> Tensor:
    """A contiguous result of the type of `x`; `new_empty` and `empty_like` are programs in Python on this device."""
    return torch.empty(shape, dtype=x.dtype, device="meta")


SINGLE = (torch.float32, torch.float64)
"""Types of which statistics are of the same type; those of shorter ones are in single precision."""


INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


def is_plain(x: Tensor) -> bool:
    """Whether strides are those of a contiguous tensor alone: of one that has one channel, torch may go either way."""
    wide = FORMATS.get(x.dim())
    return x.is_floating_point() and x.is_contiguous() and (wide is None or not x.is_contiguous(memory_format=wide))


def is_by_rows(x: Tensor) -> bool:
    """Whether strides are those of a contiguous tensor, those along dimensions of length 1 included."""
    return x.stride() == torch.empty(x.shape, device="meta").stride()


def is_channels_first(x: Tensor) -> bool:
    """Whether strides are not those of any tensor with its channels last; one of these makes a concatenation such."""
    return x.dim() not in FORMATS or x.stride(-1) < x.stride(1) * x.shape[1]


def like(x: Tensor, *_: Any, **__: Any) -> Tensor | None:
    """A result of the shape and type of `x`."""
    return of_type(x, x.dtype) if x.is_floating_point() else None


def of_type(x: Tensor, dtype: torch.dtype) -> Tensor | None:
    """A result that lies in memory as `x` does, but for gaps."""
    if x.is_contiguous():
        return torch.empty(x.shape, dtype=dtype, device="meta")
    if is_channels_last(x):
        return torch.empty(x.shape, dtype=dtype, device="meta", memory_format=torch.channels_last)
    strides = dense_strides(x)
    return None if strides is None else torch.empty_strided(x.shape, strides, dtype=dtype, device="meta")


def dense_strides(x: Tensor) -> list[int] | None:
    """Strides without gaps, in the order of those of `x`; None where that is no order."""
    shape, given = x.shape, x.stride()
    order = sorted((step, dim) for dim, step in enumerate(given) if shape[dim] > 1)
    steps = [step for step, _ in order]
    if 0 in steps or 0 in shape or len(set(steps)) < len(steps):
        return None
    strides, step = [1] * len(shape), 1
    for _, dim in order:
        strides[dim] = step
        step *= shape[dim]
    return strides


def is_channels_last(x: Tensor) -> bool:
    """Whether a map lies in memory place by place."""
    return x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)


def contiguous(x: Tensor, *_: Any) -> Tensor | None:
    """A contiguous result of the shape and type of `x`."""
    return empty(x, x.shape) if x.is_floating_point() else None
