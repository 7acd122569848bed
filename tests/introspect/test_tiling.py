"""Tiled inference equals the whole image, or is refused by name."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from oracle import positive
from small_networks import UNet, dilated, strided_without_padding
from torch import Tensor, nn

from convblocks.introspect.tiling import halo, tiled

CASES = {
    "unet_transposed": (lambda: UNet("transposed"), (96, 160), 72),
    "unet_nearest": (lambda: UNet("nearest"), (96, 160), 80),
    "unet_bilinear": (lambda: UNet("bilinear"), (96, 160), 96),
    "dilated": (dilated, (97, 131), 48),
    "strided": (strided_without_padding, (101, 90), 40),
    "pixel_shuffle": (
        lambda: nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.PixelShuffle(2), nn.Conv2d(2, 1, 3, padding=1)),
        (40, 60),
        16,
    ),
    "asymmetric": (
        lambda: nn.Sequential(nn.ZeroPad2d((0, 3, 1, 0)), nn.Conv2d(1, 2, (2, 4)), nn.AvgPool2d(2)),
        (50, 64),
        24,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_tiles_give_what_the_whole_gives(name: str) -> None:
    build, size, tile = CASES[name]
    model = build().eval()
    x = torch.randn(2, 1, *size)
    whole = model(x)
    assert torch.allclose(tiled(model, x, tile=tile), whole, atol=1e-5)


@pytest.mark.parametrize("name", ["unet_transposed", "dilated", "strided"])
def test_a_smaller_halo_would_not_do(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The halo is needed: with a shorter one the result differs."""
    build, size, _ = CASES[name]
    model = positive(build())
    x = torch.rand(1, 1, *size, dtype=torch.float64)
    plan = halo(model, (1, *size))
    from convblocks.introspect import tiling

    short = tiling.Tiling(
        tuple((max(0, a - 2 * m), max(0, b - 2 * m)) for (a, b), m in zip(plan.halo, plan.multiple, strict=True)),
        plan.multiple,
        plan.jump,
    )
    tile = tuple(n + 2 * m for n, m in zip(short.smallest, short.multiple, strict=True))
    assert torch.allclose(tiled(model, x, tile=64), model(x), rtol=0, atol=1e-12)
    monkeypatch.setattr(tiling, "_tiling", lambda *_: short)
    assert not torch.allclose(tiled(model, x, tile=tile), model(x), rtol=0, atol=1e-12)


def test_what_cannot_be_tiled() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate = nn.AdaptiveAvgPool2d(1)

        def forward(self, x: Tensor) -> Tensor:
            return F.relu(x) * self.gate(x)

    with pytest.raises(ValueError, match="gate gathers the whole image"):
        tiled(Gated(), torch.randn(1, 1, 64, 64), tile=32)
    with pytest.raises(ValueError, match=r"multiple of \(4, 4\), got \(50, 50\); \(52, 52\) would fit"):
        tiled(UNet("nearest").eval(), torch.randn(1, 1, 64, 64), tile=50)
    with pytest.raises(ValueError, match="tile must be one positive whole number or 2"):
        tiled(dilated(), torch.randn(1, 1, 64, 64), tile=(32, 32, 32))


class Softened(nn.Module):
    """A softmax over channels, and a product of matrices behind it: no attention, whatever it looks like."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 3, 3, 2, 1)
        self.mixed, self.wide = nn.Linear(4, 4), nn.Conv2d(3, 3, 35, padding=17)

    def forward(self, x: Tensor) -> Tensor:
        y = self.mixed(self.before(x).softmax(1).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return F.interpolate(self.after(y), scale_factor=4) + self.wide(x)


def test_strides_before_a_softmax_count() -> None:
    network, x = Softened().eval(), torch.randn(1, 3, 128, 128)
    torch.testing.assert_close(tiled(network, x, tile=48), network(x), rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="multiple of"):
        tiled(network, x, tile=78)
