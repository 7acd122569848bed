"""The arithmetic of folding: new weights and biases, worked out in float64 and given in the type of the old ones."""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor, nn

Conv: TypeAlias = "nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d"
Norm: TypeAlias = "nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | nn.SyncBatchNorm"


def affine(norm: Norm) -> tuple[Tensor, Tensor]:
    """Return what a norm does to each channel in evaluation: x * scale + shift, both of shape (C,) and in float64."""
    if norm.running_mean is None or norm.running_var is None:
        raise ValueError("the norm keeps no running statistics: it is no fixed function of its input")
    scale = torch.rsqrt(norm.running_var.double() + norm.eps)
    if norm.weight is not None:  # pyright: ignore[reportUnnecessaryComparison]  (None where affine=False)
        scale = scale * norm.weight.detach().double()
    shift = -norm.running_mean.double() * scale
    if norm.bias is not None:  # pyright: ignore[reportUnnecessaryComparison]  (None where affine=False)
        shift = shift + norm.bias.detach().double()
    return scale, shift


def after(conv: Conv, scale: Tensor, shift: Tensor) -> None:
    """Let `conv` do x -> conv(x) * scale + shift, both of shape (out_channels,)."""
    weight = conv.weight.detach().double()
    if conv.transposed:
        # (in, out / groups, ...): the filters of one group share their place along the first axis.
        grouped = weight.reshape(conv.groups, -1, *weight.shape[1:])
        weight = (grouped * _spread(scale.view(conv.groups, 1, -1), grouped)).flatten(0, 1)
    else:
        weight = weight * _spread(scale, weight)
    bias = shift if conv.bias is None else conv.bias.detach().double() * scale + shift
    _set(conv, weight, bias)


def before(conv: Conv, scale: Tensor, shift: Tensor) -> None:
    """Let `conv` do x -> conv(x * scale + shift), both of shape (in_channels,); exact where `conv` pads no zeros."""
    weight = conv.weight.detach().double()
    grouped = weight.reshape(conv.groups, -1, *weight.shape[1:])
    grouped_scale, grouped_shift = (_spread(t.view(conv.groups, 1, -1), grouped) for t in (scale, shift))
    bias = (grouped * grouped_shift).flatten(0, 1).flatten(1).sum(1)
    if conv.bias is not None:
        bias = bias + conv.bias.detach().double()
    _set(conv, (grouped * grouped_scale).flatten(0, 1), bias)


def merge(first: Conv, second: Conv) -> None:
    """Let `second`, which has no groups, do x -> second(first(x)), where `first` is a 1x1 convolution of any groups."""
    mixing = first.weight.detach().double().flatten(1)
    dense = torch.zeros(first.out_channels, first.in_channels, dtype=torch.float64, device=mixing.device)
    out_width, in_width = first.out_channels // first.groups, first.in_channels // first.groups
    for group in range(first.groups):
        rows = slice(group * out_width, (group + 1) * out_width)
        dense[rows, group * in_width : (group + 1) * in_width] = mixing[rows]
    weight = second.weight.detach().double()
    bias = None if second.bias is None else second.bias.detach().double()
    if first.bias is not None:
        carried = torch.einsum("om...,m->o", weight, first.bias.detach().double())
        bias = carried if bias is None else bias + carried
    second.in_channels = first.in_channels
    _set(second, torch.einsum("om...,mi->oi...", weight, dense), bias)


def merged_parameters(first: Conv, second: Conv) -> int:
    """Count the parameters of `second` after `merge`."""
    taps = second.weight[0, 0].numel()
    has_bias = first.bias is not None or second.bias is not None
    return second.out_channels * (first.in_channels * taps + has_bias)


def _spread(per_channel: Tensor, weight: Tensor) -> Tensor:
    return per_channel.reshape(*per_channel.shape, *(1,) * (weight.ndim - per_channel.ndim))


def _set(conv: Conv, weight: Tensor, bias: Tensor | None) -> None:
    old = conv.weight
    layout = torch.preserve_format
    if old.ndim == 4 and old.is_contiguous(memory_format=torch.channels_last) and not old.is_contiguous():
        layout = torch.channels_last
    made = weight.to(old.dtype).contiguous(
        memory_format=layout if layout is torch.channels_last else torch.contiguous_format
    )
    conv.weight = nn.Parameter(made, old.requires_grad)
    if bias is not None:
        conv.bias = nn.Parameter(bias.to(old.dtype), old.requires_grad)
