"""Places picked by lists, by perturbation."""

from __future__ import annotations

import torch
from perturbation import Case, cases, check, refused
from torch import Tensor

aten = torch.ops.aten
ROWS = torch.tensor([2, 0, 0, -1])
GRID = torch.tensor([[0, 1], [2, 1]])
MASK = torch.tensor([True, False, True])
PLANE = torch.tensor([[True, False, True], [False, True, True]])


def _even(x: Tensor) -> Tensor:
    """A mask made where the input is."""
    places = torch.arange(x.shape[1], device=x.device)
    return x[:, places % 2 == 0]


def _written_later(x: Tensor) -> Tensor:
    """A list that has done its work is used for something else."""
    places = torch.arange(3)
    picked = x[:, places]
    places.fill_(0)
    return picked


class _Own:
    """A list of the network's own, which is written into."""

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        places = torch.tensor([2, 0, 1])
        before = x[:, places]
        places[1:].add_(1)
        return before, x[:, places]


def _written_piece_by_piece(x: Tensor) -> Tensor:
    places = torch.zeros(4, dtype=torch.long, device=x.device)
    places[2:] = torch.arange(2, device=x.device)
    places[0].add_(3)
    return x[:, places]


def _number(x: Tensor) -> Tensor:
    return x[:, int(torch.arange(3, device=x.device).max()) :]


CASES = [
    Case("index select", lambda x: (x.index_select(0, torch.tensor([2, 0, 0])), x.index_select(-1, GRID[0])), (3, 4)),
    Case(
        "index select of what does not vary",
        lambda x: x.sum(1, keepdim=True).expand(3, 4).index_select(1, GRID[0]),
        (3, 4),
    ),
    Case("list", lambda x: x[ROWS], (3, 4)),
    Case("list of the second", lambda x: x[:, ROWS], (2, 3, 4)),
    Case("table", lambda x: x[:, GRID], (2, 3, 4)),
    Case("neighbouring lists", lambda x: x[:, GRID, GRID], (2, 3, 4)),
    Case("lists apart go to the front", lambda x: x[ROWS[:2], :, ROWS[:2]], (3, 2, 4)),
    Case("lists apart, of two rows", lambda x: x[:, ROWS[:2], :, ROWS[:2]], (2, 3, 2, 4)),
    Case("mask", lambda x: x[:, MASK], (2, 3, 4)),
    Case("mask of two dimensions", lambda x: x[PLANE], (2, 3, 4)),
    Case("list after a mask of two dimensions", lambda x: x[PLANE, ROWS], (2, 3, 4)),
    Case("list of what does not vary", lambda x: x.sum(1, keepdim=True).expand(3, 4)[:, ROWS], (3, 4)),
    Case("list made where the input is", lambda x: x[:, torch.arange(3, device=x.device).flip(0)], (2, 3)),
    Case("mask made where the input is", _even, (2, 4)),
    Case("mask of the input's shape", lambda x: x[torch.ones_like(x, dtype=torch.bool).tril()], (3, 3)),
    Case("list written into when it was used", _written_later, (2, 3)),
    Case("list of its own, used before and after it was written into", _Own(), (2, 4)),
    Case("list written piece by piece", _written_piece_by_piece, (2, 4)),
    Case("a number that was a tensor", _number, (2, 4)),
    Case("unsafe", lambda x: aten._unsafe_index(x, [None, ROWS]), (2, 3)),
]


@cases(*CASES)
def test_labels_are_picked_as_the_elements(case: Case) -> None:
    check(case)


def test_indices_that_were_drawn_are_refused() -> None:
    assert "indices of unknown value" in refused(lambda x: x[:, torch.randperm(3)], (2, 3, 2))


def test_indices_without_data_are_refused() -> None:
    places = torch.arange(3, device="meta")
    assert "indices of unknown value" in refused(lambda x: x[:, places], (2, 3, 2))


def test_indices_from_the_input_are_refused() -> None:
    assert "indices that depend on the input" in refused(lambda x: x[x[0].argmax(1)], (2, 2, 2))
    assert "indices that depend on the input" in refused(lambda x: x.index_select(1, x[0, 0].argsort()), (2, 3, 3))
