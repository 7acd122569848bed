"""Networks in which Python chooses by the size of the input: the answer is that of the layers chosen at this size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convblocks.introspect import receptive_field, summary
from convblocks.introspect.analysis import Analysis

NARROW, WIDE = nn.Conv2d(2, 2, 3, padding=1), nn.Conv2d(2, 2, 7, padding=3)
LIMIT = 40

CASES: dict[str, Callable[[Tensor, bool], Tensor]] = {
    "layer": lambda x, large: NARROW(x) if large else WIDE(x),
    "layer after another": lambda x, large: NARROW(NARROW(x)) if large else WIDE(NARROW(x)),
    "kernel": lambda x, large: F.conv2d(x, x.new_ones(2, 2, 1, 3 if large else 5)),
    "dilation": lambda x, large: F.conv2d(x, NARROW.weight, None, 1, 2, 2 if large else 1),
    "stride": lambda x, large: F.avg_pool2d(x, 3, 2 if large else 1),
    "crop": lambda x, large: NARROW(x[..., 2 if large else 1 :]),
    "padding": lambda x, large: NARROW(F.pad(x, (3 if large else 1, 0))),
    "pooling of the whole map": lambda x, large: NARROW(x) * F.avg_pool2d(x, x.shape[2:]),
    "pooling of whole columns": lambda x, large: NARROW(x) * F.avg_pool2d(x, (x.shape[2], 3), 1, (0, 1)),
}


class Network(nn.Module):
    """Chooses by the size, or has chosen."""

    def __init__(self, case: str, large: bool | None = None) -> None:
        super().__init__()
        self.function, self.large = CASES[case], large
        self.layers = nn.ModuleList([NARROW, WIDE])

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, x.shape[-1] > LIMIT if self.large is None else self.large)


@pytest.mark.parametrize("length", [32, 48])
@pytest.mark.parametrize("case", CASES)
def test_the_field_is_that_of_what_was_chosen(case: str, length: int) -> None:
    """The enlarged input once answered for the original one: a kernel of 3 where 7 had run."""
    found = receptive_field(Network(case), (2, length, length))
    expected = receptive_field(Network(case, length > LIMIT), (2, length, length))
    assert not found.unknown
    assert (found.full, found.local) == (expected.full, expected.local)


def test_a_roll_that_was_chosen_is_not_guessed() -> None:
    def rolled(x: Tensor) -> Tensor:
        return NARROW(x.roll(2 if x.shape[-1] > LIMIT else 1, 3))

    assert receptive_field(rolled, (2, 32, 32)).local.start in ((0, None), (0, -1))
    assert receptive_field(rolled, (2, 48, 48)).local.start == (0, -2)


REVERSED: dict[str, Callable[[Tensor], Tensor]] = {
    "flip": lambda x: x.flip(-1),
    "rot90": lambda x: torch.rot90(x, 2, (2, 3)),
    "product": lambda x: x @ torch.eye(x.shape[-1]).flip(0),
    "gather": lambda x: x.gather(3, torch.arange(x.shape[-1] - 1, -1, -1).expand(x.shape)),
    "index": lambda x: x[..., torch.arange(x.shape[-1] - 1, -1, -1)],
}


@pytest.mark.parametrize("case", REVERSED)
def test_what_runs_backwards_starts_at_the_end_of_this_size(case: str) -> None:
    field = receptive_field(REVERSED[case], (2, 12, 32))
    assert (field.size[1], field.jump[1], field.start[1]) == (1, -1, 31)
    assert field.interval(0, 3)[1] == (28, 28)


class Windows(nn.Module):
    """Attention within windows of 4 x 4."""

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        cut = x.view(n, c, h // 4, 4, w // 4, 4).permute(0, 2, 4, 3, 5, 1).reshape(-1, 16, c)
        mixed = (cut @ cut.transpose(1, 2)).softmax(-1) @ cut
        return x + mixed.view(n, h // 4, w // 4, 4, 4, c).permute(0, 5, 1, 3, 2, 4).reshape(n, c, h, w)


def test_windows_of_an_attention_are_in_the_estimate_of_the_field(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first enlarged input has room for two windows clear of its border: the jump from one to the next is known."""
    runs: list[Any] = []
    run = Analysis.run
    monkeypatch.setattr(Analysis, "run", lambda *args: runs.append(args) or run(*args))
    torch.manual_seed(0)
    layers = [layer for _ in range(6) for layer in (Windows(), nn.Conv2d(8, 8, 3, padding=1))]
    network = nn.Sequential(nn.Conv2d(3, 8, 2, 2), *layers)
    x = torch.randn(1, 3, 224, 224, dtype=torch.float64, requires_grad=True)
    units = network.double()(x)[0, :, 56:60, 56].sum(0)
    seen = [torch.autograd.grad(unit, x, retain_graph=True)[0].abs().amax((0, 1, 3)).nonzero() for unit in units]
    size = max(int(rows.max() - rows.min()) + 1 for rows in seen)
    field = receptive_field(network, (3, 32, 32), dtype=torch.float64)
    assert (field.size, field.jump, field.local.period) == ((size, size), (2.0, 2.0), (4, 4))
    assert len(runs) == 1


def test_gates_behind_a_choice_by_size_are_forgotten_with_what_follows_it() -> None:
    conv = nn.Conv2d(2, 2, 3, padding=1)

    def network(x: Tensor) -> Tensor:
        x = conv(x)
        x = x * (2.0 if x.shape[-1] < LIMIT else 3.0)
        return conv(x) + x.cumsum(2) + x.mean((2, 3), keepdim=True)

    field = receptive_field(network, (2, 32, 32))
    assert field.gates == ("aten.cumsum", "aten.mean")
    assert field.is_global == (True, True)


@pytest.mark.parametrize("tail", [False, True])
def test_shifts_that_no_estimate_counts_are_followed_whatever_comes_after(tail: bool) -> None:
    """Windows that slide over flattened places see both ends of the rows of any input: that is no reason to stop."""
    first, last, rows = nn.Conv2d(2, 2, 3, padding=1), nn.Conv2d(2, 2, 3, padding=1), nn.Conv1d(2, 2, 3, padding=1)

    class Shifts(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            x = first(x)
            for _ in range(4):
                x = x + F.pad(x, (0, 0, 30, 0))[:, :, :-30]
            x = last(x)
            return rows(x.flatten(2)) if tail else x

    sizes = [layer.field.local.size for layer in summary(Shifts(), (2, 32, 32)).layers if layer.field is not None]
    assert (125, 5) in sizes


@pytest.mark.parametrize(
    "step",
    [nn.Conv1d(2, 2, 1, 2), nn.MaxPool1d(1, 2), lambda x: x[:, :, ::2], lambda x: F.pad(x, (2, 0))[:, :, ::2]],
    ids=["convolution", "pooling", "slice", "pad and slice"],
)
def test_every_other_flattened_place_is_told_at_the_given_size(step: Callable[[Tensor], Tensor]) -> None:
    conv = nn.Conv2d(2, 2, 3, padding=1)
    field = receptive_field(lambda x: step(conv(x).flatten(2)), (2, 14, 14))
    assert (field.size[0], field.jump[0], field.local.period[0]) == (3, 1 / 7, 7)


def test_a_window_as_large_as_the_map_is_that_of_a_larger_map() -> None:
    """To cut windows out of a map copies it where there are several, and does not where there is one."""
    network = nn.Sequential(nn.Conv2d(3, 8, 2, 2), Windows(), nn.Conv2d(8, 8, 3, padding=1))
    sizes = [
        [row.field.local.size for row in summary(network, (3, n, n)).layers[1:] if row.field is not None]
        for n in (8, 16)
    ]
    assert sizes[0] == sizes[1]
    field = receptive_field(network, (3, 8, 8))
    assert (field.size, field.is_global) == ((16, 16), (False, False))


def test_the_places_gathered_of_a_map_of_one_window_are_those_of_one_window() -> None:
    wide, narrow = nn.Conv2d(8, 8, 7, padding=3), nn.Conv2d(8, 8, 3, padding=1)
    network = nn.Sequential(nn.Conv2d(3, 8, 2, 2), wide, wide, Windows(), narrow, nn.AdaptiveAvgPool2d(1))
    # Places see 26 rows. A window and the two beside it, which the convolution reaches, have 12: 22 rows more.
    assert receptive_field(network, (3, 8, 8)).local.size == (48, 48)


def test_an_enlarged_run_ends_where_it_does_something_else() -> None:
    sizes: list[int] = []

    def network(x: Tensor) -> Tensor:
        x = F.avg_pool2d(x, 3, 2 if x.shape[-1] > LIMIT else 1)
        sizes.append(x.shape[-1])
        return NARROW(x)

    assert receptive_field(network, (2, 32, 32)).size == (5, 5)
    assert sizes == [30]


@pytest.mark.parametrize("kind", ["rows of windows", "rows of the map"])
def test_what_slides_along_rows_of_windows_does_not_follow_the_width_of_the_map(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As relative positions are turned into absolute ones."""
    runs: list[Any] = []
    run = Analysis.run
    monkeypatch.setattr(Analysis, "run", lambda *args: runs.append(args) or run(*args))
    conv = nn.Conv2d(3, 4, 3, padding=1)

    def network(x: Tensor) -> Tensor:
        x = conv(x)
        if kind == "rows of the map":
            return F.max_pool1d(x.flatten(2), 3, 1, 1)
        n, c, h, w = x.shape
        cut = x.view(n, c, h // 4, 4, w // 4, 4).permute(0, 1, 2, 4, 3, 5).flatten(4)
        return F.max_pool1d(cut.flatten(0, 3).unsqueeze(1), 3, 1, 1)

    field = receptive_field(network, (3, 16, 16))
    assert field.size[0] == 4
    assert len(runs) == (1 if kind == "rows of windows" else 2)
    policy = field._analysis.local(field.axes[0]).policy  # pyright: ignore[reportPrivateUsage] - of this package
    assert not policy.crosses


def test_windows_that_are_folded_again_do_not_follow_the_size() -> None:
    def network(x: Tensor) -> Tensor:
        columns = torch.ones(18, 18) @ F.unfold(NARROW(x), 3, padding=1)
        return F.fold(columns, x.shape[2:], 3, padding=1)

    field = receptive_field(network, (2, 16, 16))
    assert (field.size, field.jump, field.start) == ((7, 7), (1, 1), (0, 0))


@pytest.mark.parametrize(("scale", "count"), [(lambda n: 1.0 / n, 1), (lambda n: float(n > 40**2), 2)])
def test_a_scale_that_goes_with_the_size_is_no_geometry(
    scale: Callable[[int], float], count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other than that of a product with nothing."""
    runs: list[Any] = []
    run = Analysis.run
    monkeypatch.setattr(Analysis, "run", lambda *args: runs.append(args) or run(*args))
    field = receptive_field(lambda x: NARROW(x) * scale(x.shape[2] * x.shape[3]), (2, 32, 32))
    assert field.size in ((3, 3), (0, 0))
    assert len(runs) == count
