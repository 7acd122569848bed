"""The networks against their published layer tables: parameters, every output shape, receptive fields."""

import networks
import pytest
import timm
import torch
from torch import nn

from convblocks import (
    ConvNormAct,
    DepthwiseSeparableConv,
    DilatedDownsample,
    GAPHead,
    JointDilatedDepthwise,
    Requirements,
    Residual,
    audit,
)

PARAMETERS = {"era_s9": 199_562, "late_100k": 99_956, "net4": 176_234, "eva8_s6": 98_779, "twelve_layer": 170_106}
PARAMETERS |= {"frontier_100k": 99_330, "frontier_200k": 197_602}


def frontier_shapes(*stages):
    """Of the stem, and of each stage's downsampling and blocks: a depthwise and a pointwise convolution each."""
    shapes, before = [(stages[0][0], stages[0][1])], None
    for channels, size, blocks in stages:
        if before:
            shapes += [(before, size), (channels, size)]
        shapes += [(channels, size)] * 2 * blocks
        before = channels
    return shapes


# Output (channels, size) of every convolution in the order of the data flow, from the published tables.
SHAPES = {
    "era_s9": [
        *[(24, 32)] * 3,
        *[(32, 30)] * 5,
        *[(64, 26)] * 5,
        *[(96, 18)] * 5,
        (96, 2),
        (10, 1),
    ],
    "late_100k": [
        (32, 32),
        *[(32, 32), (32, 34), (32, 34), (32, 36), (32, 36), (32, 38)],
        (32, 17),
        (64, 17),
        *[(64, 17), (64, 19), (64, 19), (64, 21), (64, 21), (64, 23)],
        (16, 10),
        (32, 10),
        *[(32, 10), (32, 12), (32, 12), (32, 14), (32, 14), (32, 16)],
        (32, 6),
        (32, 4),
        *[(32, 4), (32, 6)],
        (42, 4),
        (32, 1),
        (10, 1),
    ],
    "net4": [(32, 32), (64, 32), (32, 16), (64, 16), (96, 16), (32, 8), (64, 6), (64, 4), (128, 4)],
    "eva8_s6": [
        *[(3, 32), (64, 32)],
        *[(64, 16), (128, 16), (128, 16), (64, 16)],
        *[(64, 16), (128, 16)],
        *[(128, 8), (128, 8), (128, 8), (64, 8)],
        *[(64, 8), (128, 8)],
        *[(128, 6), (128, 6), (128, 6), (64, 6)],
        *[(64, 6), (128, 6)],
        *[(128, 1), (10, 1)],
    ],
    "twelve_layer": [
        *[(16, 32), (32, 32), (32, 16), (128, 12), (64, 10), (32, 5)],
        *[(32, 5), (64, 5), (32, 3), (16, 1), (10, 1)],
    ],
}
SHAPES |= {
    "frontier_100k": frontier_shapes((48, 32, 5), (64, 16, 7), (88, 8, 3)),
    "frontier_200k": frontier_shapes((64, 32, 6), (88, 16, 9), (120, 8, 3)),
}
# At the last convolution before the pool, in input pixels.
FIELDS = {"era_s9": 47, "late_100k": 133, "net4": 43, "eva8_s6": 51, "twelve_layer": 47}
FIELDS |= {"frontier_100k": 139, "frontier_200k": 159}

every_network = pytest.mark.parametrize("name", networks.NETWORKS)


def traced(model, size=32):
    """Every convolution with its input and output, in the order of the data flow."""
    calls = []
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda conv, x, out: calls.append((conv, x[0], out)))
    out = model.eval()(torch.zeros(2, 3, size, size))
    return calls, out


@every_network
def test_parameters(name):
    assert sum(p.numel() for p in timm.create_model(name).parameters()) == PARAMETERS[name]


@every_network
def test_every_output_shape(name):
    calls, out = traced(timm.create_model(name))
    assert [tuple(y.shape[1:]) for *_, y in calls] == [(channels, size, size) for channels, size in SHAPES[name]]
    assert out.shape == (2, 10)


@every_network
def test_receptive_field_at_the_last_convolution_before_the_pool(name):
    """By the gradient, which knows no formula: constant positive weights, an input wide enough for the whole field."""
    model = timm.create_model(name, dropout=0.0) if name in ("era_s9", "net4", "eva8_s6") else timm.create_model(name)
    model = model.double().eval()
    for part in model.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.constant_(part.weight, 1 / part.weight[0].numel())
            if part.bias is not None:
                nn.init.zeros_(part.bias)
    maps = []
    pool = next(part for part in model.modules() if isinstance(part, nn.AdaptiveAvgPool2d))
    pool.register_forward_hook(lambda _, x, out: maps.append(x[0]))
    x = torch.ones(1, 3, 320, 320, dtype=torch.float64, requires_grad=True)
    model(x)
    height, width = maps[0].shape[2:]
    (gradient,) = torch.autograd.grad(maps[0][0, :, height // 2, width // 2].sum(), x)
    reached = gradient[0].abs().sum(0) > 0
    for axis in (0, 1):
        (pixels,) = reached.any(axis).nonzero(as_tuple=True)
        assert int(pixels[-1] - pixels[0] + 1) == FIELDS[name]


@every_network
def test_built_of_the_librarys_blocks(name):
    """No bare convolution outside the blocks, and the blocks that the network is known for are there."""
    blocks = (ConvNormAct, DepthwiseSeparableConv, DilatedDownsample, GAPHead, JointDilatedDepthwise, Residual)
    model = timm.create_model(name)
    inside = {
        id(conv)
        for block in model.modules()
        if isinstance(block, blocks)
        for conv in block.modules()
        if isinstance(conv, nn.Conv2d)
    }
    assert {id(m) for m in model.modules() if isinstance(m, nn.Conv2d)} == inside
    known_for = JointDilatedDepthwise if name == "net4" else DilatedDownsample
    assert any(isinstance(m, known_for) for m in model.modules())
    assert any(isinstance(m, nn.Conv2d) and m.groups == m.in_channels > 1 for m in model.modules())


@every_network
def test_no_max_pool_and_trains(name):
    model = timm.create_model(name)
    assert not any(isinstance(m, nn.MaxPool2d) for m in model.modules())
    loss = nn.functional.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.tensor([0, 1, 2, 3]))
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@every_network
def test_other_classes_and_channels(name):
    assert timm.create_model(name, num_classes=7, in_chans=1).eval()(torch.zeros(2, 1, 32, 32)).shape == (2, 7)


@pytest.mark.parametrize(
    ("name", "preset"),
    [("frontier_100k", "cifar10-100k"), ("frontier_100k", "cifar10-200k"), ("frontier_200k", "cifar10-200k")],
)
def test_frontier_networks_keep_every_rule(name, preset):
    model = getattr(networks, name)()
    audit(model, (3, 32, 32), preset).raise_if_failed()
    audit(model, (3, 32, 32), Requirements(blocks="C1C2C3C4O", min_receptive_field=53)).raise_if_failed()


@pytest.mark.parametrize("norm", ["batch", "group", "layer"])
def test_eva8_norms_have_the_same_parameters(norm):
    model = timm.create_model("eva8_s6", norm=norm)
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS["eva8_s6"]
    assert model.eval()(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"norm": "instance"}, ValueError, "norm must be one of 'batch', 'group', 'layer', got 'instance'"),
        ({"width": 2}, TypeError, "unexpected keyword arguments: width"),
    ],
)
def test_wrong_options_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        networks.eva8_s6(**options)


@pytest.mark.parametrize(("name", "rate", "count"), [("era_s9", 0.01, 12), ("net4", 0.02, 7), ("eva8_s6", 0.05, 10)])
def test_dropout_is_where_the_tables_have_it_and_can_be_switched_off(name, rate, count):
    rates = [m.p for m in timm.create_model(name).modules() if isinstance(m, nn.Dropout)]
    assert rates == [rate] * count
    without = timm.create_model(name, dropout=0.0)
    assert not any(isinstance(m, nn.Dropout) for m in without.modules())
    assert list(without.state_dict()) == list(timm.create_model(name).state_dict())
