"""What exchanging the height and the width of the input does to a tensor: which of its dimensions change places.

A view makes one dimension of the height and the width of a map, or cuts both into windows, so a dimension of a tensor
is taken as a run of finer ones. Each of these stays, changes places with another one, or is free: nothing varies along
it, and what stays and what changes places are the same there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import accumulate, pairwise
from operator import mul

FREE = -1
"""Stands for the place of a dimension along which nothing varies."""


class Turn:
    """For every dimension of a tensor the lengths of those it is made of, 1 left out; for each of these its place.

    Places are counted through all dimensions: that of another one, its own, or `FREE`. `shape` is that of the tensor,
    and `turns` says whether anything changes places.
    """

    __slots__ = ("_hash", "_starts", "groups", "places", "shape", "turns")

    def __init__(self, groups: tuple[tuple[int, ...], ...], places: tuple[int, ...]) -> None:
        self.groups, self.places = groups, places
        self.shape = tuple(map(math.prod, groups))
        self.turns = any(place not in (number, FREE) for number, place in enumerate(places))
        self._starts = [0, *accumulate(map(len, groups))]
        # Asked for at every step.
        self._hash = hash((groups, places))

    @property
    def is_plain(self) -> bool:
        """Whether dimensions change places, or stay, as a whole."""
        return all(self.partner(dim) is not None or self.stays(dim) for dim in range(len(self.groups)))

    def __eq__(self, other: object) -> bool:
        return self is other or (
            isinstance(other, Turn) and self.groups == other.groups and self.places == other.places
        )

    def __hash__(self) -> int:
        return self._hash

    def __repr__(self) -> str:
        return f"Turn({self.groups}, {self.places})"

    def numbers(self, dim: int) -> range:
        """The finer dimensions that a dimension is made of."""
        return range(self._starts[dim], self._starts[dim + 1])

    def stays(self, dim: int) -> bool:
        """Whether nothing within a dimension changes places."""
        return not self.turns or all(self.places[number] in (number, FREE) for number in self.numbers(dim))

    def is_free(self, dim: int) -> bool:
        """Whether nothing varies along a dimension."""
        return all(self.places[number] == FREE for number in self.numbers(dim))

    def closed(self, dims: Iterable[int]) -> bool:
        """Whether what is within some dimensions changes places with what is within them alone."""
        inside = {FREE, *[number for dim in dims for number in self.numbers(dim)]}
        return all(number == FREE or self.places[number] in inside for number in inside)

    def partner(self, dim: int) -> int | None:
        """The dimension that a whole dimension changes places with; None where it is made of several, or stays."""
        numbers = self.numbers(dim)
        if len(numbers) != 1 or self.places[numbers[0]] in (numbers[0], FREE):
            return None
        for other in range(len(self.groups)):
            if self.numbers(other) == range(self.places[numbers[0]], self.places[numbers[0]] + 1):
                return other
        return None


@lru_cache(maxsize=4096)
def still(shape: tuple[int, ...], *, free: bool = False) -> Turn:
    """A tensor that stays as it is; `free`: nothing varies in it."""
    groups = tuple([(length,) if length > 1 else () for length in shape])
    count = sum(map(len, groups))
    return Turn(groups, (FREE,) * count if free else tuple(range(count)))


class _Fine:
    """A finer dimension while dimensions are moved and cut; `other` is what it changes places with, None: free."""

    __slots__ = ("length", "other")

    def __init__(self, length: int) -> None:
        self.length = length
        self.other: _Fine | None = self


def _taken_apart(turn: Turn) -> list[list[_Fine]]:
    fine = [_Fine(length) for group in turn.groups for length in group]
    for item, place in zip(fine, turn.places, strict=True):
        item.other = None if place == FREE else fine[place]
    rest = iter(fine)
    return [[next(rest) for _ in group] for group in turn.groups]


def _put_together(groups: Sequence[Sequence[_Fine]]) -> Turn:
    """The shortest form: neighbours that do the same are one."""
    after = {id(a): b for group in groups for a, b in pairwise(group)}
    kept: list[list[list[_Fine]]] = []
    for group in groups:
        runs: list[list[_Fine]] = []
        for item in group:
            if runs and _alike(runs[-1][-1], item, after):
                runs[-1].append(item)
            else:
                runs.append([item])
        kept.append(runs)
    numbers = {id(run[0]): number for number, run in enumerate(run for runs in kept for run in runs)}
    places = [FREE if run[0].other is None else numbers[id(run[0].other)] for runs in kept for run in runs]
    lengths = [tuple([math.prod([item.length for item in run]) for run in runs]) for runs in kept]
    return Turn(tuple(lengths), tuple(places))


def _alike(a: _Fine, b: _Fine, after: dict[int, _Fine]) -> bool:
    """Whether neighbours are both free, both stay, or change places with neighbours."""
    if a.other is None or b.other is None:
        return a.other is b.other
    if a.other is a or b.other is b:
        return a.other is a and b.other is b
    return after.get(id(a.other)) is b.other


@lru_cache(maxsize=4096)
def moved(turn: Turn, order: tuple[int | None, ...]) -> Turn | None:
    """Of a tensor made of dimensions of another one in this order; None is a new one of length 1.

    What is left out must stay, and nothing may change places with it.
    """
    left = [dim for dim in range(len(turn.groups)) if dim not in order]
    if not all(turn.stays(dim) for dim in left):
        return None
    groups = _taken_apart(turn)
    return _put_together([[] if dim is None else groups[dim] for dim in order])


@lru_cache(maxsize=4096)
def viewed(turn: Turn, shape: tuple[int, ...]) -> Turn | None:
    """Of a view of this shape; None where it does not cut what changes places in the same way."""
    fine = [item for group in _taken_apart(turn) for item in group]
    ends = [1, *accumulate(shape, mul)]
    while (cut := _crossing(fine, ends)) is not None:
        item, length = cut
        if length == 0:
            return None
        _cut(fine, item, length)
    rest, found = iter(fine), list[list[_Fine]]()
    for length in shape:
        group: list[_Fine] = []
        while math.prod([item.length for item in group]) < length:
            group.append(next(rest))
        found.append(group)
    return _put_together(found)


def _crossing(fine: Sequence[_Fine], ends: Sequence[int]) -> tuple[_Fine, int] | None:
    """A finer dimension in which one of the view ends, and the length of the part before the end, 0 if it has none."""
    end = 1
    for item in fine:
        start, end = end, end * item.length
        inside = next((other for other in ends if start < other < end), None)
        if inside is not None:
            return item, 0 if inside % start or end % inside else inside // start
    return None


def _cut(fine: list[_Fine], item: _Fine, length: int) -> None:
    """Cut a finer dimension in two, and what it changes places with."""
    halves = [item] if item.other is None or item.other is item else [item, item.other]
    rests = [_Fine(item.length // length) for _ in halves]
    for half, rest, other in zip(halves, rests, reversed(rests), strict=True):
        rest.other = None if item.other is None else other
        half.length = length
        fine.insert(next(n for n, one in enumerate(fine) if one is half) + 1, rest)


@lru_cache(maxsize=4096)
def resized(turn: Turn, dim: int, length: int, *, free: bool | None = None) -> Turn | None:
    """With another length of a dimension within which nothing changes places; `free` as before where not given."""
    if not turn.stays(dim):
        return None
    groups = _taken_apart(turn)
    groups[dim] = _fresh(length, free=turn.is_free(dim) if free is None else free)
    return _put_together(groups)


def _fresh(length: int, *, free: bool) -> list[_Fine]:
    """A dimension within which nothing changes places."""
    fresh = _Fine(length)
    fresh.other = None if free else fresh
    return [fresh] if length > 1 else []


@lru_cache(maxsize=4096)
def emptied(turn: Turn, dim: int) -> Turn:
    """With length 1 of a dimension that has been gathered, as has been or will be what changes places with it."""
    kept = [n for n in range(len(turn.places)) if n not in turn.numbers(dim)]
    numbers = {old: new for new, old in enumerate(kept)}
    places = [FREE if turn.places[n] == FREE else numbers.get(turn.places[n], numbers[n]) for n in kept]
    return Turn(tuple([() if other == dim else group for other, group in enumerate(turn.groups)]), tuple(places))


@lru_cache(maxsize=4096)
def stretched(turn: Turn, dims: tuple[int, int], lengths: tuple[int, int]) -> Turn | None:
    """With other lengths of two whole dimensions that change places."""
    if turn.partner(dims[0]) != dims[1] or lengths[0] != lengths[1]:
        return None
    groups = _taken_apart(turn)
    _stretch(groups, dims, lengths[0])
    return _put_together(groups)


def _stretch(groups: list[list[_Fine]], dims: tuple[int, int], length: int) -> None:
    for dim in dims:
        groups[dim][0].length = length
        groups[dim] = groups[dim] if length > 1 else []


@lru_cache(maxsize=4096)
def slid(turn: Turn, lengths: tuple[int, ...], *, free: bool, pointwise: bool) -> Turn | None:
    """After windows over the last two of four dimensions, from which result three of these lengths.

    The rest, the batch, stays apart. `free`: nothing varies along the channels; `pointwise`: windows are of one place.
    """
    if not turn.stays(1) or not turn.closed([0]):
        return None
    channels, height, width = lengths
    groups = _taken_apart(turn)
    groups[1] = _fresh(channels, free=free)
    if not pointwise:
        if turn.partner(3) != 2 or height != width:
            return None
        _stretch(groups, (2, 3), height)
    return _put_together(groups)


Spelled = tuple[tuple[int, tuple[int, int] | None], ...]
"""The finer dimensions of one: lengths, and places as a dimension and a number in it, None for `FREE`."""


@lru_cache(maxsize=4096)
def met(turns: tuple[Turn, ...], shapes: tuple[tuple[int, ...], ...]) -> Turn | None:
    """Of what tensors of these shapes give element by element, broadcast; None where they do not turn alike."""
    rank = max(map(len, shapes))
    found: list[Spelled] = []
    for dim in range(rank):
        kinds: set[Spelled] = set()
        length = 1
        for turn, shape in zip(turns, shapes, strict=True):
            own = dim - rank + len(shape)
            if own >= 0 and shape[own] > 1:
                length = shape[own]
                if not turn.is_free(own):
                    kinds.add(_spelled(turn, own, rank))
        if len(kinds) > 1:
            return None
        free: Spelled = ((length, None),) if length > 1 else ()
        found.append(kinds.pop() if kinds else free)
    return read(found)


def _spelled(turn: Turn, dim: int, rank: int) -> Spelled:
    where = [(other, n) for other, group in enumerate(turn.groups) for n in range(len(group))]
    shift = rank - len(turn.groups)
    found: list[tuple[int, tuple[int, int] | None]] = []
    for number, length in zip(turn.numbers(dim), turn.groups[dim], strict=True):
        place = turn.places[number]
        found.append((length, None if place == FREE else (where[place][0] + shift, where[place][1])))
    return tuple(found)


def read(found: Sequence[Spelled]) -> Turn | None:
    """The turn that is spelled so; None where what changes places is not of one length."""
    groups = [[_Fine(length) for length, _ in group] for group in found]
    for items, group in zip(groups, found, strict=True):
        for item, (_, place) in zip(items, group, strict=True):
            item.other = None if place is None else _at(groups, *place)
            if place is not None and (item.other is None or item.other.length != item.length):
                return None
    return _put_together(groups)


def _at(groups: Sequence[Sequence[_Fine]], dim: int, number: int) -> _Fine | None:
    return groups[dim][number] if number < len(groups[dim]) else None


@lru_cache(maxsize=4096)
def product(left: Turn, right: Turn) -> Turn | None:
    """Of a matrix product, batched or not, of what turns so; None where the two do not fit.

    What is within the batch, the rows, the columns and what is summed over may change places within that alone, but for
    batch and rows of many matrices by one.
    """
    rank = len(left.groups)
    rows, last = rank - 2, rank - 1
    summed = _either(_within(left, last), _within(right, rows))
    if summed is None or not (left.closed([last]) and right.closed([rows]) and right.closed([last])):
        return None
    columns: Spelled = tuple([(length, None if n is None else (last, n)) for length, n in _within(right, last)])
    if all(right.is_free(dim) for dim in range(rows)):
        # One matrix for all: what is in the batch is as what is in the rows.
        return read([*[_spelled(left, dim, rank) for dim in range(last)], columns])
    if not all(turn.closed([dim]) for turn in (left, right) for dim in range(rows)):
        return None
    kinds = [*[_either(_within(left, dim), _within(right, dim)) for dim in range(rows)], _within(left, rows)]
    if None in kinds:
        return None
    spelled: list[Spelled] = [
        tuple([(length, None if n is None else (dim, n)) for length, n in kind or ()]) for dim, kind in enumerate(kinds)
    ]
    return read([*spelled, columns])


Within = tuple[tuple[int, int | None], ...]


def _within(turn: Turn, dim: int) -> Within:
    """The finer dimensions of one in which all change places: lengths and places, counted from its first."""
    numbers = turn.numbers(dim)
    places = [None if turn.places[n] == FREE else turn.places[n] - numbers.start for n in numbers]
    return tuple(zip(turn.groups[dim], places, strict=True))


def _either(a: Within, b: Within) -> Within | None:
    """What a dimension of two tensors is made of together: what is free is as the other one is."""
    if all(place is None for _, place in a):
        return b
    return a if a == b or all(place is None for _, place in b) else None
