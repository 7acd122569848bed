"""From the labels of a tensor to its units: what each of them sees, one after the other along an axis of the input."""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor

from convblocks.introspect.arrays import NOTHING, affordable, extents
from convblocks.introspect.labels import Concatenation, Flattened, Identity, Labels, least, slices


class Units(NamedTuple):
    """The units of a tensor along an axis of the input: first and last position that each sees, this one negated.

    Unit n is place `first` + n `step` of the dimension `dim` of the tensor; `dim` is None where all are one, or where
    they are places of several dimensions, as those of windows are, in the order of what they see.
    """

    lo: Tensor
    minus_hi: Tensor
    dim: int | None
    first: int = 0
    step: int = 1

    @property
    def hi(self) -> Tensor:
        """The last position that each of them sees."""
        return -self.minus_hi

    @property
    def single(self) -> bool:
        """Whether all are one."""
        return len(self.lo) == 1


def units_of(labels: Labels, prefer: int | None = None) -> Units:
    """Units along the dimension of the tensor that runs along the axis: of places, their rows or their columns.

    Where labels vary along several dimensions it is the one that they travel along: `prefer` if none travels twice as
    far. Over the others (channels of different fields) the hull is taken, but not over places of other dimensions:
    windows, and the places within them.
    """
    if 0 in labels.lengths:
        # No units at all.
        labels = labels.blank(labels.ndim)
    if isinstance(labels, Concatenation):
        if not joins_places(labels, prefer):
            return units_of(least(labels, [labels.dim]), prefer)
        only = _only_one(labels)
        if only is not None:
            found = units_of(only[0], prefer)
            return found._replace(first=only[1] + found.first) if found.dim == labels.dim else found
    if isinstance(labels, Flattened):
        shape, groups = labels.shape, labels.groups
        finer = None if prefer is None else groups[prefer][0] if len(groups[prefer]) == 1 else None
        units = units_of(labels.source, finer)
        dim = next((dim for dim, group in enumerate(groups) if units.dim in group), None)
        if units.dim is not None and dim is not None and labels.by_rows():
            return units._replace(dim=dim, step=math.prod(shape[units.dim + 1 : groups[dim][-1] + 1]))
        if units.dim is None:
            return units
    varying = [dim for dim, length in enumerate(labels.lengths) if length > 1]
    if labels.terms:
        # What is not put together is looked at in slices, a few of them.
        shortest = min(varying, key=labels.length)
        affordable([labels.length(dim) for dim in varying if dim != shortest], arrays=4)
    if not varying:
        flat = labels.data.reshape(2, 1)
        return Units(flat[0], flat[1], None)
    dim = varying[0]
    if len(varying) > 1:
        travel = {dim: _travel(labels, dim) for dim in varying}
        dim = max(varying, key=lambda d: travel[d] * (2 if d == prefer else 1))
        others = [d for d in varying if d != dim and _is_place(labels, d)] if dim != prefer and not labels.terms else []
        if others:
            flat = least(labels, [d for d in varying if d != dim and d not in others]).data.reshape(2, -1)
            order = flat[0].argsort(stable=True)
            return Units(flat[0][order], flat[1][order], None)
        labels = least(labels, [d for d in varying if d != dim])
    flat = labels.data.reshape(2, -1)
    return Units(flat[0], flat[1], dim)


def rows_of(labels: Labels) -> Identity | None:
    """Equal for labels that have the same units; None unless they vary along one dimension alone, of any view."""
    if 0 in labels.lengths:
        return None
    while isinstance(labels, Flattened):
        labels = labels.source
    return None if labels.is_apart or sum(n > 1 for n in labels.lengths) > 1 else _array_of(labels)


def _array_of(labels: Labels) -> Identity:
    """Equal for labels of one array, wherever the dimensions along which it varies lie in a tensor."""
    first, *steps = labels.data.stride()
    varying = [(n, step) for n, step in zip(labels.lengths, steps, strict=True) if n != 1]
    return (labels.data.data_ptr(), labels.pooled, first, *sorted(varying))


def _is_place(labels: Labels, dim: int) -> bool:
    """Whether what is seen moves along a dimension and is as large everywhere; channels see more or less."""
    length = labels.length(dim)
    places: list[int | None] = [None] * labels.ndim
    places[dim] = length // 4
    first = labels.at(places).data
    places[dim] = length - 1 - length // 4
    moved = labels.at(places).data - first
    return bool(moved[0].any()) and 2 * int((moved[0] == -moved[1]).sum()) > moved[0].numel()


def _only_one(parts: Concatenation) -> tuple[Labels, int] | None:
    """The one part of a concatenation that depends on anything, and its place: beside it stand tokens of a class."""
    found: list[tuple[Labels, int]] = []
    place = 0
    for item, length in parts.items:
        if any(bool((data[0] < NOTHING).any()) for data in slices(item)):
            found.append((item, place))
        place += length
    return found[0] if len(found) == 1 else None


def joins_places(labels: Concatenation, prefer: int | None) -> bool:
    """Whether it is places along the axis that a concatenation has put one after the other, and not channels.

    Merged along its dimension, places no longer travel along the input.
    """
    if prefer is not None and labels.dim != prefer and labels.length(prefer) > 1:
        return False
    hull = least(labels, [labels.dim])
    travel = max((_travel(hull, dim) for dim, length in enumerate(hull.lengths) if length > 1), default=0)
    firsts = [array[0] for array in slices(labels) if array.numel()]
    if not firsts:
        return False
    # What depends on nothing is no place.
    last = max(int(first.masked_fill(first == NOTHING, -NOTHING).max()) for first in firsts)
    return 2 * travel < last - min(int(first.min()) for first in firsts)


def _travel(labels: Labels, dim: int, ends: int = 8) -> int:
    """How far the intervals move along a dimension, its ends left out, between which padding may have wrapped."""
    length = labels.length(dim)
    places: list[int | None] = [None] * labels.ndim
    places[dim] = length // ends
    first = labels.at(places).data[0]
    places[dim] = length - 1 - length // ends
    moved = (labels.at(places).data[0] - first).abs()
    found = int(moved.max())
    if found < NOTHING // 2:
        return found
    # One of the two depends on nothing.
    return int(moved[moved < NOTHING // 2].max()) if bool((moved < NOTHING // 2).any()) else 0


def shows_all(labels: Labels, length: int, sizes: dict[Identity, int]) -> bool:
    """Whether some unit sees more than half of the input, so that the input is too small to tell its field.

    Units near the border are left out where the others travel along the input: under circular padding those see both of
    its ends, however large it is. `sizes` is that of `widest`.
    """
    if isinstance(labels, Concatenation):
        return any(shows_all(part, length, sizes) for part in labels.different)
    if isinstance(labels, Flattened):
        return shows_all(labels.source, length, sizes)
    along = _wide(labels, length, sizes)
    if along is None or len(along) > 1:
        return False
    data = labels.data
    for dim in along:
        quarter = data.shape[dim + 1] // 4
        data = data.narrow(dim + 1, quarter, data.shape[dim + 1] - 2 * quarter)
    return int((data[0] + data[1]).min()) < 1 - length // 2


def of_two_places(labels: Labels, length: int, sizes: dict[Identity, int]) -> bool:
    """Whether every element belongs to two places, as the scores of an attention do: some of them far apart.

    `sizes` is that of `widest`.
    """
    if isinstance(labels, Concatenation):
        return any(of_two_places(part, length, sizes) for part in labels.different)
    if isinstance(labels, Flattened):
        return of_two_places(labels.source, length, sizes)
    return len(_wide(labels, length, sizes) or ()) > 1


def widest(labels: Labels, sizes: dict[Identity, int]) -> int:
    """The most positions that an element sees from the first to the last; not above 0 if none sees any.

    `sizes` keeps the answer for every array, which dozens of tensors show, each in its own way.
    """
    if isinstance(labels, Concatenation):
        return max(widest(part, sizes) for part in labels.different)
    if isinstance(labels, Flattened):
        return widest(labels.source, sizes)
    if labels.terms:
        return max((extents(data)[1] for data in slices(labels) if data.numel()), default=0)
    key = _array_of(labels)
    if key not in sizes:
        data = labels.data
        sizes[key] = 1 - int(data.sum(0, dtype=data.dtype).min()) if data.numel() else 0
    return sizes[key]


def _wide(labels: Labels, length: int, sizes: dict[Identity, int]) -> list[int] | None:
    """The dimensions along which labels travel, if some see more than half of the input; None if none does."""
    if labels.terms:
        # Rows merged with columns.
        return [dim for dim, n in enumerate(labels.lengths) if n > 1]
    if widest(labels, sizes) <= length // 2:
        return None
    return [dim for dim, n in enumerate(labels.lengths) if n > 1 and _travel(labels, dim, ends=4) >= length // 8]
