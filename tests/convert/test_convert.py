"""Weights of other libraries' blocks give the same outputs in ours, or the report says what did not match."""

import importlib.util
from functools import partial

import pytest
import timm.layers
import torch
import torchvision
from timm.models._efficientnet_blocks import DepthwiseSeparableConv as TimmSeparable
from torch import nn

import convblocks as cb
from convblocks.convert import convert_state_dict
from tests.convert.mmcv_like import ConvModule, DepthwiseSeparableConvModule
from tests.deploy.test_fuse import shaken

conv_bn_relu6 = torchvision.ops.Conv2dNormActivation
same = {"padding": "same"}

PAIRS = {
    "timm ConvNormAct": (
        lambda: timm.layers.ConvNormAct(6, 8, 3, stride=2),
        lambda: cb.ConvNormAct(6, 8, 3, 2, "same"),
    ),
    "timm ConvNormAct, eps and group": (
        lambda: timm.layers.ConvNormAct(6, 8, 3, norm_layer=partial(timm.layers.GroupNormAct, num_groups=2)),
        lambda: cb.ConvNormAct(6, 8, 3, **same, norm_layer=partial(nn.GroupNorm, 2)),
    ),
    "timm SeparableConvNormAct": (
        lambda: timm.layers.SeparableConvNormAct(6, 8, 5, stride=2),
        lambda: cb.DepthwiseSeparableConv(6, 8, 5, 2, "same", between=""),
    ),
    "timm SeparableConv2d": (
        lambda: timm.layers.SeparableConv2d(6, 8, 3, dilation=2),
        lambda: cb.DepthwiseSeparableConv(6, 8, 3, 1, "same", 2, between="", after="", bias=False),
    ),
    "timm DepthwiseSeparableConv": (
        lambda: TimmSeparable(6, 6),
        lambda: cb.DepthwiseSeparableConv(6, 6, 3, **same, after="norm", residual=True),
    ),
    "torchvision Conv2dNormActivation": (
        lambda: conv_bn_relu6(6, 8, 3, 2, activation_layer=nn.ReLU6),
        lambda: cb.ConvNormAct(6, 8, 3, 2, "same", act_layer=nn.ReLU6),
    ),
    "torchvision pair": (
        lambda: nn.Sequential(conv_bn_relu6(6, 6, 3, groups=6), conv_bn_relu6(6, 8, 1, activation_layer=None)),
        lambda: cb.DepthwiseSeparableConv(6, 8, 3, **same, after="norm"),
    ),
    "torchvision MobileNetV2 without expansion": (
        lambda: torchvision.models.mobilenetv2.InvertedResidual(6, 6, 1, 1),
        lambda: cb.DepthwiseSeparableConv(6, 6, 3, **same, after="norm", act_layer=nn.ReLU6, residual=True),
    ),
    "mmcv ConvModule": (lambda: ConvModule(6, 8, 3, padding=1), lambda: cb.ConvNormAct(6, 8, 3, padding=1)),
    "mmcv ConvModule, pre-activation": (
        lambda: ConvModule(6, 6, 3, padding=1, order=("norm", "act", "conv")),
        lambda: cb.ConvNormAct(6, 6, 3, padding=1, order="norm-act-conv", bias=False),
    ),
    "mmcv ConvModule, group norm": (
        lambda: ConvModule(6, 8, 3, norm="GN", dilation=2),
        lambda: cb.ConvNormAct(6, 8, 3, dilation=2, norm_layer=partial(nn.GroupNorm, 2)),
    ),
    "mmcv DepthwiseSeparableConvModule": (
        lambda: DepthwiseSeparableConvModule(6, 8, 3, stride=2, padding=1),
        lambda: cb.DepthwiseSeparableConv(6, 8, 3, 2, 1),
    ),
    "equal norms": (
        lambda: nn.Sequential(nn.Conv2d(6, 6, 3, groups=6, bias=False), nn.BatchNorm2d(6), nn.ReLU()).extend(
            [nn.Conv2d(6, 6, 1, bias=False), nn.BatchNorm2d(6), nn.ReLU()]
        ),
        lambda: cb.DepthwiseSeparableConv(6, 6, 3),
    ),
}


@pytest.mark.parametrize(("theirs", "ours"), PAIRS.values(), ids=PAIRS)
@pytest.mark.parametrize("by_module", [True, False], ids=["module", "state dict"])
def test_the_outputs_are_equal(theirs, ours, by_module):
    theirs = shaken(theirs())
    for part in theirs.modules():
        if isinstance(part, nn.GroupNorm):
            nn.init.uniform_(part.weight, 0.5, 1.5)
    torch.manual_seed(1)
    ours = ours().eval()
    x = torch.randn(2, 6, 11, 11)
    with torch.no_grad():
        expected = theirs(x.clone())
        assert (ours(x) - expected).abs().max() > 1e-3
        weights, report = convert_state_dict(theirs if by_module else theirs.state_dict(), ours)
        ours.load_state_dict(weights)
        torch.testing.assert_close(ours(x), expected, rtol=1e-6, atol=1e-6)
    assert report.complete, str(report)
    assert len(weights) == len(theirs.state_dict())
    # Buffers too.
    assert sum("running" in key or "tracked" in key for key in weights) == len(list(ours.buffers()))


@pytest.mark.parametrize(("theirs", "ours"), PAIRS.values(), ids=PAIRS)
def test_the_report_compares_the_outputs_where_a_size_is_given(theirs, ours):
    _, report = convert_state_dict(shaken(theirs()), ours(), input_size=(6, 11, 11))
    assert report.max_difference is not None
    assert report.max_difference < 1e-6


@pytest.mark.skipif(importlib.util.find_spec("mmcv") is None, reason="mmcv is not installed: tested on a stand-in")
@pytest.mark.filterwarnings("ignore")
def test_mmcv_itself_registers_what_the_stand_in_does():
    from mmcv import cnn  # pyright: ignore[reportMissingImports]

    bn = {"type": "BN"}
    for real, stand_in in (
        (cnn.ConvModule(6, 8, 3, norm_cfg=bn), ConvModule(6, 8, 3)),
        (cnn.DepthwiseSeparableConvModule(6, 8, 3, norm_cfg=bn), DepthwiseSeparableConvModule(6, 8, 3)),
    ):
        assert list(real.state_dict()) == list(stand_in.state_dict())
        stand_in.load_state_dict(shaken(real).state_dict())
        x = torch.randn(1, 6, 9, 9)
        torch.testing.assert_close(stand_in.eval()(x), real(x))


class Swapped(nn.Module):
    """Defines its layers in another order than it calls them."""

    def __init__(self):
        super().__init__()
        self.second, self.first = nn.Conv2d(6, 6, 1), nn.Conv2d(6, 6, 1)

    def forward(self, x):
        return self.second(self.first(x))


def test_the_order_is_that_of_the_forward_pass_where_a_size_is_given():
    target = nn.Sequential(nn.Conv2d(6, 6, 1), nn.Conv2d(6, 6, 1))
    _, report = convert_state_dict(Swapped(), target)
    assert report.layers == {"0": "second", "1": "first"}
    _, report = convert_state_dict(Swapped(), target, input_size=(6, 4, 4))
    assert report.layers == {"0": "first", "1": "second"}
    assert report.max_difference == 0


def test_what_did_not_match_is_listed():
    theirs = TimmSeparable(8, 8, se_layer=timm.layers.SqueezeExcite)
    ours = cb.DepthwiseSeparableConv(8, 8, 5, padding="same")
    weights, report = convert_state_dict(theirs, ours)
    assert report.layers == {"bn1": "bn1", "conv_pw": "conv_pw", "bn2": "bn2"}
    assert list(report.missing) == ["conv_dw"]
    assert list(report.unused) == ["conv_dw", "se.fc1", "se.fc2"]
    assert "the source has 0 layers of weight (8, 1, 5, 5), the target 1" in str(report)
    assert not report.complete
    with pytest.raises(RuntimeError, match="Missing key"):
        ours.load_state_dict(weights)


def test_unequal_numbers_of_equal_layers_match_by_name_alone():
    theirs = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1))
    _, report = convert_state_dict(theirs, nn.Sequential(nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)))
    assert report.layers == {"0": "0", "1": "1"}
    assert list(report.unused) == ["2"]


def test_settings_that_weights_do_not_hold_are_compared():
    theirs = nn.Sequential(nn.Conv2d(3, 4, 3, 2, bias=False), nn.BatchNorm2d(4, eps=1e-3))
    _, report = convert_state_dict(theirs, cb.ConvNormAct(3, 4, 3))
    assert report.differences == ["conv: stride is (1, 1), and (2, 2) in 0", "bn: eps is 1e-05, and 0.001 in 1"]


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (nn.ReLU(), "source holds no tensors"),
        ({}, "source holds no tensors"),
        ({"weight": 3}, "source must be an nn.Module or a state dict of names and tensors, got 'weight' in it"),
        ("weights.pt", "source must be an nn.Module or a state dict of names and tensors, got str"),
    ],
)
def test_a_source_without_weights_is_refused(source, reason):
    with pytest.raises(ValueError, match=reason):
        convert_state_dict(source, cb.ConvNormAct(3, 4, 3))
