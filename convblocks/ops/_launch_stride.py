"""How the kernels of `_kernels_stride` are started."""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
from torch import Tensor

from convblocks.ops import _kernels_stride
from convblocks.ops._start import Kernels, Options
from convblocks.ops._tiling import Pair, Plan, Tiling, at_once, compiled_for, fit, plan_rows

kernels = Kernels(_kernels_stride)

# As those of stride 1, which were tried on an H200. The round before a strip's first is half of one.
FORWARD = Tiling(block=4, rows=64, warps=1, beyond=1, columns=2)
# A thread of it has four channels of any dtype.
BACKWARD = Tiling(block=4, rows=64, warps=2, start=4, beyond=1, columns=2)


def rolls(kernel: Pair, stride: Pair, dilation: Pair) -> bool:
    """Tell whether the kernels compute it: 3 x 3, stride 2, undilated."""
    return kernel == (3, 3) and stride == (2, 2) and dilation == (1, 1)


def forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    out: Tensor,
    padding: Pair,
    around: Tensor | None,
    given: Tiling | None,
) -> Tensor | None:
    """Write the result to `out`; return rows of sums as `forward` of `_launch` does."""
    n, c, ho, wo = out.shape
    tiling, plan = _cut(given or FORWARD, n, c, ho, wo, x.element_size())
    part = None if around is None else x.new_empty((plan.chunks * plan.strips, 2, c), dtype=torch.float32)
    kernels.rows_forward_stride_2.start(
        plan.programs,
        (
            *(x, weight, weight if bias is None else bias, out),
            *(out if t is None else t for t in (around, part)),
            *_sizes(x, out, padding),
            *plan.down,
        ),
        _rolling(c, tiling, HAS_SHIFT=bias is not None, STATISTICS=around is not None),
    )
    return part


def backward(dy: Tensor, x: Tensor, weight: Tensor, out: Tensor, padding: Pair, given: Tiling | None) -> Tensor:
    """Write the gradient of x to `out`; return rows of partial sums of the weight's."""
    n, c, h, w = x.shape
    # Rounds down the rows, and across the columns, that take two of x each.
    down, across = ((size + p + 1) // 2 - p // 2 for size, p in zip((h, w), padding, strict=True))
    tiling, plan = _cut(given or BACKWARD, n, c, down, across, 2)
    part = x.new_empty((plan.chunks * plan.strips, c, 9), dtype=torch.float32)
    kernels.rows_backward_stride_2.start(
        plan.programs, (x, weight, dy, out, part, *_sizes(x, dy, padding), *plan.down), _rolling(c, tiling)
    )
    return part


def _cut(tiling: Tiling, n: int, c: int, height: int, width: int, itemsize: int) -> tuple[Tiling, Plan]:
    tiling = fit(tiling, c, itemsize)._replace(columns=2)
    return tiling, plan_rows(n, c, height, width, (1, 1), tiling, at_once(tiling, itemsize))


def _sizes(x: Tensor, y: Tensor, padding: Pair) -> tuple[int, ...]:
    n, c, h, w = x.shape
    return (n, h, w, c // math.gcd(c, 16), *y.shape[2:], *padding)


@functools.lru_cache(4096)
def _rolling(channels: int, tiling: Tiling, **more: Any) -> Options:
    return compiled_for(channels, tiling, STAGES=tiling.stages, BU=tiling.block, **more)
