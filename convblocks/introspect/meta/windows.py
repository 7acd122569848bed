"""Results of convolutions, poolings and resampling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from convblocks.introspect.meta.memory import (
    Shortcut,
    empty,
    is_by_rows,
    is_channels_last,
    is_plain,
)

aten = torch.ops.aten


def _resized(count: int, x: Tensor, size: Sequence[int], *_: Any) -> Tensor | None:
    fits = x.dim() == count + 2 and len(size) == count and min(size) > 0 and 0 not in x.shape
    if not fits or not x.is_floating_point():
        return None
    shape = (*x.shape[:2], *size)
    if is_plain(x) or is_by_rows(x):
        return empty(x, shape)
    if count == 2 and 1 not in x.shape[1:] and is_channels_last(x):
        return torch.empty(shape, dtype=x.dtype, device="meta", memory_format=torch.channels_last)
    return None


def _places(
    lengths: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> list[int] | None:
    """How many places a window has along every dimension; None where it does not fit."""
    rooms = [n + 2 * p - d * (k - 1) - 1 for n, k, p, d in zip(lengths, kernel, padding, dilation, strict=True)]
    return None if min(rooms, default=0) < 0 else [room // s + 1 for room, s in zip(rooms, stride, strict=True)]


@cache
def _convolution_keeps_format() -> bool:
    """Whether this version of torch gives the result the format of an operand; later ones are contiguous on meta."""
    plain = torch.empty(2, 4, 3, 3, device="meta")
    last = plain.to(memory_format=torch.channels_last)
    ones = [1, 1]
    results = [
        aten.convolution(x, w, None, ones, ones, ones, False, [0, 0], 1) for x, w in ((last, plain), (plain, last))
    ]
    return not all(result.is_contiguous() for result in results)


def _convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Tensor | None:
    shape, kernel = x.shape, weight.shape
    count = len(shape) - 2
    if (
        transposed
        or len(kernel) != len(shape)
        or not len(stride) == len(padding) == len(dilation) == count
        or x.dtype != weight.dtype
        or shape[1] == 0
        or shape[1] != kernel[1] * groups
    ):
        return None
    places = _places(shape[2:], kernel[2:], stride, padding, dilation)
    if places is None:
        return None
    out = [shape[0], kernel[0], *places]
    if x.is_floating_point() and not _convolution_keeps_format():
        return empty(x, out)
    # Of one place, strides do not matter; older versions of torch go by those of the weight too.
    one = x.is_contiguous() and x.is_floating_point() and all(n == 1 for n in (*shape[2:], *out[2:]))
    usual = weight.is_contiguous() and weight.stride(1) == math.prod(kernel[2:]) and weight.stride(-1) == 1
    return empty(x, out) if one or (usual and is_plain(x)) else None


def _pooled(
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    ceil_mode: bool = False,
) -> Tensor | None:
    stride = stride or kernel
    if ceil_mode or x.dim() != 4 or not is_plain(x) or 0 in x.shape:
        return None
    if not len(kernel) == len(stride) == len(padding) == len(dilation) == 2:
        return None
    if min(*stride, *dilation) < 1 or not all(0 <= 2 * p <= k for p, k in zip(padding, kernel, strict=True)):
        return None
    places = _places(x.shape[2:], kernel, stride, padding, dilation)
    return None if places is None else empty(x, (*x.shape[:2], *places))


def _average(
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0, 0),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor | None:
    return _pooled(x, kernel, stride, padding, (1, 1), ceil_mode) if divisor_override is None else None


def _maximum(*args: Any) -> tuple[Tensor, Tensor] | None:
    out = _pooled(*args)
    return None if out is None else (out, torch.empty(out.shape, dtype=torch.int64, device="meta"))


def _adaptive(x: Tensor, size: Sequence[int], dtype: torch.dtype | None = None) -> Tensor | None:
    """As the operand, the result has its channels last or not: it must be told by the strides which of both it is."""
    if x.dim() != 4 or len(size) != 2 or min(size) < 1 or 0 in x.shape or not x.is_floating_point():
        return None
    form = torch.contiguous_format
    if not is_plain(x):
        form = torch.channels_last
        if min(x.shape[1:]) == 1 or not is_channels_last(x):
            return None
    return torch.empty((*x.shape[:2], *size), dtype=dtype or x.dtype, device="meta", memory_format=form)


def _adaptive_maximum(x: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor] | None:
    out, places = _adaptive(x, size), _adaptive(x, size, torch.int64)
    return None if out is None or places is None else (out, places)


def _windows(
    lengths: Sequence[int],
    kernel: Sequence[int],
    dilation: Sequence[int],
    padding: Sequence[int],
    stride: Sequence[int],
) -> int | None:
    """How many windows of a map are cut."""
    if not len(lengths) == len(kernel) == len(dilation) == len(padding) == len(stride) == 2:
        return None
    if min(*lengths, *kernel, *dilation, *stride) < 1 or min(padding) < 0:
        return None
    places = _places(lengths, kernel, stride, padding, dilation)
    return None if places is None else math.prod(places)


def _cut(x: Tensor, kernel: Sequence[int], *how: Sequence[int]) -> Tensor | None:
    """Of one channel, torch may give the windows as a view that is not contiguous."""
    count = _windows(x.shape[2:], kernel, *how) if x.is_floating_point() and x.dim() == 4 else None
    if count is None or x.shape[0] == 0 or x.shape[1] < 2:
        return None
    return empty(x, (x.shape[0], x.shape[1] * math.prod(kernel), count))


def _put_back(x: Tensor, size: Sequence[int], kernel: Sequence[int], *how: Sequence[int]) -> Tensor | None:
    """The sum of windows of a map of this size, which `_cut` gives."""
    count = _windows(size, kernel, *how) if x.is_floating_point() and x.dim() == 3 else None
    if count is None or 0 in x.shape or x.shape[2] != count or x.shape[1] % math.prod(kernel):
        return None
    return empty(x, (x.shape[0], x.shape[1] // math.prod(kernel), *size))


SHORTCUTS: dict[Any, Shortcut] = {
    aten.convolution.default: _convolution,
    aten.upsample_linear1d.default: partial(_resized, 1),
    aten.upsample_nearest2d.default: partial(_resized, 2),
    aten.upsample_bilinear2d.default: partial(_resized, 2),
    aten.upsample_bicubic2d.default: partial(_resized, 2),
    aten.upsample_trilinear3d.default: partial(_resized, 3),
    aten.avg_pool2d.default: _average,
    aten.max_pool2d_with_indices.default: _maximum,
    aten._adaptive_avg_pool2d.default: _adaptive,
    aten.adaptive_max_pool2d.default: _adaptive_maximum,
    aten.im2col.default: _cut,
    aten.col2im.default: _put_back,
}
