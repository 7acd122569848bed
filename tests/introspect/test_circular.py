"""Circular padding: the border sees both ends of the input however large that is, and the middle does not."""

from __future__ import annotations

import pytest
from oracle import positive, reached, span
from torch import nn

from convblocks.introspect import receptive_field


def stack(mode: str, count: int) -> nn.Sequential:
    return nn.Sequential(*(nn.Conv2d(2, 2, 3, padding=1, padding_mode=mode) for _ in range(count)))


@pytest.mark.parametrize("count", [1, 4, 8])
def test_the_field_is_that_of_zero_padding_and_costs_no_larger_input(count: int) -> None:
    """The input once grew to tens of thousands of rows, for half a minute, and the answer was unknown."""
    circular, zeros = (receptive_field(stack(mode, count), (2, 32, 40)) for mode in ("circular", "zeros"))
    assert (circular.full, circular.unknown) == (zeros.full, ())
    for axis in circular.axes:
        lengths = [[run.length for run in field._analysis.grown(axis)] for field in (circular, zeros)]
        assert lengths[0][0] == lengths[1][0]


def test_intervals_equal_the_gradient() -> None:
    model = positive(stack("circular", 2))
    y, mask = reached(model, (1, 2, 12, 15))
    field = receptive_field(model, (2, 12, 15))
    for unit in ((0, 0), (0, 7), (1, 14), (6, 7), (11, 2)):
        reach = mask(y[(slice(None), slice(None), *unit)])
        assert field.interval(*unit) == (span(reach, 2), span(reach, 3))
