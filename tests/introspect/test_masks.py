"""Attention under a mask: what a place sees is a matter of the mask's values, so the answer is unknown, by name."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convblocks.introspect import receptive_field

PLACES, CHANNELS = 6, 8
INFINITY = float("inf")
LATER = torch.triu(torch.ones(PLACES, PLACES, dtype=torch.bool), 1)
torch.manual_seed(0)
HEADS = nn.MultiheadAttention(CHANNELS, 2, batch_first=True).eval()
LAYER = nn.TransformerEncoder(nn.TransformerEncoderLayer(CHANNELS, 2, 16, batch_first=True), 1).eval()


def _scores(x: Tensor) -> Tensor:
    return x @ x.transpose(1, 2)


def _earlier(x: Tensor) -> Tensor:
    return torch.ones(PLACES, PLACES, device=x.device, dtype=x.dtype).tril()


MASKED: dict[str, Callable[[Tensor], Tensor]] = {
    "causal": lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True),
    "booleans": lambda x: F.scaled_dot_product_attention(x, x, x, attn_mask=~LATER),
    "booleans made on the way": lambda x: F.scaled_dot_product_attention(x, x, x, attn_mask=_earlier(x).bool()),
    "numbers": lambda x: F.scaled_dot_product_attention(
        x, x, x, attn_mask=torch.zeros(PLACES, PLACES, dtype=x.dtype).masked_fill(LATER, -INFINITY)
    ),
    "heads": lambda x: HEADS.to(x.dtype)(x, x, x, attn_mask=LATER, need_weights=False)[0],
    "heads with their weights": lambda x: HEADS.to(x.dtype)(x, x, x, attn_mask=LATER)[0],
    "encoder": lambda x: LAYER.to(x.dtype)(x, mask=LATER, is_causal=True),
    "by hand": lambda x: _scores(x).masked_fill(LATER, -INFINITY).softmax(-1) @ x,
    "by hand, a large number": lambda x: (_scores(x) + (1 - _earlier(x)) * -1e9).softmax(-1) @ x,
    "by hand, where": lambda x: torch.where(_earlier(x) == 0, torch.tensor(-INFINITY), _scores(x)).softmax(-1) @ x,
}
OPEN: dict[str, Callable[[Tensor], Tensor]] = {
    "no mask": lambda x: F.scaled_dot_product_attention(x, x, x),
    "a bias": lambda x: F.scaled_dot_product_attention(x, x, x, attn_mask=torch.linspace(-9, 9, 36).view(6, 6).to(x)),
    "Swin's -100": lambda x: (_scores(x) + LATER.to(x.device) * -100.0).softmax(-1) @ x,
    "heads": lambda x: HEADS.to(x.dtype)(x, x, x)[0],
    "encoder": lambda x: LAYER.to(x.dtype)(x),
    "padding by a number for a maximum": lambda x: F.max_pool1d(F.pad(x, (2, 2), value=-INFINITY), 12, 12),
}


class Network(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def first_sees(function: Callable[[Tensor], Tensor]) -> int:
    """How many places the first one sees, by the gradient."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, PLACES, CHANNELS, dtype=torch.float64, generator=generator, requires_grad=True)
    (gradient,) = torch.autograd.grad(function(x)[0, 0].square().sum(), x)
    return int((gradient[0] != 0).any(1).sum())


@pytest.mark.parametrize("case", MASKED)
def test_under_a_mask_the_field_is_unknown(case: str) -> None:
    assert first_sees(MASKED[case]) == 1
    field = receptive_field(Network(MASKED[case]), (PLACES, CHANNELS))
    assert field.size == (None,)
    assert "a mask that hides places" in field.unknown[0]


@pytest.mark.parametrize("case", OPEN)
def test_without_one_it_is_known(case: str) -> None:
    field = receptive_field(Network(OPEN[case]), (PLACES, CHANNELS))
    assert field.unknown == ()
    if case != "padding by a number for a maximum":
        assert first_sees(OPEN[case]) == PLACES
        assert field.size == (INFINITY,)


def test_a_mask_among_the_buffers() -> None:
    class Causal(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("earlier", _earlier(torch.zeros(1)))

        def forward(self, x: Tensor) -> Tensor:
            return _scores(x).masked_fill(self.earlier == 0, -INFINITY).softmax(-1) @ x

    with torch.device("meta"):
        made = Causal()
    for network in (Causal(), made):
        assert receptive_field(network, (PLACES, CHANNELS)).size == (None,)
