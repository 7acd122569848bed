"""What gathers the whole image is global, whatever is left of the field with it cut."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from convblocks.introspect.receptive_field import receptive_field


class ClassToken(nn.Module):
    """A token that depends on nothing until attention lets it look at the patches, as in vision transformers."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, stride=4)
        self.token = nn.Parameter(torch.zeros(1, 1, 8))

    def forward(self, x: Tensor) -> Tensor:
        tokens = torch.cat((self.token.expand(len(x), -1, -1), self.patches(x).flatten(2).transpose(1, 2)), 1)
        attention = (tokens @ tokens.transpose(1, 2)).softmax(-1)
        return (attention @ tokens)[:, 0]


def test_a_class_token_sees_the_whole_image() -> None:
    """It once came out as seeing nothing."""
    assert receptive_field(ClassToken(), (3, 32, 32)).size == (math.inf, math.inf)


def test_an_empty_tensor_on_the_way_is_no_obstacle() -> None:
    class Empty(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            return torch.cat((y[:, :0] * 2, y), 1)

    assert receptive_field(Empty(), (3, 16, 16)).size == (3, 3)
