"""Padding: with what depends on nothing, and with what is inside."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from convblocks.introspect.registry import Call, Result, rule


@rule("constant_pad_nd")
def constant_pad(call: Call) -> Result:
    """What is added depends on nothing; negative amounts crop."""
    labels, shape, pad = call.input, call.shape, call["pad"]
    if labels is None:
        return None
    for i in range(len(pad) // 2):
        dim = len(shape) - 1 - i
        before, after = pad[2 * i], pad[2 * i + 1]
        # A window of one place.
        labels = call.slide(labels, dim, shape[dim], shape[dim] + before + after, 1, 1, before, 1)
    return labels


def reflected(taps: Tensor, length: int) -> Tensor:
    """0 1 2 3 continues as 3 2 1 | 0 1 2 3 | 2 1 0."""
    if length == 1:
        return torch.zeros_like(taps)
    period = 2 * (length - 1)
    folded = taps % period
    return torch.where(folded < length, folded, period - folded)


def _border_pad(call: Call, count: int, rule_of: Callable[[Tensor, int], Tensor]) -> Result:
    labels, shape, pad = call.input, call.shape, call["padding"]
    if labels is None:
        return None
    for i in range(count):
        dim = len(shape) - 1 - i
        taps = torch.arange(shape[dim] + pad[2 * i] + pad[2 * i + 1])[:, None] - pad[2 * i]
        labels = call.window(labels, dim, shape[dim], rule_of(taps, shape[dim]))
    return labels


@rule("reflection_pad1d", "reflection_pad2d", "reflection_pad3d")
def reflection_pad(call: Call) -> Result:
    """What is added mirrors the inside."""
    return _border_pad(call, int(call.node.op[-2]), reflected)


@rule("replication_pad1d", "replication_pad2d", "replication_pad3d")
def replication_pad(call: Call) -> Result:
    """What is added repeats the border."""
    return _border_pad(call, int(call.node.op[-2]), lambda taps, length: taps.clamp(0, length - 1))
