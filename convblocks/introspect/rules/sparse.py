"""Convolutions and products with weights of which a constant has made a part zero: masked convolutions, filters."""

# What torch leaves without types.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor

from convblocks.introspect.aliasing import Ref
from convblocks.introspect.arrays import NOTHING, affordable
from convblocks.introspect.labels import Labels, union
from convblocks.introspect.registry import Call, NoRule, spread
from convblocks.introspect.sliding import transposed_taps, window_taps

MOST_KINDS = 32
"""Kernels of one convolution that read other places each."""

Mix = Callable[[Labels], Labels]


def convolved(call: Call, labels: Labels, zero: Tensor, mix: Mix) -> Labels:
    """A convolution that does not read every place of its window; `mix` merges the channels that an output reads."""
    shape, out = call.shape, call.out_shape()
    first = len(shape) - (zero.ndim - 2)
    depthwise = call["groups"] == shape[first - 1] == out[first - 1]
    if call["transposed"] and not depthwise:
        if call["groups"] != 1:
            raise NoRule("a transposed convolution in groups, with zeros in its weights")
        zero = zero.transpose(0, 1)
    if not depthwise and labels.length(first - 1) > 1 and bool((zero != zero[:, :1]).any()):
        raise NoRule("weights with zeros that differ between the channels read")
    if not call.policy.exact_borders and any(n == 1 < m for n, m in zip(out[first:], shape[first:], strict=True)):
        raise NoRule("weights with zeros in a kernel of the size of the input")
    reads = (~zero).any(1)
    unique = cast("Callable[..., tuple[Tensor, Tensor]]", torch.unique)
    kinds, which = unique(reads.flatten(1), dim=0, return_inverse=True)
    if len(kinds) > MOST_KINDS:
        raise NoRule("weights with zeros that differ between many channels")
    mixed = labels if depthwise else mix(labels)
    tables = _tables(call, first, zero.shape[2:])
    found = [_reading(call, mixed, kind.reshape(zero.shape[2:]), first, tables) for kind in kinds]
    if len(found) == 1:
        return found[0]
    return _by_channel(found, which, first - 1)


def _tables(call: Call, first: int, kernel: Sequence[int]) -> list[Tensor]:
    """For every dimension the tables of taps: a row an output, a column a place of the kernel."""
    shape, out = call.shape, call.out_shape()
    stride, padding, dilation = (spread(call[name], len(kernel)) for name in ("stride", "padding", "dilation"))
    table = transposed_taps if call["transposed"] else window_taps
    return [
        table(shape[first + i], out[first + i], k, stride[i], padding[i], dilation[i]) for i, k in enumerate(kernel)
    ]


def _reading(call: Call, labels: Labels, kernel: Tensor, first: int, tables: Sequence[Tensor]) -> Labels:
    """The union over the places that a kernel reads: together, not axis by axis."""
    parts: list[Labels] = []
    places = cast("list[list[int]]", kernel.nonzero().tolist())
    for place in places:
        part = labels
        for i, tap in enumerate(place):
            part = call.window(part, first + i, call.shape[first + i], tables[i][:, tap : tap + 1])
        parts.append(part)
    merged = union(parts, labels.ndim)
    if merged is None:
        return Labels(torch.full((labels.features, *[1] * labels.ndim), NOTHING, dtype=labels.dtype), labels.pooled)
    return merged


def _by_channel(found: Sequence[Labels], which: Tensor, dim: int) -> Labels:
    """Channel c of the kind `which[c]`."""
    lengths = [max(column) for column in zip(*(labels.lengths for labels in found), strict=True)]
    lengths[dim] = len(which)
    affordable(lengths)
    shape = found[0].features, *lengths
    wide = torch.stack([labels.data.expand(shape) for labels in found])
    index = which.reshape(1, 1, *[len(which) if d == dim else 1 for d in range(len(lengths))]).expand(1, *shape)
    return Labels(wide.gather(0, index)[0], found[0].pooled)


def product(call: Call, labels: Labels, dim: int, matrix: Ref, *, rows: bool) -> Labels | None:
    """Labels contracted along `dim` with a matrix, its rows one a result or its columns; None where it has no zeros."""
    zero = call.zeros(matrix)
    if zero is None or labels.length(dim) == 1:
        return None
    zero = zero.flatten(0, -3) if zero.ndim > 2 else zero[None]
    if bool((zero != zero[:1]).any()):
        raise NoRule("matrices with zeros that differ within the batch")
    reads = ~(zero[0] if rows else zero[0].T)
    length = reads.shape[1]
    most = max(int(reads.sum(1).max()), 1)
    # The places that a result reads come first.
    taps = torch.where(reads, torch.arange(length), length).sort(1).values[:, :most]
    after = call.window(labels, dim, length, taps)
    return call.policy.scanned(call, labels, after, dim)
