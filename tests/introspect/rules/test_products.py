"""Matrix products and attention, by perturbation."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from perturbation import NEW, Case, cases, check, weight
from torch import Tensor

aten = torch.ops.aten
SOME = weight(1, 2, 3, 2)


def _attention(op: str, x: Tensor) -> Any:
    """Query, key and value from different rows of x."""
    query, key, value = x, x.flip(2), x.roll(1, 2)
    if "efficient" in op:
        return getattr(aten, op)(query, key, value, None, False)[0]
    if "cudnn" in op or "overrideable" in op:
        return getattr(aten, op)(query, key, value, None, *([False] if "cudnn" in op else []))[0]
    return getattr(aten, op)(query, key, value)[0]


def _plain(x: Tensor) -> Tensor:
    return (x @ x.flip(2).transpose(-1, -2)).softmax(-1) @ x.roll(1, 2)


KERNELS = ["flash_attention", "efficient_attention", "cudnn_attention", "flash_attention_for_cpu"]
KERNELS += ["fused_attention_overrideable"] * NEW

CASES = [
    Case("linear", lambda x: F.linear(x, weight(2, 4), weight(2)), (3, 4)),
    Case("linear on three dimensions", lambda x: F.linear(x, weight(2, 4)), (2, 3, 4)),
    Case("linear on a vector", lambda x: F.linear(x, weight(2, 4), weight(2)), (4,)),
    Case("linear on a flattened map", lambda x: F.linear(x.view(6, 4), weight(2, 4)).view(2, 3, 2), (2, 3, 4)),
    Case("linear on a map whose channels were merged", lambda x: F.linear(x.view(2, 12), weight(2, 12)), (2, 3, 4)),
    Case("matrices", lambda x: x @ x.t(), (2, 3)),
    Case("matrices, of other rows", lambda x: x[:1] @ x.flip(0).t(), (2, 3)),
    Case("constant on the left", lambda x: weight(2, 3) @ x, (3, 4)),
    Case("batched", lambda x: (torch.bmm(x, x.transpose(1, 2)), torch.bmm(weight(2, 2, 3), x)), (2, 3, 2)),
    Case("with an addend", lambda x: torch.addmm(x[0], x, weight(3, 3)), (2, 3)),
    Case("with an addend alone", lambda x: torch.addmm(x, weight(2, 4), weight(4, 3)), (2, 3)),
    Case("batched, with an addend", lambda x: torch.baddbmm(x[:1, :1, :2], x, x.transpose(1, 2)), (2, 2, 3)),
    Case("vector", lambda x: (x @ x[0], x @ weight(3), weight(2, 3) @ x[1]), (2, 3)),
    Case("vector, with an addend", lambda x: torch.addmv(x[:, 0], x, x[0]), (2, 3)),
    Case("dot", lambda x: (x[0] @ x[1], torch.dot(x[0], weight(3)), torch.vdot(x[1], x[0])), (2, 3)),
    Case("einsum", lambda x: torch.einsum("bchw,cd->bdhw", x, weight(3, 2)), (1, 3, 2, 2)),
    Case("attention", lambda x: F.scaled_dot_product_attention(x, x.flip(2), x.roll(1, 2)), (1, 2, 3, 2)),
    Case("attention with a constant mask", lambda x: F.scaled_dot_product_attention(x, x, x, weight(3, 3)), (1, 2, 3, 2)),
    *[
        Case(name, lambda x, name=name: _attention("_scaled_dot_product_" + name, x), (1, 2, 3, 2), twin=_plain)
        for name in KERNELS
        if hasattr(aten, "_scaled_dot_product_" + name)
    ],
]  # fmt: skip


CASES += [
    Case("query alone", lambda x: aten._scaled_dot_product_flash_attention_for_cpu(x, SOME, SOME)[0], (1, 2, 3, 2)),
    Case("key alone", lambda x: aten._scaled_dot_product_flash_attention_for_cpu(SOME, x, SOME)[0], (1, 2, 3, 2)),
    Case("value alone", lambda x: aten._scaled_dot_product_flash_attention_for_cpu(SOME, SOME, x)[0], (1, 2, 3, 2)),
]


@cases(*CASES)
def test_rows_meet_columns(case: Case) -> None:
    check(case)
