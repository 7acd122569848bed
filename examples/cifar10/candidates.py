"""What search.py chooses from: networks of one family, each under 100,000 parameters, each differing by one idea.

A candidate is a stem, two or three stages of residual blocks, and a head; a block looks around depthwise, then mixes
the channels at each pixel. Losers stay here, so that the comparison can be made again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import frontier
import timm.layers
import tiniest
from torch import Tensor, nn

from convblocks import ConvNormAct, DilatedDownsample, GAPHead, MixedDepthwise, Residual

Kernels = tuple[tuple[int, ...], tuple[int, ...]]
"""Kernel sizes and dilations, side by side."""

MIXED: Kernels = (1, 3, 5, 5), (1, 1, 1, 2)
LARGE: Kernels = (1, 3, 7, 7), (1, 1, 1, 3)
LATE: Kernels = (1, 3, 5, 3), (1, 1, 1, 2)
FIVE: Kernels = (5,), (1,)
FIVE_DILATED: Kernels = (5,), (2,)


class Gated(nn.Module):
    """Pointwise, one half gates the other, pointwise: a gated linear unit at every pixel.

    Source: N. Shazeer, "GLU variants improve transformer", 2020 (arXiv:2002.05202).
    """

    def __init__(self, channels: int, act: nn.Module) -> None:
        super().__init__()
        self.expand = nn.Conv2d(channels, 2 * channels, 1)
        self.act = act
        self.project = nn.Conv2d(channels, channels, 1, bias=False)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.expand(x).chunk(2, 1)
        return self.bn(self.project(value * self.act(gate)))


def gated(channels: int) -> nn.Module:
    """The gate passes through SiLU."""
    return Gated(channels, nn.SiLU())


def gated_sigmoid(channels: int) -> nn.Module:
    """A gate that is at most 1."""
    return Gated(channels, nn.Sigmoid())


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
    """The inverted one, then squeeze-and-excite."""
    return nn.Sequential(inverted(channels), timm.layers.SqueezeExcite(channels, rd_channels=channels // 8))


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
) -> nn.Module:
    """Build a candidate.

    Args:
        widths: Channels of each stage; a strided 4x4 stands between two.
        depths: Blocks of each stage.
        kernels: Of each stage's depthwise part.
        mix: Builds what mixes the channels.
        groups: Of the strided convolutions.
        dense_first: The first stage has dense blocks instead.
    """
    layers: list[nn.Module] = [ConvNormAct(3, widths[0], 3, padding="same", act_layer=None)]
    for stage, (width, depth, (sizes, dilations)) in enumerate(zip(widths, depths, kernels, strict=True)):
        if stage:
            before = widths[stage - 1]
            layers.append(DilatedDownsample(before, width, 4, 2, 1, 1, groups, after="norm"))
        for _ in range(depth):
            if dense_first and not stage:
                layers.append(dense_block(width))
            else:
                around = MixedDepthwise(width, sizes, dilations)
                layers.append(Residual(nn.Sequential(around, nn.BatchNorm2d(width), mix(width))))
    layers.append(GAPHead(widths[-1], 10))
    return nn.Sequential(*layers)


def four_stages() -> nn.Module:
    """The shape of frontier_100k before `separable 5x5` was measured: "inverted" with its last stage in two."""
    widths, depths = (32, 48, 72, 72), (2, 3, 1, 1)
    layers: list[nn.Module] = [ConvNormAct(3, widths[0], 3, padding="same", act_layer=None)]
    for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
        if stage and width > widths[stage - 1]:
            layers.append(DilatedDownsample(widths[stage - 1], width, 3, 2, "same", 1, 4, after="norm"))
        for _ in range(depth):
            around = MixedDepthwise(width, *(MIXED if stage < 2 else LATE))
            layers.append(Residual(nn.Sequential(around, nn.BatchNorm2d(width), inverted(width))))
    layers.append(GAPHead(widths[-1], 10))
    return nn.Sequential(*layers)


MIXED_3 = MIXED, MIXED, LATE
FIVE_3 = FIVE, FIVE, FIVE_DILATED

CANDIDATES: dict[str, Callable[[], nn.Module]] = {
    "gated, mixed kernels, 3 stages": lambda: network((32, 56, 80), (2, 3, 2), MIXED_3, gated),
    "inverted": lambda: network((32, 48, 72), (2, 3, 2), MIXED_3, inverted),
    "inverted, 4 stages": four_stages,
    "2 stages": lambda: network((40, 64), (3, 4), (MIXED, MIXED), inverted),
    "5x5 alone": lambda: network((32, 48, 64), (2, 4, 2), FIVE_3, inverted, groups=16),
    "squeeze-excite": lambda: network((32, 48, 64), (2, 3, 2), MIXED_3, squeezed),
    "separable 5x5": lambda: network((32, 64, 104), (2, 3, 4), FIVE_3, single),
    "frontier_100k": frontier.frontier_100k,
    "dense first stage": lambda: network((24, 48, 72), (1, 3, 2), MIXED_3, inverted, dense_first=True),
    "gated by sigmoid": lambda: network((32, 56, 80), (2, 3, 2), MIXED_3, gated_sigmoid),
    "larger kernels": lambda: network((32, 48, 72), (2, 3, 2), (LARGE, LARGE, LATE), inverted),
    "tiniest, published": tiniest.tiniest,
    "later blocks": lambda: network((32, 40, 72), (1, 2, 3), MIXED_3, inverted),
}
"""By what sets each apart: the first is gated, those after it are inverted unless they say otherwise.

`tiniest, published` is the yardstick: not of this family, and not ours.
"""
