"""How the kernel of `_kernels_maps` is started."""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
from torch import Tensor

from convblocks.ops import _kernels_maps
from convblocks.ops._start import Kernels, Options
from convblocks.ops._tiling import Pair, Tiling, at_once, blocks, compiled_for, fit, plan_rows

kernels = Kernels(_kernels_maps)

# Two maps are on their way while another is worked on.
BACKWARD = Tiling(block=2, rows=1, warps=1, stages=3, start=1, beyond=0, columns=1)
# With a third map of each, two on their way take registers that there are not.
BACKWARD_SKIP = BACKWARD._replace(stages=2)


@functools.lru_cache(4096)
def fits(size: Pair, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair) -> bool:
    """Tell whether the kernel computes it, with few places for rows and columns that there are not."""
    if not (kernel == (3, 3) and stride == (1, 1) and padding == dilation):
        return False
    return all(blocks(s, d) in (3, 4) for s, d in zip(size, dilation, strict=True))


def backward(
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    skip: Tensor | None,
    out: Tensor,
    dilation: Pair,
    has_bias: bool,
    given: Tiling | None,
) -> tuple[Tensor, Tensor | None]:
    """Write the gradient of x and `skip` to `out`; return rows of partial sums of those of weight and bias."""
    n, c, h, w = x.shape
    tiling = fit(given or (BACKWARD if skip is None else BACKWARD_SKIP), c, x.element_size())
    # To the plan every map is a row of one column. Registers let eight warps in at a time, or few more of float32.
    maps = min(dilation[0], h) * min(dilation[1], w)
    plan = plan_rows(n, c, 1, maps, (1, 1), tiling, at_once(tiling, 2))
    part = x.new_empty((plan.chunks, c, 9), dtype=torch.float32)
    part_bias = x.new_empty((plan.chunks, c), dtype=torch.float32) if has_bias else None
    sizes = (n, h, w, c // math.gcd(c, 16), *dilation, plan.tiles)
    kernels.maps_backward.start(
        plan.programs,
        (x, weight, dy, dy if skip is None else skip, out, part, part if part_bias is None else part_bias, *sizes),
        _options(c, tiling, HAS_BIAS=has_bias, HAS_SKIP=skip is not None),
    )
    return part, part_bias


@functools.lru_cache(4096)
def _options(channels: int, tiling: Tiling, **more: Any) -> Options:
    return compiled_for(channels, tiling, STAGES=tiling.stages, BU=tiling.block, **more)
