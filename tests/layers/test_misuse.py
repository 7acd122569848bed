"""Every wrong argument ends at construction, in a ValueError that names the argument, its value and what would fit."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from convblocks import (
    BlurDownsample,
    ConvNormAct,
    DepthwiseSeparableConv,
    DilatedDownsample,
    GAPHead,
    JointDilatedDepthwise,
    MixedDepthwise,
    Residual,
)

conv = partial(ConvNormAct, 4, 8, 3)
separable = partial(DepthwiseSeparableConv, 4, 8, 3)
downsample = partial(DilatedDownsample, 4, 8)
joint = partial(JointDilatedDepthwise, 4, 8)
head = partial(GAPHead, 8, 10)

CASES = [
    (lambda: ConvNormAct(0, 8, 3), "in_channels must be an integer >= 1, got 0"),
    (lambda: ConvNormAct(4, 0, 3), "out_channels must be an integer >= 1, got 0"),
    (lambda: ConvNormAct(4, 8, 0), "kernel_size must be an integer >= 1, got 0"),
    (lambda: ConvNormAct(4, 8, (3, 3, 3)), r"kernel_size must be one integer or a pair .*, got \(3, 3, 3\)"),
    (lambda: ConvNormAct(4, 8, 2.5), "kernel_size must be an integer >= 1, got 2.5"),
    (lambda: conv(stride=0), "stride must be an integer >= 1, got 0"),
    (lambda: conv(dilation=0), "dilation must be an integer >= 1, got 0"),
    (lambda: conv(dilation=(1, 0)), "dilation must be an integer >= 1, got 0"),
    (lambda: conv(padding=-1), "padding must be an integer >= 0, got -1"),
    (lambda: conv(padding="smae"), "padding must be one of 'same', 'valid', got 'smae'; did you mean 'same'?"),
    (lambda: conv(padding_mode="zero"), "padding_mode must be one of .*, got 'zero'; did you mean 'zeros'?"),
    (lambda: conv(groups=3), "groups=3 must divide in_channels=4 and out_channels=8"),
    (lambda: conv(groups=0), "groups must be an integer >= 1, got 0"),
    (lambda: conv(bias="no"), "bias must be True or False, got 'no'"),
    (lambda: conv(dropout=1.0), r"dropout must be a probability in \[0, 1\), got 1.0"),
    (lambda: conv(dropout=-0.1), r"dropout must be a probability in \[0, 1\), got -0.1"),
    (lambda: conv(order="norm-act"), "order must name 'conv', got 'norm-act'"),
    (lambda: conv(order="conv-norm-norm"), "order names 'norm' twice"),
    (lambda: conv(order="conv-bn"), "order must be made of conv, norm, act, drop joined by '-', got 'conv-bn'"),
    (lambda: conv(order=("conv", "norm")), "order must be a string"),
    (lambda: conv(order="conv-norm", dropout=0.1), "dropout=0.1 has no place: order='conv-norm'"),
    (lambda: conv(norm_layer="batch"), "norm_layer must be a class, a functools.partial or None, got 'batch'"),
    (lambda: conv(norm_layer=nn.BatchNorm2d(8)), "norm_layer must be a class, .*, got BatchNorm2d"),
    (lambda: conv(norm_layer=nn.BatchNorm1d), "norm_layer=BatchNorm1d does not normalise the channels"),
    (lambda: conv(norm_layer=nn.GroupNorm), r"norm_layer=GroupNorm needs a number of groups: functools.partial"),
    (lambda: conv(norm_layer=partial(nn.GroupNorm, 3)), "norm_layer=GroupNorm cannot be built .* divisible"),
    (
        lambda: conv(norm_layer=partial(nn.LayerNorm, (8, 4, 4))),
        "norm_layer=LayerNorm takes its shape from the channels",
    ),
    (lambda: conv(norm_layer=partial(nn.BatchNorm2d, epsilon=1)), "norm_layer=BatchNorm2d cannot be built .*epsilon"),
    (lambda: conv(norm_layer=lambda channels: channels), "norm_layer must build an nn.Module, got int"),
    (lambda: conv(act_layer="relu"), "act_layer must be a class, a functools.partial or None, got 'relu'"),
    (lambda: conv(act_layer=F.relu), "act_layer=relu cannot be built"),
    (lambda: conv(act_layer=nn.ReLU()), "act_layer must be a class, .*, got ReLU"),
    (lambda: separable(depth_multiplier=0), "depth_multiplier must be an integer >= 1, got 0"),
    (lambda: separable(depth_multiplier=0.5), "depth_multiplier must be an integer >= 1, got 0.5"),
    (lambda: separable(between="conv"), "between must be made of norm, act, drop joined by '-', got 'conv'"),
    (lambda: separable(after=None), "after must be a string such as 'norm-act', got None"),
    (lambda: separable(after="norm-act", dropout=0.1), "dropout=0.1 has no place"),
    (lambda: separable(anti_alias=2), "anti_alias must be True or False, got 2"),
    (lambda: separable(residual=True, padding="same"), "residual=True needs in_channels == out_channels, got 4 and 8"),
    (lambda: DepthwiseSeparableConv(4, 4, 3, residual=True), r"residual=True needs a padding .* by \[-2, -2\]"),
    (lambda: DepthwiseSeparableConv(4, 4, 3, 2, "same", residual=True), "residual=True needs stride 1, got stride=2"),
    (lambda: separable(drop_path=0.1), "drop_path=0.1 needs residual=True"),
    (lambda: downsample(stride=1), "must make the map smaller, but stride=1, padding='same'"),
    (lambda: downsample(stride=1, padding=(0, 2)), "keep or enlarge its width"),
    (lambda: downsample(groups=4, separable=True), "groups=4 has no use with separable=True"),
    (lambda: downsample(between="norm"), "between='norm' has no use with separable=False"),
    (lambda: downsample(separable=1), "separable must be True or False, got 1"),
    (
        lambda: DilatedDownsample.to_size(4, 8, input_size=32, output_size=15),
        "dilation 8 gives 16, dilation 9 gives 14",
    ),
    (
        lambda: DilatedDownsample.to_size(4, 8, input_size=(32, 9), output_size=(16, 4)),
        "input_size=9 into output_size=4",
    ),
    (lambda: DilatedDownsample.to_size(4, 8, padding="same", input_size=32, output_size=16), "at every dilation"),
    (lambda: joint(mid_channels=0), "mid_channels must be an integer >= 1, got 0"),
    (lambda: joint(order="conv", between="", after="", dropout=0.1), "dropout=0.1 has no place"),
    (lambda: joint(depthwise_padding="smae"), "depthwise_padding must be one of .* did you mean 'same'?"),
    (lambda: joint(depthwise_kernel_size=0), "depthwise_kernel_size must be an integer >= 1, got 0"),
    (lambda: joint(depthwise_stride=0), "depthwise_stride must be an integer >= 1, got 0"),
    (lambda: joint(depthwise_dilation=0), "depthwise_dilation must be an integer >= 1, got 0"),
    (lambda: MixedDepthwise(8, 3), "kernel_sizes must be a sequence with an entry for each kernel, got 3"),
    (lambda: MixedDepthwise(8, ()), r"kernel_sizes must be a sequence with an entry for each kernel, got \(\)"),
    (lambda: MixedDepthwise(8, (1, 0)), r"kernel_sizes\[1\] must be an integer >= 1, got 0"),
    (lambda: MixedDepthwise(8, (1, 3), (1, 0)), r"dilations\[1\] must be an integer >= 1, got 0"),
    (lambda: MixedDepthwise(8, (1, 3), (1,)), r"dilations must have one entry .* 2 kernel_sizes, got \(1,\)"),
    (lambda: MixedDepthwise(8, (1, 3), 2), "dilations must be a sequence with an entry for each kernel, got 2"),
    (lambda: MixedDepthwise(2, (1, 3, 5)), "in_channels=2 must be at least one for each of 3 kernel_sizes"),
    (lambda: MixedDepthwise(0, (1,)), "in_channels must be an integer >= 1, got 0"),
    (lambda: MixedDepthwise(8, (3,), bias="no"), "bias must be True or False, got 'no'"),
    (lambda: MixedDepthwise(8, (3,), padding_mode="zero"), "padding_mode must be one of .*, got 'zero'"),
    (lambda: head(classifier="fc"), "classifier must be one of 'linear', 'conv', got 'fc'"),
    (lambda: head(classifier=None), "in_channels=8 must equal num_classes=10"),
    (lambda: GAPHead(10, 10, classifier=None, hidden_channels=4), "hidden_channels=4 needs a classifier"),
    (lambda: head(hidden_channels=0), "hidden_channels must be an integer >= 1, got 0"),
    (lambda: GAPHead(8, 0), "num_classes must be an integer >= 1, got 0"),
    (lambda: head(dropout=2), "dropout must be a probability"),
    (lambda: BlurDownsample(0), "stride must be an integer >= 1, got 0"),
    (lambda: Residual(torch.relu), "fn must be an nn.Module, got <built-in"),
    (lambda: Residual(nn.ReLU(), drop_path=1), "drop_path must be a probability"),
]


@pytest.mark.parametrize(("build", "message"), CASES, ids=[message for _, message in CASES])
def test_wrong_argument_is_named(build, message):
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        build()


@pytest.mark.parametrize("wrong", [(1, 4, 3, 3), (1, 1, 5, 5), (1, 4, 5, 1)])
def test_residual_refuses_what_torch_would_broadcast(wrong):
    class Reshapes(nn.Module):
        def forward(self, x):
            return torch.ones(wrong)

    with pytest.raises(ValueError, match=r"fn turned \(1, 4, 5, 5\) into"):
        Residual(Reshapes())(torch.zeros(1, 4, 5, 5))
