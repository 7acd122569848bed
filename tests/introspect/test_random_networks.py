"""On random networks every interval equals the gradient's, or is reported unknown; never a silent error."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Callable

import torch
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st
from oracle import reached, span
from random_networks import NETWORKS, Network

from convblocks.introspect.receptive_field import receptive_field

EXAMPLES = int(os.environ.get("RANDOM_NETWORKS", "500"))
MOST_UNKNOWN = 0.01


def units(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Corners, middle and a few more places of a map."""
    ranges = [sorted({0, 1, n // 3, n // 2, n - 2, n - 1} & set(range(n))) for n in shape[2:]]
    return list(itertools.product(*ranges))


def test_intervals_equal_the_gradient(record_property: Callable[[str, object], None]) -> None:
    answers: Counter[str] = Counter()

    @settings(max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(NETWORKS, st.integers(9, 16), st.integers(9, 16))
    def check(network: Network, height: int, width: int) -> None:
        answers[compare(network, height, width)] += 1

    check()
    print(dict(answers))
    record_property("answers", dict(answers))
    # A rule that gives up wherever it might be wrong would pass the comparison.
    assert answers["unknown"] <= MOST_UNKNOWN * answers.total(), answers


def compare(network: Network, height: int, width: int) -> str:
    """Hold every interval to the gradient; "equal", "unknown", or "nothing" where no output depends on the input."""
    shape = (1, 4, height, width)
    try:
        network(torch.zeros(shape, dtype=torch.float64))
    except RuntimeError:
        # Crops, strides and kernels drawn together can leave nothing of a map, which torch refuses.
        reject()
    y, mask = reached(network, shape, rounding=1e-15)
    if y.requires_grad is False or y is None:
        return "nothing"
    calls = network if network.text != "nothing" else (lambda x: x.clone())
    try:
        field = receptive_field(lambda x: calls(x) * 1, shape[1:], dtype=torch.float64)
        whole = [field._analysis.whole(axis) for axis in field.axes]
    except ValueError as error:
        raise AssertionError(f"{network}: {error}") from error
    assert field.shape == tuple(y.shape)
    if any(field._value in one.unknown for one in whole):
        return "unknown"
    for unit in units(tuple(y.shape)):
        reach = mask(y[(slice(None), slice(None), *unit)])
        expected = (span(reach, 2), span(reach, 3))
        found = tuple(_interval(one, field, unit) for one in whole)
        if None in found:
            found = (None, None)
        assert found == expected, f"{network} at {unit} of {tuple(y.shape)}: {found}, by gradient {expected}"
    return "equal"


def _interval(whole, field, unit):
    labels = whole.labels.get(field._value)
    if labels is None:
        return None
    data = labels.data
    for dim, place in enumerate(unit, start=2):
        data = data.narrow(dim + 1, place if data.shape[dim + 1] > 1 else 0, 1)
    lo, hi = data.flatten(1).amin(1).tolist()
    return (lo, -hi) if lo <= -hi else None
