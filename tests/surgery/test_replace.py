"""Dilated kernels in the place of strides and max-pools, separable convolutions in the place of dense ones."""

import copy
import itertools

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

import convblocks as cb
from convblocks.surgery import Cost, replace_dense_conv, replace_downsampling, replace_stride_with_dilation
from convblocks.surgery.dense import low_rank, separable

TIMM = ["resnet18", "mobilenetv2_100", "convnext_atto"]


@pytest.mark.parametrize("name", TIMM)
@pytest.mark.parametrize("separable", [False, True])
def test_downsampling_of_a_timm_network_is_replaced(name, separable):
    model = timm.create_model(name)
    state = copy.deepcopy(model.state_dict())
    changed, report = replace_downsampling(model, (3, 64, 64), separable=separable)
    blocks = {n for n, part in changed.named_modules() if isinstance(part, cb.DilatedDownsample)}
    assert blocks == set(report.replaced)
    assert not any(isinstance(part, nn.MaxPool2d) for part in changed.modules())
    strided = {n for n, part in model.named_modules() if max(_two(getattr(part, "stride", 1))) > 1}
    assert set(report.replaced) | set(report.kept) == {n for n in strided if not any(model.get_submodule(n).children())}
    assert report.after.last_map == report.before.last_map
    before, after = report.before.receptive_field[0], report.after.receptive_field[0]
    assert before is not None
    assert after is not None
    assert after > before
    assert changed.eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 1000)
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())


def _two(value):
    return value if isinstance(value, tuple) else (value if isinstance(value, int) else 1,)


def test_strides_that_stay_are_named():
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, 2, 1)
            self.short = nn.Conv2d(4, 4, 1, 2)
            self.pool = nn.AvgPool2d(2)
            self.own = type("Own", (nn.Conv2d,), {})(4, 4, 3, 2, 1)
            self.out = nn.MaxPool2d(2)

        def forward(self, x):
            return self.out(self.own(self.pool(F.max_pool2d(self.short(self.conv(x)), 2)))[..., ::2, ::2])

    changed, report = replace_downsampling(Network(), (3, 256, 256), select=lambda name, part: name != "out")
    assert report.kept == {
        "slice in forward": "is computed by a plain function",
        "short": "a 1x1 kernel has no taps to spread",
        "max_pool2d_with_indices in forward": "is computed by a plain function",
        "pool": "is an average pool",
        "own": "is a Own, whose own forward would be lost",
        "out": "not selected",
    }
    assert list(report.replaced) == ["conv"]
    assert changed.conv.conv.dilation == (2, 2)


def test_a_convolution_keeps_its_weights_and_its_norm():
    model = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
    changed, report = replace_downsampling(model, (3, 16, 16), dilation=3)
    x = torch.randn(1, 3, 16, 16)
    expected = F.conv2d(x, model[0].weight, stride=2, padding=3, dilation=3)
    torch.testing.assert_close(changed[0](x), expected)
    assert report.scratch == []


def test_a_max_pool_starts_by_handing_on_the_pixel_in_the_middle():
    changed, report = replace_downsampling(nn.Sequential(nn.MaxPool2d(2)), (3, 8, 8))
    x = torch.rand(1, 3, 8, 8)
    torch.testing.assert_close(changed.eval()(x), x[..., ::2, ::2], rtol=1e-4, atol=0)
    assert report.scratch == ["0"]


@pytest.mark.parametrize(("size", "stride", "out"), [(17, 2, 8), (16, 3, 5), (17, 3, 5)])
def test_sizes_are_those_of_the_original(size, stride, out):
    model = nn.Sequential(nn.Conv2d(3, 4, 3, stride))
    changed, report = replace_downsampling(model, (3, size, size))
    x = torch.zeros(1, 3, size, size)
    assert model(x).shape == changed(x).shape == (1, 4, out, out)
    assert list(report.replaced) == ["0"]


@pytest.mark.parametrize("name", TIMM)
def test_dense_convolutions_of_a_timm_network_are_replaced(name):
    model = timm.create_model(name)
    changed, report = replace_dense_conv(model, (3, 64, 64))
    assert report.after.parameters < report.before.parameters
    assert report.after.macs < report.before.macs
    assert report.after.receptive_field == report.before.receptive_field
    assert changed.eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 1000)
    left = [part for part in changed.modules() if isinstance(part, nn.Conv2d) and part.kernel_size != (1, 1)]
    assert all(part.groups == part.in_channels for part in left)


def test_a_dense_kernel_of_low_rank_is_found_again():
    block = cb.DepthwiseSeparableConv(6, 10, 3, stride=2, padding=1, between="", after="")
    dense = nn.Conv2d(6, 10, 3, 2, 1)
    with torch.no_grad():
        dense.weight.copy_(block.conv_pw.weight * block.conv_dw.weight.view(1, 6, 3, 3))
        dense.bias = block.conv_pw.bias
    changed, report = replace_dense_conv(nn.Sequential(dense), (6, 15, 15))
    x = torch.randn(2, 6, 15, 15)
    torch.testing.assert_close(changed(x), dense(x))
    assert "keeps 100% of its weights' sum of squares" in report.replaced["0"]


def test_more_filters_come_closer_and_all_of_them_are_exact():
    dense = nn.Conv2d(4, 32, 3, padding=2, dilation=2).double()
    x = torch.randn(1, 4, 9, 9, dtype=torch.float64)
    shares = []
    for multiplier in range(1, 11):
        block = separable(dense, multiplier)
        shares.append(low_rank(dense.weight.detach(), block))
        error = (block(x) - dense(x)).abs().max().item()
        assert (error < 1e-12) == (multiplier >= 9)
    assert all(one <= two + 1e-12 for one, two in itertools.pairwise(shares))
    # The best sum of squares that rank 1 allows, worked out another way.
    best = torch.linalg.svdvals(dense.weight.detach().transpose(0, 1).flatten(2))
    assert shares[0] == pytest.approx(float(best[:, 0].square().sum() / best.square().sum()))


def test_what_stays_dense_is_named():
    model = nn.Sequential(
        nn.Conv2d(4, 1, 3), nn.Conv2d(1, 4, 1), nn.Conv2d(4, 8, 3, groups=2), nn.Conv2d(8, 8, 3, padding=1)
    )
    model.append(model[3])
    _, report = replace_dense_conv(model, (4, 8, 8))
    assert report.kept == {
        "0": "a separable one would have 41 parameters, not fewer",
        "2": "has 2 groups",
        "3": "is used 2 times in one forward pass",
    }


def test_a_network_that_is_one_layer_keeps_it():
    for operation in (replace_dense_conv, replace_downsampling):
        _, report = operation(nn.Conv2d(3, 32, 3, 2), (3, 8, 8))
        assert list(report.kept.values()) == ["is the network itself"]
    with pytest.raises(ValueError, match=r"model is a bare AvgPool2d: wrap it in an nn\.Sequential"):
        replace_stride_with_dilation(nn.AvgPool2d(2), (3, 8, 8), 1)


def test_weights_from_scratch_are_named():
    model = nn.Sequential(nn.Conv2d(8, 16, 3))
    changed, report = replace_dense_conv(model, (8, 8, 8), init="scratch")
    assert report.scratch == ["0"]
    assert isinstance(changed[0], cb.DepthwiseSeparableConv)


@pytest.mark.parametrize(
    ("operation", "options", "reason"),
    [
        (replace_dense_conv, {"init": "svd"}, "init must be one of 'low-rank', 'scratch', got 'svd'"),
        (replace_dense_conv, {"depth_multiplier": 0}, "depth_multiplier"),
        (replace_downsampling, {"kinds": ["pool"]}, "kinds must be one of 'conv', 'max pool', got 'pool'"),
        (replace_downsampling, {"dilation": 0}, "dilation"),
        (replace_downsampling, {"separable": 1}, "separable must be True or False"),
    ],
)
def test_wrong_arguments_are_refused(operation, options, reason):
    with pytest.raises(ValueError, match=reason):
        operation(nn.Sequential(nn.Conv2d(3, 4, 3)), (3, 8, 8), **options)
    with pytest.raises(ValueError, match=r"input_size must be \(channels, height, width\)"):
        operation(nn.Sequential(nn.Conv2d(3, 4, 3)), (8, 8))


def test_the_table_shows_the_cost_before_and_after():
    model = nn.Sequential(nn.Conv2d(8, 16, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    _, report = replace_dense_conv(model, (8, 8, 8))
    assert report.before == Cost(1168, 73728, 4160, (3, 3), (1, 1), (16, 8, 8), (16,))
    assert report.after.macs == 64 * (9 * 8 + 8 * 16)
    assert "| MACs | 73,728 | 12,800 | x 0.17 |" in report.table().markdown()
    assert "1 replaced, 0 kept" in str(report)


class Listed(nn.Module):
    """Calls its parts from a list, where no other can be put in their place."""

    def __init__(self):
        super().__init__()
        self.conv, self.pool = nn.Conv2d(8, 32, 3, stride=2, padding=1), nn.MaxPool2d(2)
        self.parts = [self.conv, self.pool]

    def forward(self, x):
        for part in self.parts:
            x = part(x)
        return x


@pytest.mark.parametrize("operation", [replace_dense_conv, replace_downsampling])
def test_a_module_that_is_called_from_a_list_is_refused(operation):
    """The old one ran, and the report said that it was replaced."""
    with pytest.raises(ValueError, match="conv cannot be replaced: the forward pass calls it by another name"):
        operation(Listed(), (8, 32, 32))
