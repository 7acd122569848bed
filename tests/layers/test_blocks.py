"""What each block is, case by case: given arguments, expected parts and sizes."""

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

ABSENT = nn.Identity


def parts(block):
    """Names of the children that do something, in the order of the data flow."""
    return [name for name, part in block.named_children() if not isinstance(part, ABSENT)]


def count(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ["conv", "bn", "act"]),
        ({"dropout": 0.1}, ["conv", "bn", "act", "drop"]),
        ({"order": "conv-norm-drop-act", "dropout": 0.1}, ["conv", "bn", "drop", "act"]),
        ({"order": "conv-act-norm"}, ["conv", "act", "bn"]),
        ({"order": "norm-act-conv"}, ["bn", "act", "conv"]),
        ({"norm_layer": None}, ["conv", "act"]),
        ({"norm_layer": None, "act_layer": None}, ["conv"]),
        ({"kernel_size": 2, "padding": "same"}, ["pad", "conv", "bn", "act"]),
    ],
)
def test_conv_norm_act_order(options, expected):
    assert parts(ConvNormAct(3, 8, **{"kernel_size": 3, **options})) == expected


@pytest.mark.parametrize(
    ("between", "after", "expected"),
    [
        ("norm-act", "norm-act", ["conv_dw", "bn1", "act1", "conv_pw", "bn2", "act2"]),
        ("norm-act", "norm", ["conv_dw", "bn1", "act1", "conv_pw", "bn2"]),
        ("norm-drop-act", "", ["conv_dw", "bn1", "drop1", "act1", "conv_pw"]),
        ("", "norm-drop-act", ["conv_dw", "conv_pw", "bn2", "drop2", "act2"]),
        ("", "norm-act-drop", ["conv_dw", "conv_pw", "bn2", "act2", "drop2"]),
        ("drop", "", ["conv_dw", "drop1", "conv_pw"]),
    ],
)
def test_separable_placements(between, after, expected):
    assert (
        parts(DepthwiseSeparableConv(4, 8, 3, between=between, after=after, dropout=0.1 * ("drop" in between + after)))
        == expected
    )


@pytest.mark.parametrize(
    ("options", "depthwise", "pointwise"),
    [
        ({}, False, False),
        ({"bias": True}, True, True),
        ({"bias": False, "between": "", "after": ""}, False, False),
        ({"between": "", "after": ""}, False, True),
        ({"between": "act", "after": "norm"}, True, False),
        ({"norm_layer": None}, True, True),
        ({"norm_layer": None, "act_layer": None}, False, True),
    ],
)
def test_bias_reaches_both_convolutions_and_none_means_where_it_matters(options, depthwise, pointwise):
    block = DepthwiseSeparableConv(4, 8, 3, **options)
    assert (block.conv_dw.bias is not None, block.conv_pw.bias is not None) == (depthwise, pointwise)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, False),
        ({"norm_layer": None}, True),
        ({"order": "conv-act-norm"}, True),
        ({"order": "norm-act-conv"}, True),
        ({"order": "conv-drop-norm", "dropout": 0.1}, True),
        ({"order": "conv-drop-norm"}, False),
        ({"bias": True}, True),
        ({"bias": False, "norm_layer": None}, False),
    ],
)
def test_bias_none_means_none_where_a_norm_follows(options, expected):
    assert (ConvNormAct(3, 8, 3, **options).conv.bias is not None) == expected


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize(("kernel_size", "padding"), [(3, 1), (2, "same")])
def test_padding_mode_is_not_turned_into_zeros(mode, kernel_size, padding):
    """Both ways of padding: inside the convolution, and before it where two sides differ."""
    block = ConvNormAct(
        1, 1, kernel_size, padding=padding, padding_mode=mode, bias=False, norm_layer=None, act_layer=None
    )
    nn.init.ones_(block.conv.weight)
    x = torch.arange(1.0, 10.0).reshape(1, 1, 3, 3)
    before = 1 if padding == 1 else 0
    padded = F.pad(x, (before, 1, before, 1), mode="constant" if mode == "zeros" else mode)
    assert torch.equal(block(x), F.conv2d(padded, torch.ones(1, 1, kernel_size, kernel_size)))


def test_layer_norm_normalises_over_channels():
    block = ConvNormAct(4, 4, 1, norm_layer=nn.LayerNorm, act_layer=None)
    out = block(torch.randn(2, 4, 3, 3))
    torch.testing.assert_close(out.mean(1), torch.zeros(2, 3, 3), atol=1e-6, rtol=0)
    torch.testing.assert_close(out.var(1, unbiased=False), torch.ones(2, 3, 3), atol=1e-2, rtol=0)


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, partial(nn.GroupNorm, 2), nn.LayerNorm])
def test_norms_are_one_argument_apart(norm):
    """The same keys and the same number of parameters; only statistics differ."""
    block, plain = ConvNormAct(3, 8, 3, norm_layer=norm), ConvNormAct(3, 8, 3)
    assert {name for name, _ in block.named_parameters()} == {name for name, _ in plain.named_parameters()}
    assert count(block) == count(plain)


def test_a_norm_of_ones_own_that_knows_no_device_is_moved_there():
    class Scale(nn.Module):
        def __init__(self, channels):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(channels, 1, 1))

        def forward(self, x):
            return x * self.weight

    block = ConvNormAct(3, 8, 3, norm_layer=Scale, device="meta", dtype=torch.float16)
    assert (block.bn.weight.device.type, block.bn.weight.dtype) == ("meta", torch.float16)


def switched(**options):
    return DepthwiseSeparableConv(4, 4, 3, **{"padding": "same", "bias": False, **options})


@pytest.mark.parametrize(
    "options",
    [
        {"dropout": 0.5},
        {"act_layer": None},
        {"act_layer": nn.SiLU},
        {"residual": True, "drop_path": 0.1},
        {"stride": 2, "anti_alias": True},
        {"padding": 0, "dilation": 2},
        {"between": "act-norm", "after": "drop-norm"},
        {"kernel_size": 2},
    ],
)
def test_state_dict_keys_do_not_depend_on_options_without_parameters(options):
    assert list(
        DepthwiseSeparableConv(4, 4, **{"kernel_size": 3, "padding": "same", "bias": False, **options}).state_dict()
    ) == list(switched().state_dict())


@pytest.mark.parametrize(
    ("options", "gone"),
    [({"norm_layer": None}, {"bn1", "bn2"}), ({"between": "act"}, {"bn1"}), ({"after": ""}, {"bn2"})],
)
def test_a_part_switched_off_takes_its_own_keys_and_no_other(options, gone):
    everything, rest = (set(block.state_dict()) for block in (switched(), switched(**options)))
    assert everything - rest == {key for key in everything if key.split(".")[0] in gone}
    assert rest <= everything


@pytest.mark.parametrize(("rates", "sizes"), [([1, 2, 4, 8], [32, 30, 26, 18, 2])])
def test_valid_dilation_without_a_stride(rates, sizes):
    x = torch.zeros(1, 4, sizes[0], sizes[0])
    for dilation, size in zip(rates, sizes[1:], strict=True):
        x = DilatedDownsample(4, 4, stride=1, padding=0, dilation=dilation).eval()(x)
        assert x.shape[2:] == (size, size)


@pytest.mark.parametrize("separable", [False, True])
def test_downsample_stands_in_for_max_pool(separable):
    x = torch.zeros(1, 4, 32, 32)
    for options in ({}, {"padding": 2}):
        block = DilatedDownsample(4, 4, separable=separable, **options).eval()
        assert block(x).shape == nn.MaxPool2d(2)(x).shape
        assert block(block(x)).shape[2:] == (8, 8)


def test_downsample_with_part_of_the_padding():
    assert DilatedDownsample(4, 4, stride=1, padding=1).eval()(torch.zeros(1, 4, 8, 8)).shape[2:] == (6, 6)


def test_to_size_solves_each_axis():
    block = DilatedDownsample.to_size(4, 6, input_size=(32, 16), output_size=(16, 8))
    assert block.conv.dilation == (8, 4)
    assert type(block) is DilatedDownsample


@pytest.mark.parametrize(
    ("padding", "depthwise_padding", "size"),
    [("same", None, 8), ("valid", None, 2), (1, None, 4), (2, None, 6), (1, 1, 6), (0, "same", 4), ("same", 0, 6)],
)
def test_joint_padding_is_a_rule_for_both_kernels_or_a_number_for_one(padding, depthwise_padding, size):
    block = JointDilatedDepthwise(4, 6, padding=padding, depthwise_padding=depthwise_padding).eval()
    assert block(torch.zeros(1, 4, 8, 8)).shape[2:] == (size, size)


def test_joint_saves_what_its_docstring_says():
    """Dilated 32 -> 64, then depthwise 64 and pointwise 64 -> 128 in the place of a dense 64 -> 128."""
    joint = JointDilatedDepthwise(32, 128, mid_channels=64, between="", norm_layer=None, bias=False)
    dense = nn.Sequential(nn.Conv2d(32, 64, 3, bias=False), nn.Conv2d(64, 128, 3, bias=False))
    assert count(dense) - count(joint) == 64_960


@pytest.mark.parametrize(
    ("options", "parameters"),
    [({}, 4 * 5 + 5), ({"bias": False}, 20), ({"hidden_channels": 3}, 15 + 3 * 5 + 5), ({"classifier": "conv"}, 25)],
)
def test_head_is_the_mean_and_its_layers(options, parameters):
    head = GAPHead(4, 5, **options)
    x = torch.randn(2, 4, 3, 7)
    assert count(head) == parameters
    expected = x.mean((2, 3))
    for layer in (head.hidden, head.act, head.fc):
        if not isinstance(layer, (nn.Linear, nn.Conv2d)):
            expected = layer(expected)
        else:
            expected = F.linear(expected, layer.weight.flatten(1), layer.bias)
    torch.testing.assert_close(head(x), expected)


def test_head_without_classifier_and_with_log_softmax():
    x = torch.randn(2, 5, 4, 4)
    torch.testing.assert_close(GAPHead(5, 5, classifier=None)(x), x.mean((2, 3)))
    torch.testing.assert_close(GAPHead(5, 5, classifier=None, log_softmax=True)(x).exp().sum(1), torch.ones(2))


def test_blur_of_an_anti_aliased_block_has_the_channels_of_the_depthwise_output():
    """Elsewhere it was built for the input's channels and crashed at stride 2."""
    block = DepthwiseSeparableConv(4, 8, 3, stride=2, padding=1, depth_multiplier=3, anti_alias=True)
    assert block(torch.randn(2, 4, 8, 8)).shape == (2, 8, 4, 4)


def test_anti_alias_at_stride_one_is_absent():
    assert "blur" not in parts(DepthwiseSeparableConv(4, 8, 3, anti_alias=True))


def test_blur_keeps_a_constant_and_removes_the_highest_frequency():
    blur = BlurDownsample(stride=1)
    torch.testing.assert_close(blur(torch.full((1, 1, 6, 6), 3.0)), torch.full((1, 1, 6, 6), 3.0))
    stripes = torch.tensor([1.0, -1.0]).repeat(3).expand(1, 1, 6, 6)
    torch.testing.assert_close(blur(stripes)[..., 1:-1], torch.zeros(1, 1, 6, 4))


@pytest.mark.parametrize("stride", [1, 2, 3, (2, 1)])
def test_blur_is_the_binomial_filter(stride):
    x = torch.randn(2, 3, 7, 8, dtype=torch.float64)
    row = torch.tensor([0.25, 0.5, 0.25], dtype=torch.float64)
    kernel = torch.outer(row, row).expand(3, 1, 3, 3)
    expected = F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), kernel, stride=stride, groups=3)
    torch.testing.assert_close(BlurDownsample(stride)(x), expected)


@pytest.mark.parametrize("size", [1, 2, 5, 6])
def test_blur_takes_any_size(size):
    assert BlurDownsample()(torch.ones(1, 2, size, size)).shape[-1] == -(-size // 2)


def test_residual_adds_and_stochastic_depth_drops_whole_samples():
    block = Residual(nn.Identity(), drop_path=0.25)
    x = torch.ones(4000, 1, 2, 2)
    assert torch.equal(block.eval()(x), 2 * x)
    out = block.train()(x)
    per_sample = out.flatten(1)
    assert (per_sample == per_sample[:, :1]).all()
    torch.testing.assert_close(per_sample[:, 0].unique(), torch.tensor([1.0, 1 + 1 / 0.75]))
    assert out.mean().item() == pytest.approx(2, abs=0.05)


def test_a_slice_of_a_block_is_a_plain_sequential():
    """Elsewhere slicing a block calls its constructor with the children and crashes."""
    block = ConvNormAct(3, 8, 3)
    assert type(block[:2]) is nn.Sequential
    assert block[1] is block.conv


@pytest.mark.parametrize(
    ("block", "line"),
    [
        (ConvNormAct(3, 8, 3), "3, 8, 3\n"),
        (
            ConvNormAct(3, 8, 3, padding="same", norm_layer=partial(nn.GroupNorm, 4)),
            "padding='same', norm_layer=partial(GroupNorm, 4)\n",
        ),
        (DepthwiseSeparableConv(4, 8, 3, between="", act_layer=nn.SiLU), "4, 8, 3, between='', act_layer=SiLU\n"),
        (DilatedDownsample(4, 8, dilation=4), "4, 8, dilation=4\n"),
        (GAPHead(8, 10, classifier="conv"), "8, 10, classifier='conv'\n"),
        (Residual(nn.ReLU(), drop_path=0.1), "drop_path=0.1\n"),
    ],
)
def test_repr_shows_what_differs_from_the_default(block, line):
    assert line in repr(block)


def test_repr_leaves_out_what_is_absent():
    assert "Identity" not in repr(DepthwiseSeparableConv(4, 8, 3, between="", after=""))


def test_a_lambda_norm_still_copies_and_pickles():
    """A block keeps no reference to what built it."""
    import copy
    import pickle

    block = ConvNormAct(3, 8, 3, norm_layer=lambda channels: nn.BatchNorm2d(channels, eps=1e-3))
    assert copy.deepcopy(block).bn.eps == pickle.loads(pickle.dumps(block)).bn.eps == 1e-3


@pytest.mark.parametrize(
    ("channels", "kernels", "shares"),
    [(8, (3, 5), [4, 4]), (8, (1, 3, 5), [3, 3, 2]), (4, (1, 3, 7, 7), [1, 1, 1, 1]), (5, (3,), [5])],
)
def test_mixed_depthwise_shares_and_parameters(channels, kernels, shares):
    block = MixedDepthwise(channels, kernels)
    assert block.shares == shares
    assert count(block) == sum(share * k * k for share, k in zip(shares, kernels, strict=True) if k > 1)


def test_mixed_depthwise_is_each_kernel_on_its_share():
    block = MixedDepthwise(7, (1, 3, (5, 2)), (1, 2, 1), bias=True)
    x = torch.randn(2, 7, 9, 11)
    passed, near, tall = x.split([3, 2, 2], 1)
    near_weight, near_bias, tall_weight, tall_bias = block.parameters()
    expected = [
        passed,
        F.conv2d(near, near_weight, near_bias, padding=2, dilation=2, groups=2),
        F.conv2d(F.pad(tall, (0, 1, 2, 2)), tall_weight, tall_bias, groups=2),
    ]
    torch.testing.assert_close(block(x), torch.cat(expected, 1))


def test_mixed_depthwise_of_one_share_is_a_depthwise_convolution():
    block = MixedDepthwise(6, (3,))
    x = torch.randn(2, 6, 8, 8)
    torch.testing.assert_close(block(x), F.conv2d(x, *block.parameters(), padding=1, groups=6))
