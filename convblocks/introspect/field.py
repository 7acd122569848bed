"""From the intervals of all units of a layer to its receptive field: size, jump and start."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, cast

import torch
from torch import Tensor

from convblocks.introspect.arrays import NOTHING, affordable
from convblocks.introspect.labels import Concatenation, Flattened, Labels, least, slices

MAX_PERIOD = 64


@dataclass(frozen=True, slots=True)
class AxisField:
    """The field of a layer along one input axis.

    `size` is None where nothing is proved. `period` is the number of neighbouring units after which the pattern
    repeats: above 1 the units differ, `size` is the largest, `jump` the mean and `start` the first unit's.
    """

    size: int | None
    jump: float | None = None
    start: float | None = None
    period: int | None = None
    pooled: bool = False
    empty: bool = False


class Units(NamedTuple):
    """The units of a tensor along an axis of the input: first and last position that each of them sees.

    Unit n is place `first` + n `step` of the dimension `dim` of the tensor; `dim` is None where all are one, or where
    they are places of several dimensions, as those of windows are, in the order of what they see.
    """

    lo: Tensor
    hi: Tensor
    dim: int | None
    first: int = 0
    step: int = 1

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
        if not _joins_places(labels, prefer):
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
        return Units(flat[0], -flat[1], None)
    dim = varying[0]
    if len(varying) > 1:
        travel = {dim: _travel(labels, dim) for dim in varying}
        dim = max(varying, key=lambda d: travel[d] * (2 if d == prefer else 1))
    others = [d for d in varying if d != dim and _is_place(labels, d)] if dim != prefer and not labels.terms else []
    if others:
        flat = least(labels, [d for d in varying if d != dim and d not in others]).data.reshape(2, -1)
        order = flat[0].argsort(stable=True)
        return Units(flat[0][order], -flat[1][order], None)
    flat = least(labels, [d for d in varying if d != dim]).data.reshape(2, -1)
    return Units(flat[0], -flat[1], dim)


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


def _joins_places(labels: Concatenation, prefer: int | None) -> bool:
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


def axis_field(labels: Labels | None, length: int, prefer: int | None, margin: int) -> AxisField | None:
    """The field of a layer in an input of `length` positions; None where no unit is clear of the border.

    A unit is clear of it when nothing within `margin` of the border reaches it: layers that do not pad trim what lies
    beyond.
    """
    if labels is None:
        return AxisField(0, empty=True)
    if labels.pooled and isinstance(labels, Concatenation) and _joins_places(labels, None):
        # What has no position need not be put in a row.
        found = [axis_field(part, length, prefer, margin) for part in labels.different]
        if any(item is None for item in found):
            return None
        return max((item for item in found if item is not None), key=lambda item: item.size or 0)
    if labels.pooled:
        lo, hi, *_ = units_of(labels)
        filled = hi >= lo
        if not bool(filled.any()):
            return AxisField(0, empty=True)
        inside = bool((lo[filled].min() > margin // 2) & (hi[filled].max() < length - 1 - margin // 2))
        return AxisField(int((hi - lo + 1)[filled].max()), pooled=True) if inside else None
    lo, hi, *_ = units_of(labels, prefer)
    return _field_of_units(lo, hi, length, margin)


def _field_of_units(lo: Tensor, hi: Tensor, length: int, margin: int) -> AxisField | None:
    return _uniform(lo, hi, length, margin) or _searched(lo, hi, length, margin)


def see_alike(labels: Labels, length: int, prefer: int | None, margin: int) -> bool:
    """Whether all units clear of the border see as many positions, and those that reach it no more."""
    lo, hi, *_ = units_of(labels, prefer)
    size = hi - lo + 1
    clear = size[_clear(lo, hi, length, margin)]
    return len(clear) > 0 and int(clear.min()) == int(size.max())


def _clear(lo: Tensor, hi: Tensor, length: int, margin: int) -> Tensor:
    """Which units see something, and nothing within the margin of the border."""
    return (lo > margin) & (hi < length - 1 - margin) & (hi >= lo)


def _uniform(lo: Tensor, hi: Tensor, length: int, margin: int) -> AxisField | None:
    """The field where all units clear of the border see alike and in even steps, as most do; None where not."""
    middle = len(lo) // 2
    if middle == 0:
        return None
    base, after = cast("list[int]", lo[middle - 1 : middle + 1].tolist())  # pyright: ignore[reportUnknownMemberType] - torch leaves it untyped
    step, size = after - base, int(hi[middle]) - after + 1
    if step <= 0 or size <= 0:
        return None
    # Where the units clear of the border would be if all were as those in the middle.
    first = max(0, middle - 1 - (base - margin - 1) // step)
    last = min(len(lo) - 1, middle - 1 + (length - 1 - margin - base - size) // step)
    if last - first < 2:
        return None
    expected = torch.arange(base + (first - middle + 1) * step, base + (last - middle + 2) * step, step, dtype=lo.dtype)
    if not torch.equal(lo[first : last + 1], expected) or not torch.equal(
        hi[first : last + 1], expected.add_(size - 1)
    ):
        return None
    # Those before begin within the margin and those behind end there, as a rule.
    before = first == 0 or int(lo[:first].max()) <= margin
    behind = last == len(lo) - 1 or int(hi[last + 1 :].min()) >= length - 1 - margin
    if not (before and behind) and int(_clear(lo, hi, length, margin).sum()) != last - first + 1:
        return None
    start = base + (size - 1) / 2 - (middle - 1) * step
    return AxisField(size, float(step), start, 1)


def _searched(lo: Tensor, hi: Tensor, length: int, margin: int) -> AxisField | None:
    inside = _clear(lo, hi, length, margin)
    places = inside.nonzero().flatten()
    if len(places) == 0:
        return None if bool((hi >= lo).any()) else AxisField(0, empty=True)
    first, last = int(places[0]), int(places[-1])
    low, high = lo[first : last + 1], hi[first : last + 1]
    size = int((high - low)[inside[first : last + 1]].max()) + 1
    period = _period(low, high)
    if period is None:
        return AxisField(size)
    jump = int(low[period] - low[0]) / period
    unit = -(-first // period) * period
    if unit > last or not bool(inside[unit]):
        return AxisField(size, jump, None, period)
    return AxisField(size, jump, (int(lo[unit]) + int(hi[unit])) / 2 - unit * jump, period)


def _period(low: Tensor, high: Tensor) -> int | None:
    """The least number of units after which both ends have moved alike, wherever one begins."""
    longest = min(MAX_PERIOD, (len(low) - 1) // 2)
    # The first units rule out most periods: as lists, which Python compares in a tenth of the time of a tensor.
    lows, highs = (_steps(ends[: 4 * MAX_PERIOD]) for ends in (low, high))
    for period in range(1, longest + 1):
        if lows[period:] == lows[:-period] and highs[period:] == highs[:-period]:
            step = low[period:] - low[:-period]
            if bool((step == step[0]).all()) and bool((high[period:] - high[:-period] == step[0]).all()):
                return period
            if period == 1:
                # Even steps first, and another one more than the longest period later.
                return None
    return None


def _steps(positions: Tensor) -> list[int]:
    listed = cast("list[int]", positions.tolist())  # pyright: ignore[reportUnknownMemberType] - torch leaves it untyped
    return [after - before for before, after in pairwise(listed)]


def shows_all(labels: Labels, length: int) -> bool:
    """Whether some unit sees more than half of the input, so that the input is too small to tell its field.

    Units near the border are left out where the others travel along the input: under circular padding those see both of
    its ends, however large it is.
    """
    if isinstance(labels, Concatenation):
        return any(shows_all(part, length) for part in labels.different)
    if isinstance(labels, Flattened):
        return shows_all(labels.source, length)
    along = _wide(labels, length)
    if along is None or len(along) > 1:
        return False
    data = labels.data
    for dim in along:
        quarter = data.shape[dim + 1] // 4
        data = data.narrow(dim + 1, quarter, data.shape[dim + 1] - 2 * quarter)
    return int((data[0] + data[1]).min()) < 1 - length // 2


def of_two_places(labels: Labels, length: int) -> bool:
    """Whether every element belongs to two places, as the scores of an attention do: some of them far apart."""
    if isinstance(labels, Concatenation):
        return any(of_two_places(part, length) for part in labels.different)
    if isinstance(labels, Flattened):
        return of_two_places(labels.source, length)
    return len(_wide(labels, length) or ()) > 1


def _wide(labels: Labels, length: int) -> list[int] | None:
    """The dimensions along which labels travel, if some see more than half of the input; None if none does."""
    if labels.terms:
        # Rows merged with columns.
        return [dim for dim, n in enumerate(labels.lengths) if n > 1]
    data = labels.data
    if data.numel() == 0 or int((data[0] + data[1]).min()) >= 1 - length // 2:
        return None
    return [dim for dim, n in enumerate(labels.lengths) if n > 1 and _travel(labels, dim, ends=4) >= length // 8]
