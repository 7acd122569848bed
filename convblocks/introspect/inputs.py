"""What goes into a network: sizes without the batch dimension, as `(3, 224, 224)`."""

# What torch leaves without types, and the dictionaries of a module, which hold None too.
# pyright: reportPrivateUsage=false, reportUnknownMemberType=false

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from convblocks.introspect.tracing import module_of

InputSize = Sequence[int] | Sequence[Sequence[int]]


@dataclass(frozen=True, slots=True)
class Inputs:
    """Shapes with a batch of one, element types, and the spatial dimensions of every input."""

    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[torch.dtype, ...]
    axes: tuple[tuple[int, ...], ...]


def parse_inputs(
    model: Callable[..., Any], input_size: InputSize, dtype: torch.dtype | None = None, *, channel_last: bool = False
) -> Inputs:
    """Check `input_size` and `model` before anything runs.

    Raises:
        ValueError: a size that is no size, lazy or quantised modules, complex inputs.
    """
    sizes = _sizes(input_size)
    module = module_of(model)
    if module is not None:
        _check_modules(module)
    elif not callable(model):
        raise ValueError(f"model must be an nn.Module or a callable, got {type(model).__name__}")
    if dtype is None:
        dtype = (
            next((p.dtype for p in module.parameters() if p.is_floating_point()), None) if module is not None else None
        )
        dtype = dtype or torch.float32
    if dtype.is_complex:
        raise ValueError(f"dtype must be real, got {dtype}: receptive fields of complex networks are not supported")
    axes = tuple(tuple(range(1, len(size))) if channel_last else tuple(range(2, len(size) + 1)) for size in sizes)
    if not any(axes):
        raise ValueError(
            f"input_size must have a channel and at least one spatial dimension, as (3, 224, 224), got {input_size!r}"
        )
    return Inputs(tuple((1, *size) for size in sizes), (dtype,) * len(sizes), axes)


def _sizes(input_size: Any) -> list[tuple[int, ...]]:
    hint = "input_size must be (channels, height, width) or a sequence of such, without the batch"
    if isinstance(input_size, (str, bytes, int)) or not isinstance(input_size, Sequence) or not input_size:
        raise ValueError(f"{hint}, got {input_size!r}")
    given = cast("Sequence[Any]", input_size)
    nested = isinstance(given[0], Sequence)
    sizes: list[tuple[int, ...]] = []
    for size in given if nested else (given,):
        numbers = cast("Sequence[Any]", size)
        if not isinstance(size, Sequence) or not all(
            isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in numbers
        ):
            raise ValueError(f"{hint}, all positive whole numbers, got {input_size!r}")
        sizes.append(tuple(numbers))
    return sizes


def _check_modules(module: nn.Module) -> None:
    for name, child in cast("Iterable[tuple[str, nn.Module]]", module.named_modules()):
        where = f"{type(child).__name__} at '{name}'" if name else type(child).__name__
        kind = type(child).__module__
        if ".quantized" in kind or any(
            t.is_quantized for t in (*child._parameters.values(), *child._buffers.values()) if t is not None
        ):
            raise ValueError(f"model holds a quantised module, {where}: analyse it before quantisation")
        if any(t is not None and is_lazy(t) for t in (*child._parameters.values(), *child._buffers.values())):
            raise ValueError(f"model holds a lazy module without a shape yet, {where}: run it once on real data first")
        if any(t.is_complex() for t in child._parameters.values() if t is not None):
            raise ValueError(
                f"model holds complex parameters, {where}: receptive fields of complex networks are not supported"
            )
