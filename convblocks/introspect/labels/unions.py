"""Elementwise minima of labels of any kind."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import reduce

import torch

from convblocks.introspect.arrays import affordable, common
from convblocks.introspect.labels.concatenation import Concatenation, joined
from convblocks.introspect.labels.flattened import Flattened, merge
from convblocks.introspect.labels.minimum import Minimum
from convblocks.introspect.labels.plain import Labels
from convblocks.introspect.labels.reshaping import reshaped

MOST_TERMS = 8
"""Arrays of which a minimum is not put together: each is gone through again by whoever asks for a part of it."""

Apart = tuple[Labels, Labels, Callable[[Labels], Labels]]
"""Labels before a view, and the view."""

FEW = 2**16
"""Elements of rows merged with other rows that are put together at once: every array is kept."""


def union(items: Iterable[Labels | None], ndim: int) -> Labels | None:
    """What depends on all of `items` together.

    A pooled item is a gate where another one still has a position: the local field leaves it out.
    """
    present = [item for item in items if item is not None]
    if len(present) == 1:
        return present[0].with_ndim(ndim)
    if any(not item.pooled for item in present):
        present = [item for item in present if not item.pooled]
    if not present:
        return None
    return reduce(of_two, [item.with_ndim(ndim) for item in present])


def of_two(first: Labels, second: Labels) -> Labels:
    """The minimum of labels of as many dimensions, which are pooled both or neither."""
    if second is first or second.identity == first.identity:
        return first
    if isinstance(second, Concatenation) and not isinstance(first, Concatenation):
        first, second = second, first
    if isinstance(first, Concatenation):
        if second.length(first.dim) == 1:
            return first.per_part(lambda part: of_two(part, second))
        if (
            isinstance(second, Concatenation)
            and second.dim == first.dim
            and [n for _, n in first.items] == [n for _, n in second.items]
        ):
            pairs = zip(first.items, second.items, strict=True)
            return joined(first.dim, [(of_two(a, b), length) for (a, length), (b, _) in pairs])
    lengths = [max(a, b) for a, b in zip(first.lengths, second.lengths, strict=True)]
    terms = (*(first.terms or (first,)), *(second.terms or (second,)))
    if lengths not in (first.lengths, second.lengths) or 2 < len(terms) <= MOST_TERMS:
        few = by_rows(first, second, FEW)
        return few if few is not None else Minimum(terms, first.pooled)
    return _together(first, second)


def by_rows(first: Labels, second: Labels, most: int) -> Labels | None:
    """Rows of places with others, put together where that gives no more elements."""
    apart = _apart(first, second) if not first.terms and not second.terms else None
    if apart is None:
        return None
    a, b, _ = apart
    if math.prod([max(n, m) for n, m in zip(a.lengths, b.lengths, strict=True)]) > most:
        return None
    return _together(first, second, apart)


def _together(first: Labels, second: Labels, apart: Apart | None = None) -> Labels:
    """The minimum, put together: of rows and columns apart where both have them apart in the same places."""
    if not isinstance(first, Flattened) and not isinstance(second, Flattened):
        lengths = [max(a, b) for a, b in zip(first.lengths, second.lengths, strict=True)]
        affordable(lengths)
        data = torch.minimum(first.data, second.data)
        if not data.is_floating_point():
            # What adds nothing leaves the labels as they are: the rules may have said already what becomes of those.
            for labels in (first, second):
                if torch.equal(data, labels.data):
                    return labels
        return Labels(data, first.pooled)
    apart = apart or _apart(first, second)
    if apart is None:
        return _together(Labels(first.data, first.pooled), Labels(second.data, second.pooled))
    a, b, view = apart
    merged = _together(a, b)
    return first if merged is a else second if merged is b else view(merged)


def _apart(first: Labels, second: Labels) -> Apart | None:
    """Both labels before a view that shows both, and that view; None where neither is a view, or they have no rows."""
    for view, other in ((first, second), (second, first)):
        # As a rule both are one view, or the other varies along none of the rows.
        if isinstance(view, Flattened) and not view.source.is_apart:
            source = view.before(other)
            if source is not None:
                return (view.source, source, view.around) if view is first else (source, view.source, view.around)
    if not isinstance(first, Flattened) and not isinstance(second, Flattened):
        return None
    finer = _finer(first, second)
    if finer is None:
        return None
    return _refined(first, finer), _refined(second, finer), lambda labels: _coarser(labels, finer)


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
    if not isinstance(labels, Flattened) or len(labels.groups[dim]) == 1:
        return (labels.length(dim),)
    return tuple([labels.shape[fine] for fine in labels.groups[dim]])


def _refined(labels: Labels, finer: Sequence[tuple[int, ...]]) -> Labels:
    """Labels before a view that made runs of such lengths one dimension each."""
    return reshaped(labels, [math.prod(run) for run in finer], [n for run in finer for n in run])


def _coarser(labels: Labels, finer: Sequence[tuple[int, ...]]) -> Labels:
    """The view again."""
    return merge(labels, [n for run in finer for n in run], [len(run) for run in finer])
