"""The arithmetic of a batch norm's gradient that is done once a channel, by PyTorch's operations."""

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
