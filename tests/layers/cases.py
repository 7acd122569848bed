"""Every block, with every option that changes its structure: name -> (builder, input shape)."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from torch import nn

from convblocks import (
    ConvNormAct,
    DepthwiseSeparableConv,
    DilatedDownsample,
    GAPHead,
    JointDilatedDepthwise,
    MixedDepthwise,
    Residual,
)

Builder = Callable[..., nn.Module]


def _residual(**options: Any) -> nn.Module:
    return Residual(ConvNormAct(4, 4, 3, padding=1, **options), drop_path=0.5)


CASES: dict[str, tuple[Builder, tuple[int, ...]]] = {
    "conv": (partial(ConvNormAct, 3, 8, 3, padding="same"), (2, 3, 9, 11)),
    "conv-even-kernel-same": (partial(ConvNormAct, 3, 8, 4, stride=2, padding="same"), (2, 3, 9, 11)),
    "conv-circular-one-sided": (partial(ConvNormAct, 3, 8, 2, padding="same", padding_mode="circular"), (2, 3, 9, 11)),
    "conv-groups-bias-dropout": (partial(ConvNormAct, 4, 8, 3, groups=2, bias=True, dropout=0.3), (2, 4, 9, 11)),
    "conv-preactivation": (partial(ConvNormAct, 3, 8, 3, order="norm-act-conv"), (2, 3, 9, 11)),
    "conv-group-norm": (partial(ConvNormAct, 3, 8, 3, norm_layer=partial(nn.GroupNorm, 2)), (2, 3, 9, 11)),
    "conv-layer-norm-prelu": (
        partial(ConvNormAct, 3, 8, 3, norm_layer=partial(nn.LayerNorm, eps=1e-6), act_layer=nn.PReLU),
        (2, 3, 9, 11),
    ),
    "conv-bare": (partial(ConvNormAct, 3, 8, 3, norm_layer=None, act_layer=None), (2, 3, 9, 11)),
    "separable": (partial(DepthwiseSeparableConv, 4, 6, 3, padding=1), (2, 4, 9, 11)),
    "separable-after-only": (
        partial(DepthwiseSeparableConv, 4, 6, 3, between="", after="norm-drop-act"),
        (2, 4, 9, 11),
    ),
    "separable-between-only": (partial(DepthwiseSeparableConv, 4, 6, 3, between="norm-act", after=""), (2, 4, 9, 11)),
    "separable-bare": (partial(DepthwiseSeparableConv, 4, 6, 1, between="", after=""), (2, 4, 9, 11)),
    "separable-multiplier": (partial(DepthwiseSeparableConv, 4, 6, 3, depth_multiplier=3, dropout=0.2), (2, 4, 9, 11)),
    "separable-blurred": (
        partial(DepthwiseSeparableConv, 4, 6, 3, stride=2, padding="same", anti_alias=True),
        (2, 4, 9, 11),
    ),
    "separable-residual": (
        partial(DepthwiseSeparableConv, 4, 4, (3, 5), padding="same", residual=True, drop_path=0.5),
        (2, 4, 9, 11),
    ),
    "downsample": (partial(DilatedDownsample, 4, 6), (2, 4, 9, 11)),
    "downsample-depthwise": (partial(DilatedDownsample, 4, 8, groups=4), (2, 4, 9, 11)),
    "downsample-separable": (partial(DilatedDownsample, 4, 6, separable=True), (2, 4, 9, 11)),
    "downsample-to-size": (
        partial(DilatedDownsample.to_size, 4, 6, input_size=(9, 11), output_size=(5, 5)),
        (2, 4, 9, 11),
    ),
    "joint": (partial(JointDilatedDepthwise, 4, 6, mid_channels=8), (2, 4, 9, 11)),
    "mixed": (partial(MixedDepthwise, 7, (1, 3, 5), (1, 2, 1)), (2, 7, 9, 11)),
    "mixed-even-kernel-circular-bias": (
        partial(MixedDepthwise, 4, (4, (1, 3)), bias=True, padding_mode="circular"),
        (2, 4, 9, 11),
    ),
    "head-linear": (partial(GAPHead, 4, 5, hidden_channels=7, dropout=0.2), (2, 4, 9, 11)),
    "head-conv-log-softmax": (partial(GAPHead, 4, 5, classifier="conv", log_softmax=True), (2, 4, 9, 11)),
    "head-none": (partial(GAPHead, 5, 5, classifier=None), (2, 5, 9, 11)),
    "residual": (_residual, (2, 4, 9, 11)),
}

every_block = pytest.mark.parametrize(("build", "shape"), CASES.values(), ids=CASES.keys())
