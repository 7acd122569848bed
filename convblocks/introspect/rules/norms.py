"""Normalisation: every element with the statistics that it is normed by, and with its scale and shift."""

from __future__ import annotations

import torch

from convblocks.introspect.labels import Labels, union
from convblocks.introspect.registry import Call, Result, rule


def _by_channel(call: Call, name: str) -> Labels | None:
    """Labels of one number a channel, to be broadcast to the input."""
    labels = call.of(call.get(name))
    return labels and labels.map(lambda data: data.reshape(*data.shape[:1], 1, -1, *[1] * (call.ndim - 2)))


@rule("native_layer_norm")
def layer_norm(call: Call) -> Result:
    """The statistics are those of the last dimensions."""
    labels, affine = call.input, (call.of(call["weight"]), call.of(call["bias"]))
    count = len(call["normalized_shape"])
    statistics = labels and call.reduce(labels, range(call.ndim - count, call.ndim))
    return [union((labels, statistics, *affine), call.ndim), *[statistics] * (len(call.node.outputs) - 1)]


@rule("native_group_norm")
def group_norm(call: Call) -> Result:
    """The statistics are those of a group of channels."""
    labels, groups = call.input, call["group"]
    affine = [_by_channel(call, name) for name in ("weight", "bias")]
    if labels is None:
        return [union(affine, call.ndim), None, None]
    of_group = call.reduce(labels, range(2, call.ndim))
    of_channel = of_group
    if of_group.length(1) > 1:
        of_group = of_group.map(lambda data: torch.unflatten(data, 2, (groups, -1)).amin(3))
        of_channel = of_group.map(lambda data: data.repeat_interleave(call.shape[1] // groups, 2))
    statistics = of_group.without(range(2, call.ndim))
    return [union((labels, of_channel, *affine), call.ndim), statistics, statistics]


@rule("native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training")
@rule("_batch_norm_no_update", "_batch_norm_with_update")
def batch_norm(call: Call) -> Result:
    """The statistics are those of a channel over the batch, or given."""
    labels = call.input
    dims = [dim for dim in range(call.ndim) if dim != 1]
    affine = [_by_channel(call, name) for name in ("weight", "bias")]
    if call.node.op == "_batch_norm_with_update" or call.get("training"):
        call.ignore(call.get("running_mean"), call.get("running_var"))
        statistics = labels and call.reduce(labels, dims)
    else:
        statistics = union([_by_channel(call, name) for name in ("running_mean", "running_var")], call.ndim)
    by_channel = statistics and statistics.without(dims)
    vectors = [by_channel if call.out_shape(i) == call.shape[1:2] else None for i in range(1, len(call.node.outputs))]
    return [union((labels, statistics, *affine), call.ndim), *vectors]
