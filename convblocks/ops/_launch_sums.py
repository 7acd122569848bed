"""How the kernels of `_kernels_sums` are started."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from convblocks.ops import _kernels_sums
from convblocks.ops._stage import Stage
from convblocks.ops._start import Kernels

kernels = Kernels(_kernels_sums)

# Rows and columns that a program reads at a time: few columns, so that there are many programs.
_ROWS, _COLUMNS = 256, 16
_WARPS = 8


class Gradients(NamedTuple):
    """As `Factors` of `_norm`."""

    table: Tensor
    weight: Tensor
    shift: Tensor


def total(part: Tensor, dtype: torch.dtype, shape: Sequence[int]) -> Tensor:
    """Return the sum of the rows of (rows, ...), in another dtype and shape. The device is the current one."""
    rows, columns = part.shape[0], part.stride(0)
    out = torch.empty(shape, dtype=dtype, device=part.device)
    kernels.add_rows[_grid(columns)](part, out, rows, columns, BR=_ROWS, BC=_COLUMNS, num_warps=_WARPS)
    return out


def statistics(part: Tensor, around: Tensor, count: int) -> Tensor:
    """Return mean, variance and variance over count - 1, (3, C), from rows of sums, (rows, 2, C)."""
    rows, _, c = part.shape
    stats = torch.empty((3, c), dtype=torch.float32, device=part.device)
    kernels.finish_statistics[_grid(c)](
        part, around, stats, rows, c, count, BR=_ROWS, BC=_COLUMNS, num_warps=_WARPS, enable_fp_fusion=False
    )
    return stats


def gradients(part: Tensor, stats: Tensor, stage: Stage, batch: bool, count: int) -> Gradients:
    """Return what `factors` of `_norm` does, from rows of sums, (rows, 2, C); each in the dtype of what it is of."""
    rows, _, c = part.shape
    table = torch.empty((3, c), dtype=torch.float32, device=part.device)
    d_weight, d_shift = (
        torch.empty(c, dtype=torch.float32 if t is None else t.dtype, device=part.device)
        for t in (stage.weight, stage.shift)
    )
    kernels.finish_gradients[_grid(c)](
        part,
        stats,
        stats if stage.weight is None else stage.weight.contiguous(),
        table,
        d_weight,
        d_shift,
        rows,
        c,
        count,
        HAS_WEIGHT=stage.weight is not None,
        BATCH=batch,
        EPS=stage.eps,
        BR=_ROWS,
        BC=_COLUMNS,
        num_warps=_WARPS,
        enable_fp_fusion=False,
    )
    return Gradients(table, d_weight, d_shift)


def _grid(columns: int) -> tuple[int]:
    return (-(-columns // _COLUMNS),)
