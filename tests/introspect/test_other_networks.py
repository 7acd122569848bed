"""Networks that timm does not have: at their own size, every interval of a sample of units equals the gradient's."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import networks
import pytest
import torch.nn.functional as F
from oracle import positive, reached, span
from small_networks import UNet, dilated, strided_without_padding
from torch import Tensor, nn

import convblocks
from convblocks.introspect.receptive_field import receptive_field

models = pytest.importorskip("torchvision").models


class Output(nn.Module):
    """A segmentation network's main output."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)["out"]


class Features(nn.Module):
    """A network up to the pooling: its children until the first of the named."""

    def __init__(self, model: nn.Module, *until: str) -> None:
        super().__init__()
        kept = itertools.takewhile(lambda item: item[0] not in until, model.named_children())
        self.body = nn.Sequential(*(child for _, child in kept))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class Temporal(nn.Module):
    """Causal dilated convolutions over time, padded on the left alone."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv1d(2, 2, 3, dilation=d) for d in (1, 2, 4))

    def forward(self, x: Tensor) -> Tensor:
        for layer, d in zip(self.layers, (1, 2, 4), strict=True):
            x = x + F.relu(layer(F.pad(x, (2 * d, 0))))
        return x


def segmentation(name: str) -> Callable[[], nn.Module]:
    return lambda: Output(models.get_model(name, weights=None, weights_backbone=None))


def features(name: str, *until: str) -> Callable[[], nn.Module]:
    return lambda: Features(models.get_model(name, weights=None), *until)


HEAD = ("avgpool", "avg_pool", "classifier", "fc")
CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    **{f"unet_{up}": (lambda up=up: UNet(up), (1, 32, 40)) for up in ("transposed", "nearest", "bilinear")},
    "dilated": (dilated, (1, 24, 31)),
    "strided": (strided_without_padding, (1, 33, 40)),
    "temporal": (Temporal, (2, 40)),
    **{
        name: (features(name, *HEAD), (3, 64, 72))
        for name in ("alexnet", "vgg11", "squeezenet1_0", "squeezenet1_1", "resnet18")
    },
    **{
        name: (features(name, *HEAD), (3, 64, 72))
        for name in ("mobilenet_v2", "mobilenet_v3_small", "mobilenet_v3_large", "mnasnet0_5")
    },
    **{
        name: (features(name, *HEAD), (3, 64, 72))
        for name in ("shufflenet_v2_x0_5", "efficientnet_b0", "regnet_y_400mf", "regnet_x_400mf")
    },
    **{name: (features(name, *HEAD), (3, 64, 72)) for name in ("densenet121", "convnext_tiny", "resnext50_32x4d")},
    **{name: (features(name, *HEAD), (3, 4, 24, 24)) for name in ("r3d_18",)},
    **{
        name: (segmentation(name), (3, 64, 64))
        for name in ("fcn_resnet50", "deeplabv3_resnet50", "deeplabv3_mobilenet_v3_large")
    },
    "lraspp": (segmentation("lraspp_mobilenet_v3_large"), (3, 64, 64)),
    **{
        f"cifar10_{name}": (lambda name=name: Features(getattr(networks, name)(), "output"), (3, 32, 32))
        for name in networks.NETWORKS
    },
    **{f"whole_{name}": (getattr(networks, name), (3, 32, 32)) for name in networks.NETWORKS},
    "conv_norm_act": (lambda: convblocks.ConvNormAct(3, 4, 4, padding="same"), (3, 9, 11)),
    "separable": (lambda: convblocks.DepthwiseSeparableConv(3, 4, 3, stride=2, padding=1), (3, 9, 11)),
    "anti_alias": (
        lambda: convblocks.DepthwiseSeparableConv(3, 4, 3, stride=2, padding=1, anti_alias=True),
        (3, 9, 12),
    ),
    "downsample": (lambda: convblocks.DilatedDownsample(3, 4), (3, 9, 11)),
    "joint": (lambda: convblocks.JointDilatedDepthwise(3, 4), (3, 12, 13)),
}


@pytest.mark.parametrize("name", CASES)
def test_intervals_equal_the_gradient(name: str) -> None:
    build, size = CASES[name]
    model = positive(build())
    y, mask = reached(model, (1, *size))
    field = receptive_field(model, size)
    assert field.shape == tuple(y.shape)
    corners = [[0, n // 2, n - 1] for n in y.shape[2:]] or [[0]]
    for unit in {*zip(*corners, strict=True), tuple(place[-(i % 2)] for i, place in enumerate(corners))}:
        if y.dim() == 2:
            reach, found = mask(y), field.interval(0)
        else:
            reach, found = mask(y[(slice(None), slice(None), *unit)]), field.interval(*unit)
        assert found == tuple(span(reach, dim) for dim in range(2, 2 + len(found))), unit


def test_there_are_forty() -> None:
    assert len(CASES) >= 40
