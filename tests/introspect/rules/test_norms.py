"""Normalisation, by perturbation: what it mixes into every element, and the statistics that it returns."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from perturbation import Case, cases, check, weight
from torch import Tensor

aten = torch.ops.aten


def _statistics(n: int) -> tuple[Tensor, Tensor]:
    return torch.zeros(n, dtype=torch.float64), torch.ones(n, dtype=torch.float64)


def _trained(op: str):
    def function(x: Tensor) -> Tensor:
        return getattr(aten, op)(
            x,
            weight(3),
            weight(3),
            *_statistics(3),
            *([True] if "legit" in op or op == "native_batch_norm" else []),
            0.1,
            1e-5,
        )

    return function


CASES = [
    Case("layer norm", lambda x: F.layer_norm(x, (4,), weight(4), weight(4)), (2, 3, 4)),
    Case("layer norm of two dimensions", lambda x: F.layer_norm(x, (3, 4)), (2, 3, 4)),
    Case("layer norm, with its statistics", lambda x: aten.native_layer_norm(x, [4], None, None, 1e-5), (2, 3, 4)),
    Case("layer norm with a scale from the input", lambda x: F.layer_norm(x, (3,), x[0], x[1]), (2, 3)),
    Case("rms norm", lambda x: F.rms_norm(x, (4,), weight(4)), (2, 3, 4)),
    Case("group norm", lambda x: F.group_norm(x, 2, weight(4), weight(4)), (2, 4, 2, 2)),
    Case("group norm of one group", lambda x: F.group_norm(x, 1), (2, 2, 3)),
    Case("group norm of every channel", lambda x: F.group_norm(x, 3), (1, 3, 3)),
    Case("group norm, with its statistics", lambda x: aten.native_group_norm(x, None, None, 2, 4, 3, 2, 1e-5), (2, 4, 3)),
    Case("group norm with a scale from the input", lambda x: F.group_norm(x, 1, x[0, :, 0], x[0, :, 1]), (1, 2, 3)),
    Case("instance norm", lambda x: F.instance_norm(x), (2, 2, 3, 2)),
    Case("instance norm by statistics", lambda x: F.instance_norm(x, *_statistics(2), use_input_stats=False), (2, 2, 3)),
    Case("batch norm", lambda x: F.batch_norm(x, *_statistics(3), weight(3), weight(3)), (2, 3, 2, 2)),
    Case("batch norm in training", lambda x: F.batch_norm(x, *_statistics(3), training=True), (2, 3, 2)),
    Case("batch norm without running statistics", lambda x: F.batch_norm(x, None, None, training=True), (2, 3, 2)),
    Case("batch norm with a scale from the input", lambda x: F.batch_norm(x, *_statistics(3), x[0, :, 0], x[1, :, 1]), (2, 3, 2)),
    Case("batch norm by statistics from the input", lambda x: F.batch_norm(x, 2 * x[0, :, 0], x[1, :, 1].abs() + 1), (2, 3, 2)),
    Case("batch norm, with its statistics", _trained("native_batch_norm"), (2, 3, 2)),
    Case("legit, with its statistics", _trained("_native_batch_norm_legit"), (2, 3, 2)),
    Case("legit, by statistics", lambda x: aten._native_batch_norm_legit_no_training(x, None, None, *_statistics(3), 0.1, 1e-5)[0], (2, 3, 2)),
    Case("with update", lambda x: aten._batch_norm_with_update(x, weight(3), weight(3), *_statistics(3), 0.1, 1e-5)[:3], (2, 3, 2)),
    Case("no update", lambda x: aten._batch_norm_no_update(x, weight(3), weight(3), *_statistics(3), 0.1, 1e-5)[0], (2, 3, 2)),
    Case("standardised weights", lambda x: F.conv1d(x, F.batch_norm(weight(1, 2, 9), None, None, training=True).reshape(2, 3, 3)), (1, 3, 5)),
]  # fmt: skip


@cases(*CASES)
def test_every_element_takes_its_statistics(case: Case) -> None:
    check(case)
