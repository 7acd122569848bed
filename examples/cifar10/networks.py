"""Seven small CIFAR-10 networks made of convblocks' blocks: five known ones, and two of our own from frontier.py.

The five are built layer by layer as their authors published them. Every builder gives logits (N, num_classes) for
images (N, in_chans, 32, 32); the published log-softmax is part of the loss here (cross entropy on logits is the same
number). Importing this module registers them with timm, so that `timm.create_model("era_s9")` builds them.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from typing import Any, Literal

import tiniest  # noqa: F401  (registers the yardstick with timm)
from frontier import NETWORKS as FRONTIER
from frontier import frontier_100k, frontier_200k  # noqa: F401  (getattr(networks, name) finds all seven)
from pretrained import registered
from torch import nn

from convblocks import (
    ConvNormAct,
    DepthwiseSeparableConv,
    DilatedDownsample,
    GAPHead,
    JointDilatedDepthwise,
    Residual,
)

PUBLISHED = ("era_s9", "late_100k", "net4", "eva8_s6", "twelve_layer")
NETWORKS = (*PUBLISHED, *FRONTIER)


def _network(**stages: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict(stages))


@registered
def era_s9(num_classes: int = 10, in_chans: int = 3, *, dropout: float = 0.01) -> nn.Module:
    """Build the network whose only downsampling is dilation: 32 -> 30 -> 26 -> 18 -> 2 with dilations 1, 2, 4, 8.

    199,562 parameters, receptive field 47 at the last convolution; published 85.08 % after 50 epochs.
    """
    block = functools.partial(ConvNormAct, bias=False, order="conv-norm-drop-act", dropout=dropout)
    shrink = functools.partial(
        DilatedDownsample, stride=1, padding=0, bias=False, after="norm-drop-act", dropout=dropout
    )

    def separable(channels: int) -> nn.Module:
        return DepthwiseSeparableConv(
            channels, channels, 3, padding=1, bias=False, between="norm-drop-act", after="", dropout=dropout
        )

    def residual(channels: int) -> nn.Module:
        return Residual(nn.Sequential(separable(channels), separable(channels)))

    return _network(
        conv1=nn.Sequential(block(in_chans, 24, 3, padding=1), separable(24)),
        trans1=shrink(24, 32, dilation=1),
        conv2=residual(32),
        trans2=shrink(32, 64, dilation=2),
        conv3=residual(64),
        trans3=shrink(64, 96, dilation=4),
        conv4=residual(96),
        trans4=shrink(96, 96, dilation=8),
        output=GAPHead(96, num_classes, classifier="conv"),
    )


@registered
def late_100k(num_classes: int = 10, in_chans: int = 3) -> nn.Module:
    """Build the network of dilated strides and twelve depthwise separable layers.

    99,956 parameters, receptive field 133, 157 with the pool; published 85.5 % after about 269 epochs. Its pointwise
    convolutions pad by one, so that the map grows by two at each; its head has two layers after the pool.
    """
    block = functools.partial(ConvNormAct, bias=False)

    def separable(channels: int) -> nn.Module:
        return _network(
            depthwise=block(channels, channels, 3, padding=1, groups=channels),
            pointwise=block(channels, channels, 1, padding=1),
        )

    def stage(inputs: int, channels: int) -> nn.Module:
        return nn.Sequential(block(inputs, channels, 3, padding=1), *(separable(channels) for _ in range(3)))

    shrink = functools.partial(DilatedDownsample, stride=2, padding=0, dilation=2, bias=False)
    return _network(
        conv1=stage(in_chans, 32),
        trans1=shrink(32, 32),
        conv2=stage(32, 64),
        trans2=shrink(64, 16),
        conv3=stage(16, 32),
        trans3=shrink(32, 32),
        conv4=nn.Sequential(block(32, 32, 3), separable(32), block(32, 42, 3)),
        output=GAPHead(42, num_classes, classifier="conv", hidden_channels=32, act_layer=None, bias=False),
    )


@registered
def net4(num_classes: int = 10, in_chans: int = 3, *, dropout: float = 0.02) -> nn.Module:
    """Build the network of strided convolutions that ends in a joint dilated and depthwise module.

    176,234 parameters, receptive field 43 at the last convolution, 55 with the pool; published 85.26 %.
    """
    block = functools.partial(ConvNormAct, padding=1, bias=False, dropout=dropout)
    return _network(
        conv1=nn.Sequential(block(in_chans, 32, 3), block(32, 64, 3)),
        trans1=block(64, 32, 3, stride=2),
        conv2=nn.Sequential(block(32, 64, 3), block(64, 96, 3)),
        trans2=block(96, 32, 3, stride=2),
        joint=JointDilatedDepthwise(
            32, 128, padding=1, bias=False, mid_channels=64, between="", after="norm-act", dropout=dropout
        ),
        output=GAPHead(128, num_classes, hidden_channels=64, act_layer=None),
    )


@registered
def eva8_s6(
    num_classes: int = 10,
    in_chans: int = 3,
    *,
    dropout: float = 0.05,
    norm: Literal["batch", "group", "layer"] = "batch",
) -> nn.Module:
    """Build the network in which every convolution is depthwise separable, with a choice of norm.

    98,779 parameters, receptive field 51, 71 with the pool; published 85.39 % after 80 epochs. A dilated kernel of
    stride 2 stands in the place of each max-pool.

    Args:
        num_classes: length of the output.
        in_chans: channels of the image.
        dropout: after each norm.
        norm: batch norm, group norm of 4 groups, or layer norm over the channels; the same number of parameters.
    """
    norms = {"batch": nn.BatchNorm2d, "group": functools.partial(nn.GroupNorm, 4), "layer": nn.LayerNorm}
    if norm not in norms:
        raise ValueError(f"norm must be one of {', '.join(map(repr, norms))}, got {norm!r}")
    options: dict[str, Any] = {
        "bias": False,
        "between": "",
        "after": "norm-drop-act",
        "norm_layer": norms[norm],
        "dropout": dropout,
    }
    separable = functools.partial(DepthwiseSeparableConv, **options)
    pool = functools.partial(DilatedDownsample, stride=2, padding=2, dilation=2, separable=True, **options)
    return _network(
        conv1=separable(in_chans, 64, 3, padding=1),
        trans1=nn.Sequential(pool(64, 128), separable(128, 64, 1)),
        conv2=separable(64, 128, 3, padding=1),
        trans2=nn.Sequential(pool(128, 128), separable(128, 64, 1)),
        conv3=separable(64, 128, 3, padding=1),
        trans3=nn.Sequential(
            DilatedDownsample(128, 128, stride=1, padding=1, dilation=2, separable=True, **options),
            separable(128, 64, 1),
        ),
        conv4=separable(64, 128, 3, padding=1),
        output=_network(
            pool=nn.AdaptiveAvgPool2d(1),
            classes=DepthwiseSeparableConv(128, num_classes, 1, bias=False, between="", after=""),
            flatten=nn.Flatten(),
        ),
    )


@registered
def twelve_layer(num_classes: int = 10, in_chans: int = 3) -> nn.Module:
    """Build the network of twelve convolutions that ends at 1 x 1 by valid ones.

    170,106 parameters, receptive field 47; published 86.15 % after 84 epochs. A reconstruction: its authors also
    report 187,418 and 191,514 parameters for earlier versions whose layer lists do not add up to those totals and
    whose source is not public; this one meets the published total, receptive field and final size.
    """
    block = functools.partial(ConvNormAct, bias=True)
    return _network(
        conv1=nn.Sequential(block(in_chans, 16, 3, padding=1), block(16, 32, 3, padding=1)),
        trans1=block(32, 32, 3, stride=2, padding=1),
        conv2=nn.Sequential(DilatedDownsample(32, 128, stride=1, padding=0, dilation=2, bias=True), block(128, 64, 3)),
        trans2=block(64, 32, 3, stride=2, padding=1),
        conv3=DepthwiseSeparableConv(32, 64, 3, padding=1, bias=True, between=""),
        conv4=nn.Sequential(block(64, 32, 3), block(32, 16, 3)),
        output=_network(
            classes=block(16, num_classes, 1, norm_layer=None, act_layer=None),
            pool=GAPHead(num_classes, num_classes, classifier=None),
        ),
    )
