"""Arrays of labels: what a feature means, how large an array may become, and how a reshape takes dimensions apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

NOTHING = 2**30 - 1
"""Feature of an element that depends on no input: larger than any coordinate, and twice it still fits 32 bits."""

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


def interval(positions: Tensor) -> Tensor:
    """Features (lo, -hi) of elements that depend on one position each; in 32 bits, which is half the time."""
    return torch.stack((positions, -positions)).to(torch.int32)


def extent(data: Tensor) -> Tensor:
    """Number of positions from lo to hi of every element; negative for one that depends on nothing."""
    return 1 - data[0] - data[1]


def extents(data: Tensor) -> tuple[int, int]:
    """The smallest extent of an element that depends on anything, and the largest; 0 and less if none does."""
    moved = data.sum(0, dtype=data.dtype)
    low, high = moved.aminmax()
    if int(high) > 0 >= int(low):
        high = moved[moved <= 0].max()
    return 1 - int(high), 1 - int(low)


def nothing_like(data: Tensor) -> Tensor:
    """Labels of what depends on nothing."""
    return torch.full_like(data, NOTHING)


def constant_along(data: Tensor, axis: int) -> bool:
    """Whether the array does not vary along `axis`."""
    length = data.shape[axis]
    if length < 2:
        return True
    # What varies does so between the first place and the middle, as a rule.
    first = data.narrow(axis, 0, 1)
    return torch.equal(first, data.narrow(axis, length // 2, 1)) and torch.equal(data, first.expand_as(data))


def compress(data: Tensor, dims: Sequence[int]) -> Tensor:
    """Give dimensions of the tensor along which nothing varies the length 1."""
    if data.is_floating_point():
        # Labels that are all zero and stand for a mask: that they are equal says nothing.
        return data
    for dim in dims:
        if data.shape[dim + 1] > 1 and constant_along(data, dim + 1):
            data = data.narrow(dim + 1, 0, 1)
    return data


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


@lru_cache(maxsize=4096)
def common(first: tuple[int, ...], second: tuple[int, ...]) -> tuple[int, ...] | None:
    """The shortest shape that merges to both: (6, 4) and (3, 8) give (3, 2, 4); None for (6, 2) and (4, 3).

    Both have as many elements.
    """
    ends = sorted({math.prod(shape[: i + 1]) for shape in (first, second) for i in range(len(shape))})
    before, shape = 1, list[int]()
    for end in ends:
        if end % before:
            return None
        if end > before:
            shape.append(end // before)
        before = end
    return tuple(shape)


def shared(lengths: Sequence[int], shape: Sequence[int]) -> list[list[int]]:
    """Which run of `shape` each length is the product of; a length of 1 has none."""
    rest = iter(shape)
    found: list[list[int]] = []
    for length in lengths:
        run: list[int] = []
        while math.prod(run) < length:
            run.append(next(rest))
        found.append(run)
    return found


@lru_cache(maxsize=4096)
def numbered(counts: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """Runs of so many numbers each, in order: (1, 2) gives (0), (1, 2)."""
    ends = [sum(counts[: i + 1]) for i in range(len(counts))]
    return tuple(tuple(range(end - count, end)) for end, count in zip(ends, counts, strict=True))


class Regrouping(NamedTuple):
    """How to reshape an array: what to expand it to first, its new lengths, and the view that these become.

    `shape` and `counts` are arguments of `labels.flattened.view`.
    """

    wide: tuple[int, ...]
    sizes: tuple[int, ...]
    shape: tuple[int, ...]
    counts: tuple[int, ...]


@lru_cache(maxsize=4096)
def regrouping(lengths: tuple[int, ...], old: tuple[int, ...], new: tuple[int, ...]) -> Regrouping:
    """A reshape of an array of these lengths, of a tensor of shape `old`, in which what becomes one stays apart."""
    wide, sizes, shape, counts = list(lengths), list[int](), list[int](), list[int]()
    for before, after in factors(old, new):
        targets = tuple([new[dim] for dim in after])
        finer = common(tuple([old[dim] for dim in before]), targets)
        if all(wide[dim] == 1 for dim in before):
            sizes += [1] * len(after)
            shape += targets
            counts += [1] * len(after)
        elif finer is None:
            # Rows and columns that are neither merged nor cut: (6, 2) becomes (4, 3).
            for dim in before:
                wide[dim] = old[dim]
            sizes += targets
            shape += targets
            counts += [1] * len(after)
        else:
            for dim, run in zip(before, shared([old[dim] for dim in before], finer), strict=True):
                sizes += run if wide[dim] > 1 else [1] * len(run)
            shape += finer
            counts += [len(run) for run in shared(targets, finer)]
    return Regrouping(tuple(wide), *compacted(tuple(sizes), tuple(shape), tuple(counts)))


@lru_cache(maxsize=4096)
def compacted(
    lengths: tuple[int, ...], shape: tuple[int, ...], counts: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Lengths of an array, shape and counts of a view, with as few dimensions as there can be.

    Neighbours in a run that both vary become one, and neighbours that both do not; a run of none is a new dimension.
    """
    sizes, finer, kept = list[int](), list[int](), list[int]()
    for group in numbered(counts):
        before = len(finer)
        varied = None
        for dim in group:
            varies = lengths[dim] > 1
            if varied is not None and (varies is varied or 1 in (shape[dim], finer[-1])):
                varied = varies if finer[-1] == 1 else varied
                finer[-1] *= shape[dim]
                sizes[-1] *= lengths[dim]
            else:
                varied = varies
                finer.append(shape[dim])
                sizes.append(lengths[dim])
        if not group:
            finer.append(1)
            sizes.append(1)
        kept.append(len(finer) - before)
    return tuple(sizes), tuple(finer), tuple(kept)
