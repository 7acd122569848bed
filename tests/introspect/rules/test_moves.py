"""Rearrangements of whole tensors, by perturbation."""

from __future__ import annotations

import torch
from perturbation import Case, cases, check, refused

aten = torch.ops.aten

CASES = [
    Case("view merges", lambda x: x.view(2, 12, 5), (2, 3, 4, 5)),
    Case("view splits", lambda x: x.view(2, 3, 2, 2, 5), (2, 3, 4, 5)),
    Case("view regroups", lambda x: x.view(4, 9), (6, 6)),
    Case("view and back", lambda x: x.view(2, -1).view(2, 3, 4, 5), (2, 3, 4, 5)),
    Case("view of a view, otherwise grouped", lambda x: x.view(24, 5).view(2, 12, 5).view(6, 20), (2, 3, 4, 5)),
    Case("view to a scalar", lambda x: x.view(()), (1, 1)),
    Case("unsafe view", lambda x: aten._unsafe_view(x, [6, 20]), (2, 3, 4, 5)),
    Case("reshape alias", lambda x: aten._reshape_alias(x, [6, 4], [4, 1]), (2, 3, 4)),
    Case("flatten and unflatten", lambda x: x.flatten(1).unflatten(1, (2, -1)), (2, 3, 4)),
    Case("the same", lambda x: (x.detach(), x.clone(), x.contiguous(), aten.alias(x)), (2, 3)),
    Case("to another type", lambda x: x.to(torch.float32), (2, 3)),
    Case("lifted", lambda x: (aten.lift_fresh(x), aten.lift_fresh_copy(x)), (2, 3)),
    Case("permute", lambda x: x.permute(0, -1, 1, -2), (2, 3, 4, 5)),
    Case("permute of a view", lambda x: x.view(2, 3, 2, 2).permute(3, 1, 0, 2).reshape(6, 4), (2, 3, 4)),
    Case("transpose", lambda x: x.transpose(-1, 0), (2, 3, 4)),
    Case("transpose of a scalar", lambda x: x.sum().transpose(0, 0), (2,)),
    Case("matrix transpose", lambda x: (x.t(), x[0].t()), (2, 3)),
    Case("unsqueeze", lambda x: (x.unsqueeze(1), x.unsqueeze(-1), x.unsqueeze(-3)), (2, 3)),
    Case("squeeze all", lambda x: x.squeeze(), (1, 3, 1, 4)),
    Case("squeeze one, which is not 1", lambda x: (x.squeeze(1), x.squeeze(-2)), (1, 3, 1, 4)),
    Case("squeeze some", lambda x: x.squeeze((0, -2)), (1, 3, 1, 4)),
    Case("expand", lambda x: x.expand(5, 2, 3, -1), (2, 1, 4)),
    Case("repeat", lambda x: x.repeat(2, 1, 3), (2, 3)),
    Case("repeat of what does not vary", lambda x: x.sum(1, keepdim=True).expand(2, 3).repeat(2, 2), (2, 3)),
    Case("repeat interleaved", lambda x: x.repeat_interleave(2, 1), (2, 3)),
    Case("roll", lambda x: x.roll((1, -2), (-1, 0)), (4, 5)),
    Case("flip", lambda x: x.flip((0, -1)), (3, 2, 4)),
    Case("rot90", lambda x: (x.rot90(1, (0, 1)), x.rot90(2, (0, 1)), x.rot90(-1, (1, 0))), (3, 4)),
    Case("unfold", lambda x: x.unfold(-1, 3, 2), (2, 8)),
    Case("unfold of rows that are alike", lambda x: x.sum(0, keepdim=True).expand(8, 2).unfold(0, 3, 2), (8, 2)),
    Case("unfold of what does not vary", lambda x: x.sum(1, keepdim=True).expand(2, 8).unfold(1, 3, 2), (2, 8)),
    Case("diagonal", lambda x: x.diagonal(0, 1, 2), (2, 4, 4)),
    Case("diagonal above", lambda x: x.diagonal(1, -1, 0), (5, 2, 4)),
    Case("diagonal of a row", lambda x: x.sum(0, keepdim=True).expand(4, 4).diagonal(1), (4, 4)),
]


@cases(*CASES)
def test_labels_move_as_the_elements(case: Case) -> None:
    check(case)


def test_a_roll_of_everything_is_refused() -> None:
    assert "a roll of the flattened tensor" in refused(lambda x: aten.roll(x, [1]), (2, 3, 4))
