"""From the intervals of all units of a layer to its receptive field: size, jump and start."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from convblocks.introspect.labels import Concatenation, Labels, least
from convblocks.introspect.units import joins_places, units_of

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


def axis_field(labels: Labels | None, length: int, prefer: int | None, margin: int) -> AxisField | None:
    """The field of a layer in an input of `length` positions; None where no unit is clear of the border.

    A unit is clear of it when nothing within `margin` of the border reaches it: layers that do not pad trim what lies
    beyond.
    """
    if labels is None:
        return AxisField(0, empty=True)
    if labels.pooled and isinstance(labels, Concatenation) and 0 not in labels.lengths:
        if joins_places(labels, None):
            # What has no position need not be put in a row.
            found = [axis_field(part, length, prefer, margin) for part in labels.different]
            if any(item is None for item in found):
                return None
            return max((item for item in found if item is not None), key=lambda item: item.size or 0)
        labels = least(labels, [labels.dim])
    if labels.pooled:
        units = units_of(labels)
        lo, hi = units.lo, units.hi
        # What depends on nothing begins behind all and ends before all.
        size = int((hi - lo).max()) + 1
        if size <= 0:
            return AxisField(0, empty=True)
        inside = int(lo.min()) > margin // 2 and int(hi.max()) < length - 1 - margin // 2
        return AxisField(size, pooled=True) if inside else None
    units = units_of(labels, prefer)
    return _uniform(units.lo, units.minus_hi, length, margin) or _searched(units.lo, units.hi, length, margin)


def see_alike(labels: Labels, length: int, prefer: int | None, margin: int) -> bool:
    """Whether all units clear of the border see as many positions, and those that reach it no more."""
    units = units_of(labels, prefer)
    lo, hi = units.lo, units.hi
    size = hi - lo + 1
    clear = size[_clear(lo, hi, length, margin)]
    return clear.shape[0] > 0 and int(clear.min()) == int(size.max())


def _clear(lo: Tensor, hi: Tensor, length: int, margin: int) -> Tensor:
    """Which units see something, and nothing within the margin of the border."""
    return (lo > margin) & (hi < length - 1 - margin) & (hi >= lo)


def _uniform(lo: Tensor, minus_hi: Tensor, length: int, margin: int) -> AxisField | None:
    """The field where all units clear of the border see alike and in even steps, as most do; None where not.

    Labels hold last positions negated. They stay so: of a row, every operation takes as long as any other.
    """
    count = lo.shape[0]
    middle = count // 2
    if middle == 0:
        return None
    base, after = cast("list[int]", lo[middle - 1 : middle + 1].tolist())  # pyright: ignore[reportUnknownMemberType] - torch leaves it untyped
    step, size = after - base, 1 - int(minus_hi[middle]) - after
    if step <= 0 or size <= 0:
        return None
    # Where the units clear of the border would be if all were as those in the middle.
    first = max(0, middle - 1 - (base - margin - 1) // step)
    last = min(count - 1, middle - 1 + (length - 1 - margin - base - size) // step)
    if last - first < 2:
        return None
    begin, end = base + (first - middle + 1) * step, base + (last - middle + 2) * step
    if not torch.equal(lo[first : last + 1], torch.arange(begin, end, step, dtype=lo.dtype)):
        return None
    begin, end = 1 - size - begin, 1 - size - end
    if not torch.equal(minus_hi[first : last + 1], torch.arange(begin, end, -step, dtype=lo.dtype)):
        return None
    # Those before begin within the margin and those behind end there, as a rule.
    before = first == 0 or int(lo[:first].max()) <= margin
    behind = last == count - 1 or int(minus_hi[last + 1 :].max()) <= margin + 1 - length
    if not (before and behind) and int(_clear(lo, -minus_hi, length, margin).sum()) != last - first + 1:
        return None
    start = base + (size - 1) / 2 - (middle - 1) * step
    return AxisField(size, float(step), start, 1)


def _searched(lo: Tensor, hi: Tensor, length: int, margin: int) -> AxisField | None:
    inside = _clear(lo, hi, length, margin)
    places = inside.nonzero().flatten()
    if places.shape[0] == 0:
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
    longest = min(MAX_PERIOD, (low.shape[0] - 1) // 2)
    # The first units rule out most periods: as lists, which Python compares in a tenth of the time of a tensor.
    lows, highs = (_steps(ends[: 4 * MAX_PERIOD]) for ends in (low, high))
    for period in range(1, longest + 1):
        if lows[period:] == lows[:-period] and highs[period:] == highs[:-period]:
            step = low[period:] - low[:-period]
            # Units that all see the same are those of one window.
            even = bool((step == step[0]).all()) and (period > 1 or bool(step[0] != 0))
            if even and bool((high[period:] - high[:-period] == step[0]).all()):
                return period
            if period == 1:
                # Even steps first, and another one more than the longest period later.
                return None
    return None


def _steps(positions: Tensor) -> list[int]:
    return cast("list[int]", (positions[1:] - positions[:-1]).tolist())  # pyright: ignore[reportUnknownMemberType] - torch leaves it untyped
