"""What is said to turn does: a tensor turned and then viewed is the tensor viewed and then turned, as its turn says."""

from __future__ import annotations

import math
from itertools import chain

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from convblocks.introspect.turns import FREE, Turn, met, moved, product, resized, slid, still, stretched, viewed

LENGTHS = st.sampled_from([2, 3, 4, 6])


def apply(x: Tensor, turn: Turn) -> Tensor:
    """The tensor with its dimensions exchanged."""
    fine = [*chain.from_iterable(turn.groups)]
    places = [number if place == FREE else place for number, place in enumerate(turn.places)]
    return x.reshape(fine).permute(places).reshape(x.shape)


def shape_of(turn: Turn) -> list[int]:
    return [*turn.shape]


def filled(turn: Turn) -> Tensor:
    """A tensor of different numbers, but along what is free."""
    fine = [*chain.from_iterable(turn.groups)]
    kept = [1 if place == FREE else n for n, place in zip(fine, turn.places, strict=True)]
    return torch.arange(math.prod(kept)).reshape(kept).expand(fine).reshape(shape_of(turn))


@st.composite
def turns(draw: st.DrawFn, rank: int | None = None) -> Turn:
    """A turn of a tensor, by that of another one of which it is a view."""
    pairs = draw(st.integers(0, 2))
    lengths: list[int] = []
    places: list[int] = []
    for number in range(pairs):
        length = draw(LENGTHS)
        lengths += [length, length]
        places += [2 * number + 1, 2 * number]
    for _ in range(draw(st.integers(0, 2))):
        places.append(draw(st.sampled_from([len(lengths), FREE])))
        lengths.append(draw(LENGTHS))
    order = draw(st.permutations(range(len(lengths))))
    back = {old: new for new, old in enumerate(order)}
    straight = Turn(
        tuple((lengths[n],) for n in order), tuple(FREE if places[n] == FREE else back[places[n]] for n in order)
    )
    count = draw(st.integers(1, 4)) if rank is None else rank
    ends = sorted(draw(st.lists(st.integers(0, len(lengths)), min_size=count - 1, max_size=count - 1)))
    shape = [math.prod(lengths[n] for n in order[a:b]) for a, b in zip([0, *ends], [*ends, len(lengths)], strict=True)]
    found = viewed(straight, tuple(shape))
    assert found is not None
    return found


@settings(deadline=None)
@given(turns(), st.data())
def test_views(turn: Turn, data: st.DataObject) -> None:
    x = filled(turn)
    factors = [n for length in shape_of(turn) for n in _primes(length)]
    ends = sorted(data.draw(st.lists(st.integers(0, len(factors)), max_size=4)))
    shape = [math.prod(factors[a:b]) for a, b in zip([0, *ends], [*ends, len(factors)], strict=True)]
    found = viewed(turn, tuple(shape))
    if found is not None:
        assert shape_of(found) == shape
        assert apply(x, turn).reshape(shape).equal(apply(x.reshape(shape), found))
        again = viewed(found, tuple(shape_of(turn)))
        assert again == turn


def _primes(n: int) -> list[int]:
    return [2, *_primes(n // 2)] if n % 2 == 0 else [3, *_primes(n // 3)] if n % 3 == 0 else []


@settings(deadline=None)
@given(turns(), st.data())
def test_permutations(turn: Turn, data: st.DataObject) -> None:
    x = filled(turn)
    order = data.draw(st.permutations(range(x.ndim)))
    found = moved(turn, tuple(order))
    assert found is not None
    assert apply(x, turn).permute(*order).equal(apply(x.permute(*order), found))
    wider = moved(turn, (None, *range(x.ndim)))
    assert wider is not None
    assert apply(x, turn)[None].equal(apply(x[None], wider))


@settings(deadline=None)
@given(turns(), st.data())
def test_one_place_of_a_dimension(turn: Turn, data: st.DataObject) -> None:
    x = filled(turn)
    dim = data.draw(st.integers(0, x.ndim - 1))
    found = moved(turn, tuple(other for other in range(x.ndim) if other != dim))
    if found is None:
        assert not turn.stays(dim)
    else:
        assert apply(x, turn).select(dim, -1).equal(apply(x.select(dim, -1), found))


@settings(deadline=None)
@given(turns(), turns())
def test_elementwise(a: Turn, b: Turn) -> None:
    x, y = filled(a), filled(b) * 1000
    try:
        shape = torch.broadcast_shapes(x.shape, y.shape)
    except RuntimeError:
        return
    found = met((a, b), (tuple(x.shape), tuple(y.shape)))
    if found is not None:
        assert shape_of(found) == list(shape)
        assert (apply(x, a) + apply(y, b)).equal(apply(x + y, found))


@settings(deadline=None)
@given(turns(), st.data())
def test_elementwise_with_what_turns_alike(turn: Turn, data: st.DataObject) -> None:
    dims = data.draw(st.sets(st.integers(0, len(turn.groups) - 1)))
    other = turn
    for dim in dims:
        other = resized(other, dim, 1) or other
    found = met((other, turn), (tuple(shape_of(other)), tuple(shape_of(turn))))
    assert found is not None
    x, y = filled(other), filled(turn) * 1000
    assert (apply(x, other) + apply(y, turn)).equal(apply(x + y, found))


@settings(deadline=None)
@given(turns(3), turns(3))
def test_matrix_products(a: Turn, b: Turn) -> None:
    x, y = filled(a), filled(b) % 97
    if x.shape[0] != y.shape[0] or x.shape[2] != y.shape[1]:
        return
    found = product(a, b)
    if found is not None:
        assert (apply(x, a) @ apply(y, b)).equal(apply(x @ y, found))


@pytest.mark.parametrize("batch", [((), ()), ((2, 2), (1, 0)), ((3,), (0,)), ((3,), (FREE,))])
def test_a_matrix_product_of_places_with_themselves(batch: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    """Places that are rows of a map after one another, as in an attention."""
    lengths, places = batch
    n = len(places)
    a = Turn((lengths, (4, 4), (5,)), (*places, n + 1, n, FREE))
    b = Turn((lengths, (5,), (4, 4)), (*places, FREE, n + 2, n + 1))
    found = product(a, b)
    assert found == Turn((lengths, (4, 4), (4, 4)), (*places, n + 1, n, n + 3, n + 2))
    x, y = filled(a), filled(b)
    assert (apply(x, a) @ apply(y, b)).equal(apply(x @ y, found))


def test_what_changes_places_across_the_dimensions_of_a_product_is_not_followed() -> None:
    """Every row of a map for itself, unless by one matrix for all."""
    rows = Turn(((4,), (4,), (5,)), (1, 0, FREE))
    assert product(rows, still((4, 5, 3))) is None
    assert product(rows, Turn(((4,), (5,), (4,)), (2, FREE, 0))) is None
    found = product(rows, still((4, 5, 3), free=True))
    assert found == Turn(((4,), (4,), (3,)), (1, 0, FREE))
    x, y = filled(rows), torch.ones(4, 5, 3, dtype=torch.int64)
    assert (apply(x, rows) @ y).equal(apply(x @ y, found))


def test_lengths_that_change() -> None:
    turn = Turn(((3,), (8,), (8,)), (0, 2, 1))
    assert stretched(turn, (1, 2), (4, 4)) == Turn(((3,), (4,), (4,)), (0, 2, 1))
    assert stretched(turn, (1, 2), (1, 1)) == Turn(((3,), (), ()), (0,))
    assert stretched(turn, (1, 2), (4, 5)) is None
    assert stretched(turn, (0, 1), (4, 4)) is None
    assert resized(turn, 1, 4) is None
    assert resized(turn, 0, 6, free=True) == Turn(((6,), (8,), (8,)), (FREE, 2, 1))
    batch = Turn(((), (3,), (8,), (8,)), (0, 2, 1))
    assert slid(batch, (6, 4, 4), free=True, pointwise=False) == Turn(((), (6,), (4,), (4,)), (FREE, 2, 1))
    assert slid(batch, (1, 1, 1), free=False, pointwise=False) == Turn(((), (), (), ()), ())
    assert slid(batch, (6, 8, 8), free=False, pointwise=True) == Turn(((), (6,), (8,), (8,)), (0, 2, 1))
    assert slid(batch, (6, 4, 5), free=True, pointwise=False) is None
    assert slid(Turn(((), (8,), (8,), (3,)), (1, 0, 2)), (8, 4, 4), free=True, pointwise=False) is None
    assert slid(Turn(((8,), (3,), (8,), (1,)), (2, 1, 0)), (3, 8, 1), free=True, pointwise=True) is None
    assert viewed(turn, (3, 64)) == Turn(((3,), (8, 8)), (0, 2, 1))
    assert viewed(turn, (24, 8)) == Turn(((3, 8), (8,)), (0, 2, 1))
    assert viewed(turn, (3, 2, 4, 8)) == Turn(((3,), (2,), (4,), (2, 4)), (0, 3, 4, 1, 2))
    assert viewed(Turn(((6, 6),), (1, 0)), (4, 9)) is None
