"""The recurrent layers, each one operation of the trace."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from perturbation import Case, cases, check, refused
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from convblocks import receptive_field, summary

LAYERS = {"lstm": nn.LSTM, "gru": nn.GRU, "tanh": nn.RNN}


def layer(kind: str, features: int = 3, hidden: int = 2, **options: Any) -> Any:
    torch.manual_seed(0)
    return LAYERS[kind](features, hidden, dtype=torch.float64, **options)


def relu(**options: Any) -> Any:
    """With positive weights, so that what is negative does not hide a step for good."""
    made = layer("tanh", nonlinearity="relu", **options)
    for parameter in made.parameters():
        nn.init.uniform_(parameter, 0.1, 1)
    return made


def started(kind: str, **options: Any) -> Any:
    made = layer(kind, **options)

    def run(x: Tensor) -> Any:
        first = x[:1, :, :2].mean(0, keepdim=True)
        return made(x[1:], (first, first) if kind == "lstm" else first)

    return run


SEVERAL = layer("gru", bidirectional=True)
SIMPLE = layer("lstm")


def split(x: Tensor) -> Any:
    return SEVERAL(x)[0].split(2, 2)


def windows(x: Tensor) -> Tensor:
    return SIMPLE(x.unfold(0, 2, 1).sum(-1))[0]


CASES = [
    *(Case(kind, layer(kind), (4, 2, 3)) for kind in LAYERS),
    *(Case(f"{kind}, batch first", layer(kind, batch_first=True), (2, 4, 3)) for kind in LAYERS),
    *(Case(f"{kind}, both ways", layer(kind, bidirectional=True), (4, 2, 3)) for kind in LAYERS),
    *(Case(f"{kind}, two layers", layer(kind, num_layers=2, batch_first=True), (2, 4, 3)) for kind in LAYERS),
    *(Case(f"{kind}, started", started(kind), (4, 2, 3)) for kind in LAYERS),
    Case("relu", relu(), (4, 2, 3)),
    Case("relu, two layers both ways", relu(num_layers=2, bidirectional=True), (4, 2, 3)),
    Case("one way of two", split, (4, 2, 3)),
    Case("projected", layer("lstm", proj_size=1, bidirectional=True, batch_first=True), (2, 4, 3)),
    Case("without a batch", layer("lstm", bias=False), (4, 3)),
    Case("one step", layer("gru", bidirectional=True), (1, 2, 3)),
    Case("of windows", windows, (5, 2, 3)),
]


@cases(*CASES)
def test_what_is_read(case: Case) -> None:
    check(case)


def test_initial_states_that_read_different_places_are_refused() -> None:
    made = layer("gru", num_layers=2)
    assert "initial states" in refused(lambda x: made(x, x[:2, :, :2])[0], (4, 2, 3), 0)
    assert receptive_field(lambda x: made(x.mean((2, 3))[None])[0], (3, 4, 4), dtype=torch.float64).size == (
        math.inf,
        math.inf,
    )


class Text(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.conv = nn.Conv1d(4, 6, 3, padding=1)
        self.rnn = nn.LSTM(6, 5, batch_first=True, **options)
        self.head = nn.Linear(5 * (2 if self.rnn.bidirectional else 1), 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(self.conv(x).transpose(1, 2))[0])


def test_both_ways_is_global_and_one_way_unknown_by_name() -> None:
    both = receptive_field(Text(bidirectional=True), (4, 20))
    assert both.size == (math.inf,)
    assert not both.unknown
    once = receptive_field(Text(), (4, 20))
    assert once.size == (None,)
    assert "aten.lstm" in once.unknown[0]
    assert "rnn" in once.unknown[0]


@pytest.mark.parametrize(
    "options", [{}, {"bidirectional": True, "num_layers": 2}, {"proj_size": 0, "bias": False}], ids=str
)
def test_the_work_is_that_of_every_step(options: dict[str, Any]) -> None:
    model = Text(**options).eval()
    # On the CPU a kernel does the whole of it, which the counter does not count.
    with torch.device("meta"), FlopCounterMode(display=False) as counter, torch.no_grad():
        Text(**options).eval()(torch.zeros(1, 4, 20))
    told = summary(model, (4, 20))
    assert told.macs == counter.get_total_flops() // 2
    assert told.parameters == sum(parameter.numel() for parameter in model.parameters())


def test_a_long_sequence_takes_no_operations_a_step() -> None:
    """torch takes a recurrent layer apart into some fourteen operations for each of 4,096 steps: minutes."""
    rows = summary(Text(bidirectional=True), (4, 4096)).records()
    assert [row["type"] for row in rows if "lstm" in row["type"].lower()] == ["LSTM"]
