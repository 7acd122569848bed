"""The dilated network holds the original at every n-th position, or is refused by the name of what cannot dilate."""

import copy
import math

import pytest
import timm
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import convblocks as cb
from convblocks.surgery import replace_stride_with_dilation
from convblocks.surgery.identity import differences
from convblocks.surgery.pools import DilatedPool2d
from tests.deploy.test_fuse import shaken


def held(coarse, fine, step):
    """Whether `coarse` stands at every `step`-th position of `fine`."""
    limit = 1e-12 * coarse.detach().abs().max().item()
    torch.testing.assert_close(fine[..., ::step, ::step], coarse, rtol=1e-9, atol=limit)


@pytest.mark.parametrize(
    ("name", "output_stride"),
    [
        ("resnet18", 8),
        ("resnet26d", 8),  # average pools of 2 in the shortcuts
        ("mobilenetv2_100", 16),
        ("convnext_atto", 8),  # even kernels, maps with the channels last
        ("dla34", 4),  # concatenations, max-pools in the shortcuts
        ("regnetx_002", 16),
        ("resnetblur18", 16),  # the last blur loses its stride
    ],
)
def test_a_timm_network_holds_the_original_at_every_nth_position(name, output_stride):
    model = shaken(timm.create_model(name)).double()
    state = copy.deepcopy(model.state_dict())
    dense, report = replace_stride_with_dilation(model, (3, 64, 64), output_stride)
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        coarse, fine = model.forward_features(x), dense.forward_features(x)
    assert fine.shape[2] > coarse.shape[2]
    held(coarse, fine, 32 // output_stride)
    assert report.before.output_stride == (32, 32)
    assert report.after.output_stride == (output_stride, output_stride)
    assert report.after.receptive_field == report.before.receptive_field
    assert report.after.parameters == report.before.parameters
    assert {key: value.shape for key, value in dense.state_dict().items()} == {k: v.shape for k, v in state.items()}
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    assert any("averages a denser map" in note for note in report.notes)


@pytest.mark.parametrize(("flags", "output_stride"), [((False, False, True), 16), ((False, True, True), 8)])
def test_resnet50_becomes_what_torchvision_makes_of_it(flags, output_stride):
    theirs = torchvision.models.resnet50(replace_stride_with_dilation=list(flags)).eval()
    plain = torchvision.models.resnet50().eval()
    plain.load_state_dict(theirs.state_dict())
    ours, _ = replace_stride_with_dilation(plain, (3, 64, 64), output_stride)
    convs = [
        {name: part.extra_repr() for name, part in model.named_modules() if isinstance(part, nn.Conv2d)}
        for model in (theirs, ours)
    ]
    assert convs[0] == convs[1]
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(theirs(x), ours(x))


def test_resnet18_becomes_what_timm_makes_of_it():
    theirs = timm.create_model("resnet18", output_stride=8).eval()
    plain = timm.create_model("resnet18").eval()
    plain.load_state_dict(theirs.state_dict())
    ours, _ = replace_stride_with_dilation(plain, (3, 64, 64), 8)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(theirs(x), ours(x))


@st.composite
def layers(draw):
    """A convolution or pooling of any geometry that torch takes."""
    kernel, stride = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    kind = draw(st.sampled_from(["conv", "max", "avg"]))
    if kind == "conv":
        return nn.Conv2d(2, 2, kernel, stride, draw(st.integers(0, 3)), draw(st.integers(1, 2)))
    padding, ceil = draw(st.integers(0, kernel // 2)), draw(st.booleans())
    if kind == "max":
        return nn.MaxPool2d(kernel, stride, padding, ceil_mode=ceil)
    return nn.AvgPool2d(kernel, stride, padding, ceil, count_include_pad=draw(st.booleans()))


@settings(max_examples=40)
@given(st.lists(layers(), min_size=2, max_size=4), st.integers(23, 40), st.data())
def test_any_stack_of_windows_holds_the_original(stack, size, data):
    torch.manual_seed(0)
    model = nn.Sequential(*stack).double().eval()
    x = torch.randn(1, 2, size, size, dtype=torch.float64)
    try:
        coarse = model(x)
    except RuntimeError:
        return  # a kernel larger than what is left of the map
    if coarse.numel() == 0 or not torch.isfinite(coarse).all():
        return  # torch gives no number for a window that lies in the padding alone
    strides = [part.stride if isinstance(part.stride, int) else part.stride[0] for part in stack]
    # Kept from the front, one after the other, while their product allows.
    wanted = math.prod(strides[: data.draw(st.integers(0, len(strides)))])
    kept = 1
    for stride in strides:
        kept *= stride if kept * stride <= wanted else 1
    dense, _ = replace_stride_with_dilation(model, (2, size, size), wanted)
    held(coarse, dense(x), math.prod(strides) // kept)


@pytest.mark.parametrize("pool", [nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False), nn.MaxPool2d(2, 2)])
def test_a_pool_in_a_shortcut_has_the_size_of_the_other_path(pool):
    block = DilatedPool2d(pool, (2, 2), (False, False))
    assert block(torch.zeros(1, 1, 16, 16)).shape == (1, 1, 16, 16)


class Forward(nn.Module):
    """Three strides, and in between whatever a forward may do."""

    def __init__(self, middle, **parts):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 2, 1)
        self.middle = middle
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        return self.middle(self, self.second(self.first(x)))


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (Forward(lambda m, x: F.max_pool2d(x, 2)), "max_pool2d_with_indices in forward cannot be told"),
        (Forward(lambda m, x: x[..., ::2, ::2]), "slice in forward cuts a dilated map"),
        (Forward(lambda m, x: F.interpolate(x, scale_factor=2.0)), "resizes a dilated map"),
        (Forward(lambda m, x: m.up(x), up=nn.ConvTranspose2d(4, 4, 2, 2)), "up is a transposed convolution"),
        (Forward(lambda m, x: m.pad(x), pad=nn.ReflectionPad2d(1)), "pad pads by what stands at the border"),
        (
            Forward(lambda m, x: m.c(x), c=nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect")),
            "c pads by what stands",
        ),
        (Forward(lambda m, x: F.pad(x, (1, 1, 1, 1))), "constant_pad_nd in forward cannot be told"),
        (Forward(lambda m, x: x * x.mean((2, 3), keepdim=True)), "mean in forward gathers the whole map"),
        (
            Forward(lambda m, x: m.norm(x), norm=nn.GroupNorm(2, 4)),
            "native_group_norm in norm gathers|norm gathers the",
        ),
        (Forward(lambda m, x: m.again(m.again(x)), again=nn.Conv2d(4, 4, 3, 2, 1)), "again would need two dilations"),
        (
            Forward(lambda m, x: m.fc(x), fc=nn.Sequential(nn.Flatten(), nn.Linear(256, 2))),
            "fc.1 gathers the whole map",
        ),
        (Forward(lambda m, x: x.cumsum(3)), "cumsum in forward gathers the whole map"),
        (Forward(lambda m, x: x * torch.arange(x.shape[3])), "Forward gives something else"),
        ("inception_v3", "max_pool2d_with_indices in Mixed_6a cannot be told"),
        ("hrnet_w18_small", "stage3.0.fuse_layers.0.2.2 .*resizes a dilated map"),
        ("tf_mobilenetv3_small_minimal_100", "blocks.4.0.conv_dw cannot be told"),
        ("vit_tiny_patch16_224", "gathers the whole map"),
    ],
)
def test_what_cannot_dilate_is_refused_by_its_name(model, reason):
    if isinstance(model, str):
        model, size, stride = timm.create_model(model), 224 if model.startswith("vit") else 128, 8
    else:
        size, stride = 32, 2
    with pytest.raises(ValueError, match=reason):
        replace_stride_with_dilation(model, (3, size, size), stride)


def test_a_gate_that_pools_by_a_module_sees_the_old_positions():
    model = shaken(torchvision.models.mobilenet_v3_small()).double()
    dense, report = replace_stride_with_dilation(model, (3, 96, 96), 16)
    x = torch.randn(1, 3, 96, 96, dtype=torch.float64)
    with torch.no_grad():
        held(model.features(x), dense.features(x), 2)
    assert report.replaced["features.11.block.2.avgpool"] == "sees one position in 2 along each axis"


def test_other_gates_are_refused_or_named():
    model = shaken(timm.create_model("efficientnet_b0")).double()
    with pytest.raises(ValueError, match=r"mean in blocks\.5\.0\.se gathers the whole map.*exact=False leaves gates"):
        replace_stride_with_dilation(model, (3, 64, 64), 16)
    dense, report = replace_stride_with_dilation(model, (3, 64, 64), 16, exact=False)
    assert any("not exact behind the gates mean in blocks.5.0.se" in note for note in report.notes)
    assert dense.forward_features(torch.zeros(1, 3, 64, 64, dtype=torch.float64)).shape[2:] == (4, 4)


def test_the_check_tells_a_wrong_network():
    model = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, padding=1)).eval()
    dense, _ = replace_stride_with_dilation(model, (3, 16, 16), 1)
    rates = {("0", 0): (2, 2), ("1", 0): (2, 2)}
    assert differences(model, dense, (3, 16, 16), rates) == []
    dense[1].dilation = dense[1].padding = (1, 1)
    assert differences(model, dense, (3, 16, 16), rates) == ["1"]


def test_blocks_of_ours_dilate():
    model = nn.Sequential(
        cb.ConvNormAct(3, 8, 3, 2, "same"),
        cb.DilatedDownsample(8, 8, 2),  # an even kernel: padding by a module of its own
        cb.DepthwiseSeparableConv(8, 8, 3, 2, 1),
        cb.GAPHead(8, 5),
    )
    model = shaken(model).double()
    dense, _ = replace_stride_with_dilation(model, (3, 32, 32), 2)
    x = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        held(model[:2](x), dense[:2](x), 2)


@pytest.mark.parametrize("wrong", [0, 3, 64, 2.0])
def test_an_output_stride_that_cannot_be_is_refused(wrong):
    with pytest.raises((ValueError, TypeError), match="output_stride must be"):
        replace_stride_with_dilation(timm.create_model("resnet18"), (3, 64, 64), wrong)


def test_modes_are_kept():
    model = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.AvgPool2d(2), nn.Conv2d(4, 4, 1)).train()
    model[2].eval()
    dense, report = replace_stride_with_dilation(model, (3, 16, 16), 1)
    assert [part.training for part in dense] == [True, True, False]
    assert isinstance(dense[1], DilatedPool2d)
    assert "0: stride 2 -> 1" in str(report)
