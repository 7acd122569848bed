"""Operations that go element by element, and those that look at shapes alone, by perturbation."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from perturbation import Case, cases, check, weight
from torch import Tensor

from convblocks.introspect.operations import is_pointwise

aten = torch.ops.aten

ACTIVATIONS = ["relu", "relu6", "silu", "gelu", "elu", "celu", "selu", "mish", "hardswish", "hardsigmoid", "hardtanh"]
ACTIVATIONS += ["leaky_relu", "softplus", "logsigmoid", "tanhshrink", "softshrink", "hardshrink", "sigmoid", "rrelu"]


def _out(x: Tensor) -> Tensor:
    """The tensor that takes the result held something else before."""
    y = x.flip(1)
    torch.add(x, x[:1], out=y)
    return y


CASES = [
    *[Case(name, lambda x, name=name: getattr(F, name)(x), (2, 3)) for name in ACTIVATIONS],
    *[
        Case(f"{name}, in place", lambda x, name=name: getattr(F, name)(x.clone(), inplace=True), (2, 3))
        for name in ("relu", "leaky_relu", "hardswish", "silu", "hardtanh", "mish", "celu", "selu", "elu", "hardsigmoid")
    ],
    Case("in place by name", lambda x: (x.clone().abs_(), x.clone().masked_fill_(x.flip(1) > 0, 1.0), x.clone().ge_(x.flip(1)), aten.gelu_(x.clone())), (2, 4), 24),
    Case("prelu", lambda x: F.prelu(x, weight(3)), (2, 3, 2)),
    Case("prelu with slopes from the input", lambda x: F.prelu(x, x[0].mean(1)), (2, 3, 2)),
    Case("glu", lambda x: (F.glu(x, 1), F.glu(x, -1)), (2, 4, 2)),
    Case("log sigmoid forward", lambda x: aten.log_sigmoid_forward(x)[0], (2, 3)),
    Case("rrelu with noise", lambda x: aten.rrelu_with_noise(x, torch.ones_like(x)), (2, 3)),
    Case("broadcast of both", lambda x: x[:, :1] * x[:1], (3, 4)),
    Case("broadcast of fewer dimensions", lambda x: x + x[0, 1], (2, 3, 4)),
    Case("with a number", lambda x: (x + 1, 2 - x, x**2, 1 / x), (2, 3)),
    Case("with a constant", lambda x: x * weight(3), (2, 3)),
    Case("out", _out, (2, 3)),
    Case("in place, into a part", lambda x: x.clone()[:, :2].mul_(x[:, 1:]), (2, 3)),
    Case("where", lambda x: torch.where(x[0] > 0, x, x.flip(1)), (2, 4), 24),
    Case("where with a number", lambda x: (torch.where(x > 0, x, 1.0), torch.where(x > 0, 0.0, x)), (2, 3), 24),
    Case("masked fill", lambda x: x.masked_fill(x.flip(1) > 0, 3.0), (2, 3), 24),
    Case("masked fill with a tensor", lambda x: x.masked_fill(x.flip(1) > 0, 2 * x[0, 0]), (2, 4), 40),
    Case("lerp, addcmul, addcdiv", lambda x: (x.lerp(x[:1].flip(1), x[:, :1]), x.addcmul(x[:1], x[:, 1:2]), x.addcdiv(x[:1], x[:, :1])), (2, 4)),
    Case("clamp by tensors", lambda x: x.clamp(x[:1] - 1, x[:, :1] + 1), (2, 3), 24),
    Case("minimum, maximum", lambda x: (torch.maximum(x, x.flip(0)), torch.minimum(x[:1], x)), (2, 3), 24),
    Case("comparison", lambda x: x > x.flip(1), (2, 4), 24),
    Case("dropout in evaluation", lambda x: (F.dropout(x, 0.5, False), aten.native_dropout(x, 0.5, False)[0]), (2, 3)),
    Case("dropout of nothing", lambda x: aten.native_dropout(x, 0.0, True)[0], (2, 3)),
    Case("shapes alone", lambda x: (torch.zeros_like(x), torch.ones_like(x), torch.full_like(x, 3.0)), (2, 3)),
    Case("new of a shape", lambda x: (x.new_zeros(2), x.new_ones(3), x.new_full((2,), 1.0)), (2, 3)),
    Case("values drawn into a tensor", lambda x: torch.ones_like(x) + 0 * torch.empty_like(x).fill_(1.0), (2, 3)),
    Case("zeros in place", lambda x: (x.clone().zero_(), x.clone().fill_(2.0), aten.zero(x)), (2, 3)),
    Case("filled with a value from the input", lambda x: (x.clone().fill_(x[1, 1]), torch.fill(x, x[0, 0])), (2, 3)),
    Case("a constant that does not read the input", lambda x: x + torch.arange(3, device=x.device), (2, 3)),
]  # fmt: skip


@cases(*CASES)
def test_elements_depend_on_elements(case: Case) -> None:
    check(case)


RANDOM = [
    Case("draws", lambda x: (torch.rand_like(x), torch.randn_like(x), torch.randint_like(x, 5)), (2, 3)),
    Case("draws in place", lambda x: (x.clone().uniform_(), x.clone().normal_(), x.clone().bernoulli_()), (2, 3)),
    Case("not initialised", lambda x: (torch.empty_like(x), x.new_empty(3), x.new_empty_strided((2,), (1,))), (2, 3)),
]
"""No two runs give the same, so that perturbation tells nothing."""


@cases(*RANDOM)
def test_what_is_drawn_depends_on_nothing(case: Case) -> None:
    from convblocks.introspect.propagation import Axis, Whole, propagate

    graph = case.graph()
    found = propagate(graph, Axis(0, 1), Whole())
    assert not found.unknown
    assert not [value for value in graph.outputs if value in found.labels]


@pytest.mark.parametrize("op", [aten.relu.out, aten.add.Scalar_out, aten.sigmoid_.default, aten.where.self_out])
def test_every_form_of_a_pointwise_operation_is_one(op: torch._ops.OpOverload) -> None:
    assert is_pointwise(op)
