"""The parts that every block is made of: a convolution with its padding, a norm, an activation, and chains of them."""

from __future__ import annotations

import copy
import functools
import inspect
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from convblocks.layers import _fusion
from convblocks.layers._arguments import (
    PADDING_MODES,
    IntPair,
    LayerFactory,
    Padding,
    PaddingMode,
    choice,
    flag,
    grouping,
    is_module,
    pair,
    sides,
)
from convblocks.layers._depthwise import DepthwiseConv2d, GroupedConv2d

if TYPE_CHECKING:
    from typing_extensions import Self

_PAD_LAYERS: Mapping[str, Callable[[tuple[int, int, int, int]], nn.Module]] = {
    "zeros": nn.ZeroPad2d,
    "reflect": nn.ReflectionPad2d,
    "replicate": nn.ReplicationPad2d,
    "circular": nn.CircularPad2d,
}
_NOT_FOR_IMAGES = (
    nn.BatchNorm1d,
    nn.BatchNorm3d,
    nn.InstanceNorm1d,
    nn.InstanceNorm3d,
    nn.LocalResponseNorm,
)


class Chain(nn.Sequential):
    """Named children in the order of the data flow. A slice of a block is a plain `nn.Sequential`."""

    in_channels: int
    out_channels: int
    _shown: str

    def __getitem__(self, idx: int | slice) -> Any:
        """Return one child, or the children of a slice as an `nn.Sequential`."""
        if isinstance(idx, slice):
            return nn.Sequential(OrderedDict(list(self._modules.items())[idx]))
        return super().__getitem__(idx)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (the name in nn.Sequential)
        """Apply the children in their order to (N, in_channels, H, W)."""
        return _fusion.chained(self, input)

    def fuse(self) -> Self:
        """Return a copy with each batch norm folded into the convolution right before it.

        `timm.utils.reparameterize_model` calls this. `convblocks.deploy.fuse` sees the whole network, and does more.

        Raises:
            ValueError: the block is in training mode, in which batch norm is no fixed function.
        """
        if self.training:
            raise ValueError("fuse needs the block in evaluation mode: call eval() first")
        fused = copy.deepcopy(self)
        conv = ""
        for name, part in self.named_children():
            if isinstance(part, Chain):
                fused._modules[name] = part.fuse()
            elif type(part) is nn.BatchNorm2d and conv and part.running_mean is not None:
                fused._modules[conv] = fuse_conv_bn_eval(cast("nn.Conv2d", fused._modules[conv]), part)
                fused._modules[name] = nn.Identity()
            if not isinstance(part, nn.Identity):
                conv = name if isinstance(part, nn.Conv2d) else ""
        return fused

    def extra_repr(self) -> str:
        """Show the arguments that differ from their defaults."""
        return self._shown

    def __repr__(self) -> str:
        """Leave out the parts that are absent: a network of blocks prints what it does."""
        shown = copy.copy(self)
        shown._modules = {name: part for name, part in self._modules.items() if not isinstance(part, nn.Identity)}
        return super(Chain, shown).__repr__()


class LayerNorm2d(nn.LayerNorm):
    """`nn.LayerNorm` over the channels of (N, C, H, W), one mean and variance a pixel."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (the name in nn.LayerNorm)
        """Normalise (N, C, H, W) over C."""
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def convolution(
    in_channels: int,
    out_channels: int,
    kernel_size: IntPair,
    stride: IntPair,
    padding: Padding,
    dilation: IntPair,
    groups: int,
    bias: bool,
    padding_mode: PaddingMode,
    device: torch.device | str | None,
    dtype: torch.dtype | None,
) -> tuple[nn.Module, nn.Conv2d]:
    """Return what pads and what convolves. The first is an identity unless two sides of an axis differ."""
    kernel, steps, rates = pair("kernel_size", kernel_size, 1), pair("stride", stride, 1), pair("dilation", dilation, 1)
    grouping(groups, in_channels, out_channels)
    choice("padding_mode", padding_mode, PADDING_MODES)
    (top, bottom), (left, right) = sides(padding, kernel, rates)
    pad: nn.Module = nn.Identity()
    inside = (top, left)
    if (top, left) != (bottom, right):
        pad = _PAD_LAYERS[padding_mode]((left, right, top, bottom))
        inside = (0, 0)
    kind = nn.Conv2d if groups == 1 else DepthwiseConv2d if groups == in_channels == out_channels else GroupedConv2d
    conv = kind(
        in_channels, out_channels, kernel, steps, inside, rates, groups, bias, padding_mode, device=device, dtype=dtype
    )
    return pad, conv


def needs_bias(bias: bool | None, following: Sequence[str]) -> bool:
    """Resolve `bias=None`: no bias where a norm follows, or another convolution that makes one superfluous."""
    if bias is not None:
        flag("bias", bias)
        return bias
    return not following or following[0] not in ("norm", "conv")


def tail(
    parts: Sequence[str],
    channels: int,
    norm_layer: LayerFactory,
    act_layer: LayerFactory,
    dropout: float,
    device: torch.device | str | None,
    dtype: torch.dtype | None,
) -> dict[str, nn.Module]:
    """Return the named parts first and in their order, then identities for the others of "norm", "act" and "drop"."""
    made = {
        "norm": lambda: norm(norm_layer, channels, device, dtype),
        "act": lambda: activation(act_layer, device, dtype),
        "drop": lambda: nn.Dropout(dropout) if dropout else nn.Identity(),
    }
    named = {part: made[part]() for part in parts}
    return named | {part: nn.Identity() for part in made if part not in named}


def present(parts: Mapping[str, nn.Module]) -> list[str]:
    """Return the names of the parts that do something."""
    return [name for name, part in parts.items() if not isinstance(part, nn.Identity)]


def norm(
    norm_layer: LayerFactory, channels: int, device: torch.device | str | None, dtype: torch.dtype | None
) -> nn.Module:
    """Build a norm for (N, `channels`, H, W): batch, group and layer norm are one argument apart."""
    if norm_layer is None:
        return nn.Identity()
    base = _base(norm_layer)
    if isinstance(base, type) and issubclass(base, _NOT_FOR_IMAGES):
        raise ValueError(f"norm_layer={base.__name__} does not normalise the channels of (N, C, H, W)")
    if base is nn.GroupNorm:
        if norm_layer is nn.GroupNorm:
            raise ValueError("norm_layer=GroupNorm needs a number of groups: functools.partial(nn.GroupNorm, 8)")
        return _build("norm_layer", norm_layer, (), {"num_channels": channels}, device, dtype)
    if base is nn.LayerNorm:
        if isinstance(norm_layer, functools.partial):
            if norm_layer.args:
                raise ValueError(f"norm_layer=LayerNorm takes its shape from the channels, got {norm_layer!r}")
            return _build("norm_layer", LayerNorm2d, (channels,), norm_layer.keywords, device, dtype)
        return _build("norm_layer", LayerNorm2d, (channels,), {}, device, dtype)
    return _build("norm_layer", norm_layer, (channels,), {}, device, dtype)


def activation(act_layer: LayerFactory, device: torch.device | str | None, dtype: torch.dtype | None) -> nn.Module:
    """Build an activation."""
    return nn.Identity() if act_layer is None else _build("act_layer", act_layer, (), {}, device, dtype)


def _base(factory: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    return _base(factory.func) if isinstance(factory, functools.partial) else factory


def _build(
    name: str,
    factory: Callable[..., nn.Module],
    args: tuple[Any, ...],
    keywords: Mapping[str, Any],
    device: torch.device | str | None,
    dtype: torch.dtype | None,
) -> nn.Module:
    if isinstance(factory, nn.Module) or not callable(factory):
        raise ValueError(f"{name} must be a class, a functools.partial or None, got {factory!r}")
    placement = {"device": device, "dtype": dtype}
    base = _base(factory)
    try:
        known = inspect.signature(base).parameters
        accepted = {key: value for key, value in placement.items() if key in known}
        layer = factory(*args, **keywords, **accepted)
    except (TypeError, ValueError) as error:
        label = getattr(base, "__name__", repr(base))
        raise ValueError(f"{name}={label} cannot be built with {args or dict(keywords)}: {error}") from error
    if not is_module(layer):
        raise ValueError(f"{name} must build an nn.Module, got {type(layer).__name__} from {factory!r}")
    if "device" not in accepted and device is not None:
        layer = layer.to(device=device)
    if "dtype" not in accepted and dtype is not None:
        layer = layer.to(dtype=dtype)
    return layer


def stochastic_depth(x: Tensor, drop_path: float, training: bool) -> Tensor:
    """Drop whole samples of (N, ...) with probability `drop_path` while training, and scale the others up.

    Source: G. Huang et al., "Deep networks with stochastic depth", 2016 (arXiv:1603.09382).
    """
    if not training or drop_path == 0.0:
        return x
    keep = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(1 - drop_path)
    return x * keep.div_(1 - drop_path)
