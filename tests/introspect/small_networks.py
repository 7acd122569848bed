"""Networks that timm does not have: decoders, dilation without stride, other dimensions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def block(inner: int, outer: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inner, outer, 3, padding=1),
        nn.BatchNorm2d(outer),
        nn.ReLU(),
        nn.Conv2d(outer, outer, 3, padding=1),
        nn.ReLU(),
    )


class UNet(nn.Module):
    """Two levels down and up, by transposed convolution or by interpolation."""

    def __init__(self, up: str) -> None:
        super().__init__()
        self.up = up
        self.down = nn.ModuleList([block(1, 4), block(4, 8)])
        self.bottom = block(8, 16)
        self.grow = nn.ModuleList([nn.ConvTranspose2d(16, 8, 2, 2), nn.ConvTranspose2d(8, 4, 2, 2)])
        self.shrink = nn.ModuleList([nn.Conv2d(16, 8, 1), nn.Conv2d(8, 4, 1)])
        self.merge = nn.ModuleList([block(16, 8), block(8, 4)])
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for down in self.down:
            x = down(x)
            skips.append(x)
            x = F.max_pool2d(x, 2)
        x = self.bottom(x)
        for i, skip in enumerate(reversed(skips)):
            if self.up == "transposed":
                x = self.grow[i](x)
            else:
                x = F.interpolate(self.shrink[i](x), scale_factor=2, mode=self.up)
            x = self.merge[i](torch.cat((x, skip), 1))
        return self.head(x)


def dilated() -> nn.Sequential:
    return nn.Sequential(
        *(
            layer
            for d in (1, 2, 4, 8)
            for layer in (nn.Conv2d(1 if d == 1 else 4, 4, 3, padding=d, dilation=d), nn.ReLU())
        )
    )


def strided_without_padding() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 4, 5, stride=2), nn.ReLU(), nn.Conv2d(4, 4, 3, stride=2), nn.ReLU(), nn.Conv2d(4, 4, 3)
    )
