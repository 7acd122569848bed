"""How the kernels of `_kernels_separable` are cut and started."""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
from torch import Tensor

from convblocks.ops import _kernels_separable
from convblocks.ops._launch import Pair, Tiling, blocks, output_size, plan_rows, rolls
from convblocks.ops._stage import Stage
from convblocks.ops._start import Kernels

kernels = Kernels(_kernels_separable)

# For blocks of 64 channels; `fit` makes other widths of them.
ROWS = Tiling(block=16, rows=32)
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
    *,
    tiling: Tiling | None = None,
) -> Tensor:
    """Compute a whole block on (N, C, H, W); the result is channels_last."""
    x = x.contiguous(memory_format=torch.channels_last)
    depthwise, pointwise = depthwise.contiguous(), pointwise.contiguous()
    (n, c, h, w), kernel, o = x.shape, (depthwise.shape[2], depthwise.shape[3]), pointwise.shape[0]
    ho, wo = (output_size(*axis) for axis in zip((h, w), kernel, stride, padding, dilation, strict=True))
    out = torch.empty((n, o, ho, wo), dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    rolling = rolls(kernel, stride, padding, dilation)
    tiling = fit(tiling or (ROWS if rolling else GATHER), c, o)
    # What is absent is not read: any tensor stands for it.
    tensors = (depthwise if t is None else t.contiguous() for t in (*first.tensors(), *second.tensors()))
    unit, unit_o = math.gcd(c, 16), math.gcd(o, 16)
    arguments = (x, depthwise, pointwise, *tensors, out, n, h, w, c // unit, o // unit_o, ho, wo, *dilation, *padding)
    options: dict[str, Any] = {
        "UNIT": unit,
        "UNIT_O": unit_o,
        "HAS_1": has(first),
        "HAS_2": has(second),
        "EPS_1": first.eps,
        "EPS_2": second.eps,
        "ACT_1": first.act,
        "ACT_2": second.act,
        "EVEN_C": c == tiling.channels,
        "EVEN_O": o == power_of_two(o),
        "BC": tiling.channels,
        "BO": power_of_two(o),
        "num_warps": tiling.warps,
        # Said aloud, since Triton is changing its default; the kernels ask for every fused multiply-add by name.
        "enable_fp_fusion": False,
    }
    with torch.cuda.device_of(x):
        if rolling:
            plan = plan_rows(n, c, ho, wo, dilation, tiling)
            kernels.rows_separable[(plan.programs,)](
                *arguments,
                plan.rows,
                plan.strips,
                plan.quads,
                plan.tiles,
                STAGES=tiling.stages,
                BU=tiling.block,
                **options,
            )
        else:
            kernels.gather_separable[(blocks(n * ho * wo, tiling.block),)](
                *arguments,
                KH=kernel[0],
                KW=kernel[1],
                SH=stride[0],
                SW=stride[1],
                BP=tiling.block,
                **options,
            )
    return out


@functools.lru_cache(4096)
def fit(tiling: Tiling, channels: int, out_channels: int) -> Tiling:
    """Widen or narrow a tiling meant for 64 channels: one block holds them all, and tensor cores want 16 positions."""
    width = power_of_two(channels)
    widest = max(width, power_of_two(out_channels))
    block = max(16, tiling.block * 64 // widest)
    # As many elements a thread as 64 channels have.
    warps = max(tiling.warps, tiling.warps * block * widest // (tiling.block * 64))
    return tiling._replace(channels=width, block=block, warps=min(warps, 8))


def power_of_two(channels: int) -> int:
    """Return the width of the block that holds all channels."""
    return max(16, 1 << (channels - 1).bit_length())


def has(stage: Stage) -> int:
    """Return the parts of a stage, in the bits that the kernels look at."""
    return sum(bit for bit, t in zip((1, 2, 0, 4, 8), stage.tensors(), strict=True) if t is not None)
