"""Operators without torch.library's dispatch, which takes longer on the host than a small kernel does on the GPU."""

# What torch leaves without types, and what of its modes it keeps to itself.
# pyright: reportUnknownMemberType=false, reportAttributeAccessIssue=false, reportPrivateUsage=false
# pyright: reportIncompatibleMethodOverride=false

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

_PLAIN = (Tensor, torch.nn.Parameter, type(None))


def plain(*tensors: Tensor | None) -> bool:
    """Tell whether these are tensors of torch's own and nothing watches what is called: no compiler, trace or mode."""
    core: Any = torch._C
    return not (
        torch.compiler.is_compiling()
        or core._len_torch_dispatch_stack()
        or core._len_torch_function_stack()
        or core._get_tracing_state() is not None
    ) and all(type(t) in _PLAIN for t in tensors)


def call(
    compute: Callable[..., Any],
    keep: Callable[..., None],
    gradients: Callable[..., tuple[Tensor | None, ...]],
    *inputs: Any,
) -> Any:
    """Compute what an operator of `compute`, with `gradients` of what `keep` keeps, would give for plain tensors."""
    if torch.is_grad_enabled() and any(isinstance(t, Tensor) and t.requires_grad for t in inputs):
        return _Direct.apply(compute, keep, gradients, *inputs)
    return compute(*inputs)


class _Direct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, compute: Callable[..., Any], keep: Any, gradients: Any, *inputs: Any) -> Any:
        output = compute(*inputs)
        ctx.gradients = gradients
        keep(ctx, inputs, output)
        return output

    @staticmethod
    def backward(ctx: Any, *given: Tensor | None) -> tuple[Tensor | None, ...]:
        return (None, None, None, *cast("tuple[Tensor | None, ...]", ctx.gradients(ctx, *given)))
