"""The arithmetic of folding: new weights and biases, worked out in float64 and given in the type of the old ones."""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor, nn

Conv: TypeAlias = "nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d"
Layer: TypeAlias = "Conv | nn.Linear"
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


def after(layer: Layer, scale: Tensor, shift: Tensor) -> None:
    """Let `layer` do x -> layer(x) * scale + shift, both of shape (out_channels,)."""
    weight = layer.weight.detach().double()
    if not isinstance(layer, nn.Linear) and layer.transposed:
        # (in, out / groups, ...): the filters of one group share their place along the first axis.
        grouped = weight.reshape(layer.groups, -1, *weight.shape[1:])
        weight = (grouped * _spread(scale.view(layer.groups, 1, -1), grouped)).flatten(0, 1)
    else:
        weight = weight * _spread(scale, weight)
    bias = _bias(layer)
    set_weights(layer, weight, shift if bias is None else bias * scale + shift)


def before(layer: Layer, scale: Tensor, shift: Tensor) -> None:
    """Let `layer` do x -> layer(x * scale + shift), both of shape (in_channels,); exact where it pads no zeros."""
    weight = layer.weight.detach().double()
    groups = 1 if isinstance(layer, nn.Linear) else layer.groups
    grouped = weight.reshape(groups, -1, *weight.shape[1:])
    grouped_scale, grouped_shift = (_spread(t.view(groups, 1, -1), grouped) for t in (scale, shift))
    carried = (grouped * grouped_shift).flatten(0, 1).flatten(1).sum(1)
    bias = _bias(layer)
    set_weights(layer, (grouped * grouped_scale).flatten(0, 1), carried if bias is None else carried + bias)


def diagonal(scale: Tensor, groups: int, dimensions: int) -> Tensor:
    """Return the 1x1 kernel of a convolution of so many groups that only scales its channels."""
    channels = torch.arange(len(scale), device=scale.device)
    kernel = scale.new_zeros(len(scale), len(scale) // groups)
    kernel[channels, channels % kernel.shape[1]] = scale
    return kernel.reshape(*kernel.shape, *(1,) * dimensions)


def beside(host: Conv, kernel: Tensor, bias: Tensor | None, taps: list[list[int]]) -> None:
    """Let `host` do x -> host(x) + branch(x), by the taps of `host` that the kernel of the branch falls on."""
    weight = host.weight.detach().double().clone()
    places = torch.meshgrid(*(torch.tensor(axis, device=weight.device) for axis in taps), indexing="ij")
    weight[(slice(None), slice(None), *places)] += kernel.double()
    biases = [b.detach().double() for b in (_bias(host), bias) if b is not None]
    set_weights(host, weight, sum(biases[1:], biases[0]) if biases else None)


def merge(first: Conv, second: Conv) -> None:
    """Let `second`, which has no groups, do x -> second(first(x)), where `first` is a 1x1 convolution of any groups."""
    mixing = first.weight.detach().double().flatten(1)
    dense = torch.zeros(first.out_channels, first.in_channels, dtype=torch.float64, device=mixing.device)
    out_width, in_width = first.out_channels // first.groups, first.in_channels // first.groups
    for group in range(first.groups):
        rows = slice(group * out_width, (group + 1) * out_width)
        dense[rows, group * in_width : (group + 1) * in_width] = mixing[rows]
    weight = second.weight.detach().double()
    bias = _bias(second)
    if first.bias is not None:
        carried = torch.einsum("om...,m->o", weight, first.bias.detach().double())
        bias = carried if bias is None else bias + carried
    second.in_channels = first.in_channels
    set_weights(second, torch.einsum("om...,mi->oi...", weight, dense), bias)


def merged_parameters(first: Conv, second: Conv) -> int:
    """Count the parameters of `second` after `merge`."""
    taps = second.weight[0, 0].numel()
    has_bias = first.bias is not None or second.bias is not None
    return second.out_channels * (first.in_channels * taps + has_bias)


def set_weights(layer: Layer, weight: Tensor, bias: Tensor | None) -> None:
    """Give a layer new weights in the type and memory format of the old ones."""
    old = layer.weight
    channels_last = old.ndim == 4 and old.is_contiguous(memory_format=torch.channels_last) and not old.is_contiguous()
    layout = torch.channels_last if channels_last else torch.contiguous_format
    layer.weight = nn.Parameter(weight.to(old.dtype).contiguous(memory_format=layout), old.requires_grad)
    if bias is not None:
        layer.bias = nn.Parameter(bias.to(old.dtype), old.requires_grad)


def _bias(layer: Layer) -> Tensor | None:
    bias: Tensor | None = layer.bias
    return None if bias is None else bias.detach().double()


def _spread(per_channel: Tensor, weight: Tensor) -> Tensor:
    return per_channel.reshape(*per_channel.shape, *(1,) * (weight.ndim - per_channel.ndim))
