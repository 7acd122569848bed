"""A copy holds what was copied, and is written into by itself."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from convblocks import receptive_field, summary

NARROW, WIDE = nn.Conv2d(2, 2, 3, padding=1).double(), nn.Conv2d(2, 2, 7, padding=3).double()


def rows(network: Callable[[Tensor], Tensor]) -> int:
    """How many rows a unit in the middle sees."""
    x = torch.randn(1, 2, 32, 32, dtype=torch.float64, requires_grad=True)
    network(x)[0, :, 16, 16].sum().backward()
    assert x.grad is not None
    seen = x.grad.abs().amax((0, 1, 3)).nonzero()
    return int(seen.max() - seen.min()) + 1


def write_into_a_copy(x: Tensor) -> Tensor:
    kept = NARROW(x)
    kept.clone().copy_(WIDE(x))
    return kept


def write_into_what_was_copied(x: Tensor) -> Tensor:
    kept = NARROW(x)
    copied = kept.clone()
    kept.add_(WIDE(x))
    return copied


def return_the_copy_written_into(x: Tensor) -> Tensor:
    copied = NARROW(x).clone()
    copied[:, :, ::2] = WIDE(x)[:, :, ::2]
    return copied


def write_into_an_alias(x: Tensor) -> Tensor:
    kept = NARROW(x)
    kept[...].mul_(WIDE(x))
    return kept


def copy_a_view(x: Tensor) -> Tensor:
    kept = NARROW(x)
    part = kept[:, :, 8:].clone()
    part.add_(WIDE(x)[:, :, 8:])
    return torch.cat([kept[:, :, :8], part], 2)


@pytest.mark.parametrize(
    "network",
    [
        write_into_a_copy,
        write_into_what_was_copied,
        return_the_copy_written_into,
        write_into_an_alias,
        copy_a_view,
    ],
)
def test_the_field_is_that_of_the_gradient(network: Callable[[Tensor], Tensor]) -> None:
    field = receptive_field(network, (2, 32, 32), dtype=torch.float64)
    seen = field.interval(16, 16)[0]
    assert seen is not None
    assert seen[1] - seen[0] + 1 == rows(network)


def test_what_a_copy_takes_is_counted() -> None:
    class Copies(nn.Module):
        def __init__(self, times: int) -> None:
            super().__init__()
            self.conv, self.times = nn.Conv2d(2, 2, 3, padding=1), times

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            for _ in range(self.times):
                x = x.clone()
            return x

    one, three = (summary(Copies(times), (2, 8, 8)).activation_bytes for times in (1, 3))
    # 2 channels of 8 x 8 numbers of 4 bytes each, of the convolution and of every copy.
    assert (one, three) == (2 * 512, 4 * 512)


class Copy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.clone()


def test_a_copy_is_counted_where_it_is_made() -> None:
    inside = nn.Sequential(Copy(), nn.Conv2d(2, 2, 3, padding=1))
    network = nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), Copy(), inside)
    layers = {layer.name: layer.activation_bytes for layer in summary(network, (2, 8, 8)).layers}
    assert layers == {"": 4 * 512, "0": 512, "1": 512, "2": 2 * 512, "2.0": 512, "2.1": 512}


def test_a_network_that_copies_and_does_no_more() -> None:
    field = receptive_field(Copy(), (2, 8, 8))
    assert (field.size, field.jump, field.start) == ((1, 1), (1, 1), (0, 0))
    assert summary(Copy(), (2, 8, 8)).activation_bytes == 512
