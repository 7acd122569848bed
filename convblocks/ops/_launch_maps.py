"""How the kernels of `_kernels_maps` are started."""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
from torch import Tensor

from convblocks.ops import _kernels_maps
from convblocks.ops._start import Kernels, Options
from convblocks.ops._tiling import MULTIPROCESSORS, Pair, Plan, Tiling, blocks, busy, compiled_for, fit, plan_rows

kernels = Kernels(_kernels_maps)

# One map ahead is on its way, while another is worked on.
FORWARD = Tiling(block=2, rows=1, warps=1, stages=2, start=1, beyond=0, columns=1, registers=168)
# Bound to 200 registers the compiler spills; left alone it takes 201.
BACKWARD = FORWARD._replace(registers=0)
WARPS_FORWARD, WARPS_BACKWARD = 12, 9
"""Of a multiprocessor at a time, at least, by the registers that a thread takes."""


@functools.lru_cache(4096)
def fits(size: Pair, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair) -> bool:
    """Tell whether the kernels compute it, with few places for rows and columns that there are not."""
    if not (kernel == (3, 3) and stride == (1, 1) and padding == dilation):
        return False
    return all(blocks(s, d) in (3, 4) for s, d in zip(size, dilation, strict=True))


def forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    out: Tensor,
    dilation: Pair,
    around: Tensor | None,
    given: Tiling | None,
) -> Tensor | None:
    """Write the result to `out`; return rows of sums as `forward` of `_launch` does."""
    tiling, plan = _cut(x, dilation, given or FORWARD, WARPS_FORWARD)
    part = None if around is None else x.new_empty((plan.chunks, 2, x.shape[1]), dtype=torch.float32)
    kernels.maps_forward.start(
        plan.programs,
        (
            *(x, weight, weight if bias is None else bias, out),
            *(out if t is None else t for t in (around, part)),
            *_sizes(x, dilation, plan),
        ),
        _options(x.shape[1], tiling, HAS_SHIFT=bias is not None, STATISTICS=around is not None),
    )
    return part


def backward(
    dy: Tensor, x: Tensor, weight: Tensor, out: Tensor, dilation: Pair, has_bias: bool, given: Tiling | None
) -> tuple[Tensor, Tensor | None]:
    """Write the gradient of x to `out`; return rows of partial sums of those of the weight and of the bias."""
    tiling, plan = _cut(x, dilation, given or BACKWARD, WARPS_BACKWARD)
    c = x.shape[1]
    part = x.new_empty((plan.chunks, c, 9), dtype=torch.float32)
    part_bias = x.new_empty((plan.chunks, c), dtype=torch.float32) if has_bias else None
    kernels.maps_backward.start(
        plan.programs,
        (x, weight, dy, out, part, part if part_bias is None else part_bias, *_sizes(x, dilation, plan)),
        _options(c, tiling, HAS_BIAS=has_bias),
    )
    return part, part_bias


def _cut(x: Tensor, dilation: Pair, tiling: Tiling, warps: int) -> tuple[Tiling, Plan]:
    """Return the tiling for that tensor, and its programs: to the plan every map is a row of one column."""
    n, c, h, w = x.shape
    tiling = fit(tiling, c, x.element_size())
    maps = min(dilation[0], h) * min(dilation[1], w)
    places = MULTIPROCESSORS * warps // tiling.warps
    return tiling, plan_rows(n, c, 1, maps, (1, 1), tiling, places, busy(tiling))


def _sizes(x: Tensor, dilation: Pair, plan: Plan) -> tuple[int, ...]:
    n, c, h, w = x.shape
    return (n, h, w, c // math.gcd(c, 16), *dilation, plan.tiles)


@functools.lru_cache(4096)
def _options(channels: int, tiling: Tiling, **more: Any) -> Options:
    return compiled_for(channels, tiling, STAGES=tiling.stages, BU=tiling.block, **more)
