"""How the kernels of `_kernels_separable` are cut and started."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from convblocks.ops import _kernels_separable
from convblocks.ops._launch import Pair, Tiling, at_once, blocks, output_size, plan_rows, rolls
from convblocks.ops._stage import Stage
from convblocks.ops._start import Kernels, Options, options

kernels = Kernels(_kernels_separable)

# For blocks of 64 channels; `fit` makes other widths of them.
ROWS = Tiling(block=16, rows=64, warps=4, stages=4, start=1)
# What is added waits in shared memory too.
ROWS_SKIP = ROWS._replace(stages=3)
GATHER = Tiling(block=64)


def forward(
    x: Tensor,
    depthwise: Tensor,
    pointwise: Tensor,
    first: Stage,
    second: Stage,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    skip: bool = False,
    *,
    tiling: Tiling | None = None,
) -> Tensor:
    """Compute a whole block on (N, C, H, W), with `skip` x is added to it; the result is channels_last."""
    x = x.contiguous(memory_format=torch.channels_last)
    depthwise, pointwise = depthwise.contiguous(), pointwise.contiguous()
    (n, c, h, w), kernel, o = x.shape, (depthwise.shape[2], depthwise.shape[3]), pointwise.shape[0]
    ho, wo = (output_size(*axis) for axis in zip((h, w), kernel, stride, padding, dilation, strict=True))
    out = torch.empty((n, o, ho, wo), dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    rolling = rolls(kernel, stride, padding, dilation)
    own = (ROWS_SKIP if skip else ROWS) if rolling else GATHER
    tiling = fit(tiling or own, c, o, rolling)
    # What is absent is not read: any tensor stands for it.
    tensors = (depthwise if t is None else t.contiguous() for t in (*first.tensors(), *second.tensors()))
    units = c // math.gcd(c, 16), o // math.gcd(o, 16)
    arguments = (x, depthwise, pointwise, *tensors, out, n, h, w, *units, ho, wo, *dilation, *padding)
    of = tiling, c, o, has(first), has(second), first.eps, second.eps, first.act, second.act, skip
    with torch.cuda.device_of(x):
        if rolling:
            # All channels are in one program, and registers are what 16 bits take.
            plan = plan_rows(n, tiling.channels, ho, wo, dilation, tiling, at_once(tiling, 2))
            rest = _options(*of, STAGES=tiling.stages, SPREAD=spread(tiling), BU=tiling.block)
            kernels.rows_separable.start(plan.programs, (*arguments, *plan.down), rest)
        else:
            rest = _options(*of, KH=kernel[0], KW=kernel[1], SH=stride[0], SW=stride[1], BP=tiling.block)
            kernels.gather_separable.start(blocks(n * ho * wo, tiling.block), arguments, rest)
    return out


@functools.lru_cache(4096)
def _options(
    tiling: Tiling,
    c: int,
    o: int,
    has_1: int,
    has_2: int,
    eps_1: float,
    eps_2: float,
    act_1: str,
    act_2: str,
    skip: bool,
    **more: int,
) -> Options:
    return options(
        UNIT=math.gcd(c, 16),
        UNIT_O=math.gcd(o, 16),
        HAS_1=has_1,
        HAS_2=has_2,
        EPS_1=eps_1,
        EPS_2=eps_2,
        ACT_1=act_1,
        ACT_2=act_2,
        SKIP=skip,
        EVEN_C=c == tiling.channels,
        EVEN_O=o == power_of_two(o),
        BC=tiling.channels,
        BO=power_of_two(o),
        num_warps=tiling.warps,
        enable_fp_fusion=False,
        **more,
    )


@functools.lru_cache(4096)
def fit(tiling: Tiling, channels: int, out_channels: int, rolling: bool) -> Tiling:
    """Widen or narrow a tiling meant for 64 channels: one block holds them all, and tensor cores want 16 positions."""
    width = power_of_two(channels)
    widest = max(width, power_of_two(out_channels))
    # A unit of a rolling kernel is four positions. To more than 128 channels, warps want the work of 16 units.
    block = max(8 if rolling and widest <= 128 else 16, tiling.block * 64 // widest)
    # As many elements a thread as 64 channels have.
    warps = max(tiling.warps, tiling.warps * block * widest // (tiling.block * 64))
    return tiling._replace(channels=width, block=block, warps=min(warps, max(8, tiling.warps)))


def spread(tiling: Tiling) -> int:
    """Return the units that the threads of a program reach when laid along the channels first."""
    return max(1, min(tiling.block, 32 * tiling.warps // tiling.channels))


def power_of_two(channels: int) -> int:
    """Return the width of the block that holds all channels."""
    return max(16, 1 << (channels - 1).bit_length())


def has(stage: Stage) -> int:
    """Return the parts of a stage, in the bits that the kernels look at."""
    bias, mean, _, weight, shift, *_ = stage
    return (bias is not None) + 2 * (mean is not None) + 4 * (weight is not None) + 8 * (shift is not None)
