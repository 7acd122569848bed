"""What gathers the whole image is global, whatever is left of the field with it cut."""

from __future__ import annotations

import math

import pytest
import timm

from convblocks.introspect.receptive_field import receptive_field


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "qwen3_vit_88m"])
def test_a_transformer_sees_the_whole_image(name: str) -> None:
    """The class token of the first once came out as seeing nothing; an empty tensor stopped the second."""
    assert receptive_field(timm.create_model(name), (3, 224, 224)).size == (math.inf, math.inf)
