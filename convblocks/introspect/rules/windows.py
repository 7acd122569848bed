"""Operations that slide a window: convolution, pooling, unfolding."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from convblocks.introspect.labels import Concatenation, Labels, reshaped, union
from convblocks.introspect.registry import Call, NoRule, Result, rule, spread
from convblocks.introspect.rules import sparse
from convblocks.introspect.sliding import gather, transposed_taps, window_taps


def mix_channels(call: Call, labels: Labels, dim: int, groups: int, out_channels: int) -> Labels:
    """Every output channel reads all input channels of its group."""
    channels = labels.length(dim)
    if channels == 1 or (groups == channels == out_channels):
        return labels
    if groups == 1 and isinstance(labels, Concatenation) and labels.dim == dim and not labels.pooled:
        merged = union(labels.different, labels.ndim)
        assert merged is not None
        # The parts may vary along the channels themselves.
        return mix_channels(call, merged, dim, groups, out_channels)
    if groups == 1:
        return call.reduce(labels, [dim])
    grouped = labels.map(lambda data: torch.unflatten(data, dim + 1, (groups, channels // groups)).amin(dim + 2))
    return grouped.map(lambda data: data.repeat_interleave(out_channels // groups, dim + 1))


@rule("convolution", "_convolution")
def convolution(call: Call) -> Result:
    """Every output reads a window of all channels of its group."""
    shape, out, kernel = call.shape, call.out_shape(), call.shape_of(call["weight"])
    count = len(kernel) - 2
    first = len(shape) - count
    weights = _dynamic_weights(call, len(out), first - 1)
    if call.input is None:
        return weights
    return union((_convolved(call, call.input, shape, out, kernel), weights), len(out))


def _dynamic_weights(call: Call, ndim: int, channels: int) -> Labels | None:
    """What weights that depend on the input bring: every output of a channel reads all of that channel's."""
    found: list[Labels | None] = []
    for name in ("weight", "bias"):
        labels = call.of(call[name])
        if labels is None:
            continue
        if name == "weight" and _reads_weights_in_part(call, labels):
            raise NoRule("weights that depend on the input, of which the border reads a part")
        labels = call.reduce(labels, range(1, labels.ndim))
        lengths = [labels.length(0) if dim == channels else 1 for dim in range(ndim)]
        found.append(labels.map(lambda data, lengths=lengths: data.reshape(data.shape[0], *lengths)))
    return union(found, ndim)


def _reads_weights_in_part(call: Call, weight: Labels) -> bool:
    """Whether padding leaves some output without some weights that differ in what they depend on, or without any."""
    kernel = call.shape_of(call["weight"])[2:]
    padding, dilation = (spread(call[name], len(kernel)) for name in ("padding", "dilation"))
    differ = any(weight.length(2 + i) > 1 for i in range(len(kernel)))
    return (
        bool(call["transposed"])
        or (differ and any(padding))
        or any(p > d * (k - 1) for p, d, k in zip(padding, dilation, kernel, strict=True))
    )


def _convolved(
    call: Call, labels: Labels, shape: tuple[int, ...], out: tuple[int, ...], kernel: tuple[int, ...]
) -> Labels:
    count = len(kernel) - 2
    first = len(shape) - count
    zero = call.zeros(call["weight"])
    if zero is not None:
        return sparse.convolved(
            call, labels, zero, lambda item: mix_channels(call, item, first - 1, call["groups"], out[first - 1])
        )
    labels = mix_channels(call, labels, first - 1, call["groups"], out[first - 1])
    stride, padding, dilation = (spread(call[name], count) for name in ("stride", "padding", "dilation"))
    for i in range(count):
        dim = first + i
        window = shape[dim], out[dim], kernel[2 + i], stride[i], padding[i], dilation[i]
        if call["transposed"]:
            labels = call.window(labels, dim, shape[dim], transposed_taps(*window))
        else:
            labels = call.slide(labels, dim, *window)
    return labels.tidied(range(first, len(shape))) if call.policy.exact_borders else labels


def _pool(call: Call, count: int, dilation: list[int]) -> Labels | None:
    labels, shape, out = call.input, call.shape, call.out_shape()
    if labels is None:
        return None
    kernel = spread(call["kernel_size"], count)
    stride = spread(call["stride"], count) if call["stride"] else kernel
    padding = spread(call["padding"], count)
    for i in range(count):
        dim = len(shape) - count + i
        labels = call.slide(labels, dim, shape[dim], out[dim], kernel[i], stride[i], padding[i], dilation[i])
    return labels


@rule("avg_pool2d", "avg_pool3d")
def average_pool(call: Call) -> Result:
    """Every output reads a window."""
    count = int(call.node.op[-2])
    return _pool(call, count, [1] * count)


@rule("max_pool2d_with_indices", "max_pool3d_with_indices")
def max_pool(call: Call) -> Result:
    """Every output may be any element of its window."""
    count = int(call.node.op[8])
    labels = _pool(call, count, spread(call["dilation"], count))
    return [labels] * len(call.node.outputs)


@lru_cache(maxsize=1024)
def adaptive_taps(length: int, out: int) -> Tensor:
    """Output i reads floor(i n / o) to ceil((i + 1) n / o) - 1."""
    starts = [i * length // out for i in range(out)]
    ends = [-(-(i + 1) * length // out) for i in range(out)]
    widest = max(end - start for start, end in zip(starts, ends, strict=True))
    taps = torch.tensor(starts)[:, None] + torch.arange(widest)
    return torch.where(taps < torch.tensor(ends)[:, None], taps, length)


@rule("_adaptive_avg_pool2d", "_adaptive_avg_pool3d")
@rule("adaptive_max_pool2d", "adaptive_max_pool3d")
def adaptive_pool(call: Call) -> Result:
    """Windows that divide the whole map."""
    labels, shape, out = call.input, call.shape, call.out_shape()
    if labels is None:
        return None
    dims = range(len(shape) - len(call["output_size"]), len(shape))
    labels = call.reduce(labels, [dim for dim in dims if out[dim] == 1])
    for dim in dims:
        if out[dim] > 1 and labels.length(dim) > 1:
            labels = labels.map(lambda data, dim=dim: gather(data, dim, adaptive_taps(shape[dim], out[dim])))
    return [labels] * len(call.node.outputs)


@rule("im2col")
def unfold(call: Call) -> Result:
    """(N, C, H, W) -> (N, C kh kw, positions)."""
    labels, shape = call.input, call.shape
    if labels is None:
        return None
    if len(shape) != 4:
        raise NoRule("an unfold without a batch dimension")
    data = labels.data
    sizes: list[int] = []
    for i in range(2):
        axis = 3 + 2 * i
        length = shape[2 + i]
        kernel, stride, padding, dilation = (
            spread(call[key], 2)[i] for key in ("kernel_size", "stride", "padding", "dilation")
        )
        out = (length + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
        sizes += [kernel, out]
        taps = window_taps(length, out, kernel, stride, padding, dilation)
        if data.shape[axis] == 1 < length and not (call.policy.exact_borders and bool((taps == length).any())):
            # What a tap reads outside are the first windows or the last.
            data = data.unsqueeze(axis)
            continue
        data = data.expand([length if d == axis else -1 for d in range(data.ndim)])
        rows = gather(data, axis - 1, taps.T.reshape(-1, 1))
        data = torch.unflatten(rows, axis, (kernel, out))
    # (K, N, C, kh, oh, kw, ow) -> (K, N, C kh kw, oh ow)
    windows = labels.map(lambda _: data.permute(0, 1, 2, 3, 5, 4, 6))
    return reshaped(windows, (*shape[:2], sizes[0], sizes[2], sizes[1], sizes[3]), call.out_shape())


@rule("col2im")
def fold(call: Call) -> Result:
    """(N, C kh kw, positions) -> (N, C, H, W), overlapping windows added."""
    labels, shape, out = call.input, call.shape, call.out_shape()
    if labels is None:
        return None
    if len(shape) != 3:
        raise NoRule("a fold without a batch dimension")
    kernel, stride, padding, dilation = (
        spread(call[key], 2) for key in ("kernel_size", "stride", "padding", "dilation")
    )
    counts = [(out[2 + i] + 2 * padding[i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1 for i in range(2)]
    data = reshaped(labels, shape, (*out[:2], *kernel, *counts)).data
    data = data.permute(0, 1, 2, 3, 5, 4, 6)  # K, N, C, kh, oh, kw, ow
    for i in (1, 0):
        axis = 3 + 2 * i
        taps = transposed_taps(counts[i], out[2 + i], kernel[i], stride[i], padding[i], dilation[i])
        if data.shape[axis] == data.shape[axis + 1] == 1 < counts[i] and not call.leaves_gaps(taps, counts[i]):
            data = data.squeeze(axis)
            continue
        data = data.expand([*data.shape[:axis], kernel[i], counts[i], *data.shape[axis + 2 :]])
        offset = torch.arange(kernel[i])[None, :] * counts[i]
        flat = torch.where(taps < counts[i], taps + offset, kernel[i] * counts[i])
        data = gather(data.flatten(axis, axis + 1), axis - 1, flat)
    return labels.map(lambda _: data).tidied([1])
