"""The share of the field that reaches a unit: known cases, and random networks against the gradient."""

from __future__ import annotations

import itertools
import os

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from oracle import reached, span
from random_networks import INVARIANT_NETWORKS, Network
from torch import nn

from convblocks.introspect.coverage import reached_pixels
from convblocks.introspect.receptive_field import receptive_field


def dilated(*rates: int) -> nn.Sequential:
    return nn.Sequential(*(nn.Conv2d(2, 2, 3, dilation=rate, padding=rate) for rate in rates))


@pytest.mark.parametrize(
    ("rates", "taps", "size"),
    [((2, 4, 8), 15, 29), ((1, 2, 4, 8), 31, 31), ((1, 1, 1, 8), 21, 23), ((1,), 3, 3), ((2,), 3, 5)],
)
def test_gridding_of_dilated_convolutions(rates: tuple[int, ...], taps: int, size: int) -> None:
    field = receptive_field(dilated(*rates), (2, 32, 32))
    assert field.size == (size, size)
    assert field.coverage == pytest.approx((taps / size) ** 2)


def test_branches_unite_as_sets() -> None:
    class Cross(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wide = nn.Conv2d(2, 2, (1, 7), padding=(0, 3))
            self.tall = nn.Conv2d(2, 2, (7, 1), padding=(3, 0))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat((self.wide(x), self.tall(x)), 1)

    assert receptive_field(Cross(), (2, 16, 16)).coverage == pytest.approx(13 / 49)


def test_a_concatenation_is_walked_part_by_part() -> None:
    """Put together, its array would be larger than any that is made."""

    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.near = nn.Conv2d(2, 2**13, 3, padding=1)
            self.far = nn.Conv2d(2, 2**13, 3, padding=2, dilation=2)
            self.mix = nn.Conv2d(2**14, 1, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.mix(torch.cat((self.near(x), self.far(x)), 1).relu())

    with torch.device("meta"):
        model = Wide()
    field = receptive_field(model, (2, 40, 40))
    assert field.size == (5, 5)
    assert field.coverage == pytest.approx(17 / 25)


def test_gates_are_cut() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(2, 2, 3, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.conv(x)
            return x * x.mean((2, 3), keepdim=True).sigmoid()

    assert receptive_field(Gated(), (2, 16, 16)).coverage == 1.0


@settings(
    max_examples=int(os.environ.get("RANDOM_NETWORKS", "500")) // 10,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
@given(INVARIANT_NETWORKS)
def test_masks_equal_the_gradient(network: Network) -> None:
    field = receptive_field(lambda x: network(x) * 1, (4, 24, 24), dtype=torch.float64)
    # Branches that are cut to one size drift apart: those units see the more, the farther they are from the middle.
    assume(not field.unknown and None not in field.local.period)
    assume(all(size and size <= 40 for size in field.size))
    pixels = reached_pixels(field._analysis, field._value, 0)
    assert pixels is not None
    y, mask = reached(network, (1, 4, 72, 72))
    # The place of the unit within the pattern is not said: it is one of those in the middle.
    expected = set()
    for h, w in itertools.product(range(-2, 3), repeat=2):
        reach = mask(y[0, :, y.shape[2] // 2 + h, y.shape[3] // 2 + w])
        rows, columns = span(reach, 2), span(reach, 3)
        if rows is not None and columns is not None:
            part = reach[0].any(0)[rows[0] : rows[1] + 1, columns[0] : columns[1] + 1]
            expected.add((tuple(part.shape), part.numpy().tobytes()))
    assert (tuple(pixels.shape), pixels.contiguous().numpy().tobytes()) in expected
