"""What elements along whole dimensions, or along a part of one, depend on together."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import reduce
from itertools import chain

from torch import Tensor

from convblocks.introspect import arrays
from convblocks.introspect.arrays import TooLarge
from convblocks.introspect.labels.concatenation import Concatenation
from convblocks.introspect.labels.flattened import Flattened
from convblocks.introspect.labels.plain import Labels
from convblocks.introspect.labels.unions import by_rows, of_two

MOST_PIECES = 16
"""Pieces of the largest array that is gone through in pieces."""


def slices(labels: Labels) -> Iterator[Tensor]:
    """Arrays that hold all elements, in pieces where they are not put together."""
    if isinstance(labels, Flattened):
        yield from slices(labels.source)
    elif labels.terms:
        yield from _slices_of_minimum(labels)
    elif isinstance(labels, Concatenation):
        yield from chain.from_iterable(map(slices, labels.different))
    else:
        yield labels.data


def _slices_of_minimum(labels: Labels) -> Iterator[Tensor]:
    lengths = labels.lengths
    if math.prod(lengths) > MOST_PIECES * arrays.LARGEST:
        first, *others = labels.terms
        for other in others:
            first = by_rows(first, other, arrays.LARGEST)
            if first is None:
                raise TooLarge(lengths)
        yield from slices(first)
        return
    dim = max(range(len(lengths)), key=lengths.__getitem__)
    count = max(1, lengths[dim] * arrays.LARGEST // math.prod(lengths))
    for start in range(0, lengths[dim], count):
        yield labels.narrow(dim, start, min(count, lengths[dim] - start)).data


def least(labels: Labels, dims: Sequence[int]) -> Labels:
    """The elements along `dims` merged; these stay with length 1."""
    if labels.terms:
        return reduce(of_two, [least(term, dims) for term in labels.terms])
    if isinstance(labels, Concatenation):
        if labels.dim not in dims:
            return labels.per_part(lambda part: least(part, dims))
        return reduce(of_two, [least(item, dims) for item in labels.different])
    if isinstance(labels, Flattened):
        return labels.around(least(labels.source, labels.fine(dims)))
    varying = [dim + 1 for dim in dims if labels.length(dim) > 1]
    return labels.map(lambda data: data.amin(varying, keepdim=True)) if varying else labels


def least_of_run(labels: Labels, dim: int, start: int, count: int) -> Labels:
    """The elements of a run of `count` places along a dimension merged; it stays with length 1."""
    if labels.terms:
        return reduce(of_two, [least_of_run(term, dim, start, count) for term in labels.terms])
    if isinstance(labels, Flattened):
        return labels.around(_run_of_places(labels.source, labels.shape, labels.groups[dim], start, count))
    return least(labels.narrow(dim, start, count), [dim])


def _run_of_places(source: Labels, shape: Sequence[int], dims: Sequence[int], start: int, count: int) -> Labels:
    """A run of places merged that go row by row: the end of a row, whole rows, the beginning of another."""
    first, *others = dims
    if not others:
        return least(source.narrow(first, start, count), [first])
    width = math.prod([shape[dim] for dim in others])
    (row, skipped), (end, left) = divmod(start, width), divmod(start + count, width)
    if row == end:
        return _run_of_places(source.narrow(first, row, 1), shape, others, skipped, count)
    pieces: list[Labels] = []
    if skipped:
        pieces.append(_run_of_places(source.narrow(first, row, 1), shape, others, skipped, width - skipped))
        row += 1
    if row < end:
        pieces.append(least(source.narrow(first, row, end - row), dims))
    if left:
        pieces.append(_run_of_places(source.narrow(first, end, 1), shape, others, 0, left))
    return reduce(of_two, pieces)


def middle_of(length: int, count: int, even: bool) -> int:
    """Where `count` places in the middle begin; `even`: at a multiple of as many, as it does at the original size."""
    start = (length - count) // 2
    return start // count * count if even and count else start


def least_of_middle(labels: Labels, dim: int, share: float, even: bool) -> Labels | None:
    """The elements of the middle rows of a dimension of flattened places merged, so large a share of all rows.

    Tokens beside the map are merged with them. None for a dimension of other elements. `even` is that of `middle_of`.
    """
    if labels.terms:
        rows = [term if term.length(dim) == 1 else least_of_middle(term, dim, share, even) for term in labels.terms]
        known = [term for term in rows if term is not None]
        return reduce(of_two, known) if len(known) == len(rows) else None
    if isinstance(labels, Concatenation) and labels.dim == dim:
        found = [least_of_middle(item, dim, share, even) for item in labels.different]
        items = zip(found, labels.different, strict=True)
        pieces = [least(item, [dim]) if middle is None else middle for middle, item in items]
        return None if all(middle is None for middle in found) else reduce(of_two, pieces)
    if not isinstance(labels, Flattened) or len(labels.groups[dim]) == 1:
        return None
    source = labels.source
    for fine in labels.groups[dim]:
        count = max(1, round(labels.shape[fine] * share))
        source = source.narrow(fine, middle_of(labels.shape[fine], count, even), count)
    return labels.around(least(source, labels.groups[dim]))
