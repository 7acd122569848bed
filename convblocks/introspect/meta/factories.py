"""What operations return on the meta device that take no tensor, without running torch's Python for them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten


def _range(*bounds: Any, dtype: torch.dtype | None = None, **_: Any) -> Tensor | None:
    start, end, step = (0, *bounds, 1) if len(bounds) == 1 else (*bounds, 1)[:3]
    if not all(type(bound) in (int, float) for bound in (start, end, step)) or step == 0 or (end - start) / step < 0:
        return None
    whole = all(type(bound) is int for bound in (start, end, step))
    if dtype is not None and not whole and not dtype.is_floating_point:
        # Bounds are cut off to integers, or refused, by version.
        return None
    length = -((start - end) // step) if whole else math.ceil((end - start) / step)
    return torch.empty(length, dtype=dtype or (torch.int64 if whole else torch.get_default_dtype()), device="meta")


def _identity(*shape: int, dtype: torch.dtype | None = None, **_: Any) -> Tensor | None:
    if min(shape) < 0:
        return None
    return torch.empty((shape[0], shape[-1]), dtype=dtype or torch.get_default_dtype(), device="meta")


FACTORIES: dict[Any, Callable[..., Tensor | None]] = {
    aten.arange.default: _range,
    aten.arange.start: _range,
    aten.arange.start_step: _range,
    aten.eye.default: _identity,
    aten.eye.m: _identity,
}


def make(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What `func` returns that takes no tensor."""
    factory = FACTORIES.get(func)
    on_meta = factory is not None and getattr(kwargs.get("device"), "type", "") == "meta"
    result = factory(*args, **kwargs) if factory is not None and on_meta else None
    return func(*args, **kwargs) if result is None else result
