"""What gathers the whole image is global, whatever is left of the field with it cut."""

from __future__ import annotations

import math

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convblocks.introspect.receptive_field import receptive_field


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "qwen3_vit_88m"])
def test_a_transformer_sees_the_whole_image(name: str) -> None:
    """The class token of the first once came out as seeing nothing; an empty tensor stopped the second."""
    assert receptive_field(timm.create_model(name), (3, 224, 224)).size == (math.inf, math.inf)


def halves(x: Tensor) -> Tensor:
    """Row i and row i + n / 2."""
    return x.unflatten(2, (2, -1)).sum(2)


def grid(x: Tensor) -> Tensor:
    """Every eighth of the map together with the same place of the others, as MaxViT's grid attention has it."""
    cut = x.unflatten(3, (8, -1)).unflatten(2, (8, -1))
    return (cut + cut.mean((2, 4), keepdim=True)).flatten(2, 3).flatten(3, 4)


def smoothed(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, 1, 1)


def test_a_part_that_grows_with_the_input_is_not_all_of_it() -> None:
    """Both were global, and a row that sees half of the others is not."""
    field = receptive_field(lambda x: halves(smoothed(x)), (2, 32, 32))
    assert field.size == (None, 3)
    assert field.is_global == (False, False)
    assert "gathers a part of the input that grows with it" in field.unknown[0]
    assert field.interval(4, 4) == ((3, 21), (3, 5))
    field = receptive_field(lambda x: grid(smoothed(x)), (2, 32, 32))
    assert field.size == (None, None)
    assert field.local.size == (3, 3)
    assert field.interval(0, 1) == ((0, 29), (0, 30))


def test_a_part_and_all_of_it_are_all_of_it() -> None:
    field = receptive_field(lambda x: grid(smoothed(x)) * x.mean((2, 3), keepdim=True), (2, 32, 32))
    assert field.size == (math.inf, math.inf)
    assert field.unknown == ()
    assert field.local.size == (3, 3)


@pytest.mark.parametrize("first", [True, False])
def test_a_softmax_over_maps_side_by_side_is_that_of_each(first: bool) -> None:
    conv = nn.Conv2d(2, 2, 3, padding=1)

    def network(x: Tensor) -> Tensor:
        maps = [conv(x), torch.zeros_like(x)]
        return torch.cat(maps if first else maps[::-1], 1).softmax(2)

    field = receptive_field(network, (2, 32, 32))
    assert not field.unknown
    assert (field.local.size, field.full.size) == ((3, 3), (float("inf"), 3))


def test_scores_too_many_to_put_together_leave_the_rest_known() -> None:
    """What an attention makes of all pairs of places stopped the analysis of everything."""

    def scored(x: Tensor) -> Tensor:
        x = F.interpolate(x, scale_factor=2, mode="bilinear")
        x = x + F.interpolate(F.adaptive_avg_pool2d(x, 1), x.shape[2:])
        places = F.linear(x.flatten(2).transpose(1, 2), torch.ones(4, 4))
        return x + (places @ places.transpose(1, 2))[:, 0].mean()

    field = receptive_field(scored, (4, 24, 24))
    assert field.size == (math.inf, math.inf)
    assert (field.local.size, field.local.jump, field.local.start) == ((2, 2), (0.5, 0.5), (-0.5, -0.5))
