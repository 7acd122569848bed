"""What goes into a network: sizes without the batch dimension, as `(3, 224, 224)`."""

# What torch leaves without types, and the dictionaries of a module, which hold None too.
# pyright: reportPrivateUsage=false, reportUnknownMemberType=false

from __future__ import annotations

import inspect
import operator
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
    if inspect.isclass(model):
        raise ValueError(f"model must be an nn.Module or a callable, got the class {model.__name__}: build one of it")
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
    if not isinstance(cast("Any", dtype), torch.dtype):
        raise ValueError(f"dtype must be a torch.dtype, such as torch.float32, got {dtype!r}")
    if dtype.is_complex:
        raise ValueError(f"dtype must be real, got {dtype}: receptive fields of complex networks are not supported")
    axes = tuple(tuple(range(1, len(size))) if channel_last else tuple(range(2, len(size) + 1)) for size in sizes)
    if not any(axes):
        raise ValueError(
            f"input_size must have a channel and at least one spatial dimension, as (3, 224, 224), got {input_size!r}"
        )
    return Inputs(tuple((1, *size) for size in sizes), (dtype,) * len(sizes), axes)


def as_whole(number: Any) -> int | None:
    """A whole number from 1, of NumPy's types too, as an int; None for anything else."""
    if isinstance(number, bool) or not hasattr(number, "__index__"):
        return None
    try:
        found = operator.index(number)
    except TypeError:
        return None
    return found if found > 0 else None


def _sizes(input_size: Any) -> list[tuple[int, ...]]:
    hint = "input_size must be (channels, height, width) or a sequence of such, without the batch"
    if isinstance(input_size, (str, bytes, int)) or not isinstance(input_size, Sequence) or not input_size:
        raise ValueError(f"{hint}, got {shown(input_size)}")
    given = cast("Sequence[Any]", input_size)
    nested = isinstance(given[0], Sequence)
    sizes: list[tuple[int, ...]] = []
    for size in given if nested else (given,):
        numbers = [as_whole(n) for n in cast("Sequence[Any]", size)] if isinstance(size, Sequence) else [None]
        known = tuple(n for n in numbers if n is not None)
        if len(known) < len(numbers):
            raise ValueError(f"{hint}, all positive whole numbers, got {shown(input_size)}")
        sizes.append(known)
    return sizes


def shown(value: Any) -> str:
    """Its type and shape instead of the numbers of an array."""
    shape = getattr(value, "shape", None)
    return repr(value) if shape is None else f"a {type(value).__name__} of shape {tuple(shape)}"


def _check_modules(module: nn.Module) -> None:
    for name, child in cast("Iterable[tuple[str, nn.Module]]", module.named_modules()):
        held = [t for t in (*child._parameters.values(), *child._buffers.values()) if t is not None]
        if ".quantized" in type(child).__module__ or any(map(_is_quantized, held)):
            raise ValueError(f"model holds a quantised module, {_at(name, child)}: analyse it before quantisation")
        if any(map(is_lazy, held)):
            raise ValueError(
                f"model holds a lazy module without a shape yet, {_at(name, child)}: run it once on real data first"
            )
        if any(t.is_complex() for t in child._parameters.values() if t is not None):
            raise ValueError(
                f"model holds complex parameters, {_at(name, child)}: receptive fields of complex networks are not "
                "supported"
            )


_is_quantized = operator.attrgetter("is_quantized")


def _at(name: str, module: nn.Module) -> str:
    return f"{type(module).__name__} at '{name}'" if name else type(module).__name__
