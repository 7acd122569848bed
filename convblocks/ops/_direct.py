"""Operators without torch.library's dispatch, which takes longer on the host than a small kernel does on the GPU."""

# What torch leaves without types, and what of its modes it keeps to itself.
# pyright: reportUnknownMemberType=false, reportAttributeAccessIssue=false, reportPrivateUsage=false
# pyright: reportIncompatibleMethodOverride=false

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

_PLAIN = (Tensor, torch.nn.Parameter)


def plain(*tensors: Tensor | None) -> bool:
    """Tell whether these are tensors of torch's own and nobody watches the calls: no compiler, mode or transform."""
    core: Any = torch._C
    if (
        torch.compiler.is_compiling()
        or core._len_torch_dispatch_stack()
        or core._len_torch_function_stack()
        or core._functorch.peek_interpreter_stack() is not None
        or traced()
    ):
        return False
    # A batch of gradients is of torch's own type, and holds other tensors.
    return all(t is None or (type(t) in _PLAIN and not core._functorch.is_legacy_batchedtensor(t)) for t in tensors)


def traced() -> bool:
    """Tell whether torch.jit.trace, or what is built on it, writes down what is called."""
    core: Any = torch._C
    return core._get_tracing_state() is not None


def call(
    compute: Callable[..., Any],
    keep: Callable[..., None],
    gradients: Callable[..., tuple[Tensor | None, ...]],
    *inputs: Any,
) -> Any:
    """Compute what an operator of `compute`, with `gradients` of what `keep` keeps, would give for plain tensors.

    Of several results the first alone has gradients.
    """
    if torch.is_grad_enabled() and any(isinstance(t, Tensor) and t.requires_grad for t in inputs):
        found: list[Any] = []
        first: Tensor = _Direct.apply(compute, keep, gradients, found, *inputs)
        return (first, *found[0][1:]) if isinstance(found[0], tuple) else first
    return compute(*inputs)


class _Direct(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, compute: Callable[..., Any], keep: Any, gradients: Any, found: list[Any], *inputs: Any
    ) -> Any:
        output = compute(*inputs)
        ctx.gradients = gradients
        keep(ctx, inputs, output)
        # Every tensor that is handed on through autograd is wrapped, and all but the first ask for no gradient.
        found.append(output)
        return cast("Tensor", output[0] if isinstance(output, tuple) else output)

    @staticmethod
    def backward(ctx: Any, *given: Tensor | None) -> tuple[Tensor | None, ...]:
        return (None, None, None, None, *cast("tuple[Tensor | None, ...]", ctx.gradients(ctx, *given)))
