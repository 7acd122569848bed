"""Windows over an array of labels: the minimum over the elements that each of them reads."""

# What torch leaves without types.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from functools import lru_cache, reduce
from typing import cast

import torch
from torch import Tensor

from convblocks.introspect.arrays import NOTHING, affordable, nothing_like


@lru_cache(maxsize=4096)
def window_taps(length: int, out: int, kernel: int, stride: int, padding: int, dilation: int) -> Tensor:
    """Row i of the table lists the elements a window reads for output i; `length` stands for an element outside."""
    taps = torch.arange(out)[:, None] * stride - padding + torch.arange(kernel)[None, :] * dilation
    return torch.where((taps >= 0) & (taps < length), taps, length)


def all_read(length: int, out: int, kernel: int, stride: int, padding: int, dilation: int) -> bool:
    """Whether it is plain without a table that every window reads some element, and none padding alone."""
    return dilation == 1 and padding < kernel and (out - 1) * stride - padding < length > 0


@lru_cache(maxsize=1024)
def transposed_taps(length: int, out: int, kernel: int, stride: int, padding: int, dilation: int) -> Tensor:
    """The same table for a transposed convolution: output i reads element (i + p - t d) / s where that is whole."""
    reach = torch.arange(out)[:, None] + padding - torch.arange(kernel)[None, :] * dilation
    taps = torch.div(reach, stride, rounding_mode="floor")
    inside = (reach % stride == 0) & (taps >= 0) & (taps < length)
    return torch.where(inside, taps, length)


def gather(data: Tensor, dim: int, taps: Tensor) -> Tensor:
    """Minimum over the listed elements of dimension `dim` of the tensor, for every row of the table."""
    axis = dim + 1
    affordable([*data.shape[1:axis], taps.numel(), *data.shape[axis + 1 :]])
    border = data.narrow(axis, 0, 1)
    extended = torch.cat((data, nothing_like(border)), axis)
    picked = extended.index_select(axis, taps.flatten())
    if taps.shape[1] == 1:
        return picked
    windows = cast("Tensor", picked.unflatten(axis, taps.shape))
    return windows.amin(axis + 1)


def slide(data: Tensor, dim: int, out: int, kernel: int, stride: int, padding: int, dilation: int) -> Tensor:
    """What `gather` gives for the table of `window_taps`, by strided views: no element is looked up by its number."""
    axis = dim + 1
    length = data.shape[axis]
    affordable([*data.shape[1:axis], max(out, length), *data.shape[axis + 1 :]])
    ends = (out - 1) * stride + 1
    beyond = ends + (kernel - 1) * dilation - padding - length
    if padding or beyond > 0:
        # What `nn.functional.pad` takes half as long again to call.
        data = torch.constant_pad_nd(data, [0, 0] * (data.ndim - 1 - axis) + [padding, max(beyond, 0)], NOTHING)
    starts = range(0, kernel * dilation, dilation)
    if stride == 1:
        taps = [data.narrow(axis, at, ends) for at in starts]
    else:
        places = (slice(None),) * axis
        taps = [data[(*places, slice(at, at + ends, stride))] for at in starts]
    return reduce(torch.minimum, taps)
