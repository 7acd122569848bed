"""How the kernels of `_kernels_sums` are started."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from convblocks.ops import _kernels_sums
from convblocks.ops._stage import Stage
from convblocks.ops._start import Kernels, Options, options

kernels = Kernels(_kernels_sums)

# Rows and columns that a program reads at a time: few columns, so that there are many programs, and of what a norm
# waits for, all rows that there mostly are.
_ADD = options(BR=256, BC=16, num_warps=8)
_FINISH = options(BR=1024, BC=4, num_warps=8, enable_fp_fusion=False)


class Gradients(NamedTuple):
    """As `Factors` of `_norm`."""

    table: Tensor
    weight: Tensor
    shift: Tensor


def total(part: Tensor, dtype: torch.dtype, shape: Sequence[int]) -> Tensor:
    """Return the sum of the rows of (rows, ...), in another dtype and shape. The device is the current one."""
    rows, columns = part.shape[0], part.stride(0)
    out = torch.empty(shape, dtype=dtype, device=part.device)
    kernels.add_rows.start(_programs(columns, _ADD), (part, out, rows, columns), _ADD)
    return out


def statistics(part: Tensor, around: Tensor, count: int) -> Tensor:
    """Return mean, variance and variance over count - 1, (3, C), from rows of sums, (rows, 2, C)."""
    rows, _, c = part.shape
    stats = torch.empty((3, c), dtype=torch.float32, device=part.device)
    kernels.finish_statistics.start(_programs(c, _FINISH), (part, around, stats, rows, c, count), _FINISH)
    return stats


def gradients(part: Tensor, stats: Tensor, stage: Stage, batch: bool, count: int) -> Gradients:
    """Return what `factors` of `_norm` does, from rows of sums, (rows, 2, C); each in the dtype of what it is of."""
    rows, _, c = part.shape
    table = torch.empty((3, c), dtype=torch.float32, device=part.device)
    d_weight, d_shift = (
        torch.empty(c, dtype=torch.float32 if t is None else t.dtype, device=part.device)
        for t in (stage.weight, stage.shift)
    )
    weight = stats if stage.weight is None else stage.weight.contiguous()
    kernels.finish_gradients.start(
        _programs(c, _FINISH),
        (part, stats, weight, table, d_weight, d_shift, rows, c, count),
        _finish(stage.weight is not None, batch, stage.eps),
    )
    return Gradients(table, d_weight, d_shift)


@functools.lru_cache(4096)
def _finish(has_weight: bool, batch: bool, eps: float) -> Options:
    return options(HAS_WEIGHT=has_weight, BATCH=batch, EPS=eps, **_FINISH)


def _programs(columns: int, cut: Options) -> int:
    return -(-columns // cut["BC"])
