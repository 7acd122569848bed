"""Results of operations that rearrange, copy or join."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from convblocks.introspect.meta.memory import (
    Shortcut,
    contiguous,
    empty,
    is_by_rows,
    is_channels_first,
    is_plain,
    like,
)

aten = torch.ops.aten


def _indexed(x: Tensor, indices: Sequence[Tensor | None]) -> Tensor | None:
    """Rows picked by one tensor of their numbers."""
    if len(indices) != 1 or indices[0] is None or indices[0].dtype not in (torch.int32, torch.int64):
        return None
    places = indices[0]
    fits = places.is_meta and places.is_contiguous() and is_by_rows(x) and x.dim() > 0 and x.numel() and places.numel()
    return empty(x, (*places.shape, *x.shape[1:])) if fits else None


def _clone(x: Tensor, *, memory_format: torch.memory_format | None = None) -> Tensor | None:
    if memory_format is torch.contiguous_format:
        return empty(x, x.shape)
    return like(x) if memory_format in (None, torch.preserve_format) else None


def _rolled(x: Tensor, shifts: Sequence[int], dims: Sequence[int] = ()) -> Tensor | None:
    fits = 0 < len(dims) == len(shifts) and all(-x.dim() <= dim < x.dim() for dim in dims)
    return contiguous(x) if fits else None


def _running(x: Tensor, dim: int, *, dtype: Any = None) -> Tensor | None:
    return contiguous(x) if dtype is None and -x.dim() <= dim < x.dim() else None


def _reshaped(x: Tensor, shape: Sequence[int]) -> Tensor | None:
    fits = x.is_contiguous() and min(shape, default=1) >= 0 and math.prod(shape) == x.numel()
    return empty(x, shape) if fits else None


def _stacked(tensors: Sequence[Tensor], dim: int = 0) -> Tensor | None:
    first = tensors[0]
    rank = first.dim()
    if not -rank - 1 <= dim <= rank or not all(is_plain(x) and x.dtype == first.dtype for x in tensors):
        return None
    if any(x.shape != first.shape for x in tensors):
        return None
    shape = list(first.shape)
    shape.insert(dim % (rank + 1), len(tensors))
    return empty(first, shape)


def _padded(x: Tensor, pads: Sequence[int], value: Any = 0) -> Tensor | None:
    """`pads` are those before and behind the last dimension, then those of the one before it."""
    before, behind = pads[::2], pads[1::2]
    shape = list(x.shape)
    if len(before) != len(behind) or len(before) > len(shape) or min(pads, default=0) < 0:
        return None
    if not is_plain(x) or 0 in shape:
        return None
    for dim, (first, last) in enumerate(zip(before, behind, strict=True), 1):
        shape[-dim] += first + last
    return empty(x, shape)


def _concatenated(tensors: Sequence[Tensor], dim: int = 0) -> Tensor | None:
    first = tensors[0]
    rank = first.dim()
    if not -rank <= dim < rank or not first.is_floating_point() or not any(map(is_channels_first, tensors)):
        return None
    dim %= rank
    around = first.shape[:dim], first.shape[dim + 1 :]
    for x in tensors:
        if x.dtype != first.dtype or (x.shape[:dim], x.shape[dim + 1 :]) != around:
            return None
    return empty(first, (*around[0], sum(x.shape[dim] for x in tensors), *around[1]))


SHORTCUTS: dict[Any, Shortcut] = {
    aten.index.Tensor: _indexed,
    aten.cumsum.default: _running,
    aten.roll.default: _rolled,
    aten.clone.default: _clone,
    aten._unsafe_view.default: _reshaped,
    aten.stack.default: _stacked,
    aten.constant_pad_nd.default: _padded,
    aten.cat.default: _concatenated,
}
