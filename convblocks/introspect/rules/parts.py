"""Cutting a tensor into parts and joining parts to a tensor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from convblocks.introspect.aliasing import Ref
from convblocks.introspect.arrays import NOTHING, nothing_like
from convblocks.introspect.labels import Concatenation, Labels, Minimum, joined
from convblocks.introspect.registry import Call, Result, rule


def crop(labels: Labels, dim: int, index: slice) -> Labels:
    """A slice of one dimension."""
    if labels.length(dim) == 1 or (index.start == 0 and index.stop >= labels.length(dim) and index.step in (None, 1)):
        return labels
    if isinstance(labels, Concatenation) and labels.dim == dim and index.step in (None, 1):
        return _crop_parts(labels, index.start, index.stop)
    if isinstance(labels, Minimum) and labels.terms:
        return labels.per_term(lambda term: crop(term, dim, index))
    return labels.along(dim, lambda data, axis: data[(slice(None),) * axis + (index,)])


def _crop_parts(parts: Concatenation, start: int, stop: int) -> Labels:
    kept: list[tuple[Labels, int]] = []
    position = 0
    for item, length in parts.items:
        first, last = max(start - position, 0), min(stop - position, length)
        if first < last:
            kept.append((crop(item, parts.dim, slice(first, last)), last - first))
        position += length
    if not kept:
        return parts.items[0][0].map(lambda data: nothing_like(data.narrow(parts.dim + 1, 0, 1)))
    return joined(parts.dim, kept) if len(kept) != 1 else kept[0][0]


def slice_of(arguments: dict[str, Any], length: int) -> slice:
    """The slice that the arguments of `aten.slice` ask for, both ends within the dimension."""
    return slice(*slice(arguments.get("start"), arguments.get("end"), arguments.get("step") or 1).indices(length))


@rule("slice")
def slice_(call: Call) -> Result:
    """A part of one dimension."""
    labels = call.input
    dim: int = call["dim"] % call.ndim
    index = slice_of(call.arguments, call.shape[dim])
    if labels is not None and index.step > 1:
        call.cross(labels, dim)
    return labels and crop(labels, dim, index)


@rule("select")
def select(call: Call) -> Result:
    """One place of one dimension."""
    labels = call.input
    dim: int = call["dim"] % call.ndim
    if labels is None:
        return None
    return _place(labels, dim, call["index"])


def _place(labels: Labels, dim: int, index: int) -> Labels:
    """One place of one dimension, which goes."""
    if labels.length(dim) > 1 or (isinstance(labels, Concatenation) and labels.dim == dim):
        labels = labels.at([index % labels.length(dim) if d == dim else None for d in range(labels.ndim)])
    return labels.without([dim])


@rule("split", "split_with_sizes", "unsafe_split", "unsafe_split_with_sizes")
def split(call: Call) -> Result:
    """Parts of one dimension, in order."""
    labels = call.input
    dim: int = call["dim"] % call.ndim
    pieces: list[Labels | None] = []
    start = 0
    for position in range(len(call.node.outputs)):
        length = call.out_shape(position)[dim]
        pieces.append(labels and crop(labels, dim, slice(start, start + length)))
        start += length
    return pieces


@rule("unbind")
def unbind(call: Call) -> Result:
    """Every place of one dimension."""
    labels = call.input
    dim: int = call["dim"] % call.ndim
    if labels is None:
        return None
    count = len(call.node.outputs)
    if labels.length(dim) == 1:
        # As a rule they are queries, keys and values, which depend on the same.
        return [_place(labels, dim, 0)] * count
    return [_place(labels, dim, i) for i in range(count)]


def join(parts: Sequence[tuple[Labels | None, int]], ndim: int, dim: int) -> Labels | None:
    """Concatenate labels; each part comes with its length along `dim`."""
    present = [part for part, _ in parts if part is not None]
    if not present:
        return None
    pooled = all(part.pooled for part in present)
    first = present[0]
    blank = Labels(torch.full((first.features, *[1] * ndim), NOTHING, dtype=first.dtype), pooled)
    items: list[tuple[Labels, int]] = []
    for part, length in parts:
        # A pooled part beside one that has a position is a gate: the local field leaves it out.
        kept = part if part is not None and part.pooled == pooled else blank
        if isinstance(kept, Concatenation) and kept.dim == dim:
            items += kept.items
        else:
            items.append((kept, length))
    return joined(dim, items)


@rule("cat")
def cat(call: Call) -> Result:
    """Tensors one after the other."""
    tensors: list[Ref] = call.node.args[0]
    # An empty one-dimensional tensor may stand in any concatenation, by an old rule of torch.
    tensors = [ref for ref in tensors if call.shape_of(ref) != (0,)]
    ndim = len(call.out_shape())
    dim: int = call["dim"] % ndim
    return join([(call.of(ref), call.shape_of(ref)[dim]) for ref in tensors], ndim, dim)


@rule("stack")
def stack(call: Call) -> Result:
    """Tensors along a new dimension."""
    ndim = len(call.out_shape())
    dim: int = call["dim"] % ndim
    parts = [call.of(ref) for ref in call.node.args[0]]
    return join([(part and part.unsqueezed([dim]), 1) for part in parts], ndim, dim)
