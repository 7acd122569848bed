"""Padding, by perturbation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from perturbation import Case, cases, check

CASES = [
    Case("constant, each side another", lambda x: F.pad(x, (1, 0, 3, 2)), (2, 3, 4, 5)),
    Case("constant, crops", lambda x: F.pad(x, (-1, 2, 0, -2)), (2, 4, 5)),
    Case("constant, of all dimensions", lambda x: F.pad(x, (0, 1, 1, 0, 2, 0)), (2, 3, 2)),
    Case("constant, of what does not vary", lambda x: F.pad(x.mean(1, keepdim=True).expand(2, 3), (1, 1)), (2, 3)),
    *[
        Case(
            f"{mode}{count}d", lambda x, mode=mode, count=count: F.pad(x, (1, 2, 0, 1, 2, 1)[: 2 * count], mode), shape
        )
        for mode in ("reflect", "replicate", "circular")
        for count, shape in ((1, (1, 2, 4)), (2, (1, 2, 3, 4)), (3, (1, 1, 3, 3, 4)))
    ],
    Case("reflect, without a batch", lambda x: F.pad(x, (2, 1, 1, 0), "reflect"), (2, 3, 4)),
    Case("replicate, far", lambda x: F.pad(x, (5, 4), "replicate"), (1, 2, 3)),
    Case("reflect, of one column", lambda x: F.pad(x[..., :1], (0, 0, 1, 1), "reflect"), (1, 2, 3, 3)),
    Case(
        "reflect, of what does not vary",
        lambda x: F.pad(x.mean(2, keepdim=True) + 0 * x[:1], (1, 1), "reflect"),
        (1, 2, 3),
    ),
    Case(
        "padding mode of a convolution",
        lambda x: torch.nn.functional.conv1d(F.pad(x, (2, 1), "circular"), torch.ones(1, 2, 3).double()),
        (1, 2, 5),
    ),
]


@cases(*CASES)
def test_labels_are_padded_as_the_elements(case: Case) -> None:
    check(case)
