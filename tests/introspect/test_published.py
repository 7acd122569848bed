"""Published receptive fields (Araujo, Norris and Sim, Distill 2019) and those that the gradient gave."""

from __future__ import annotations

import pytest
import torch

from convblocks.introspect.receptive_field import receptive_field

timm = pytest.importorskip("timm")


@pytest.mark.parametrize(
    ("name", "size", "jump", "padding"),
    [
        ("vgg16", 212, 32, 90),
        ("vgg11", 150, 32, 59),
        ("inception_v3", 1311, 32, 618),
        ("inception_v4", 2071, 32, 998),
        ("inception_resnet_v2", 3039, 32, 1482),
        ("legacy_seresnet50", 483, 32, 239),
        ("resnet18", 435, 32, 217),
        ("resnet50", 427, 32, 213),
        ("resnet101", 971, 32, 485),
        ("resnet152", 1451, 32, 725),
        ("mobilenetv2_100", 491, 32, 245),
        ("efficientnet_b0", 851, 32, 425),
        ("convnext_tiny", 1688, 32, 828),
        ("densenet121", 2071, 32, 1021),
    ],
)
def test_published(name: str, size: int, jump: int, padding: int) -> None:
    with torch.device("meta"):
        model = timm.create_model(name)
    local = receptive_field(model.forward_features, (3, 224, 224)).local
    assert local.size == (size, size)
    assert local.jump == (jump, jump)
    assert local.padding == (padding, padding)
    assert local.period == (1, 1)


@pytest.mark.parametrize(("stride", "size"), [(8, 427), (16, 427)])
def test_dilated_resnet50_is_not_mistaken_for_one_without_dilation(stride: int, size: int) -> None:
    with torch.device("meta"):
        model = timm.create_model("resnet50", output_stride=stride)
    field = receptive_field(model.forward_features, (3, 224, 224))
    assert field.size == (size, size)
    assert field.jump == (stride, stride)
