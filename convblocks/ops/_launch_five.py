"""How the kernels of `_kernels_five` and `_kernels_five_weight` are started."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from convblocks.ops import _kernels_five, _kernels_five_weight
from convblocks.ops._start import Kernels, Options
from convblocks.ops._tiling import Pair, Plan, Tiling, at_once, compiled_for, fit, plan_rows

kernels, weights = Kernels(_kernels_five), Kernels(_kernels_five_weight)

Sizes = tuple[int, int, int, int, int, int, int, int, int, int]
"""N, H, W, UNITS, HO, WO, DH, DW, PH and PW, as the kernels take them."""

# A thread of these has four channels of any dtype: the taps, or the sums, of eight do not fit into its registers.
FORWARD = Tiling(block=2, rows=64, warps=1, stages=4, beyond=4)
# A row of what is added is on its way with each: with more rows registers spill on capability 8.0, and arithmetic takes
# longer than memory here.
FORWARD_SKIP = FORWARD._replace(stages=2)
# Every program leaves 25 sums a channel to add up: the fewer channels, the more positions it adds up by itself.
WEIGHT = Tiling(block=8, channels=32, rows=64, warps=2, stages=4, start=4, beyond=4)


def rolls(kernel: Pair, stride: Pair) -> bool:
    """Tell whether the kernels compute it: 5 x 5, stride 1."""
    return kernel == (5, 5) and stride == (1, 1)


def forward(
    tensors: tuple[Tensor, ...], sizes: Sizes, plan: Plan, tiling: Tiling, has_bias: bool, statistics: bool
) -> None:
    """`tensors` are x, weight, shift, y and two for sums. The device is the current one, here and below."""
    c, (x, weight, shift, *rest) = tensors[0].shape[1], tensors
    more = _five(c, tiling, FLIP=False, HAS_SHIFT=has_bias, HAS_SKIP=False, STATISTICS=statistics)
    kernels.rows_forward_5.start(plan.programs, (x, weight, shift, x, *rest, *sizes, *plan.down), more)


def backward_input(dy: Tensor, weight: Tensor, skip: Tensor | None, out: Tensor, sizes: Sizes) -> None:
    """Write the gradient of x to `out`: a convolution of dy by the kernel turned by half a circle, and `skip`."""
    n, h, w, units, ho, wo, dh, dw, ph, pw = sizes
    c = out.shape[1]
    tiling = fit(FORWARD if skip is None else FORWARD_SKIP, c, 2)
    plan = plan_rows(n, c, h, w, (dh, dw), tiling, at_once(tiling, 2))
    turned = (n, ho, wo, units, h, w, dh, dw, 4 * dh - ph, 4 * dw - pw)
    more = _five(c, tiling, FLIP=True, HAS_SHIFT=False, HAS_SKIP=skip is not None, STATISTICS=False)
    tensors = dy, weight, weight, dy if skip is None else skip, out, out, out
    kernels.rows_forward_5.start(plan.programs, (*tensors, *turned, *plan.down), more)


def backward_weight(
    x: Tensor, dy: Tensor, sizes: Sizes, plan: Plan, tiling: Tiling, has_bias: bool
) -> tuple[Tensor, Tensor | None]:
    """Return rows of partial sums of the gradients of the weight and, if it is asked for, of the bias."""
    c, rows = x.shape[1], plan.chunks * plan.strips
    part = x.new_empty((rows, c, 25), dtype=torch.float32)
    part_bias = x.new_empty((rows, c), dtype=torch.float32) if has_bias else None
    more = _five(c, tiling, HAS_BIAS=has_bias)
    some = part if part_bias is None else part_bias
    weights.rows_weight_5.start(plan.programs, (x, dy, part, some, *sizes, *plan.down), more)
    return part, part_bias


@functools.lru_cache(4096)
def _five(channels: int, tiling: Tiling, **more: Any) -> Options:
    return compiled_for(channels, tiling, STAGES=tiling.stages, BU=tiling.block, **more)
