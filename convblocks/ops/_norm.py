"""A batch norm in training and the activation behind it by PyTorch's operations, where no kernel computes them."""

# What torch leaves without types.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from convblocks.ops._stage import ACTIVATIONS, Stage


class Factors(NamedTuple):
    """The gradient of u = norm(y): dy = du * table[0] + y * table[1] + table[2], and those of weight and shift."""

    table: Tensor
    weight: Tensor
    shift: Tensor


def factors(sums: Tensor, stats: Tensor, stage: Stage, batch: bool, count: int) -> Factors:
    """Turn the sums of du and of du * (y - mean), (2, C) in float64, into the norm's gradients.

    Where the statistics are those of the batch, they depend on y too.
    """
    plain, moved = sums.unbind()
    mean, variance, _ = stats.double().unbind()
    inverse = (variance + stage.eps).rsqrt()
    scale = inverse if stage.weight is None else inverse * stage.weight.double()
    of_y = -scale * inverse * inverse * moved / count if batch else torch.zeros_like(scale)
    alone = -scale * plain / count - of_y * mean if batch else of_y
    return Factors(torch.stack((scale, of_y, alone)), moved * inverse, plain)


def wide(x: Tensor) -> torch.dtype:
    """Return the dtype that sums over a tensor have."""
    return torch.float64 if x.dtype is torch.float64 else torch.float32


def statistics(y: Tensor, stage: Stage, batch: bool) -> Tensor:
    """Return a norm's mean, variance, and variance over one position less, by PyTorch's operations."""
    if not batch:
        assert stage.mean is not None
        assert stage.variance is not None
        return torch.stack((stage.mean, stage.variance, stage.variance)).to(wide(y))
    variance, mean = torch.var_mean(y.to(wide(y)), (0, 2, 3), correction=0)
    count = y.numel() // y.shape[1]
    return torch.stack((mean, variance, variance * (count / (count - 1) if count > 1 else math.nan)))


def _normalised(y: Tensor, stats: Tensor, stage: Stage) -> Tensor:
    weight, shift = (None if t is None else t.to(stats.dtype) for t in (stage.weight, stage.shift))
    return F.batch_norm(y.to(stats.dtype), stats[0], stats[1], weight, shift, False, 0.0, stage.eps)


def activated(y: Tensor, stats: Tensor, stage: Stage) -> Tensor:
    """Return the activation of the norm of y by PyTorch's operations."""
    return ACTIVATIONS[stage.act](_normalised(y, stats, stage)).to(y.dtype)


_aten = torch.ops.aten
_SLOPES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "": lambda g, u: g,
    "relu": lambda g, u: _aten.threshold_backward(g, u, 0),
    "relu6": lambda g, u: _aten.hardtanh_backward(g, u, 0, 6),
    "silu": lambda g, u: _aten.silu_backward(g, u),
    "gelu": lambda g, u: _aten.gelu_backward(g, u),
    "gelu_tanh": lambda g, u: _aten.gelu_backward(g, u, approximate="tanh"),
    "hardswish": lambda g, u: _aten.hardswish_backward(g, u),
}


def norm_backward(dout: Tensor, y: Tensor, stats: Tensor, stage: Stage, batch: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of y and of the norm's weight and shift by PyTorch's operations."""
    # Below the operator nothing is recorded: torch.autograd.grad has no place here.
    u = _normalised(y, stats, stage)
    du = _SLOPES[stage.act](dout.to(u.dtype), u)
    moved = du * (y.to(u.dtype) - stats[0].view(-1, 1, 1))
    sums = torch.stack((du.sum((0, 2, 3), dtype=torch.float64), moved.sum((0, 2, 3), dtype=torch.float64)))
    of = factors(sums, stats, stage, batch, y.numel() // y.shape[1])
    of_du, of_y, alone = of.table.to(u.dtype)[:, None, :, None, None]
    return (du * of_du + y.to(u.dtype) * of_y + alone).to(y.dtype), of.weight, of.shift
