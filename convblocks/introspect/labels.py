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
from functools import reduce
from itertools import chain
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from convblocks.introspect import arrays
from convblocks.introspect.arrays import (
    NOTHING,
    TooLarge,
    affordable,
    common,
    compacted,
    compress,
    factors,
    numbered,
    regrouping,
)

MOST_TERMS = 8
"""Arrays of which a minimum is not put together: each is gone through again by whoever asks for a part of it."""

FEW = 2**16
"""Elements of rows merged with other rows that are put together at once: every array is kept."""

MOST_PIECES = 16
"""Pieces of the largest array that is gone through in pieces."""

Identity = tuple[Any, ...]
"""What tells arrays of labels apart: memory, shape, strides, and whether they are pooled; of those that are not put
together, what tells apart what they are made of."""


class Labels:
    """Label array of one tensor along one input axis.

    `pooled` says that the tensor no longer has a position along the axis: every element has gathered the whole of it.

    Three kinds of arrays are put together only when somebody looks at `data`. A concatenation of channels, most often
    read by a convolution that mixes them, keeps its `parts`. What has merged rows with columns, as the scores of an
    attention do, keeps the `terms` of the minimum. A map that a view has flattened to places, as transformers do, keeps
    its rows and columns (`merged`): along one axis of the input its labels vary along one of the two.
    """

    __slots__ = ("_data", "_identity", "_lengths", "merged", "parts", "pooled", "terms")

    def __init__(
        self,
        data: Tensor | None,
        pooled: bool = False,
        merged: Merged | None = None,
        parts: Joined | None = None,
        terms: tuple[Labels, ...] = (),
    ) -> None:
        self._data, self.pooled, self.merged, self.parts, self.terms = data, pooled, merged, parts, terms
        self._lengths: list[int] | None = None
        self._identity: Identity | None = None

    @property
    def data(self) -> Tensor:
        """The array, put together if it was not."""
        if self._data is None:
            if self.merged is not None:
                self._data = flattened(*self.merged)
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
            elif self.merged is not None:
                source, shape, groups = self.merged
                rows = [shape[dim] for group in groups if len(group) > 1 for dim in group]
                self._identity = ("merged", source.identity, *rows, groups, self.pooled)
            else:
                shape = self.data.shape
                # Steps along what has one place say nothing.
                steps = [step if n > 1 else 0 for n, step in zip(shape, self.data.stride(), strict=True)]
                self._identity = (self.data.data_ptr(), tuple(shape), *steps, self.pooled)
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
        if self.merged is not None:
            return self.merged.source._any()
        if self.terms:
            return self.terms[0]._any()
        assert self.parts is not None
        return self.parts.items[0][0]._any()

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
        if self.merged is not None:
            return self.merged.lengths()
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

    def per_term(self, function: Callable[[Labels], Labels]) -> Labels:
        """Treat every term of a minimum alike; what is done must not merge dimensions along which they differ."""
        return Labels(None, self.pooled, terms=tuple([function(term) for term in self.terms]))

    def per_part(self, function: Callable[[Labels], Labels], dim: int | None = None) -> Labels:
        """Treat every part alike; what is done must not look along the dimension of the concatenation.

        `dim` is where that dimension is afterwards, if it has moved.
        """
        assert self.parts is not None
        done = {id(item): function(item) for item in self.parts.different}
        if dim is None and all(id(item) == number for number, item in done.items()):
            return self
        return joined(
            self.parts.dim if dim is None else dim, [(done[id(item)], length) for item, length in self.parts.items]
        )

    def as_pooled(self) -> Labels:
        """The same labels of a tensor that has no position left."""
        if self.terms:
            return Labels(None, True, terms=tuple([term.as_pooled() for term in self.terms]))
        if self.parts is not None:
            items = [(item.as_pooled(), length) for item, length in self.parts.items]
            return Labels(None, True, parts=Joined(self.parts.dim, items))
        if self.merged is not None:
            return Labels(None, True, self.merged._replace(source=self.merged.source.as_pooled()))
        return Labels(self.data, True)

    def blank(self, ndim: int) -> Labels:
        """Labels of the same kind, of a tensor of so many dimensions that depends on nothing."""
        return Labels(self._any().new_full((self.features, *[1] * ndim), NOTHING), self.pooled)

    def map(self, function: Callable[[Tensor], Tensor]) -> Labels:
        """The same labels after a rearrangement of the array."""
        return Labels(function(self.data), self.pooled)

    def tidied(self, dims: Sequence[int]) -> Labels:
        """Dimensions along which nothing varies any more shortened to 1."""
        if self.parts is not None and self.parts.dim not in dims:
            return self.per_part(lambda part: part.tidied(dims))
        if self.merged is not None:
            return self.merged.around(self.merged.source.tidied(self.merged.fine(dims)))
        return self.map(lambda data: compress(data, dims))

    def along(self, dim: int, function: Callable[[Tensor, int], Tensor]) -> Labels:
        """The same labels after a change of the array along one dimension: of rows, if it is made of those alone.

        `function` takes an array and the number of its dimension.
        """
        if self.parts is not None and self.parts.dim != dim:
            return self.per_part(lambda part: part if part.length(dim) == 1 else part.along(dim, function))
        if self.merged is not None and len(self.merged.groups[dim]) == 1:
            [fine] = self.merged.groups[dim]
            return self.merged.around(self.merged.source.along(fine, function))
        return self.map(lambda data: function(data, dim + 1))

    def narrow(self, dim: int, start: int, count: int) -> Labels:
        """A run of `count` places along a dimension."""
        if self.length(dim) == 1 or count == self.length(dim):
            return self
        if self.terms:
            return self.per_term(lambda term: term.narrow(dim, start, count))
        return self.along(dim, lambda data, axis: data.narrow(axis, start, count))

    def slices(self) -> Iterator[Tensor]:
        """Arrays that hold all elements, in pieces where they are not put together."""
        lengths = self.lengths
        if self.merged is not None:
            yield from self.merged.source.slices()
        elif self.terms:
            if math.prod(lengths) > MOST_PIECES * arrays.LARGEST:
                first, *others = self.terms
                for other in others:
                    first = _by_rows(first, other, arrays.LARGEST)
                    if first is None:
                        raise TooLarge(lengths)
                yield from first.slices()
                return
            dim = max(range(len(lengths)), key=lengths.__getitem__)
            count = max(1, lengths[dim] * arrays.LARGEST // math.prod(lengths))
            for start in range(0, lengths[dim], count):
                yield self.narrow(dim, start, min(count, lengths[dim] - start)).data
        elif self.parts is not None:
            yield from chain.from_iterable(item.slices() for item in self.parts.different)
        else:
            yield self.data

    def least(self, dims: Sequence[int]) -> Labels:
        """The elements along `dims` merged; these stay with length 1."""
        if self.terms:
            return reduce(_union_of_two, [term.least(dims) for term in self.terms])
        if self.parts is not None:
            if self.parts.dim not in dims:
                return self.per_part(lambda part: part.least(dims))
            return reduce(_union_of_two, [item.least(dims) for item in self.parts.different])
        if self.merged is not None:
            return self.merged.around(self.merged.source.least(self.merged.fine(dims)))
        varying = [dim + 1 for dim in dims if self.length(dim) > 1]
        return self.map(lambda data: data.amin(varying, keepdim=True)) if varying else self

    def least_of_run(self, dim: int, start: int, count: int) -> Labels:
        """The elements of a run of `count` places along a dimension merged; it stays with length 1."""
        if self.terms:
            return reduce(_union_of_two, [term.least_of_run(dim, start, count) for term in self.terms])
        if self.merged is not None:
            source, shape, groups = self.merged
            return self.merged.around(_least_of_run(source, shape, groups[dim], start, count))
        return self.narrow(dim, start, count).least([dim])

    def least_of_middle(self, dim: int, share: float) -> Labels | None:
        """The elements of the middle rows of a dimension of flattened places merged, so large a share of all rows.

        Tokens beside the map are merged with them. None for a dimension of other elements.
        """
        if self.terms:
            rows = [term if term.length(dim) == 1 else term.least_of_middle(dim, share) for term in self.terms]
            known = [term for term in rows if term is not None]
            return reduce(_union_of_two, known) if len(known) == len(rows) else None
        if self.parts is not None and self.parts.dim == dim:
            found = [item.least_of_middle(dim, share) for item in self.parts.different]
            items = zip(found, self.parts.different, strict=True)
            pieces = [item.least([dim]) if middle is None else middle for middle, item in items]
            return None if all(middle is None for middle in found) else reduce(_union_of_two, pieces)
        if self.merged is None or len(self.merged.groups[dim]) == 1:
            return None
        source, shape, groups = self.merged
        for fine in groups[dim]:
            count = max(1, round(shape[fine] * share))
            source = source.narrow(fine, (shape[fine] - count) // 2, count)
        return self.merged.around(source.least(groups[dim]))

    def at(self, places: Sequence[int | None]) -> Labels:
        """The labels at one place of every dimension of which one is given; these stay with length 1."""
        if self.terms:
            return self.per_term(lambda term: term.at(places))
        if self.merged is not None:
            return self.merged.around(self.merged.source.at(self.merged.places(places)))
        if self.parts is not None:
            if (place := places[self.parts.dim]) is None:
                return self.per_part(lambda part: part.at(places))
            for item, length in self.parts.items:
                if place < length:
                    return item.at([place if dim == self.parts.dim else other for dim, other in enumerate(places)])
                place -= length
        chosen = [
            slice(None) if place is None or n == 1 else slice(place, place + 1)
            for place, n in zip(places, self.lengths, strict=True)
        ]
        return self.map(lambda data: data[(slice(None), *chosen)])

    def permuted(self, order: Sequence[int]) -> Labels:
        """As a permutation of the dimensions of the tensor leaves them."""
        if self.parts is not None:
            return self.per_part(lambda part: part.permuted(order), order.index(self.parts.dim))
        if self.terms:
            return self.per_term(lambda term: term.permuted(order))
        if self.merged is not None:
            source, shape, groups = self.merged
            fine = self.merged.fine(order)
            return merge(source.permuted(fine), [shape[dim] for dim in fine], [len(groups[dim]) for dim in order])
        return self.map(lambda data: data.permute(0, *(dim + 1 for dim in order)))

    def reshaped(self, old: Sequence[int], new: Sequence[int]) -> Labels:
        """As a tensor of shape `old` becomes one of shape `new`."""
        old, new = tuple(old), tuple(new)
        if 0 in old:
            return self.blank(len(new))
        if old == new:
            return self
        if self.terms:
            return self.per_term(lambda term: term.reshaped(old, new))
        if self.merged is not None:
            return self.merged.source.reshaped(self.merged.shape_within(old), new)
        if self.parts is not None:
            runs = factors(old, new)
            [(before, after)] = [run for run in runs if self.parts.dim in run[0]]
            longer = [dim for dim in before if old[dim] > 1], [dim for dim in after if new[dim] > 1]
            if longer[0] == [self.parts.dim] and len(longer[1]) == 1:
                return _reshaped_parts(self.parts, old, new, longer[1][0])
            if all(len(after) == 1 and before for before, after in runs):
                return merge(self, old, [len(before) for before, _ in runs])
        plan = regrouping(tuple(self.lengths), old, new)
        affordable(plan.sizes)
        array = self.map(lambda data: data.expand(-1, *plan.wide).reshape(data.shape[0], *plan.sizes))
        return array if len(plan.shape) == len(new) else _merged(array, plan.shape, plan.counts)

    def without(self, dims: Sequence[int]) -> Labels:
        """Dimensions of length 1 taken away."""
        if self.terms:
            return self.per_term(lambda term: term.without(dims))
        if self.parts is not None and self.parts.dim not in dims:
            moved = self.parts.dim - sum(dim < self.parts.dim for dim in dims)
            return self.per_part(lambda part: part.without(dims), moved)
        if self.merged is not None:
            source, shape, groups = self.merged
            gone = self.merged.fine(dims)
            counts = [len(group) for dim, group in enumerate(groups) if dim not in dims]
            return merge(source.without(gone), [n for dim, n in enumerate(shape) if dim not in gone], counts)
        kept = [n for dim, n in enumerate(self.lengths) if dim not in dims]
        return self.map(lambda data: data.reshape(data.shape[0], *kept))

    def unsqueezed(self, places: Sequence[int]) -> Labels:
        """With new dimensions of length 1, that are the dimensions `places` of the result."""
        if self.terms:
            return self.per_term(lambda term: term.unsqueezed(places))
        ndim = self.ndim + len(places)
        kept = [dim for dim in range(ndim) if dim not in places]
        if self.parts is not None:
            return self.per_part(lambda part: part.unsqueezed(places), kept[self.parts.dim])
        if self.merged is not None:
            source, shape, groups = self.merged
            counts = [1] * ndim
            for dim, group in zip(kept, groups, strict=True):
                counts[dim] = len(group)
            new = [numbered(tuple(counts))[dim][0] for dim in places]
            lengths = iter(shape)
            wide = [1 if dim in new else next(lengths) for dim in range(sum(counts))]
            return merge(source.unsqueezed(new), wide, counts)
        lengths = iter(self.lengths)
        sizes = [1 if dim in places else next(lengths) for dim in range(ndim)]
        return self.map(lambda data: data.reshape(data.shape[0], *sizes))

    def with_ndim(self, ndim: int) -> Labels:
        """Broadcast to a tensor with more dimensions, as PyTorch does: new ones in front."""
        return self.unsqueezed(range(ndim - self.ndim)) if ndim > self.ndim else self


class Joined(NamedTuple):
    """Labels concatenated along one dimension of the tensor, each with its length there."""

    dim: int
    items: Sequence[tuple[Labels, int]]

    @property
    def different(self) -> Iterable[Labels]:
        """The parts, each once."""
        return {id(item): item for item, _ in self.items}.values()


def joined(dim: int, items: Sequence[tuple[Labels, int]]) -> Labels:
    """The concatenation of labels that are all pooled or all not.

    The array is put together when somebody looks at it.
    """
    items = [(item, length) for item, length in items if length] or items[:1]
    first = items[0][0]
    if len(items) == 1 and first.length(dim) in (1, items[0][1]):
        return first
    if first.length(dim) == 1 and all(item is first or _same(item, first) for item, _ in items):
        return first
    return Labels(None, first.pooled, parts=Joined(dim, items))


def _same(a: Labels, b: Labels) -> bool:
    """Whether two intervals are equal; masks, all zero, are told apart by what they belong to."""
    if a.lengths != b.lengths or a.dtype.is_floating_point:
        return False
    if a.merged is not None and b.merged is not None:
        return a.merged[1:] == b.merged[1:] and _same(a.merged.source, b.merged.source)
    if math.prod(a.lengths) > arrays.LARGEST:
        # Not to be put together for this.
        return a.identity == b.identity
    return torch.equal(a.data, b.data)


def _reshaped_parts(parts: Joined, old: Sequence[int], new: Sequence[int], dim: int) -> Labels:
    """A reshape that leaves the dimension of a concatenation alone, which is `dim` after it."""
    done: dict[tuple[int, int], Labels] = {}
    for item, length in parts.items:
        if (id(item), length) not in done:
            shapes = [list(old), list(new)]
            shapes[0][parts.dim] = shapes[1][dim] = length
            done[id(item), length] = item.reshaped(*shapes)
    return joined(dim, [(done[id(item), length], length) for item, length in parts.items])


def concatenate(dim: int, items: Sequence[tuple[Labels, int]]) -> Tensor:
    """The array of a concatenation."""
    found = [item.data for item, _ in items]
    shapes = [[1 if d == dim + 1 else n for d, n in enumerate(a.shape)] for a in found]
    shape = cast("torch.Size", torch.broadcast_shapes(*shapes))
    wide = [
        array.expand(*shape[: dim + 1], length, *shape[dim + 2 :])
        for array, (_, length) in zip(found, items, strict=True)
    ]
    affordable([*shape[1 : dim + 1], sum(length for _, length in items), *shape[dim + 2 :]])
    return torch.cat(wide, dim + 1)


class Merged(NamedTuple):
    """Labels of a tensor of shape `shape`, and the runs of its dimensions that a view has made one dimension each.

    The lengths of dimensions that are alone in their run are not kept up to date: a slice may have cut them since.
    """

    source: Labels
    shape: tuple[int, ...]
    groups: tuple[tuple[int, ...], ...]

    def lengths(self) -> list[int]:
        """Length of the array along every dimension of the view."""
        lengths = self.source.lengths
        found: list[int] = []
        for group in self.groups:
            if len(group) == 1:
                found.append(lengths[group[0]])
            else:
                varies = any(lengths[dim] > 1 for dim in group)
                found.append(math.prod([self.shape[dim] for dim in group]) if varies else 1)
        return found

    def by_rows(self) -> bool:
        """Whether labels vary along one at most of the dimensions that a dimension of the view is made of."""
        lengths = self.source.lengths
        return all(sum(lengths[dim] > 1 for dim in group) <= 1 for group in self.groups)

    def fine(self, dims: Sequence[int]) -> list[int]:
        """The dimensions that dimensions of the view are made of."""
        return [fine for dim in dims for fine in self.groups[dim]]

    def places(self, places: Sequence[int | None]) -> list[int | None]:
        """Places of the view as rows and columns."""
        found: list[int | None] = []
        for place, group in zip(places, self.groups, strict=True):
            rest = place or 0
            inner: list[int | None] = []
            for dim in reversed(group[1:]):
                rest, here = divmod(rest, self.shape[dim])
                inner.insert(0, None if place is None else here)
            found += [None if place is None else rest, *inner]
        return found

    def shape_within(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape of the tensor before the view, if that after it is `shape`."""
        return tuple(
            [
                fine
                for length, group in zip(shape, self.groups, strict=True)
                for fine in ([length] if len(group) == 1 else [self.shape[dim] for dim in group])
            ]
        )

    def around(self, source: Labels) -> Labels:
        """The same view of other labels."""
        return merge(source, self.shape, [len(group) for group in self.groups])


def merge(source: Labels, shape: Sequence[int], counts: Sequence[int]) -> Labels:
    """The view of a tensor of this shape in which so many of its dimensions are one each time; 0 is a new one.

    In it neighbours that both vary are put together, and neighbours that both do not: rows stay apart from columns.
    """
    lengths = tuple(source.lengths)
    if source.parts is not None or source.terms:
        # What is not put together is left as it is, but for runs along which nothing varies.
        groups = numbered(tuple(counts))
        constant = [len(group) > 1 and all(lengths[dim] == 1 for dim in group) for group in groups]
        gone = {dim for group, alone in zip(groups, constant, strict=True) if alone for dim in group[1:]}
        kept = [1 if alone else count for alone, count in zip(constant, counts, strict=True)]
        finer = [n for dim, n in enumerate(shape) if dim not in gone]
        source = source.without(sorted(gone)) if gone else source
        return source if len(kept) == len(finer) else _merged(source, finer, kept)
    sizes, finer, kept = compacted(lengths, tuple(shape), tuple(counts))
    if sizes != lengths:
        source = source.map(lambda data: data.reshape(data.shape[0], *sizes))
    return source if len(kept) == len(finer) else _merged(source, finer, kept)


def _merged(source: Labels, shape: Sequence[int], counts: Sequence[int]) -> Labels:
    return Labels(None, source.pooled, Merged(source, tuple(shape), numbered(tuple(counts))))


def _least_of_run(source: Labels, shape: Sequence[int], dims: Sequence[int], start: int, count: int) -> Labels:
    """A run of places merged that go row by row: the end of a row, whole rows, the beginning of another."""
    first, *others = dims
    if not others:
        return source.narrow(first, start, count).least([first])
    width = math.prod([shape[dim] for dim in others])
    (row, skipped), (end, left) = divmod(start, width), divmod(start + count, width)
    if row == end:
        return _least_of_run(source.narrow(first, row, 1), shape, others, skipped, count)
    pieces: list[Labels] = []
    if skipped:
        pieces.append(_least_of_run(source.narrow(first, row, 1), shape, others, skipped, width - skipped))
        row += 1
    if row < end:
        pieces.append(source.narrow(first, row, end - row).least(dims))
    if left:
        pieces.append(_least_of_run(source.narrow(first, end, 1), shape, others, 0, left))
    return reduce(_union_of_two, pieces)


def flattened(source: Labels, shape: Sequence[int], groups: Sequence[Sequence[int]]) -> Tensor:
    """The array of a view."""
    data = source.data
    wide: list[int] = []
    sizes: list[int] = []
    for group in groups:
        lengths = [data.shape[dim + 1] for dim in group]
        if len(group) > 1 and max(lengths) > 1:
            lengths = [shape[dim] for dim in group]
        wide += lengths
        sizes.append(math.prod(lengths))
    affordable(sizes)
    return data.expand(-1, *wide).reshape(data.shape[0], *sizes)


def union(items: Iterable[Labels | None], ndim: int) -> Labels | None:
    """What depends on all of `items` together.

    A pooled item is a gate where another one still has a position: the local field leaves it out.
    """
    present = [item for item in items if item is not None]
    if any(not item.pooled for item in present):
        present = [item for item in present if not item.pooled]
    if not present:
        return None
    return reduce(_union_of_two, [item.with_ndim(ndim) for item in present])


def _union_of_two(first: Labels, second: Labels) -> Labels:
    if second is first or second.identity == first.identity:
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
        few = _by_rows(first, second, FEW)
        return few if few is not None else Labels(None, first.pooled, terms=terms)
    return _together(first, second)


def _by_rows(first: Labels, second: Labels, most: int) -> Labels | None:
    """Rows of places with others, put together where that gives no more elements."""
    some = first.merged is not None or second.merged is not None
    finer = _finer(first, second) if some and not first.terms and not second.terms else None
    if finer is None:
        return None
    a, b = _refined(first, finer), _refined(second, finer)
    if math.prod([max(n, m) for n, m in zip(a.lengths, b.lengths, strict=True)]) > most:
        return None
    return _coarser(_together(a, b), finer)


def _together(first: Labels, second: Labels) -> Labels:
    """The minimum, put together: of rows and columns apart where both have them apart in the same places."""
    if first.merged is None and second.merged is None:
        lengths = [max(a, b) for a, b in zip(first.lengths, second.lengths, strict=True)]
        affordable(lengths)
        return Labels(torch.minimum(first.data, second.data), first.pooled)
    finer = _finer(first, second)
    if finer is None:
        return _together(Labels(first.data, first.pooled), Labels(second.data, second.pooled))
    return _coarser(_together(_refined(first, finer), _refined(second, finer)), finer)


def _finer(first: Labels, second: Labels) -> list[tuple[int, ...]] | None:
    """For every dimension the lengths of those that both labels have it made of; None if there are none."""
    found: list[tuple[int, ...]] = []
    for dim in range(first.ndim):
        runs = {_rows(labels, dim) for labels in (first, second) if labels.length(dim) > 1}
        finer = common(*runs) if len(runs) == 2 else runs.pop() if runs else (1,)
        if finer is None:
            return None
        found.append(finer)
    return found


def _rows(labels: Labels, dim: int) -> tuple[int, ...]:
    """The lengths of the dimensions that one dimension is made of."""
    if labels.merged is None or len(labels.merged.groups[dim]) == 1:
        return (labels.length(dim),)
    return tuple([labels.merged.shape[fine] for fine in labels.merged.groups[dim]])


def _refined(labels: Labels, finer: Sequence[tuple[int, ...]]) -> Labels:
    """Labels before a view that made runs of such lengths one dimension each."""
    return labels.reshaped([math.prod(run) for run in finer], [n for run in finer for n in run])


def _coarser(labels: Labels, finer: Sequence[tuple[int, ...]]) -> Labels:
    """The view again."""
    return merge(labels, [n for run in finer for n in run], [len(run) for run in finer])
