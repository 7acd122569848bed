"""Sums, orders and running sums, by perturbation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from perturbation import Case, cases, check, refused
from torch import Tensor

REDUCTIONS = ["mean", "sum", "amax", "amin", "var", "std", "logsumexp", "nansum", "norm"]
ONE_DIM = ["prod", "max", "min", "median", "nanmedian", "mode", "argmax", "argmin", "aminmax", "count_nonzero"]


def _reduce(name: str, x: Tensor, *dims: int, keepdim: bool = False) -> Tensor | tuple[Tensor, ...]:
    function = getattr(torch, name)
    if name == "count_nonzero":
        return function(x.relu(), dims)
    if name == "mode":
        # Whole numbers, or no value would come twice.
        x = x.round()
    return function(x, dim=dims[0] if name in ONE_DIM else dims, keepdim=keepdim)


CASES = [
    *[Case(f"{name} of one", lambda x, name=name: _reduce(name, x, -1), (2, 3, 3), 40) for name in REDUCTIONS + ONE_DIM],
    *[
        Case(f"{name} kept", lambda x, name=name: _reduce(name, x, 1, keepdim=True), (2, 3, 2), 40)
        for name in REDUCTIONS + ONE_DIM
    ],
    *[Case(f"{name} of several, out of order", lambda x, name=name: _reduce(name, x, 2, 0), (2, 2, 3), 40) for name in REDUCTIONS],
    *[Case(f"{name} of all", lambda x, name=name: getattr(torch, name)(x), (2, 3), 40) for name in ("mean", "sum", "amax", "prod", "median", "argmax", "norm", "std", "max", "nanmedian")],
    Case("any and all", lambda x: ((x > 2).any(1), (x > -2).all(1, keepdim=True), (x > 2).any(), (x < 2).all((0, 1))), (2, 3), 200),
    Case("var and mean", lambda x: (*torch.var_mean(x, (1,)), *torch.std_mean(x, 0, keepdim=True)), (3, 3)),
    Case("vector norm", lambda x: (torch.linalg.vector_norm(x, dim=(0, -1)), torch.linalg.vector_norm(x, 1, 1, True)), (2, 3, 2)),
    Case("norm as a traced program calls it", lambda x: (torch.ops.aten.norm(x, 2.0, [1]), torch.ops.aten.norm(x)), (2, 3)),
    Case("reduction to a type", lambda x: (x.mean(1, dtype=torch.float32), x.sum(0, dtype=torch.float32)), (2, 3)),
    Case("reduction of nothing", lambda x: (x[:, :0].sum(1), x[:0].mean((0, 1)), x + x[:, :0].sum(1, keepdim=True)), (2, 3)),
    Case("reduction of nothing, along another dimension", lambda x: (x[:, :0].sum(0), x[:, :0].amax(2), x[..., :0] @ x[:, :0]), (2, 3, 2)),
    Case("reduction of one element", lambda x: x[:, :1].mean(1, keepdim=True), (2, 3)),
    Case("reduction of a view", lambda x: x.view(2, 2, 2, 3).mean((1, 3)), (2, 4, 3)),
    Case("kth value", lambda x: (*x.kthvalue(2, 1), *x.kthvalue(1, 0, keepdim=True)), (3, 3), 60),
    Case("top of a row", lambda x: x.topk(2, -1), (2, 4), 60),
    Case("top of a column", lambda x: x.topk(1, 0, sorted=False), (3, 2), 60),
    Case("top of the middle", lambda x: x.topk(1, 1), (2, 3, 2), 60),
    Case("sort", lambda x: (*x.sort(1), *x.sort(dim=-2, descending=True, stable=True)), (3, 3), 60),
    Case("softmax", lambda x: (F.softmax(x, 1), F.log_softmax(x, -1)), (2, 3, 2)),
    Case("safe softmax", lambda x: torch.ops.aten._safe_softmax(x, 1), (2, 3, 2)),
    Case("softmax of one element", lambda x: (F.softmax(x[:, :1] * x[0, 0], 0)), (3, 2)),
    Case("running sums", lambda x: (x.cumsum(-1), x.cumprod(0), x.logcumsumexp(1)), (3, 4)),
    Case("running extremes", lambda x: (x.cummax(1).values, x.cummin(0).values), (3, 4), 60),
    Case("running sum of what does not vary", lambda x: (x.mean(1, keepdim=True).expand(3, 4) * 1).cumsum(1), (3, 4)),
    Case("running sum of a cat", lambda x: torch.cat((x, x.flip(0)), 1).cumsum(1), (3, 2)),
    Case("spectrum", lambda x: torch.fft.rfft2(x).abs(), (2, 3, 4)),
    Case("spectrum of one dimension and back", lambda x: (torch.fft.fft(x, dim=1).abs(), torch.fft.irfft(torch.fft.rfft(x, dim=0).abs(), 4, dim=0)), (4, 3)),
    Case("spectrum as pairs of numbers", lambda x: torch.view_as_real(torch.fft.rfft(x, dim=1) * (1 + 2j)), (2, 4)),
    Case("numbers as pairs", lambda x: torch.view_as_real(torch.complex(x, 2 * x) * torch.polar(x[0], x[1])), (2, 3)),
    Case("pairs of numbers to a spectrum and back", lambda x: torch.fft.fft(torch.view_as_complex(x), dim=1).abs(), (2, 3, 2)),
]  # fmt: skip


@cases(*CASES)
def test_what_is_gathered(case: Case) -> None:
    check(case)


def test_an_operation_without_a_rule_on_nothing() -> None:
    assert "renorm" in refused(lambda x: torch.renorm(x[:, :0], 2, 0, 1.0), (2, 3), 1)
