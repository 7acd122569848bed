"""What an ATen operator says about itself: its name, its arguments, what it views and what it writes."""

# torch gives its operators, and what a module keeps of its own, no public names.
# pyright: reportPrivateUsage=false

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

RECURRENT = frozenset({"lstm", "gru", "rnn_tanh", "rnn_relu"})
"""Layers that torch takes apart into operations for every step; a trace keeps each as one."""

STEPS = frozenset({"unsafe_split", "unsafe_split_with_sizes"})
"""Operations of a step of such a layer, and of little else."""

FUSED_ATTENTION = frozenset(
    {"_scaled_dot_product_flash_attention", "_scaled_dot_product_efficient_attention"}
    | {"_scaled_dot_product_cudnn_attention", "_scaled_dot_product_flash_attention_for_cpu"}
    | {"_scaled_dot_product_fused_attention_overrideable"}
)

ATTENTION = FUSED_ATTENTION | {"_softmax", "_safe_softmax"}
"""Operations by which places read one another: a network that has none has no attention."""

COSTED = frozenset(
    {"convolution", "_convolution", "mm", "addmm", "bmm", "baddbmm", "addbmm", "mv", "addmv", "dot", "linear"}
    | FUSED_ATTENTION
    | RECURRENT
)
"""Operations that multiply and accumulate: recorded even where they do not depend on the input."""


FACTORIES = frozenset(
    {"empty_like", "zeros_like", "ones_like", "full_like", "rand_like", "randn_like", "randint_like"}
    | {"new_zeros", "new_empty", "new_ones", "new_full", "new_empty_strided"}
)
"""Operations that take a shape and a type from their argument, and no value."""


def name_of(func: Any) -> str:
    """`convolution` for `aten.convolution.default`.

    Operators of other libraries keep their namespace: `torchvision::nms`.
    """
    return func._schema.name.removeprefix("aten::")


@cache
def defaults(func: Any) -> dict[str, Any]:
    """Defaults of the arguments by name, in order; None where there is none."""
    return {a.name: a.default_value if a.has_default_value() else None for a in func._schema.arguments}


def bind(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments by name, defaults filled in."""
    known = defaults(func)
    return {**known, **dict(zip(known, args, strict=False)), **kwargs}


@dataclass(frozen=True, slots=True)
class Operator:
    """What a trace asks of an operator, at every call of it."""

    func: Any
    name: str
    composite: bool
    """Whether it is a program of other operators, such as `aten.linear` or `aten.reshape`."""
    view: bool
    """Whether its result shares the memory of its first argument."""
    inplace_view: bool
    """Whether it gives its argument another shape (`t_`, `as_strided_`) and leaves the data alone."""
    writes: tuple[tuple[int, str], ...]
    """Place and name of the arguments that it writes into."""
    returned: tuple[str, ...]
    """For every result the name of the argument that it is written into, "" for a tensor of its own."""

    def written_arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
        """The tensors that the operation writes into."""
        found = [args[place] if place < len(args) else kwargs.get(name) for place, name in self.writes]
        return [item for item in found if isinstance(item, Tensor)]

    def targets(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[list[Tensor | None], list[Tensor]]:
        """For every result what it is written into; and what is written besides: a norm's running statistics."""
        written = {name: args[i] if i < len(args) else kwargs.get(name) for i, name in self.writes}
        besides = [item for name, item in written.items() if isinstance(item, Tensor) and name not in self.returned]
        return [written.get(name) for name in self.returned], besides


@cache
def operator(func: Any) -> Operator:
    """What `func` says about itself."""
    schema = func._schema
    writes = tuple(
        (i, a.name) for i, a in enumerate(schema.arguments) if a.alias_info is not None and a.alias_info.is_write
    )
    names = {frozenset(a.alias_info.before_set): a.name for a in schema.arguments if a.alias_info is not None}
    returned = tuple(
        names.get(frozenset(r.alias_info.before_set), "") if r.alias_info is not None else "" for r in schema.returns
    )
    first = schema.arguments[0].alias_info if schema.arguments else None
    name = name_of(func)
    return Operator(
        func=func,
        name=name,
        composite=isinstance(func, torch._ops.OpOverload)
        and torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"),
        view=first is not None and not writes,
        inplace_view=torch.Tag.inplace_view in func.tags and name not in ("resize_", "set_", "resize_as_"),
        writes=writes,
        returned=returned,
    )


@cache
def is_pointwise(func: Any) -> bool:
    """Whether element i of the result depends on element i of the (broadcast) operands alone."""
    # The forms that write into their argument or into `out` do not always carry the tag.
    packets = [getattr(torch.ops.aten, name, None) for name in (name_of(func), name_of(func).rstrip("_"))]
    forms = [getattr(packet, name) for packet in packets if packet is not None for name in packet.overloads()]
    return any(torch.Tag.pointwise in form.tags for form in forms)


@cache
def results_of(func: Any) -> frozenset[str]:
    """Names of the arguments that take a result and whose values do not matter: `out`."""
    written = {name for _, name in operator(func).writes}
    return frozenset(a.name for a in func._schema.arguments if a.kwarg_only and a.name in written)
