"""What the blocks accept. Every error names the argument, its value and what would fit."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any, Literal, TypeAlias, cast

from torch import nn

from convblocks import geometry

IntPair: TypeAlias = "int | tuple[int, int]"
Padding: TypeAlias = "int | tuple[int, int] | Literal['same', 'valid']"
PaddingMode: TypeAlias = Literal["zeros", "reflect", "replicate", "circular"]
LayerFactory: TypeAlias = "Callable[..., nn.Module] | None"

PADDING_MODES = ("zeros", "reflect", "replicate", "circular")
PADDING_RULES = ("same", "valid")


def pair(name: str, value: IntPair, minimum: int) -> tuple[int, int]:
    """Return (height, width) from one integer or a pair."""
    if isinstance(value, (tuple, list)):
        if len(value) != 2:
            raise ValueError(f"{name} must be one integer or a pair (height, width), got {value!r}")
        return geometry.integer(name, value[0], minimum), geometry.integer(name, value[1], minimum)
    number = geometry.integer(name, value, minimum)
    return number, number


def choice(name: str, value: object, allowed: Iterable[str]) -> None:
    """Refuse a string that is not one of `allowed`, with the nearest one."""
    names = list(allowed)
    if value not in names:
        near = difflib.get_close_matches(str(value), names, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"{name} must be one of {', '.join(map(repr, names))}, got {value!r}{hint}")


def probability(name: str, value: float) -> float:
    """Return `value` where it is a probability below 1."""
    number = cast("object", value)  # callers without a type checker
    if isinstance(number, bool) or not isinstance(number, (int, float)) or not 0 <= number < 1:
        raise ValueError(f"{name} must be a probability in [0, 1), got {value!r}")
    return float(number)


def is_module(value: object) -> bool:
    """Tell whether `value` is a module, whatever its annotation promised."""
    return isinstance(value, nn.Module)


def flag(name: str, value: object) -> None:
    """Refuse anything but True and False."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be True or False, got {value!r}")


def grouping(groups: int, in_channels: int, out_channels: int) -> int:
    """Return `groups` where it divides both channel counts."""
    count = geometry.integer("groups", groups, 1)
    if in_channels % count or out_channels % count:
        raise ValueError(f"groups={groups} must divide in_channels={in_channels} and out_channels={out_channels}")
    return count


def sides(
    padding: Padding, kernel_size: tuple[int, int], dilation: tuple[int, int], name: str = "padding"
) -> tuple[tuple[int, int], ...]:
    """Return the padding of the height and of the width as (before, after) each."""
    if isinstance(padding, str):
        choice(name, padding, PADDING_RULES)
        if padding == "valid":
            return (0, 0), (0, 0)
        return tuple(geometry.same_padding(k, d) for k, d in zip(kernel_size, dilation, strict=True))
    return tuple((p, p) for p in pair(name, padding, 0))


def sequence(name: str, value: str, allowed: Iterable[str], required: Iterable[str] = ()) -> list[str]:
    """Split "norm-act" into its parts, each known and none twice."""
    names = list(allowed)
    if not isinstance(value, str):  # pyright: ignore[reportUnnecessaryIsInstance]  (callers without a type checker)
        raise ValueError(f"{name} must be a string such as 'norm-act', got {value!r}")
    parts = value.split("-") if value else []
    for part in parts:
        if part not in names:
            raise ValueError(f"{name} must be made of {', '.join(names)} joined by '-', got {value!r}")
        if parts.count(part) > 1:
            raise ValueError(f"{name} names {part!r} twice: {value!r}")
    for part in required:
        if part not in parts:
            raise ValueError(f"{name} must name {part!r}, got {value!r}")
    return parts


def describe(init: Callable[..., None], values: dict[str, Any]) -> str:
    """Return the arguments that differ from their defaults, as `extra_repr` shows them."""
    shown: list[str] = []
    for name, parameter in inspect.signature(init).parameters.items():
        if name in ("self", "device", "dtype") or values[name] == parameter.default:
            continue
        text = _text(values[name])
        shown.append(text if parameter.default is parameter.empty else f"{name}={text}")
    return ", ".join(shown)


def _text(value: Any) -> str:
    if isinstance(value, functools.partial):
        given = [_text(value.func), *map(_text, value.args), *(f"{k}={_text(v)}" for k, v in value.keywords.items())]
        return f"partial({', '.join(given)})"
    return value.__name__ if callable(value) and hasattr(value, "__name__") else repr(value)
