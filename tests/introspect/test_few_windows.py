"""Maps of which the original size leaves one window or two: what is known is what a large image shows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convblocks import receptive_field
from convblocks.introspect.runs import Runs


class Attention(nn.Module):
    """Attention within windows of places."""

    def __init__(self, places: int) -> None:
        super().__init__()
        self.places, self.norm = places, nn.LayerNorm(4)
        self.query, self.key, self.value = (nn.Linear(4, 4) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        size = self.places
        cut = self.norm(x.permute(0, 2, 3, 1)).view(n, h // size, size, w // size, size, c)
        cut = cut.permute(0, 1, 3, 2, 4, 5).reshape(-1, size * size, c)
        mixed = (self.query(cut) @ self.key(cut).transpose(1, 2)).softmax(-1) @ self.value(cut)
        mixed = mixed.view(n, h // size, w // size, size, size, c).permute(0, 5, 1, 3, 2, 4)
        return x + mixed.reshape(n, c, h, w)


class Rows(nn.Module):
    """Slides over the places of a window, row by row."""

    def __init__(self, places: int, step: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.places, self.step = places, step

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        size = self.places
        cut = x.view(n, c, h // size, size, w // size, size).permute(0, 2, 4, 1, 3, 5).reshape(-1, c, size * size)
        mixed = self.step(cut).view(n, h // size, w // size, c, size, size).permute(0, 3, 1, 4, 2, 5)
        return x + mixed.reshape(n, c, h, w)


def pool(x: Tensor) -> Tensor:
    return F.avg_pool1d(x, 3, 1, 1, count_include_pad=False)


def shifted(x: Tensor) -> Tensor:
    """As relative positions are made absolute: a column more, and as many places as before."""
    n, c, count = x.shape
    size = round(count**0.5)
    return F.pad(x.view(n, c, size, size), (0, 1)).flatten(2)[:, :, :count]


def conv(kernel: int = 3, stride: int = 1) -> nn.Module:
    return nn.Conv2d(4, 4, kernel, stride, (kernel - stride) // 2)


NETWORKS: dict[str, tuple[int, Callable[[], nn.Module]]] = {
    "attention": (4, lambda: Attention(4)),
    "attention of patches": (8, lambda: nn.Sequential(conv(2, 2), Attention(4))),
    "attention between convolutions": (8, lambda: nn.Sequential(conv(2, 2), conv(), Attention(4), conv())),
    "attention of 7": (7, lambda: nn.Sequential(conv(), Attention(7), conv())),
    "attention twice": (8, lambda: nn.Sequential(Attention(4), conv(2, 2), Attention(4), conv())),
    "rows of convolutions": (4, lambda: nn.Sequential(conv(), Rows(4, nn.Conv1d(4, 4, 3, padding=1)))),
    "rows of patches": (8, lambda: nn.Sequential(conv(2, 2), Rows(4, nn.Conv1d(4, 4, 3, padding=1)))),
    "rows of poolings": (4, lambda: nn.Sequential(conv(), Rows(4, pool))),
    "rows that are shifted": (4, lambda: nn.Sequential(conv(), Rows(4, shifted))),
    "rows of 5 that are shifted": (5, lambda: nn.Sequential(conv(5), Rows(5, shifted))),
}


def largest(network: nn.Module, length: int) -> tuple[int, int]:
    """The most rows that the units of one row see together, in the middle of a large image, and as many columns."""
    x = torch.randn(1, 4, 16 * length, 16 * length, dtype=torch.float64, requires_grad=True)
    out = network(x)
    step = x.shape[-1] // out.shape[-1]
    count, middle = length // step, 8 * length // step
    square = torch.zeros(count, count, *x.shape[2:], dtype=torch.bool)
    for row in range(count):
        for column in range(count):
            (grad,) = torch.autograd.grad(out[0, :, middle + row, middle + column].sum(), x, retain_graph=True)
            square[row, column] = grad[0].ne(0).any(0)
    lines = square.any(1).any(2), square.any(0).any(1)
    rows, columns = (max(int(line.nonzero().max() - line.nonzero().min()) + 1 for line in found) for found in lines)
    return rows, columns


@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_known_is_what_the_gradient_says(name: str) -> None:
    torch.manual_seed(0)
    length, make = NETWORKS[name]
    network = make().double()
    expected = largest(network, length)
    for count in (1, 2, 3):
        field = receptive_field(network, (4, count * length, count * length), dtype=torch.float64)
        assert not field.unknown
        assert field.local.size == expected
        assert field.is_global == (False, False)
        assert all(jump is None or jump > 0 for jump in field.jump)


def test_an_input_that_cannot_be_made_large_enough_is_followed_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[Any] = []
    run = Runs.run
    monkeypatch.setattr(Runs, "run", lambda *args: runs.append(args[1]) or run(*args))
    monkeypatch.setattr("convblocks.introspect.runs.LONGEST", 60)
    network = nn.Sequential(conv(2, 2), conv(), Attention(4), conv())
    field = receptive_field(network, (4, 8, 8))
    assert field.unknown or field.local.size == (20, 20)
    assert len(runs) == 2
