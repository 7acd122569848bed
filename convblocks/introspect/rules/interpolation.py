"""Resampling: which input elements have a weight other than zero."""

from __future__ import annotations

import torch
from torch import Tensor

from convblocks.introspect.registry import Call, NoRule, Result, rule


def _positions(length: int, out: int, align_corners: bool, scale: float | None) -> Tensor:
    """Input coordinate of every output element; a whole one is exactly whole, whatever rounding made of it."""
    index = torch.arange(out, dtype=torch.float64)
    if align_corners:
        position = index * ((length - 1) / (out - 1) if out > 1 else 0.0)
    else:
        step = 1 / scale if scale else length / out
        position = (index + 0.5) * step - 0.5
    nearest = position.round()
    return torch.where((position - nearest).abs() < 1e-9, nearest, position)


def nearest_taps(length: int, out: int, scale: float | None, exact: bool) -> Tensor:
    """One element for every output.

    Raises:
        NoRule: a coordinate falls on the edge between two pixels, and float32 and float64 floor it to different ones.
    """
    step = 1 / scale if scale else length / out
    found: list[Tensor] = []
    for dtype in (torch.float64, torch.float32):
        index = torch.arange(out, dtype=dtype)
        factor = torch.tensor(step, dtype=dtype)
        found.append(((index + 0.5) * factor if exact else index * factor).floor().long())
    if not torch.equal(*found):
        raise NoRule("nearest resampling on the edge between two pixels, where rounding decides")
    return found[0].clamp(max=length - 1)[:, None]


def linear_taps(length: int, out: int, align_corners: bool, scale: float | None) -> Tensor:
    """Two neighbours; the second has weight 0 where the coordinate is whole."""
    position = _positions(length, out, align_corners, scale).clamp(min=0)
    low = position.floor().long().clamp(max=length - 1)
    fraction = position - low
    high = torch.where(fraction > 0, low + 1, low).clamp(max=length - 1)
    return torch.stack((low, high), 1)


def cubic_taps(length: int, out: int, align_corners: bool, scale: float | None) -> Tensor:
    """Four neighbours, at the border the border itself; one where the coordinate is whole."""
    position = _positions(length, out, align_corners, scale)
    low = position.floor()
    whole = position == low
    taps = low.long()[:, None] + torch.arange(-1, 3)
    taps = torch.where(whole[:, None], low.long()[:, None], taps)
    return taps.clamp(0, length - 1)


@rule("upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d")
@rule("_upsample_nearest_exact1d", "_upsample_nearest_exact2d", "_upsample_nearest_exact3d")
@rule("upsample_linear1d", "upsample_bilinear2d", "upsample_trilinear3d", "upsample_bicubic2d")
def upsample(call: Call) -> Result:
    """Every output reads the taps that have a weight."""
    labels, shape, out, op = call.input, call.shape, call.out_shape(), call.node.op
    if labels is None:
        return None
    count = len(shape) - 2
    scales = _scales(call, count)
    for i in range(count):
        dim = 2 + i
        if labels.length(dim) == 1:
            continue
        if "nearest" in op:
            taps = nearest_taps(shape[dim], out[dim], scales[i], "exact" in op)
        elif "linear" in op:
            taps = linear_taps(shape[dim], out[dim], bool(call["align_corners"]), scales[i])
        else:
            taps = cubic_taps(shape[dim], out[dim], bool(call["align_corners"]), scales[i])
        labels = call.window(labels, dim, shape[dim], taps)
    return labels


def _scales(call: Call, count: int) -> list[float | None]:
    if call.get("scale_factors") is not None:
        return list(call["scale_factors"])
    if "scales" in call.arguments:
        return [call["scales"]]
    names = {2: ("scales_h", "scales_w"), 3: ("scales_d", "scales_h", "scales_w")}.get(count)
    if names is None:
        raise NoRule("an interpolation of this form")
    return [call[name] for name in names]
