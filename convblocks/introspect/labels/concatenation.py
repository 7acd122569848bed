"""Labels one after the other along a dimension, as the branches of a network are joined."""

# What torch leaves without types.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import cast

import torch
from torch import Tensor

from convblocks.introspect import arrays
from convblocks.introspect.arrays import affordable
from convblocks.introspect.labels.flattened import Flattened
from convblocks.introspect.labels.plain import Identity, Labels


class Concatenation(Labels):
    """Labels concatenated along the dimension `dim` of the tensor: `items`, each with its length there."""

    __slots__ = ("dim", "items")

    def __init__(self, dim: int, items: Sequence[tuple[Labels, int]], pooled: bool) -> None:
        super().__init__(None, pooled)
        self.dim, self.items = dim, items

    @property
    def is_apart(self) -> bool:
        """See `Labels`."""
        return True

    @property
    def different(self) -> Iterable[Labels]:
        """The parts, each once."""
        return {id(item): item for item, _ in self.items}.values()

    def per_part(self, function: Callable[[Labels], Labels], dim: int | None = None) -> Labels:
        """Treat every part alike; what is done must not look along the dimension of the concatenation.

        `dim` is where that dimension is afterwards, if it has moved.
        """
        done = {id(item): function(item) for item in self.different}
        if dim is None and all(id(item) == number for number, item in done.items()):
            return self
        return joined(self.dim if dim is None else dim, [(done[id(item)], length) for item, length in self.items])

    def _put_together(self) -> Tensor:
        dim = self.dim
        found = [item.data for item, _ in self.items]
        shapes = [[1 if d == dim + 1 else n for d, n in enumerate(a.shape)] for a in found]
        shape = cast("torch.Size", torch.broadcast_shapes(*shapes))
        wide = [
            array.expand(*shape[: dim + 1], length, *shape[dim + 2 :])
            for array, (_, length) in zip(found, self.items, strict=True)
        ]
        affordable([*shape[1 : dim + 1], sum(length for _, length in self.items), *shape[dim + 2 :]])
        return torch.cat(wide, dim + 1)

    def _identify(self) -> Identity:
        return (self.dim, *[(item.identity, length) for item, length in self.items], self.pooled)

    def some(self) -> Tensor:
        """See `Labels`."""
        return self.items[0][0].some()

    def _measure(self) -> list[int]:
        lengths = [max(column) for column in zip(*(item.lengths for item, _ in self.items), strict=True)]
        lengths[self.dim] = sum(length for _, length in self.items)
        return lengths

    def as_pooled(self) -> Labels:
        """See `Labels`."""
        return Concatenation(self.dim, [(item.as_pooled(), length) for item, length in self.items], True)

    def tidied(self, dims: Sequence[int]) -> Labels:
        """See `Labels`."""
        return super().tidied(dims) if self.dim in dims else self.per_part(lambda part: part.tidied(dims))

    def along(self, dim: int, function: Callable[[Tensor, int], Tensor]) -> Labels:
        """See `Labels`."""
        if self.dim == dim:
            return super().along(dim, function)
        return self.per_part(lambda part: part if part.length(dim) == 1 else part.along(dim, function))

    def at(self, places: Sequence[int | None]) -> Labels:
        """See `Labels`."""
        place = places[self.dim]
        if place is None:
            return self.per_part(lambda part: part.at(places))
        for item, length in self.items:
            if place < length:
                return item.at([place if dim == self.dim else other for dim, other in enumerate(places)])
            place -= length
        raise IndexError(places)

    def element(self, places: Sequence[int]) -> list[int]:
        """See `Labels`."""
        place = places[self.dim]
        for item, length in self.items:
            if place < length:
                return item.element([place if dim == self.dim else other for dim, other in enumerate(places)])
            place -= length
        raise IndexError(places)

    def permuted(self, order: Sequence[int]) -> Labels:
        """See `Labels`."""
        return self.per_part(lambda part: part.permuted(order), order.index(self.dim))

    def without(self, dims: Sequence[int]) -> Labels:
        """See `Labels`."""
        if self.dim in dims:
            return super().without(dims)
        return self.per_part(lambda part: part.without(dims), self.dim - sum(dim < self.dim for dim in dims))

    def unsqueezed(self, places: Sequence[int]) -> Labels:
        """See `Labels`."""
        kept = [dim for dim in range(self.ndim + len(places)) if dim not in places]
        return self.per_part(lambda part: part.unsqueezed(places), kept[self.dim])


def joined(dim: int, items: Sequence[tuple[Labels, int]]) -> Labels:
    """The concatenation of labels that are all pooled or all not.

    The array is put together when somebody looks at it.
    """
    items = [(item, length) for item, length in items if length] or items[:1]
    first = items[0][0]
    if len(items) == 1 and first.length(dim) in (1, items[0][1]):
        return first
    if first.length(dim) == 1 and all(item is first or same(item, first) for item, _ in items):
        return first
    return Concatenation(dim, items, first.pooled)


def same(a: Labels, b: Labels) -> bool:
    """Whether two intervals are equal; masks, all zero, are told apart by what they belong to."""
    if a.lengths != b.lengths or a.dtype.is_floating_point:
        return False
    if isinstance(a, Flattened) and isinstance(b, Flattened):
        return (a.shape, a.groups) == (b.shape, b.groups) and same(a.source, b.source)
    if a.terms and b.terms:
        return len(a.terms) == len(b.terms) and all(any(same(x, y) for y in b.terms) for x in a.terms)
    if math.prod(a.lengths) > arrays.LARGEST:
        # Not to be put together for this.
        return a.identity == b.identity
    return torch.equal(a.data, b.data)
