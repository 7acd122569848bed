"""Cutting and joining, by perturbation."""

from __future__ import annotations

import torch
from perturbation import Case, cases, check
from torch import Tensor

aten = torch.ops.aten


def _wide(x: Tensor) -> Tensor:
    """A concatenation of parts of which each depends on something else, and one on nothing."""
    return torch.cat((x.cumsum(1), torch.ones(x.shape, dtype=x.dtype, device=x.device), x), 1)


CASES = [
    Case("slice", lambda x: (x[1:3], x[:, -2:], x[..., ::2]), (4, 5, 6)),
    Case("slice past the end", lambda x: x[:, 2:100], (2, 5)),
    Case("empty slice", lambda x: torch.cat((x[:, 3:3], x), 1), (2, 5)),
    Case("slice of what does not vary", lambda x: x.sum(1, keepdim=True).expand(2, 5)[:, 1:3], (2, 5)),
    Case("select", lambda x: (x[1], x[:, -1], x.select(-1, 2)), (2, 3, 4)),
    Case("select of what does not vary", lambda x: x.sum(1, keepdim=True).expand(2, 5)[:, 3], (2, 5)),
    Case("split", lambda x: x.split(2, -1), (2, 5)),
    Case("split with sizes", lambda x: x.split([1, 3, 1], 1), (2, 5)),
    Case("unsafe splits", lambda x: (*x.unsafe_split(2, 1), *x.unsafe_split_with_sizes([4, 1], -1)), (2, 5)),
    Case("chunk", lambda x: x.chunk(3, 0), (7, 2)),
    Case("tensor split", lambda x: x.tensor_split(3, 1), (2, 7)),
    Case("split of what does not vary", lambda x: x.sum(1, keepdim=True).expand(2, 5).split(2, 1), (2, 5)),
    Case("unbind", lambda x: x.unbind(-1), (2, 3)),
    Case("unbind of what does not vary", lambda x: x.sum(1, keepdim=True).expand(2, 3).unbind(1), (2, 3)),
    Case("cat", lambda x: torch.cat((x, x.flip(1), x[:, :1]), -1), (2, 3)),
    Case("cat with what depends on nothing", lambda x: torch.cat((torch.ones(2, 2).double(), x), 1), (2, 3)),
    Case("cat with an empty list", lambda x: torch.cat((torch.empty(0).double(), x), 1), (2, 3)),
    Case("cat of a cat", lambda x: torch.cat((_wide(x), x), 1), (2, 3)),
    Case("cat of a cat along the other", lambda x: torch.cat((_wide(x), _wide(x.flip(0))), 0), (2, 3)),
    Case("slice across the parts of a cat", lambda x: _wide(x)[:, 2:8], (2, 3)),
    Case("slice within a part of a cat", lambda x: _wide(x)[:, 4:6], (2, 3)),
    Case("strided slice of a cat", lambda x: _wide(x)[:, 1::2], (2, 3)),
    Case("empty slice of a cat", lambda x: torch.cat((_wide(x)[:, 4:4], x), 1), (2, 3)),
    Case("other slice of a cat", lambda x: _wide(x)[1:], (2, 3)),
    Case("split of a cat", lambda x: _wide(x).split([2, 5, 2], 1), (2, 3)),
    Case("cat of different shapes of labels", lambda x: torch.cat((x, x.mean(0, keepdim=True)), 0), (2, 3)),
    Case("stack", lambda x: (torch.stack((x, x.flip(0)), 1), torch.stack((x, x.cumsum(0)), -1)), (2, 3)),
    Case("stack with what depends on nothing", lambda x: torch.stack((torch.ones(2, 3).double(), x)), (2, 3)),
    Case("sum of two cats", lambda x: _wide(x) + _wide(x.flip(1)), (2, 3)),
    Case("sum of a cat and a row", lambda x: _wide(x) + x[:, :1], (2, 3)),
    Case("sum of cats of other parts", lambda x: _wide(x) + torch.cat((_wide(x)[:, :4], _wide(x)[:, :5]), 1), (2, 3)),
    Case("sum over the parts of a cat", lambda x: (_wide(x).sum(1), _wide(x).sum(0)), (2, 3)),
]


@cases(*CASES)
def test_labels_are_cut_and_joined_as_the_elements(case: Case) -> None:
    check(case)
