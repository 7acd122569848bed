"""Places picked by lists, by perturbation."""

from __future__ import annotations

import torch
from perturbation import Case, cases, check, refused

aten = torch.ops.aten
ROWS = torch.tensor([2, 0, 0, -1])
GRID = torch.tensor([[0, 1], [2, 1]])
MASK = torch.tensor([True, False, True])
PLANE = torch.tensor([[True, False, True], [False, True, True]])

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
    Case("unsafe", lambda x: aten._unsafe_index(x, [None, ROWS]), (2, 3)),
]


@cases(*CASES)
def test_labels_are_picked_as_the_elements(case: Case) -> None:
    check(case)


def test_indices_from_the_input_are_refused() -> None:
    assert "indices that depend on the input" in refused(lambda x: x[x[0].argmax(1)], (2, 2, 2))
    assert "indices that depend on the input" in refused(lambda x: x.index_select(1, x[0, 0].argsort()), (2, 3, 3))
