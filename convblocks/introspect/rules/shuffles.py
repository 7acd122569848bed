"""Shuffles: channels to places, places to channels, channels among themselves."""

from __future__ import annotations

import torch

from convblocks.introspect.labels import reshaped
from convblocks.introspect.registry import Call, Result, rule


@rule("pixel_shuffle")
def pixel_shuffle(call: Call) -> Result:
    """(C r r, H, W) -> (C, H r, W r)."""
    labels, (*lead, channels, height, width), r = call.input, call.shape, call["upscale_factor"]
    if labels is None:
        return None
    split_shape = (*lead, channels // r**2, r, r, height, width)
    n = len(lead) + 1
    moved = reshaped(labels, call.shape, split_shape).permuted([*range(n), n + 2, n, n + 3, n + 1])
    return reshaped(moved, (*lead, channels // r**2, height, r, width, r), call.out_shape())


@rule("pixel_unshuffle")
def pixel_unshuffle(call: Call) -> Result:
    """(C, H r, W r) -> (C r r, H, W)."""
    labels, (*lead, channels, height, width), r = call.input, call.shape, call["downscale_factor"]
    if labels is None:
        return None
    split_shape = (*lead, channels, height // r, r, width // r, r)
    n = len(lead) + 1
    moved = reshaped(labels, call.shape, split_shape).permuted([*range(n), n + 1, n + 3, n, n + 2])
    return reshaped(moved, (*lead, channels, r, r, height // r, width // r), call.out_shape())


@rule("channel_shuffle")
def channel_shuffle(call: Call) -> Result:
    """Channels (g, n) become (n, g)."""
    labels, groups = call.input, call["groups"]
    if labels is None or labels.length(1) == 1:
        return labels
    return labels.map(lambda data: torch.unflatten(data, 2, (groups, -1)).transpose(2, 3).flatten(2, 3))
