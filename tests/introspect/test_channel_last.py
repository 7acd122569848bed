"""Concatenations where the last dimension is that of the channels, or that of places."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from convblocks.introspect.answers import Field
from convblocks.introspect.receptive_field import receptive_field


class GatedChannels(nn.Module):
    """A block of MambaOut: linear layers on a channel-last map, of which a part of the channels is convolved."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.wide = nn.Linear(width, 2 * width)
        self.conv = nn.Conv2d(width // 2, width // 2, 5, padding=2, groups=width // 2)
        self.joined = nn.Identity()
        self.narrow = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        width = x.shape[-1]
        gate, kept, moved = self.wide(x).split([width, width // 2, width // 2], -1)
        moved = self.conv(moved.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return x + self.narrow(gate * self.joined(torch.cat((kept, moved), -1)))


def test_channels_at_the_end_are_not_taken_for_places() -> None:
    """Along the width too, whose dimension in the input is the one of the channels in the map."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
            self.blocks = nn.Sequential(GatedChannels(8), GatedChannels(8))

        def forward(self, x: Tensor) -> Tensor:
            return self.blocks(self.stem(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    field = receptive_field(Net(), (3, 64, 48))
    for name, size in {
        "blocks.0.wide": 3,
        "blocks.0.joined": 3 + 4 * 2,
        "blocks.0.narrow": 3 + 4 * 2,
        "blocks.1.joined": 3 + 2 * 4 * 2,
        "blocks.1": 3 + 2 * 4 * 2,
    }.items():
        assert field.layers[name].full == Field((size, size), (2, 2), (0, 0), (1, 1)), name
        assert field.layers[name].unknown == ()


def test_places_that_are_joined_remain_places() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, padding=1)
            self.joined = nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            half = x.shape[-1] // 2
            return self.joined(torch.cat((self.conv(x[..., :half]), self.conv(x[..., half:])), -1))

    field = receptive_field(Net(), (3, 32, 32)).layers["joined"]
    assert field.full == Field((3, 3), (1, None), (0, None), (1, None))  # at the seam the pattern breaks
    assert field.interval(15, 15) == ((14, 16), (14, 15))  # the halves see no further than their edge
