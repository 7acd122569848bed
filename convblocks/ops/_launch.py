"""Which kernel runs, on what grid: from the shape alone, so that a shape gives the same bits on every GPU of a kind."""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
from torch import Tensor

from convblocks.ops import _kernels, _kernels_gradients, _launch_five, _launch_maps, _launch_stride, _launch_sums
from convblocks.ops._start import Kernels, Options
from convblocks.ops._tiling import Pair, Tiling, at_once, blocks, compiled_for, fit, plan_rows

kernels, gradients = Kernels(_kernels), Kernels(_kernels_gradients)

Pitches = tuple[int, int, int]
"""From image to image, row to row and column to column of a part of a tensor, in units of gcd(C, 16) elements."""

# The quickest of those tried on an H200, over dilations and sizes.
ROWS_FORWARD = Tiling(block=4, rows=64, warps=1, stages=4)
# Distances in a larger tensor and sums for a norm: with three rows on their way registers spill on capability 8.0.
SUMS_OF_PART = ROWS_FORWARD._replace(stages=3)
# Of strips of few rows, which a far dilation leaves, most of the time is the way from tile to tile.
FAR_FORWARD = ROWS_FORWARD._replace(run_on=True, start=2)
FEW_ROWS = 4
ROWS_BACKWARD = Tiling(block=2, rows=64, warps=1, stages=4, start=4)
# Of any dtype: with 64 positions of 16 bits, or 16 of 32, registers spill on compute capability 8.0.
GATHER_FORWARD = Tiling(block=32)
GATHER_BACKWARD = Tiling(block=64, channels=32)

# Programs worth having of a gathering kernel: some for each multiprocessor of a large GPU.
PROGRAMS = 2048


@functools.lru_cache(4096)
def output_size(size: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    """Return the size of a convolution's output along one axis."""
    return (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


def rolls(kernel: Pair, stride: Pair, padding: Pair, dilation: Pair) -> bool:
    """Tell whether the rolling kernels compute it: 3 x 3, stride 1, padding up to the dilation."""
    return kernel == (3, 3) and stride == (1, 1) and padding[0] <= dilation[0] and padding[1] <= dilation[1]


def rolling_forward(height: int, dilation: Pair, itemsize: int, sums_of_part: bool) -> Tiling:
    """Return how the rolling kernel of 3 x 3 computes an output of that height."""
    if blocks(height, dilation[0]) <= FEW_ROWS and itemsize == 2:
        return FAR_FORWARD
    return SUMS_OF_PART if sums_of_part else ROWS_FORWARD


def thinned(
    size: Pair, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair
) -> tuple[tuple[slice, slice], Pair, Pair] | None:
    """Where strides divide the dilations: the rows and columns that are read at all, and padding and dilation of these.

    Among them the stride is 1; below and to the right there may be more padding, for the output of that size. None
    where no rolling kernel would compute that, or where there are no such rows or columns.
    """
    if stride == (1, 1) or any(d % s for d, s in zip(dilation, stride, strict=True)):
        return None
    (top, left), (sh, sw) = (blocks(p, s) for p, s in zip(padding, stride, strict=True)), stride
    first, rate = (top * sh - padding[0], left * sw - padding[1]), (dilation[0] // sh, dilation[1] // sw)
    if first[0] >= size[0] or first[1] >= size[1]:
        return None
    if not (rolls(kernel, (1, 1), (top, left), rate) or _launch_five.rolls(kernel, (1, 1))):
        return None
    return (slice(first[0], None, sh), slice(first[1], None, sw)), (top, left), rate


def as_it_lies(x: Tensor) -> tuple[Tensor, Pitches | None]:
    """Return x, channels last, and, where that is a part of a larger tensor, how far apart its parts are."""
    _, c, h, w = x.shape
    if x.is_contiguous(memory_format=torch.channels_last):
        return x, None
    (sn, sc, sh, sw), unit = x.stride(), math.gcd(c, 16)
    # Offsets in an image have 32 bits.
    near = (h - 1) * sh + (w - 1) * sw + c <= 2**31
    if near and (sc == 1 or c == 1) and not (sn % unit or sh % unit or sw % unit):
        return x, (sn // unit, sh // unit, sw // unit)
    return x.contiguous(memory_format=torch.channels_last), None


def forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    *,
    around: Tensor | None = None,
    tiling: Tiling | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Convolve (N, C, H, W) with (C, 1, kh, kw); the result is channels_last.

    With `around` (C), give rows of sums as well, of y - around and of its square, (some, 2, C).
    """
    n, c, h, w = x.shape
    kernel = weight.shape[2], weight.shape[3]
    ho, wo = (output_size(*axis) for axis in zip((h, w), kernel, stride, padding, dilation, strict=True))
    thin = thinned((h, w), kernel, stride, padding, dilation)
    if thin is not None:
        (rows, columns), padding, dilation = thin
        x, stride = x[:, :, rows, columns], (1, 1)
        h, w = x.shape[2:]
    rolling = rolls(kernel, stride, padding, dilation)
    x, pitches = as_it_lies(x) if rolling else (x.contiguous(memory_format=torch.channels_last), None)
    weight = weight.contiguous()
    out = torch.empty((n, c, ho, wo), dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    some = weight if bias is None else bias.contiguous()
    if _launch_stride.rolls(kernel, stride, dilation):
        with torch.cuda.device_of(x):
            return out, _launch_stride.forward(x, weight, None if bias is None else some, out, padding, around, tiling)
    five = _launch_five.rolls(kernel, stride)
    if rolling:
        own = rolling_forward(ho, dilation, x.element_size(), around is not None and pitches is not None)
    else:
        own = _launch_five.FORWARD if five else GATHER_FORWARD
    tiling = fit(tiling or own, c, x.element_size() if rolling else 2)
    sizes = (n, h, w, c // math.gcd(c, 16), ho, wo, *dilation, *padding)

    def rows_of_sums(rows: int) -> tuple[Tensor, Tensor]:
        return (out, out) if around is None else (around, x.new_empty((rows, 2, c), dtype=torch.float32))

    with torch.cuda.device_of(x):
        if rolling:
            plan = plan_rows(n, c, ho, wo, dilation, tiling, at_once(tiling, x.element_size()))
            statistics = rows_of_sums(plan.chunks * plan.strips)
            has = {"HAS_SHIFT": bias is not None, "STATISTICS": around is not None, "PART_OF": pitches is not None}
            kernels.rows_forward.start(
                plan.programs,
                (x, weight, some, out, *statistics, *sizes, *(pitches or (0, 0, 0)), *plan.down),
                _rows(c, tiling, **has),
            )
        elif five:
            plan = plan_rows(n, c, ho, wo, dilation, tiling, at_once(tiling, 2))
            statistics = rows_of_sums(plan.chunks * plan.strips)
            has = bias is not None, around is not None
            _launch_five.forward((x, weight, some, out, *statistics), sizes, plan, tiling, *has)
        else:
            chunks = blocks(n * ho * wo, tiling.block)
            statistics = rows_of_sums(chunks)
            kernels.gather_forward.start(
                chunks * blocks(c, tiling.channels),
                (x, weight, some, out, *statistics, *sizes),
                _gather(c, tiling, kernel, stride, HAS_SHIFT=bias is not None, STATISTICS=around is not None),
            )
    return out, None if around is None else statistics[1]


def backward(
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    has_bias: bool,
    *,
    skip: Tensor | None = None,
    tiling: Tiling | None = None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the gradients of x (channels_last), of the weight and of the bias.

    `skip`, channels_last, is the gradient of x by another way, and is added to that of x, at stride 1 only. Where
    weight and x have a kernel each, `tiling` is of the weight's.
    """
    kernel = weight.shape[2], weight.shape[3]
    x, dy = (t.contiguous(memory_format=torch.channels_last) for t in (x, dy))
    weight = weight.contiguous()
    assert skip is None or stride == (1, 1)
    thin = thinned((x.shape[2], x.shape[3]), kernel, stride, padding, dilation)
    if thin is not None:
        (rows, columns), inner, rate = thin
        whole = torch.zeros_like(x, memory_format=torch.channels_last)
        few, out = (t[:, :, rows, columns] for t in (x, whole))
        if rolls(kernel, (1, 1), inner, rate):
            with torch.cuda.device_of(x):
                return whole, *_rolling_backward(dy, few, weight, None, out, inner, rate, has_bias, tiling)
        part, d_weight, d_bias = backward(dy, few, weight, (1, 1), inner, rate, has_bias, tiling=tiling)
        out.copy_(part)
        return whole, d_weight, d_bias
    n, c, h, w = x.shape
    ho, wo = dy.shape[2:]
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    bias: Tensor | None = None
    part_bias: Tensor | None = None
    small = _launch_maps.fits((h, w), kernel, stride, padding, dilation) and (tiling is None or tiling.columns == 1)
    with torch.cuda.device_of(x):
        if small:
            part, part_bias = _launch_maps.backward(dy, x, weight, skip, out, dilation, has_bias, tiling)
        elif rolls(kernel, stride, padding, dilation):
            return out, *_rolling_backward(dy, x, weight, skip, out, padding, dilation, has_bias, tiling)
        elif _launch_stride.rolls(kernel, stride, dilation):
            part = _launch_stride.backward(dy, x, weight, out, padding, tiling)
        elif _launch_five.rolls(kernel, stride):
            tiling = fit(tiling or _launch_five.WEIGHT, c, 2)
            sizes = (n, h, w, c // math.gcd(c, 16), ho, wo, *dilation, *padding)
            _launch_five.backward_input(dy, weight, skip, out, sizes)
            plan = plan_rows(n, c, ho, wo, dilation, tiling, at_once(tiling, 2))
            part, part_bias = _launch_five.backward_weight(x, dy, sizes, plan, tiling, has_bias)
        else:
            tiling = fit(tiling or GATHER_BACKWARD, c, x.element_size())
            sizes = (n, h, w, c // math.gcd(c, 16), ho, wo, *dilation, *padding)
            chunks = blocks(n * h * w, tiling.block)
            tiles = tiling.tiles or max(1, chunks * blocks(c, tiling.channels) // PROGRAMS)
            chunks = blocks(chunks, tiles)
            part = x.new_empty((chunks, c, kernel[0] * kernel[1]), dtype=torch.float32)
            gradients.gather_backward.start(
                chunks * blocks(c, tiling.channels),
                (x, weight, dy, dy if skip is None else skip, out, part, *sizes, tiles),
                _gather(c, tiling, kernel, stride, HAS_SKIP=skip is not None),
            )
        if has_bias:
            bias = dy.sum((0, 2, 3)) if part_bias is None else _launch_sums.total(part_bias, dy.dtype, (c,))
        return out, _launch_sums.total(part, weight.dtype, weight.shape), bias


def _rolling_backward(
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    skip: Tensor | None,
    out: Tensor,
    padding: Pair,
    dilation: Pair,
    has_bias: bool,
    tiling: Tiling | None,
) -> tuple[Tensor, Tensor | None]:
    """Write the gradient of x to `out`, which lies as x does, and so does `skip`; return those of weight and bias."""
    n, c, h, w = x.shape
    where, pitches = as_it_lies(x)
    assert where is x, "a part of a channels-last image of less than 2^31 elements can be read where it lies"
    tiling = fit(tiling or ROWS_BACKWARD, c, x.element_size())
    plan = plan_rows(n, c, h, w, dilation, tiling, at_once(tiling, x.element_size()))
    part = x.new_empty((plan.chunks * plan.strips, c, 9), dtype=torch.float32)
    part_bias = x.new_empty((plan.chunks * plan.strips, c) if has_bias else (1,), dtype=torch.float32)
    sizes = (n, h, w, c // math.gcd(c, 16), *dy.shape[2:], *dilation, *padding, *(pitches or (0, 0, 0)))
    gradients.rows_backward.start(
        plan.programs,
        (x, weight, dy, dy if skip is None else skip, out, part, part_bias, *sizes, *plan.down),
        _rows(c, tiling, HAS_BIAS=has_bias, HAS_SKIP=skip is not None, PART_OF=pitches is not None),
    )
    d_bias = _launch_sums.total(part_bias, dy.dtype, (c,)) if has_bias else None
    return _launch_sums.total(part, weight.dtype, weight.shape), d_bias


@functools.lru_cache(4096)
def _rows(channels: int, tiling: Tiling, **more: Any) -> Options:
    return compiled_for(channels, tiling, STAGES=tiling.stages, RUN_ON=tiling.run_on, BU=tiling.block, **more)


@functools.lru_cache(4096)
def _gather(channels: int, tiling: Tiling, kernel: Pair, stride: Pair, **more: Any) -> Options:
    (kh, kw), (sh, sw) = kernel, stride
    return compiled_for(channels, tiling, KH=kh, KW=kw, SH=sh, SW=sw, BP=tiling.block, **more)
