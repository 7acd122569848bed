"""Results of reductions, norms and products."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from convblocks.introspect.meta.memory import (
    SINGLE,
    Shortcut,
    contiguous,
    empty,
    is_plain,
    like,
)

aten = torch.ops.aten


def _softmax(x: Tensor, dim: int, option: Any = None) -> Tensor | None:
    """The last argument asks for another type."""
    return contiguous(x) if not option and -x.dim() <= dim < x.dim() else None


def _vector_norm(
    x: Tensor, order: Any = 2, dims: Sequence[int] | None = None, keepdim: bool = False, *, dtype: Any = None
) -> Tensor | None:
    return _reduced(x, dims, keepdim, dtype=dtype) if type(order) in (int, float) and abs(order) in (1, 2) else None


def _batch_norm(
    x: Tensor, weight: Any, bias: Any, mean: Tensor | None, variance: Tensor | None, training: bool, *_: Any
) -> tuple[Tensor, Tensor, Tensor] | None:
    # With statistics of its own it is how networks standardise their weights; torch takes milliseconds for it.
    given = mean is not None and variance is not None
    fits = x.dim() > 1 and all(item is None or item.shape == x.shape[1:2] for item in (weight, bias, mean, variance))
    out = like(x) if fits and training is not given and (given or x.dtype in SINGLE) else None
    if out is None:
        return None
    statistics = empty(x if mean is None else mean, x.shape[1:2])
    return out, statistics, statistics


def _group_norm(
    x: Tensor, weight: Any, bias: Any, count: int, channels: int, places: int, groups: int, *_: Any
) -> tuple[Tensor, Tensor, Tensor] | None:
    fits = all(item is None or item.shape == x.shape[1:2] for item in (weight, bias))
    if not fits or x.dtype not in SINGLE or not is_plain(x) or x.numel() == 0 or groups < 1 or channels % groups:
        return None
    if x.shape[:2] != (count, channels) or x.numel() != count * channels * places:
        return None
    statistics = empty(x, (count, groups))
    return empty(x, x.shape), statistics, statistics


def _layer_norm(x: Tensor, shape: list[int], *_: Any) -> tuple[Tensor, Tensor, Tensor] | None:
    count = len(shape)
    if not x.is_floating_point() or tuple(x.shape[-count:]) != tuple(shape):
        return None
    kind = torch.promote_types(x.dtype, torch.float32)
    statistics = torch.empty((*x.shape[:-count], *[1] * count), dtype=kind, device="meta")
    return empty(x, x.shape), statistics, statistics


def _reduced(
    x: Tensor, dims: Sequence[int] | None = None, keepdim: bool = False, *, dtype: Any = None
) -> Tensor | None:
    if not dims or dtype is not None or not x.is_floating_point() or 0 in x.shape:
        return None
    gone = {dim % x.dim() for dim in dims}
    if len(gone) != len(dims) or not all(-x.dim() <= dim < x.dim() for dim in dims):
        return None
    kept = [1 if dim in gone else n for dim, n in enumerate(x.shape) if keepdim or dim not in gone]
    return empty(x, kept)


def _variance(
    x: Tensor, dims: Sequence[int] | None = None, *, correction: Any = None, keepdim: bool = False
) -> Tensor | None:
    return _reduced(x, dims, keepdim)


def _product(rank: int, left: Tensor, right: Tensor) -> Tensor | None:
    fits = left.dim() == right.dim() == rank and left.shape[:-2] == right.shape[:-2]
    if not fits or left.shape[-1] != right.shape[-2] or left.dtype != right.dtype or not left.is_floating_point():
        return None
    return empty(left, (*left.shape[:-1], right.shape[-1]))


def _addmm(bias: Tensor, left: Tensor, right: Tensor, **_: Any) -> Tensor | None:
    if not left.dim() == right.dim() == 2 or left.shape[1] != right.shape[0]:
        return None
    if tuple(bias.shape) != (right.shape[1],) or not bias.dtype == left.dtype == right.dtype:
        return None
    return empty(left, (left.shape[0], right.shape[1]))


SHORTCUTS: dict[Any, Shortcut] = {
    aten._softmax.default: _softmax,
    aten._safe_softmax.default: _softmax,
    aten.native_batch_norm.default: _batch_norm,
    aten.native_layer_norm.default: _layer_norm,
    aten.native_group_norm.default: _group_norm,
    aten.mean.dim: _reduced,
    aten.sum.dim_IntList: _reduced,
    aten.amax.default: _reduced,
    aten.var.correction: _variance,
    aten.linalg_vector_norm.default: _vector_norm,
    aten.mm.default: partial(_product, 2),
    aten.bmm.default: partial(_product, 3),
    aten.addmm.default: _addmm,
}
