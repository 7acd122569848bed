"""What a constant makes zero is not read: masked convolutions, filters, triangles, chosen places."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from perturbation import Case, cases, check, refused, weight
from torch import Tensor, nn

from convblocks import receptive_field, summary

SOBEL = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]], dtype=torch.float64)
FILTERS = torch.stack((SOBEL, SOBEL.T, torch.zeros(3, 3, dtype=torch.float64)))[:, None]
BEFORE = torch.ones(3, 3, dtype=torch.float64)
BEFORE[1, 1:] = BEFORE[2] = 0
BAND = torch.ones(5, 5, dtype=torch.float64).tril(1).triu(-1)
FIRST = torch.arange(6) < 3
PLACES = torch.tensor([[[0, 2, 2], [5, 1, 0]]])


def cut(*shape: int) -> Tensor:
    """A weight of which a view is overwritten."""
    made = weight(*shape)
    made[..., 1:] = 0
    return made


CASES = [
    Case("filters", lambda x: F.conv2d(x, FILTERS, padding=1), (1, 1, 5, 4)),
    Case("depthwise filters", lambda x: F.conv2d(x, FILTERS, None, 2, (0, 1), (1, 2), 3), (1, 3, 5, 7)),
    Case("masked weights", lambda x: F.conv2d(x, weight(2, 2, 3, 3) * BEFORE, padding=1), (1, 2, 4, 5)),
    Case(
        "masked weights, with a shift",
        lambda x: F.conv2d(torch.cat((x, x.roll(1, 2)), 1), weight(2, 2, 3, 3) * BEFORE),
        (1, 1, 4, 5),
    ),
    Case(
        "filled weights",
        lambda x: F.conv1d(x, weight(2, 1, 3).masked_fill(torch.tensor([False, True, False]), 0)),
        (1, 1, 5),
    ),
    Case("overwritten weights", lambda x: F.conv1d(x, cut(2, 1, 3)), (1, 1, 5)),
    Case("triangular weights", lambda x: F.conv2d(x, weight(1, 1, 3, 3).tril(), None, 1, 1), (1, 1, 4, 4)),
    Case("weights by groups", lambda x: F.conv1d(x, weight(4, 2, 3) * torch.tensor([0.0, 1, 0]), groups=2), (1, 4, 5)),
    Case("transposed", lambda x: F.conv_transpose2d(x, weight(1, 2, 3, 3) * BEFORE, None, 2, 1), (1, 1, 3, 4)),
    Case("transposed depthwise", lambda x: F.conv_transpose2d(x, FILTERS, None, 1, 0, 0, 3), (1, 3, 3, 4)),
    Case("product with a band", lambda x: (x @ BAND, BAND @ x, (x @ BAND) @ BAND.T), (2, 5, 5)),
    Case("product with a triangle", lambda x: x @ torch.ones(5, 4, dtype=torch.float64).triu(-1), (2, 5)),
    Case("linear with a mask", lambda x: F.linear(x, weight(5, 5) * BAND, weight(5)), (2, 3, 5)),
    Case(
        "times a constant", lambda x: (x * FIRST, FIRST.double()[:, None] * x[..., None], x.mul_(FIRST), x * 0), (2, 6)
    ),
    Case(
        "times what is zero here and there",
        lambda x: x[:, None] * BAND[:, None] + x.flip(1)[:, None] * (1 - BAND)[:, None],
        (1, 5),
    ),
    Case("chosen", lambda x: (torch.where(FIRST, x, x.flip(1)), torch.where(x > 0, x, x.flip(0))), (2, 6)),
    Case("filled", lambda x: x.masked_fill(FIRST, 1), (2, 6)),
    Case("triangle", lambda x: (x.tril(), x.triu(1), x.tril_(-1)), (2, 3, 4)),
    Case("gather", lambda x: (x.gather(2, PLACES), torch.take_along_dim(x, PLACES[:, :, :1], 1)), (1, 6, 6)),
]


@cases(*CASES)
def test_what_is_read(case: Case) -> None:
    check(case)


def test_zeros_that_nothing_proves_are_refused() -> None:
    shifted = torch.tensor([[[1.0, 0]], [[0, 1]]]).transpose(0, 1).double()
    assert "channels" in refused(lambda x: F.conv1d(torch.cat((x, x.roll(1, 2)), 1), shifted), (1, 1, 5))
    pairs = torch.stack((BAND, BAND.T.tril()))
    assert "batch" in refused(lambda x: x @ pairs, (2, 5, 5))
    assert "indices" in refused(lambda x: x.gather(2, (x > 0).long()), (1, 2, 3))


class MaskedConv(nn.Conv2d):
    """As in PixelCNN: what comes later is not read."""

    mask: Tensor

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        mask, (height, width) = torch.ones_like(self.weight), self.kernel_size
        mask[:, :, height // 2, width // 2 + 1 :] = 0
        mask[:, :, height // 2 + 1 :] = 0
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight * self.mask, self.bias)


def test_masked_convolutions_see_what_came_before() -> None:
    model = nn.Sequential(MaskedConv(3, 4, 5, padding=2), MaskedConv(4, 4, 3, padding=1)).double()
    field = receptive_field(model, (3, 32, 32), dtype=torch.float64)
    assert (field.size, field.start) == ((4, 7), (-1.5, 0))
    image = torch.randn(1, 3, 32, 32, dtype=torch.float64, requires_grad=True)
    model(image)[0, :, 16, 16].sum().backward()
    assert image.grad is not None
    reached = image.grad[0].ne(0).any(0)[13:17, 13:20]
    assert field.coverage == pytest.approx(float(reached.float().mean()))
    assert [row["parameters"] for row in summary(model, (3, 32, 32), dtype=torch.float64).records()[-2:]] == [304, 148]


def test_constants_without_values_hide_nothing() -> None:
    with torch.device("meta"):
        model = MaskedConv(3, 4, 5)
    assert receptive_field(model, (3, 16, 16)).size == (5, 5)


def test_parameters_that_happen_to_be_zero_are_read() -> None:
    model = nn.Conv2d(1, 1, 3)
    nn.init.zeros_(model.weight)
    assert receptive_field(model, (1, 8, 8)).size == (3, 3)
    norm = nn.Sequential(nn.Conv2d(1, 1, 3), nn.BatchNorm2d(1))
    nn.init.zeros_(norm[1].weight)
    assert receptive_field(norm, (1, 8, 8)).size == (3, 3)
