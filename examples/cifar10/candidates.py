"""What search.py chooses from: networks of one family, each under 100,000 parameters, each differing by one idea.

A candidate is a stem, two or three stages of residual blocks, and a head; a block looks around depthwise, then mixes
the channels at each pixel. Losers stay here, so that the comparison can be made again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import timm.layers
from torch import nn

from convblocks import ConvNormAct, DilatedDownsample, GAPHead, GatedPointwise, MixedDepthwise, Residual

Kernels = tuple[tuple[int, ...], tuple[int, ...]]
"""Kernel sizes and dilations, side by side."""

MIXED: Kernels = (1, 3, 5, 5), (1, 1, 1, 2)
LARGE: Kernels = (1, 3, 7, 7), (1, 1, 1, 3)
LATE: Kernels = (1, 3, 5, 3), (1, 1, 1, 2)
FIVE: Kernels = (5,), (1,)
FIVE_DILATED: Kernels = (5,), (2,)


def gated(channels: int) -> nn.Module:
    """Pointwise, gate, pointwise."""
    return GatedPointwise(channels, channels)


def inverted(channels: int) -> nn.Module:
    """Pointwise to twice the width, ReLU, pointwise back."""
    return nn.Sequential(
        ConvNormAct(channels, 2 * channels, 1, norm_layer=None),
        ConvNormAct(2 * channels, channels, 1, act_layer=None),
    )


def single(channels: int) -> nn.Module:
    """ReLU and one pointwise convolution: a plain depthwise separable block."""
    return nn.Sequential(nn.ReLU(), ConvNormAct(channels, channels, 1, act_layer=None))


def squeezed(channels: int) -> nn.Module:
    """The gated one, then squeeze-and-excite."""
    return nn.Sequential(gated(channels), timm.layers.SqueezeExcite(channels, rd_channels=channels // 8))


def dense_block(channels: int) -> nn.Module:
    """Two dense 3x3 convolutions, as in a ResNet."""
    return Residual(
        nn.Sequential(
            ConvNormAct(channels, channels, 3, padding="same"),
            ConvNormAct(channels, channels, 3, padding="same", act_layer=None),
        )
    )


def network(
    widths: Sequence[int],
    depths: Sequence[int],
    kernels: Sequence[Kernels],
    mix: Callable[[int], nn.Module],
    *,
    groups: int = 8,
    dense_first: bool = False,
    shared: bool = False,
) -> nn.Module:
    """Build a candidate.

    Args:
        widths: Channels of each stage; a strided 4x4 stands between two.
        depths: Blocks of each stage.
        kernels: Of each stage's depthwise part.
        mix: Builds what mixes the channels.
        groups: Of the strided convolutions.
        dense_first: The first stage has dense blocks instead.
        shared: The blocks of a stage share the weights that mix.
    """
    layers: list[nn.Module] = [ConvNormAct(3, widths[0], 3, padding="same", act_layer=None)]
    for stage, (width, depth, (sizes, dilations)) in enumerate(zip(widths, depths, kernels, strict=True)):
        if stage:
            before = widths[stage - 1]
            layers.append(DilatedDownsample(before, width, 4, 2, 1, 1, groups, after="norm"))
        one = mix(width)
        for _ in range(depth):
            if dense_first and not stage:
                layers.append(dense_block(width))
            else:
                around = MixedDepthwise(width, sizes, dilations)
                mixing = one if shared else mix(width)
                layers.append(Residual(nn.Sequential(around, nn.BatchNorm2d(width), mixing)))
    layers.append(GAPHead(widths[-1], 10))
    return nn.Sequential(*layers)


CANDIDATES: dict[str, Callable[[], nn.Module]] = {
    "gated, mixed kernels, 3 stages": lambda: network((32, 56, 80), (2, 3, 2), (MIXED, MIXED, LATE), gated),
    "inverted": lambda: network((32, 48, 72), (2, 3, 2), (MIXED, MIXED, LATE), inverted),
    "2 stages": lambda: network((48, 80), (3, 3), (MIXED, MIXED), gated, groups=16),
    "larger kernels": lambda: network((32, 56, 80), (2, 3, 2), (LARGE, LARGE, LATE), gated),
    "separable 5x5": lambda: network((32, 64, 104), (2, 3, 4), (FIVE, FIVE, FIVE_DILATED), single),
    "5x5 alone": lambda: network((32, 56, 80), (2, 3, 2), (FIVE, FIVE, FIVE_DILATED), gated),
    "later blocks": lambda: network((32, 48, 80), (1, 2, 3), (MIXED, MIXED, LATE), gated),
    "squeeze-excite": lambda: network((32, 56, 72), (2, 3, 2), (MIXED, MIXED, LATE), squeezed),
    "dense first stage": lambda: network((24, 56, 80), (1, 3, 2), (MIXED, MIXED, LATE), gated, dense_first=True),
    "shared weights": lambda: network((48, 80, 104), (2, 3, 2), (MIXED, MIXED, LATE), gated, shared=True),
}
"""By the idea in which each differs from the first."""
