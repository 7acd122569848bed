"""Writes into tensors and into views of them, by perturbation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from perturbation import Case, cases, check, refused
from torch import Tensor

aten = torch.ops.aten


def into(view: Callable[[Tensor], Any], blank: bool = False) -> Callable[[Tensor], Tensor]:
    """A copy of x (or zeros), in which a view takes the running sum of x."""

    def function(x: Tensor) -> Tensor:
        base = torch.zeros_like(x) if blank else x.clone()
        target = view(base)
        target.copy_(view(x.cumsum(-1)) if target.ndim else x.sum())
        return base

    return function


VIEWS: dict[str, Callable[[Tensor], Any]] = {
    "slice": lambda x: x[:, 1:3],
    "strided slice": lambda x: x[..., 1::2],
    "select": lambda x: x[:, -1],
    "split": lambda x: x.split(2, 1)[1],
    "split with sizes": lambda x: x.split([1, 3], -1)[1],
    "chunk": lambda x: x.chunk(2, 2)[1],
    "unbind": lambda x: x.unbind(1)[2],
    "slice of a slice": lambda x: x[:, 1:][..., :2],
    "select of a select": lambda x: x[1][:, 2],
    "permute": lambda x: x.permute(2, 0, 1)[1:],
    "transpose": lambda x: x.transpose(0, 2)[1:],
    "transpose the other way": lambda x: x.transpose(-1, 0)[1:],
    "permute with dimensions from the end": lambda x: x.permute(-1, 0, -2)[1:],
    "t": lambda x: x[0].t()[2:],
    "view": lambda x: x.view(2, 12)[:, 5:9],
    "unsqueeze": lambda x: x.unsqueeze(1)[:, :, :2],
    "squeeze": lambda x: x[:1].squeeze(0)[1:],
    "diagonal": lambda x: x.diagonal(0, 1, 2),
    "diagonal from the end": lambda x: x.diagonal(-1, -1, 0)[1:],
    "window": lambda x: x.unfold(1, 2, 2)[..., 0],
    "alias": lambda x: x.detach()[1:],
    "reshape alias": lambda x: aten._reshape_alias(x, [2, 12], [12, 1])[:, :5],
}

CASES = [
    *[Case(f"into a {name}", into(view), (2, 3, 4)) for name, view in VIEWS.items()],
    *[Case(f"into a {name} of zeros", into(view, blank=True), (2, 3, 4)) for name, view in VIEWS.items()],
    Case("a copy broadcasts", lambda x: x.clone().copy_(x[:1].flip(1)), (2, 3)),
    Case("a copy broadcasts over a new dimension", lambda x: x.clone().copy_(x[1]), (2, 3)),
    Case("a constant into a part", lambda x: aten.slice(x.clone(), 1, 1, 3).zero_(), (2, 4)),
    Case("zeros into a part, seen from the whole", lambda x: _zeroed(x), (2, 4)),
    Case("a value of x into a part", lambda x: _filled(x), (2, 4)),
    Case("an addition into a part, seen through another view", lambda x: _seen(x), (2, 4)),
    Case("a part takes of the pooled", lambda x: _pooled(x), (2, 4)),
    Case(
        "functional, of a constant",
        lambda x: (
            aten.select_scatter(x, torch.ones(2, 2).double(), 1, 2),
            aten.slice_scatter(torch.ones(2, 4, 2).double(), x[:, 1:3], 1, 0, 4, 2),
        ),
        (2, 4, 2),
    ),
    Case(
        "functional",
        lambda x: (aten.slice_scatter(x, x[:, :2].flip(1), 1, 1, 3), aten.select_scatter(x, x[:, 0], 1, -1)),
        (2, 4),
    ),
]


def _zeroed(x: Tensor) -> Tensor:
    y = x.clone()
    y[:, 1:3].zero_()
    y[:, 3].fill_(2.0)
    return y


def _filled(x: Tensor) -> Tensor:
    y = x.clone()
    y[:, 1:3].fill_(x[0, 0])
    return y


def _seen(x: Tensor) -> tuple[Tensor, Tensor]:
    y = x.clone()
    early = y.view(4, 2)
    y[:, 1:3].add_(x[:, 2:])
    return early, y.relu_()


def _pooled(x: Tensor) -> Tensor:
    y = x.clone()
    y[:, :1] = x.mean(1, keepdim=True)
    return y


@cases(*CASES)
def test_what_is_written_replaces_what_was(case: Case) -> None:
    check(case)


def test_a_write_into_another_view_is_refused() -> None:
    def number(x: Tensor) -> Tensor:
        y = x[0].clone()
        # A view by strides; a constant written there once made all of the result depend on nothing.
        y.fill_diagonal_(0.0)
        return y

    def tensor(x: Tensor) -> Tensor:
        y = x.clone()
        y.as_strided((3,), (1,)).add_(x[0, 0])
        return y

    for function in (number, tensor):
        assert "a write into a view made by aten.as_strided" in refused(function, (2, 3, 3))
