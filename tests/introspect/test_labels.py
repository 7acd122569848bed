"""The fast ways of the label arrays say what the plain ones say."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from convblocks.introspect.arrays import TooLarge
from convblocks.introspect.field import MAX_PERIOD, _searched, _uniform, axis_field
from convblocks.introspect.labels import Labels, joined, least, merge, reshaped, slices, union
from convblocks.introspect.labels.unions import MOST_TERMS
from convblocks.introspect.sliding import all_read, gather, slide, window_taps

small = st.integers(1, 5)


@given(length=st.integers(1, 20), kernel=small, stride=small, padding=st.integers(0, 9), dilation=small, data=st.data())
def test_a_window_slides_as_its_table_of_taps_says(
    length: int, kernel: int, stride: int, padding: int, dilation: int, data: st.DataObject
) -> None:
    """One output more than fits, as ceil_mode has, and windows that lie beyond the border altogether too."""
    most = max(0, length + 2 * padding - dilation * (kernel - 1) - 1) // stride + 2
    out = data.draw(st.integers(1, most), label="out")
    labels = torch.randint(-50, 50, (2, 3, length, 2), generator=torch.Generator().manual_seed(length))
    for dim, array in ((1, labels), (2, labels.transpose(2, 3))):
        expected = gather(array, dim, window_taps(length, out, kernel, stride, padding, dilation))
        assert slide(array, dim, out, kernel, stride, padding, dilation).equal(expected)
    if all_read(length, out, kernel, stride, padding, dilation):
        assert bool((window_taps(length, out, kernel, stride, padding, dilation) < length).any(1).all())


def test_windows_that_all_read_something_are_known_without_a_table() -> None:
    assert all_read(8, 8, 3, 1, 1, 1)
    assert all_read(8, 4, 2, 2, 0, 1)
    assert not all_read(8, 12, 3, 1, 3, 1)
    assert not all_read(8, 5, 2, 2, 0, 1)


def field(low: Tensor, size: Tensor) -> tuple[int | None, float | None]:
    found = axis_field(Labels(torch.stack((low, -(low + size - 1)))), 10**6, 0, 1)
    assert found is not None
    return found.period, found.jump


@given(
    pattern=st.lists(st.tuples(st.integers(0, 3), st.integers(1, 4)), min_size=1, max_size=8),
    repeats=st.integers(3, 40),
)
def test_the_period_is_the_shortest_after_which_the_fields_repeat(pattern: list[tuple[int, int]], repeats: int) -> None:
    steps = torch.tensor([step for step, _ in pattern] * repeats)
    size = torch.tensor([size for _, size in pattern] * repeats)
    low = steps.cumsum(0) - steps + 2
    high = low + size
    fits = [
        period
        for period in range(1, min(MAX_PERIOD, (len(low) - 1) // 2) + 1)
        if len({*(low[period:] - low[:-period]).tolist(), *(high[period:] - high[:-period]).tolist()}) == 1
    ]
    if len({*pattern}) == 1 and pattern[0][0] == 0:
        # All see the same: the places of one window, of which nothing tells how far the next is.
        fits = []
    period, jump = field(low, size)
    assert period == (fits[0] if fits else None)
    assert jump == (int(low[fits[0]] - low[0]) / fits[0] if fits else None)


@given(
    units=st.integers(1, 40),
    step=st.integers(-1, 3),
    size=st.integers(0, 9),
    first=st.integers(-12, 12),
    margin=st.integers(0, 12),
    changes=st.lists(st.tuples(st.integers(0, 39), st.integers(-2, 2), st.integers(-2, 2)), max_size=2),
)
def test_even_steps_are_found_as_by_the_search_for_a_period(
    units: int, step: int, size: int, first: int, margin: int, changes: list[tuple[int, int, int]]
) -> None:
    length = 60
    low = torch.arange(units) * step + first
    high = low + size - 1
    for place, lower, higher in changes:
        low[place % units] += lower
        high[place % units] += higher
    low, high = low.clamp(min=0).int(), high.clamp(max=length - 1).int()
    found = _uniform(low, -high, length, margin)
    assert found is None or found == _searched(low, high, length, margin)
    if not changes and step > 0 and size > 0 and margin > 0:
        searched = _searched(low, high, length, margin)
        clear = int(((low > margin) & (high < length - 1 - margin) & (high >= low)).sum())
        middle = units // 2
        if clear > 2 and all(low[i] > 0 and high[i] < length - 1 for i in (middle - 1, middle)):
            assert found == searched is not None


def test_steps_further_apart_than_the_longest_period_are_no_pattern() -> None:
    """Places of a flattened map: the field along its height moves once a row."""
    low = torch.arange(6).repeat_interleave(2 * MAX_PERIOD) + 2
    assert field(low, torch.full_like(low, 3)) == (None, None)


def outer() -> tuple[Labels, Tensor]:
    """Rows merged with columns, and the array that this stands for."""
    torch.manual_seed(0)
    rows, columns = (torch.randint(0, 99, shape, dtype=torch.int32) for shape in ((2, 5, 1), (2, 1, 7)))
    merged = union((Labels(rows), Labels(columns)), 2)
    assert merged is not None
    assert len(merged.terms) == 2
    assert merged.lengths == [5, 7]
    return merged, torch.minimum(rows, columns)


def test_rows_merged_with_columns_are_not_put_together() -> None:
    labels, array = outer()
    for dims in ([0], [1], [0, 1], []):
        expected = array.amin([dim + 1 for dim in dims], keepdim=True) if dims else array
        assert torch.equal(least(labels, dims).data, expected)
    assert torch.equal(labels.at([2, None]).data, array[:, 2:3])
    assert torch.equal(labels.at([4, 3]).data, array[:, 4:, 3:4])
    cut = labels.narrow(1, 2, 3)
    again = reshaped(labels, (5, 7), (1, 5, 7))
    assert cut.terms
    assert again.terms
    assert torch.equal(cut.data, array[:, :, 2:5])
    assert torch.equal(again.data, array[:, None])
    assert torch.equal(labels.with_ndim(4).data, array[:, None, None])
    assert labels.terms
    assert torch.equal(labels.data, array)
    assert labels.terms == ()


def test_what_is_not_put_together_is_gone_through_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("convblocks.introspect.arrays.LARGEST", 12)
    labels, array = outer()
    pieces = list(slices(labels))
    assert len(pieces) == 4
    assert torch.equal(torch.cat(pieces, 2), array)
    with pytest.raises(TooLarge, match="5 x 7 elements"):
        _ = labels.data
    monkeypatch.setattr("convblocks.introspect.labels.gathering.MOST_PIECES", 2)
    with pytest.raises(TooLarge, match="5 x 7 elements"):
        next(slices(labels))


def test_a_minimum_of_many_terms_is_put_together() -> None:
    labels, array = outer()
    for number in range(MOST_TERMS):
        one = torch.full((2, 1, 7), 50 - number, dtype=torch.int32)
        merged = union((labels, Labels(one)), 2)
        assert merged is not None
        labels, array = merged, torch.minimum(array, one)
    assert len(labels.terms) < MOST_TERMS
    assert torch.equal(labels.data, array)


def test_labels_that_show_the_same_arrays_have_the_same_identity() -> None:
    first, second = (Labels(torch.zeros(2, n, dtype=torch.int32)) for n in (3, 4))
    one, two = (joined(0, [(first, 3), (second, 4)]) for _ in range(2))
    assert one is not two
    assert one.identity == two.identity
    assert one.identity != joined(0, [(second, 4), (first, 3)]).identity


def test_labels_in_parts_take_new_dimensions() -> None:
    parts = joined(1, [(Labels(torch.arange(12).view(2, 3, 2)), 2), (Labels(torch.arange(12, 24).view(2, 3, 2)), 2)])
    assert parts.is_apart
    merged = merge(parts, (3, 4), [0, 2, 0])
    assert merged.lengths == [1, 12, 1]
    assert torch.equal(merged.data, parts.data.expand(-1, 3, 4).reshape(2, 1, 12, 1))
