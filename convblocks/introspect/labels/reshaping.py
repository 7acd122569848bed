"""Reshapes: dimensions that become one are kept apart, and those that were one are parted again."""

from __future__ import annotations

from collections.abc import Sequence

from convblocks.introspect.arrays import affordable, factors, regrouping
from convblocks.introspect.labels.concatenation import Concatenation, joined
from convblocks.introspect.labels.flattened import Flattened, merge, view
from convblocks.introspect.labels.minimum import Minimum
from convblocks.introspect.labels.plain import Labels


def reshaped(labels: Labels, old: Sequence[int], new: Sequence[int]) -> Labels:
    """Labels of a tensor of shape `old` as it becomes one of shape `new`."""
    old, new = tuple(old), tuple(new)
    if 0 in old:
        return labels.blank(len(new))
    if old == new:
        return labels
    if isinstance(labels, Minimum) and labels.terms:
        return labels.per_term(lambda term: reshaped(term, old, new))
    if isinstance(labels, Flattened):
        return reshaped(labels.source, labels.shape_within(old), new)
    if isinstance(labels, Concatenation):
        runs = factors(old, new)
        [(before, after)] = [run for run in runs if labels.dim in run[0]]
        longer = [dim for dim in before if old[dim] > 1], [dim for dim in after if new[dim] > 1]
        if longer[0] == [labels.dim] and len(longer[1]) == 1:
            return _of_parts(labels, old, new, longer[1][0])
        if all(len(after) == 1 and before for before, after in runs):
            return merge(labels, old, [len(before) for before, _ in runs])
    lengths = tuple(labels.lengths)
    plan = regrouping(lengths, old, new)
    affordable(plan.sizes)
    if plan.wide != lengths:
        labels = labels.map(lambda data: data.expand(-1, *plan.wide).reshape(data.shape[0], *plan.sizes))
    elif plan.sizes != lengths or labels.is_apart:
        labels = labels.map(lambda data: data.reshape(data.shape[0], *plan.sizes))
    return view(labels, plan.shape, plan.counts)


def _of_parts(labels: Concatenation, old: Sequence[int], new: Sequence[int], dim: int) -> Labels:
    """A reshape that leaves the dimension of a concatenation alone, which is `dim` after it."""
    done: dict[tuple[int, int], Labels] = {}
    for item, length in labels.items:
        if (id(item), length) not in done:
            shapes = [list(old), list(new)]
            shapes[0][labels.dim] = shapes[1][dim] = length
            done[id(item), length] = reshaped(item, *shapes)
    return joined(dim, [(done[id(item), length], length) for item, length in labels.items])
