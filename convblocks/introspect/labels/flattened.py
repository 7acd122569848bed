"""Labels of a tensor of which a view has made several dimensions one, that keep those dimensions apart."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from torch import Tensor

from convblocks.introspect.arrays import affordable, compacted, numbered
from convblocks.introspect.labels.plain import Identity, Labels


class Flattened(Labels):
    """Labels of a tensor of shape `shape`, and the runs of its dimensions that a view has made one dimension each.

    The lengths of dimensions that are alone in their run are not kept up to date: a slice may have cut them since.
    """

    __slots__ = ("groups", "shape", "source")

    def __init__(self, source: Labels, shape: tuple[int, ...], groups: tuple[tuple[int, ...], ...]) -> None:
        super().__init__(None, source.pooled)
        self.source, self.shape, self.groups = source, shape, groups

    def _put_together(self) -> Tensor:
        data = self.source.data
        wide: list[int] = []
        sizes: list[int] = []
        for group in self.groups:
            lengths = [data.shape[dim + 1] for dim in group]
            if len(group) > 1 and max(lengths) > 1:
                lengths = [self.shape[dim] for dim in group]
            wide += lengths
            sizes.append(math.prod(lengths))
        affordable(sizes)
        return data.expand(-1, *wide).reshape(data.shape[0], *sizes)

    def _identify(self) -> Identity:
        rows = [self.shape[dim] for group in self.groups if len(group) > 1 for dim in group]
        return ("merged", self.source.identity, *rows, self.groups, self.pooled)

    def some(self) -> Tensor:
        """See `Labels`."""
        return self.source.some()

    def _measure(self) -> list[int]:
        lengths = self.source.lengths
        found: list[int] = []
        for group in self.groups:
            length = lengths[group[0]]
            if len(group) > 1 and max([lengths[dim] for dim in group]) > 1:
                length = math.prod([self.shape[dim] for dim in group])
            found.append(length)
        return found

    def by_rows(self) -> bool:
        """Whether labels vary along one at most of the dimensions that a dimension of the view is made of."""
        lengths = self.source.lengths
        return all(sum(lengths[dim] > 1 for dim in group) <= 1 for group in self.groups)

    def fine(self, dims: Sequence[int]) -> list[int]:
        """The dimensions that dimensions of the view are made of."""
        return [fine for dim in dims for fine in self.groups[dim]]

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

    def before(self, labels: Labels) -> Labels | None:
        """Labels of the tensor before the view that it shows as `labels`; None where it has other rows than these."""
        if labels.is_apart:
            return None
        if isinstance(labels, Flattened):
            if labels.groups != self.groups or labels.source.is_apart:
                return None
            for group in self.groups:
                if len(group) > 1 and any(labels.shape[dim] != self.shape[dim] for dim in group):
                    return None
            return labels.source
        sizes: list[int] = []
        for length, group in zip(labels.lengths, self.groups, strict=True):
            if length > 1 and len(group) > 1:
                return None
            sizes += [length] * len(group)
        return labels.map(lambda data: data.reshape(data.shape[0], *sizes))

    def as_pooled(self) -> Labels:
        """See `Labels`."""
        return Flattened(self.source.as_pooled(), self.shape, self.groups)

    def tidied(self, dims: Sequence[int]) -> Labels:
        """See `Labels`."""
        return self.around(self.source.tidied(self.fine(dims)))

    def along(self, dim: int, function: Callable[[Tensor, int], Tensor]) -> Labels:
        """See `Labels`."""
        if len(self.groups[dim]) > 1:
            return self._put_in_a_row(dim).along(dim, function)
        return self.around(self.source.along(self.groups[dim][0], function))

    def _put_in_a_row(self, dim: int) -> Labels:
        """The same labels with the places of one dimension put together, and those of the others apart still."""
        group = self.groups[dim]
        lengths = self.source.lengths
        wide = list(lengths)
        if any(lengths[fine] > 1 for fine in group):
            for fine in group:
                wide[fine] = self.shape[fine]
        first, end = group[0], group[-1] + 1
        sizes = [*wide[:first], math.prod(wide[first:end]), *wide[end:]]
        affordable(sizes)
        source = self.source.map(lambda data: data.expand(-1, *wide).reshape(data.shape[0], *sizes))
        shape = [*self.shape[:first], math.prod(self.shape[first:end]), *self.shape[end:]]
        return view(source, shape, [1 if n == dim else len(other) for n, other in enumerate(self.groups)])

    def at(self, places: Sequence[int | None]) -> Labels:
        """See `Labels`."""
        found: list[int | None] = []
        for place, group in zip(places, self.groups, strict=True):
            found += [None] * len(group) if place is None else self._rows(place, group)
        return self.around(self.source.at(found))

    def element(self, places: Sequence[int]) -> list[int]:
        """See `Labels`."""
        rows = [self._rows(place, group) for place, group in zip(places, self.groups, strict=True)]
        return self.source.element([row for found in rows for row in found])

    def _rows(self, place: int, group: Sequence[int]) -> list[int]:
        """Where a place of a dimension of the view is along those that it is made of."""
        found: list[int] = []
        for dim in reversed(group[1:]):
            place, here = divmod(place, self.shape[dim])
            found.append(here)
        return [place, *reversed(found)]

    def permuted(self, order: Sequence[int]) -> Labels:
        """See `Labels`."""
        fine = self.fine(order)
        counts = [len(self.groups[dim]) for dim in order]
        return merge(self.source.permuted(fine), [self.shape[dim] for dim in fine], counts)

    def without(self, dims: Sequence[int]) -> Labels:
        """See `Labels`."""
        gone = self.fine(dims)
        counts = [len(group) for dim, group in enumerate(self.groups) if dim not in dims]
        return merge(self.source.without(gone), [n for dim, n in enumerate(self.shape) if dim not in gone], counts)

    def unsqueezed(self, places: Sequence[int]) -> Labels:
        """See `Labels`."""
        ndim = self.ndim + len(places)
        counts = [1] * ndim
        kept = [dim for dim in range(ndim) if dim not in places]
        for dim, group in zip(kept, self.groups, strict=True):
            counts[dim] = len(group)
        new = [numbered(tuple(counts))[dim][0] for dim in places]
        lengths = iter(self.shape)
        wide = [1 if dim in new else next(lengths) for dim in range(sum(counts))]
        return merge(self.source.unsqueezed(new), wide, counts)


def merge(source: Labels, shape: Sequence[int], counts: Sequence[int]) -> Labels:
    """The view of a tensor of this shape in which so many of its dimensions are one each time; 0 is a new one.

    In it neighbours that both vary are put together, and neighbours that both do not: rows stay apart from columns.
    """
    if source.is_apart and 0 in counts:
        wide = [max(count, 1) for count in counts]
        new = [group[0] for group, count in zip(numbered(tuple(wide)), counts, strict=True) if count == 0]
        given = iter(shape)
        return merge(source.unsqueezed(new), [1 if dim in new else next(given) for dim in range(sum(wide))], wide)
    lengths = tuple(source.lengths)
    if source.is_apart:
        # What is not put together is left as it is, but for runs along which nothing varies.
        groups = numbered(tuple(counts))
        constant = [len(group) > 1 and all(lengths[dim] == 1 for dim in group) for group in groups]
        gone = {dim for group, alone in zip(groups, constant, strict=True) if alone for dim in group[1:]}
        kept = [1 if alone else count for alone, count in zip(constant, counts, strict=True)]
        finer = [n for dim, n in enumerate(shape) if dim not in gone]
        source = source.without(sorted(gone)) if gone else source
        return view(source, finer, kept)
    sizes, finer, kept = compacted(lengths, tuple(shape), tuple(counts))
    if sizes != lengths:
        source = source.map(lambda data: data.reshape(data.shape[0], *sizes))
    return view(source, finer, kept)


def view(source: Labels, shape: Sequence[int], counts: Sequence[int]) -> Labels:
    """The same view, of labels that are as short as can be."""
    if len(counts) == len(shape):
        return source
    return Flattened(source, tuple(shape), numbered(tuple(counts)))
