"""The oracle's shortcut for equal weights gives what the layers themselves give, forward and backward."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from oracle import EqualWeights, middle_unit, positive
from torch import Tensor, nn

LAYERS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "dense": (nn.Conv2d(4, 6, 3, stride=2, padding=1), (2, 4, 9, 8)),
    "groups": (nn.Conv2d(4, 6, (1, 3), groups=2, padding=(0, 2), dilation=2), (2, 4, 9, 8)),
    "depthwise": (nn.Conv2d(4, 8, 3, groups=4, bias=False), (2, 4, 9, 8)),
    "same": (nn.Conv2d(4, 6, 3, padding="same"), (1, 4, 9, 8)),
    "1-D": (nn.Conv1d(4, 6, 3), (2, 4, 9)),
    "3-D": (nn.Conv3d(4, 6, 3), (2, 4, 5, 6, 7)),
    "linear": (nn.Linear(4, 6), (2, 3, 4)),
    "linear without bias": (nn.Linear(4, 6, bias=False), (2, 3, 4)),
}


def gradients(layer: nn.Module, x: Tensor, mode: Any) -> tuple[Tensor, Tensor]:
    x = x.clone().requires_grad_()
    with mode:
        y = layer(x)
    (gradient,) = torch.autograd.grad((y * torch.arange(y.numel(), dtype=y.dtype).reshape(y.shape)).sum(), x)
    return y, gradient


@pytest.mark.parametrize("equal", [True, False])
@pytest.mark.parametrize("name", LAYERS)
def test_equal_weights_change_nothing(name: str, equal: bool) -> None:
    layer, shape = LAYERS[name]
    layer = positive(layer) if equal else layer.double()
    if not equal:
        with torch.no_grad():
            layer.weight.uniform_()
    x = torch.rand(shape, dtype=torch.float64)
    for mine, torchs in zip(gradients(layer, x, EqualWeights()), gradients(layer, x, torch.enable_grad()), strict=True):
        torch.testing.assert_close(mine, torchs)


WIDTH = 160


def _tokens(x: Tensor) -> Tensor:
    tokens = x.flatten(2).transpose(1, 2)
    return (tokens * tokens.sum(1, keepdim=True)).transpose(1, 2).view_as(x)


def _patches(x: Tensor) -> Tensor:
    patches = x.reshape(1, 2, 2, 2, WIDTH // 2, 2).permute(0, 1, 3, 5, 2, 4).reshape(1, 2, 4, -1)
    met = patches * patches.mean(-1, keepdim=True).expand_as(patches)
    return met.reshape(1, 2, 2, 2, 2, -1).permute(0, 1, 4, 2, 5, 3).reshape(x.shape)


def _windows(x: Tensor) -> Tensor:
    windows = x.unflatten(3, (-1, 20))
    return (windows * windows.sum(4, keepdim=True)).flatten(3)


SUMS = {
    "tokens": (_tokens, 2),
    "patches": (_patches, 2),
    "columns": (lambda x: x + x.mean(3, keepdim=True), 2),
    "channels": (lambda x: x.repeat(1, 16, 1, 1) * x.repeat(1, 16, 1, 1).sum(1, keepdim=True), 2),
    "windows": (_windows, 21),
}


@pytest.mark.parametrize("name", SUMS)
def test_a_sum_over_the_whole_strip_is_cut_and_no_other(name: str) -> None:
    function, size = SUMS[name]
    layer = positive(nn.Conv2d(2, 2, (1, 2)))
    padded = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 0)), layer)
    first, _, _, _ = middle_unit(lambda x: function(padded(x)), (1, 2, 4, WIDTH), 1, 20)
    assert first == (80, 79 + size)
