"""Which kernel runs, on what grid: from the shape alone, so that a shape gives the same bits on every GPU of a kind."""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
from torch import Tensor

from convblocks.ops import _kernels, _kernels_gradients, _launch_five, _launch_stride, _launch_sums
from convblocks.ops._start import Kernels, Options
from convblocks.ops._tiling import Pair, Tiling, at_once, blocks, compiled_for, fit, plan_rows

kernels, gradients = Kernels(_kernels), Kernels(_kernels_gradients)

# The quickest of those tried on an H200, over dilations and sizes.
ROWS_FORWARD = Tiling(block=4, rows=64, warps=1, stages=4)
# Of strips of few rows, which a far dilation leaves, most of the time is the way from tile to tile.
FAR_FORWARD = ROWS_FORWARD._replace(run_on=True, start=2)
FEW_ROWS = 4
# Left alone, the compiler takes more registers than it needs: these let 11 warps into a multiprocessor.
ROWS_BACKWARD = Tiling(block=2, rows=64, warps=1, stages=4, start=4, registers=184)
FAR_BACKWARD = ROWS_BACKWARD._replace(stages=3)
ROWS_BACKWARD_BIAS = FAR_BACKWARD
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


def thinned(
    size: Pair, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair
) -> tuple[tuple[slice, slice], Pair, Pair] | None:
    """Where strides divide the dilations: the rows and columns that are read at all, and padding and dilation of these.

    Among them the stride is 1. None where no rolling kernel would compute that, or where there are none.
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


def forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    *,
    scale: Tensor | None = None,
    act: str = "",
    around: Tensor | None = None,
    tiling: Tiling | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Convolve (N, C, H, W) with (C, 1, kh, kw); the result is channels_last.

    With `around` (C), give rows of sums as well, of y - around and of its square, (some, 2, C).

    `scale` (C) multiplies before `bias` is added and `act` ("relu", "relu6" or "silu") applied: in the rolling kernel
    of 3 x 3 only.
    """
    x, weight = x.contiguous(memory_format=torch.channels_last), weight.contiguous()
    (n, c, h, w), kernel = x.shape, (weight.shape[2], weight.shape[3])
    ho, wo = (output_size(*axis) for axis in zip((h, w), kernel, stride, padding, dilation, strict=True))
    out = torch.empty((n, c, ho, wo), dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    some = weight if bias is None else bias.contiguous()
    rolling = rolls(kernel, stride, padding, dilation)
    if not rolling and (scale is not None or act):
        raise ValueError("scale and act belong to the rolling kernel: 3 x 3, stride 1, padding up to the dilation")
    if _launch_stride.rolls(kernel, stride, dilation):
        with torch.cuda.device_of(x):
            return out, _launch_stride.forward(x, weight, None if bias is None else some, out, padding, around, tiling)
    far = blocks(ho, dilation[0]) <= FEW_ROWS and x.element_size() == 2
    five = _launch_five.rolls(kernel, stride)
    own = (FAR_FORWARD if far else ROWS_FORWARD) if rolling else _launch_five.FORWARD if five else GATHER_FORWARD
    tiling = fit(tiling or own, c, x.element_size() if rolling else 2)
    sizes = (n, h, w, c // math.gcd(c, 16), ho, wo, *dilation, *padding)

    def rows_of_sums(rows: int) -> tuple[Tensor, Tensor]:
        return (out, out) if around is None else (around, x.new_empty((rows, 2, c), dtype=torch.float32))

    with torch.cuda.device_of(x):
        if rolling:
            plan = plan_rows(n, c, ho, wo, dilation, tiling, at_once(tiling, x.element_size()))
            statistics = rows_of_sums(plan.chunks * plan.strips)
            scaled = weight if scale is None else scale
            shifted = torch.zeros_like(scale) if bias is None and scale is not None else some
            kernels.rows_forward.start(
                plan.programs,
                (x, weight, scaled, shifted, out, *statistics, *sizes, *plan.down),
                _rows_forward(c, tiling, scale is not None, bias is not None, act, around is not None),
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
    tiling: Tiling | None = None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the gradients of x (channels_last), of the weight and of the bias.

    Where each has a kernel of its own, `tiling` is of the weight's.
    """
    kernel = weight.shape[2], weight.shape[3]
    thin = thinned((x.shape[2], x.shape[3]), kernel, stride, padding, dilation)
    if thin is not None:
        (rows, columns), inner, rate = thin
        few = x[:, :, rows, columns]
        part, d_weight, d_bias = backward(dy, few, weight, (1, 1), inner, rate, has_bias, tiling=tiling)
        d_x = torch.zeros_like(x, memory_format=torch.channels_last)
        d_x[:, :, rows, columns] = part
        return d_x, d_weight, d_bias
    x, dy = (t.contiguous(memory_format=torch.channels_last) for t in (x, dy))
    weight = weight.contiguous()
    n, c, h, w = x.shape
    ho, wo = dy.shape[2:]
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    if _launch_stride.rolls(kernel, stride, dilation):
        with torch.cuda.device_of(x):
            part = _launch_stride.backward(dy, x, weight, out, padding, tiling)
            d_bias = dy.sum((0, 2, 3)) if has_bias else None
            return out, _launch_sums.total(part, weight.dtype, weight.shape), d_bias
    rolling = rolls(kernel, stride, padding, dilation)
    near = FAR_BACKWARD if blocks(h, dilation[0]) <= 2 * FEW_ROWS else ROWS_BACKWARD
    five = _launch_five.rolls(kernel, stride)
    own = (ROWS_BACKWARD_BIAS if has_bias else near) if rolling else _launch_five.WEIGHT if five else GATHER_BACKWARD
    tiling = fit(tiling or own, c, 2 if five else x.element_size())
    sizes = (n, h, w, c // math.gcd(c, 16), ho, wo, *dilation, *padding)
    bias: Tensor | None = None
    with torch.cuda.device_of(x):
        if rolling:
            plan = plan_rows(n, c, h, w, dilation, tiling, at_once(tiling, x.element_size()))
            part = x.new_empty((plan.chunks * plan.strips, c, 9), dtype=torch.float32)
            part_bias = x.new_empty((plan.chunks * plan.strips, c) if has_bias else (1,), dtype=torch.float32)
            gradients.rows_backward.start(
                plan.programs,
                (x, weight, dy, out, part, part_bias, *sizes, *plan.down),
                _rows(c, tiling, HAS_BIAS=has_bias),
            )
        elif five:
            _launch_five.backward_input(dy, weight, out, sizes)
            plan = plan_rows(n, c, ho, wo, dilation, tiling, at_once(tiling, 2))
            part, part_bias = _launch_five.backward_weight(x, dy, sizes, plan, tiling, has_bias)
        else:
            chunks = blocks(n * h * w, tiling.block)
            tiles = tiling.tiles or max(1, chunks * blocks(c, tiling.channels) // PROGRAMS)
            chunks = blocks(chunks, tiles)
            part = x.new_empty((chunks, c, kernel[0] * kernel[1]), dtype=torch.float32)
            gradients.gather_backward.start(
                chunks * blocks(c, tiling.channels),
                (x, weight, dy, out, part, *sizes, tiles),
                _gather(c, tiling, kernel, stride),
            )
            part_bias = None
        if has_bias:
            bias = dy.sum((0, 2, 3)) if part_bias is None else _launch_sums.total(part_bias, dy.dtype, (c,))
        return out, _launch_sums.total(part, weight.dtype, weight.shape), bias


@functools.lru_cache(4096)
def _rows_forward(channels: int, tiling: Tiling, scale: bool, bias: bool, act: str, statistics: bool) -> Options:
    return _rows(channels, tiling, HAS_SCALE=scale, HAS_SHIFT=bias or scale, ACT=act, STATISTICS=statistics)


@functools.lru_cache(4096)
def _rows(channels: int, tiling: Tiling, **more: Any) -> Options:
    return compiled_for(channels, tiling, STAGES=tiling.stages, RUN_ON=tiling.run_on, BU=tiling.block, **more)


@functools.lru_cache(4096)
def _gather(channels: int, tiling: Tiling, kernel: Pair, stride: Pair, **more: Any) -> Options:
    (kh, kw), (sh, sw) = kernel, stride
    return compiled_for(channels, tiling, KH=kh, KW=kw, SH=sh, SW=sw, BP=tiling.block, **more)
