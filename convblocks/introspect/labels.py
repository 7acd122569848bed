"""Labels: what the elements of a tensor depend on, in a form that every rule can carry along.

A label array has one leading dimension of features; the others follow the tensor's shape, of length 1 where the labels
do not vary. Merging what two elements depend on is an elementwise minimum. For the interval lo..hi of input rows the
features are (lo, -hi), so that the minimum is the hull; what depends on nothing has `NOTHING` everywhere. The rules
know only the minimum, so the same rules serve intervals and masks of reached pixels alike.
"""

# What torch leaves without types.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache, reduce
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

NOTHING = 2**30 - 1
"""Feature of an element that depends on no input: larger than any coordinate, and twice it still fits 32 bits."""

MOST_TERMS = 8
"""Arrays of which a minimum is not put together: each is gone through again by whoever asks for a part of it."""

MOST_PIECES = 16
"""Pieces of the largest array that is gone through in pieces."""

LARGEST = 2**20
"""Elements of the largest array that is put together, as many as a map of 1024 x 1024 has: 8 MB of intervals."""


class TooLarge(Exception):
    """An array of labels would not fit in a reasonable memory."""

    def __init__(self, lengths: Sequence[int]) -> None:
        super().__init__(f"labels of {' x '.join(map(str, lengths))} elements")


def affordable(lengths: Sequence[int], arrays: int = 1) -> None:
    """Refuse to put together an array of this shape where it is larger than so many of the largest."""
    if math.prod(lengths) > arrays * LARGEST:
        raise TooLarge(lengths)


Identity = tuple[Any, ...]
"""What tells arrays of labels apart: memory, shape, strides, and whether they are pooled; of a concatenation, those of
its parts."""


class Labels:
    """Label array of one tensor along one input axis.

    `pooled` says that the tensor no longer has a position along the axis: every element has gathered the whole of it.
    A linear layer on a channel-last map sees the map flattened and the result is unflattened again, so labels reshaped
    by a view keep the array from before it (`origin`) and are reshaped only when somebody looks at `data`. Likewise a
    concatenation of channels, most often read by a convolution that mixes them, keeps its `parts`, and what has merged
    rows with columns, as the scores of an attention do, the `terms` of the minimum.
    """

    __slots__ = ("_data", "_identity", "_lengths", "origin", "parts", "pooled", "terms")

    def __init__(
        self,
        data: Tensor | None,
        pooled: bool = False,
        origin: Reshaped | None = None,
        parts: Joined | None = None,
        terms: tuple[Labels, ...] = (),
    ) -> None:
        self._data, self.pooled, self.origin, self.parts, self.terms = data, pooled, origin, parts, terms
        self._lengths: list[int] | None = None
        self._identity: Identity | None = None

    @property
    def data(self) -> Tensor:
        """The array, put together if it was not."""
        if self._data is None:
            if self.origin is not None:
                source, old, new = self.origin
                self._data = regroup(source.data, old, new)
            elif self.terms:
                affordable(self.lengths)
                self._data, self.terms = reduce(torch.minimum, [term.data for term in self.terms]), ()
            else:
                assert self.parts is not None
                self._data = concatenate(*self.parts)
        return self._data

    @property
    def identity(self) -> Identity:
        """Equal for labels that show one array in one way, as those do that views and gates lead through a block."""
        if self._identity is None:
            if self.parts is not None:
                parts = [(item.identity, length) for item, length in self.parts.items]
                self._identity = (self.parts.dim, *parts, self.pooled)
            elif self.terms:
                self._identity = ("least", *(term.identity for term in self.terms), self.pooled)
            else:
                self._identity = (self.data.data_ptr(), tuple(self.data.shape), self.data.stride(), self.pooled)
        return self._identity

    @property
    def features(self) -> int:
        """Length of the leading dimension of the array."""
        return self._any().shape[0]

    @property
    def dtype(self) -> torch.dtype:
        """Element type of the array."""
        return self._any().dtype

    def _any(self) -> Tensor:
        if self._data is not None:
            return self._data
        if self.origin is not None:
            return self.origin.source._any()
        if self.terms:
            return self.terms[0]._any()
        assert self.parts is not None
        return self.parts.items[0][0]._any()

    def per_term(self, function: Callable[[Labels], Labels]) -> Labels:
        """Treat every term of a minimum alike; what is done must not merge dimensions along which they differ."""
        return Labels(None, self.pooled, terms=tuple([function(term) for term in self.terms]))

    def narrow(self, dim: int, start: int, count: int) -> Labels:
        """A run of `count` places along a dimension."""
        if self.length(dim) == 1 or count == self.length(dim):
            return self
        if self.terms:
            return self.per_term(lambda term: term.narrow(dim, start, count))
        return self.map(lambda data: data.narrow(dim + 1, start, count))

    def slices(self) -> Iterator[Tensor]:
        """The array, in pieces where it is not put together."""
        lengths = self.lengths
        if not self.terms:
            yield self.data
            return
        if math.prod(lengths) > MOST_PIECES * LARGEST:
            raise TooLarge(lengths)
        dim = max(range(len(lengths)), key=lengths.__getitem__)
        count = max(1, lengths[dim] * LARGEST // math.prod(lengths))
        for start in range(0, lengths[dim], count):
            yield self.narrow(dim, start, min(count, lengths[dim] - start)).data

    def least(self, dims: Sequence[int]) -> Tensor:
        """The array with its elements along `dims` merged; those stay with length 1."""
        if self.terms:
            return reduce(torch.minimum, [term.least(dims) for term in self.terms])
        varying = [dim + 1 for dim in dims if self.data.shape[dim + 1] > 1]
        return self.data.amin(varying, keepdim=True) if varying else self.data

    def at(self, places: Sequence[int | None]) -> Tensor:
        """The array at one place of every dimension of which one is given; those stay with length 1."""
        if self.terms:
            return reduce(torch.minimum, [term.at(places) for term in self.terms])
        data = self.data
        return data[
            (
                slice(None),
                *(
                    slice(None) if place is None or n == 1 else slice(place, place + 1)
                    for place, n in zip(places, data.shape[1:], strict=True)
                ),
            )
        ]

    def per_part(self, function: Callable[[Labels], Labels], dim: int | None = None) -> Labels:
        """Treat every part alike; what is done must not look along the dimension of the concatenation.

        `dim` is where that dimension is afterwards, if it has moved.
        """
        assert self.parts is not None
        done: dict[int, Labels] = {}
        for item, _ in self.parts.items:
            if id(item) not in done:
                done[id(item)] = function(item)
        return joined(
            self.parts.dim if dim is None else dim, [(done[id(item)], length) for item, length in self.parts.items]
        )

    @property
    def lengths(self) -> list[int]:
        """Length of the array along every dimension of the tensor: 1 where the labels do not vary."""
        # Asked for at every step, and of a concatenation by going through its parts.
        if self._lengths is None:
            self._lengths = self._measure()
        return self._lengths

    def _measure(self) -> list[int]:
        if self._data is not None:
            return list(self._data.shape[1:])
        if self.origin is not None:
            source, old, new = self.origin
            return regrouped_lengths(source.lengths, old, new)[1]
        if self.terms:
            return [max(column) for column in zip(*(term.lengths for term in self.terms), strict=True)]
        assert self.parts is not None
        lengths = [max(column) for column in zip(*(item.lengths for item, _ in self.parts.items), strict=True)]
        lengths[self.parts.dim] = sum(length for _, length in self.parts.items)
        return lengths

    @property
    def ndim(self) -> int:
        """Number of dimensions of the tensor."""
        return len(self.lengths)

    def length(self, dim: int) -> int:
        """Length along one dimension of the tensor."""
        return self.lengths[dim]

    def map(self, function: Callable[[Tensor], Tensor]) -> Labels:
        """The same labels after a rearrangement of the array."""
        return Labels(function(self.data), self.pooled)

    def reshaped(self, old: Sequence[int], new: Sequence[int]) -> Labels:
        """As a tensor of shape `old` becomes one of shape `new`."""
        # Where a dimension that does not vary has been cut since, the shape before the view says nothing any more.
        if self.origin is not None and tuple(self.origin.new) == tuple(old):
            source, before, _ = self.origin
            return source if tuple(before) == tuple(new) else source._reshape(before, new)
        return self._reshape(old, new)

    def _reshape(self, old: Sequence[int], new: Sequence[int]) -> Labels:
        if self.terms:
            return self.per_term(lambda term: term._reshape(old, new))
        expanded, shaped = regrouped_lengths(self.lengths, old, new)
        if self.parts is None and expanded == self.lengths and len(expanded) == len(shaped):
            return Labels(regroup(self.data, old, new), self.pooled)
        return Labels(None, self.pooled, Reshaped(self, old, new))

    def with_ndim(self, ndim: int) -> Labels:
        """Broadcast to a tensor with more dimensions, as PyTorch does: new ones in front."""
        missing = ndim - self.ndim
        if missing <= 0:
            return self
        if self.terms:
            return self.per_term(lambda term: term.with_ndim(ndim))
        shape = self.data.shape
        return Labels(self.data.reshape(shape[0], *[1] * missing, *shape[1:]), self.pooled)


class Joined(NamedTuple):
    """Labels concatenated along one dimension of the tensor, each with its length there."""

    dim: int
    items: Sequence[tuple[Labels, int]]


def joined(dim: int, items: Sequence[tuple[Labels, int]]) -> Labels:
    """The concatenation of labels that are all pooled or all not.

    The array is put together when somebody looks at it.
    """
    first = items[0][0]
    if first.length(dim) == 1 and all(item is first or _same(item, first) for item, _ in items):
        return first
    return Labels(None, first.pooled, parts=Joined(dim, items))


def _same(a: Labels, b: Labels) -> bool:
    """Whether two intervals are equal; masks, all zero, are told apart by what they belong to."""
    return a.lengths == b.lengths and not a.dtype.is_floating_point and torch.equal(a.data, b.data)


def concatenate(dim: int, items: Sequence[tuple[Labels, int]]) -> Tensor:
    """The array of a concatenation."""
    arrays = [item.data for item, _ in items]
    shapes = [[1 if d == dim + 1 else n for d, n in enumerate(a.shape)] for a in arrays]
    shape = cast("torch.Size", torch.broadcast_shapes(*shapes))
    wide = [
        array.expand(*shape[: dim + 1], length, *shape[dim + 2 :])
        for array, (_, length) in zip(arrays, items, strict=True)
    ]
    affordable([*shape[1 : dim + 1], sum(length for _, length in items), *shape[dim + 2 :]])
    return torch.cat(wide, dim + 1)


def hull_of_parts(parts: Joined) -> Tensor:
    """The array of a concatenation with its elements along the dimension of the concatenation merged."""
    axis = parts.dim + 1
    arrays = [item.data for item in {id(item): item for item, _ in parts.items}.values()]
    short = [data.amin(axis, keepdim=True) if data.shape[axis] > 1 else data for data in arrays]
    return reduce(torch.minimum, short)


class Reshaped(NamedTuple):
    """Labels, the shape of the tensor they belong to, and the shape that a view has given the tensor."""

    source: Labels
    old: Sequence[int]
    new: Sequence[int]


def regrouped_lengths(lengths: Sequence[int], old: Sequence[int], new: Sequence[int]) -> tuple[list[int], list[int]]:
    """What to expand an array to before a reshape, and what to reshape it to; groups that do not vary stay short."""
    expanded: list[int] = []
    shaped: list[int] = []
    for before, after in factors(tuple(old), tuple(new)):
        varies = any(lengths[dim] > 1 for dim in before)
        expanded += [old[dim] if varies else 1 for dim in before]
        shaped += [new[dim] if varies else 1 for dim in after]
    return expanded, shaped


def regroup(data: Tensor, old: Sequence[int], new: Sequence[int]) -> Tensor:
    """Reshape labels as a tensor of shape `old` becomes one of shape `new`."""
    if 0 in old:
        return data.new_full((data.shape[0], *[1] * len(new)), NOTHING)
    expanded, shaped = regrouped_lengths(data.shape[1:], old, new)
    affordable(shaped)
    return data.expand(data.shape[0], *expanded).reshape(data.shape[0], *shaped)


@lru_cache(maxsize=4096)
def factors(old: tuple[int, ...], new: tuple[int, ...]) -> list[tuple[list[int], list[int]]]:
    """Match runs of dimensions with equal products: (2, 6) and (2, 3, 2) give [0]-[0] and [1]-[1, 2]."""
    groups: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(old) or j < len(new):
        before, after = [], []
        left = right = 1
        if i < len(old):
            left, before, i = old[i], [i], i + 1
        if j < len(new):
            right, after, j = new[j], [j], j + 1
        while left != right:
            if left < right:
                left, i = left * old[i], i + 1
                before.append(i - 1)
            else:
                right, j = right * new[j], j + 1
                after.append(j - 1)
        groups.append((before, after))
    return groups


def union(items: Iterable[Labels | None], ndim: int) -> Labels | None:
    """What depends on all of `items` together.

    A pooled item is a gate where another one still has a position: the local field leaves it out.
    """
    present = [item for item in items if item is not None]
    if any(not item.pooled for item in present):
        present = [item for item in present if not item.pooled]
    if not present:
        return None
    merged = present[0].with_ndim(ndim)
    for item in present[1:]:
        merged = _union_of_two(merged, item.with_ndim(ndim))
    return merged


def _union_of_two(first: Labels, second: Labels) -> Labels:
    if second is first:
        return first
    if first.parts is None:
        first, second = second, first
    if first.parts is not None:
        dim, items = first.parts
        if second.length(dim) == 1:
            return first.per_part(lambda part: _union_of_two(part, second))
        if (
            second.parts is not None
            and second.parts.dim == dim
            and [n for _, n in items] == [n for _, n in second.parts.items]
        ):
            pairs = zip(items, second.parts.items, strict=True)
            return joined(dim, [(_union_of_two(a, b), length) for (a, length), (b, _) in pairs])
    lengths = [max(a, b) for a, b in zip(first.lengths, second.lengths, strict=True)]
    terms = (*(first.terms or (first,)), *(second.terms or (second,)))
    if lengths not in (first.lengths, second.lengths) or 2 < len(terms) <= MOST_TERMS:
        return Labels(None, first.pooled, terms=terms)
    affordable(lengths)
    return Labels(torch.minimum(first.data, second.data), first.pooled)


def interval(positions: Tensor) -> Tensor:
    """Features (lo, -hi) of elements that depend on one position each; in 32 bits, which is half the time."""
    return torch.stack((positions, -positions)).to(torch.int32)


def extent(data: Tensor) -> Tensor:
    """Number of positions from lo to hi of every element; negative for one that depends on nothing."""
    return 1 - data[0] - data[1]


def nothing_like(data: Tensor) -> Tensor:
    """Labels of what depends on nothing."""
    return torch.full_like(data, NOTHING)
