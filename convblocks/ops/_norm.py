"""The arithmetic of batch norm that is done once a channel: statistics, and what its gradient comes to."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from convblocks.ops._stage import Stage


class Factors(NamedTuple):
    """The gradient of u = norm(y): dy = du * table[0] + y * table[1] + table[2], and those of weight and shift."""

    table: Tensor
    weight: Tensor
    shift: Tensor


def around(stage: Stage, like: Tensor, channels: int) -> Tensor:
    """Return a number a channel near the mean: sums of squares about it lose less to rounding than about 0."""
    if stage.mean is None:
        return like.new_zeros(channels, dtype=torch.float32)
    # A norm in training does not care what became of its running statistics.
    return stage.mean.float().nan_to_num(0.0, 0.0, 0.0)


def statistics(sums: Tensor, center: Tensor, count: int) -> Tensor:
    """Return mean and variance, (2, C), from rows of sums of y - center and of its square, (rows, 2, C)."""
    mean, square = (sums.sum(0, dtype=torch.float64) / count).unbind()
    return torch.stack((mean + center, (square - mean * mean).clamp_min(0))).float()


def known(stage: Stage) -> Tensor:
    """Return the running mean and variance as `statistics` gives those of a batch."""
    assert stage.mean is not None
    assert stage.variance is not None
    return torch.stack((stage.mean, stage.variance)).float()


def factors(sums: Tensor, stats: Tensor, stage: Stage, batch: bool, count: int) -> Factors:
    """Turn the sums of du and of du * (y - mean), (2, C) in float64, into the norm's gradients.

    Where the statistics are those of the batch, they depend on y too.
    """
    plain, moved = sums.unbind()
    mean, variance = stats.double().unbind()
    inverse = (variance + stage.eps).rsqrt()
    scale = inverse if stage.weight is None else inverse * stage.weight.double()
    of_y = -scale * inverse * inverse * moved / count if batch else torch.zeros_like(scale)
    alone = -scale * plain / count - of_y * mean if batch else of_y
    return Factors(torch.stack((scale, of_y, alone)), moved * inverse, plain)
