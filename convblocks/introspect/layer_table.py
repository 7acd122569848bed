"""The rows of a summary as strings, and the marks that its notes explain."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from convblocks.introspect.answers import ReceptiveField
from convblocks.introspect.layers import Layer, Window
from convblocks.introspect.tables import Column

COLUMNS = (
    Column("layer", right=False, least=16),
    Column("type", right=False, rank=1, least=10),
    Column("k", rank=3),
    Column("s", rank=4),
    Column("p", rank=7),
    Column("d", rank=6),
    Column("g", rank=8),
    Column("output", right=False, rank=2),
    Column("k eff", rank=10),
    Column("field"),
    Column("jump", rank=5),
    Column("start", rank=9),
    Column("params"),
    Column("MACs"),
)
NOTES = {
    "*": "* sees the whole input by a gate or pooling; shown is the field with gates cut, at this size",
    "all*": "all* nothing is left of its field with gates cut",
    "+": "+ called again: its parameters are counted above",
    "#": "# frozen parameters: all of a container's, some or all of a layer's",
    "-": "- never called",
    "()": "() an operation that no module of its own stands for",
}


@lru_cache(maxsize=4096)
def by_axis(values: tuple[Any, ...] | None) -> str:
    """`3` for (3, 3), `1x7` for (1, 7), "" for nothing."""
    if not values:
        return ""
    if len(set(values)) == 1:
        # As most are.
        return _one(values[0])
    shown = [_one(value) for value in values]
    return shown[0] if len(set(shown)) == 1 else "x".join(shown)


def _one(value: Any) -> str:
    if value is None:
        return "?"
    if isinstance(value, float):
        return "all" if math.isinf(value) else str(int(value)) if value.is_integer() else f"{round(value, 2):g}"
    return str(value)


def human(count: int) -> str:
    """1,234 and 12.3 M."""
    if count < 1_000_000:
        return f"{count:,}"
    return f"{count / 1e6:,.1f} M" if count < 10**9 else f"{count / 1e9:,.2f} G"


def layer_rows(layers: Sequence[Layer], network: str) -> tuple[list[list[str]], set[str]]:
    """The cells of all layers of a network of this name, and the marks among them."""
    marks: set[str] = set()
    above: dict[int, str] = {}
    rows: list[list[str]] = []
    for layer in layers:
        rows.append(_row(layer, network, above.get(layer.depth - 1, ""), marks))
        if not layer.functional:
            above[layer.depth] = layer.name
    return rows, marks


def _row(layer: Layer, network: str, above: str, marks: set[str]) -> list[str]:
    """The cells of a layer below the module `above`, by which its name is shortened."""
    label = layer.name if layer.unused else layer.name.removeprefix(f"{above}.")
    label = label or network
    found = [mark for mark, holds in (("+", layer.reused), ("#", _frozen(layer)), ("-", layer.unused)) if holds]
    marks.update(found)
    if layer.functional:
        label = f"{layer.type}()"
        marks.add("()")
    indent = "" if layer.unused else "  " * layer.depth
    *window, effective_kernel = _window_cells(layer.window)
    field, jump, start = _field_cells(layer.field, marks)
    return [
        " ".join([indent + label, *found]),
        "" if layer.functional else layer.type,
        *window,
        "x".join(map(str, layer.output_shape[1:])),
        effective_kernel,
        field,
        jump,
        start,
        f"{layer.parameters:,}" if layer.parameters else "",
        human(layer.macs) if layer.macs else "",
    ]


def _window_cells(window: Window | None) -> Sequence[str]:
    if window is None:
        return [""] * 6
    groups = "" if window.groups == 1 else str(window.groups)
    sizes = (window.kernel, window.stride, window.padding, window.dilation)
    return [*map(by_axis, sizes), groups, by_axis(window.effective_kernel)]


def _field_cells(field: ReceptiveField | None, marks: set[str]) -> tuple[str, str, str]:
    if field is None:
        return "", "", ""
    local = field.local
    if field.unknown:
        marks.add("?")
    size = by_axis(local.size)
    if any(field.is_global):
        size = f"{size}*" if any(local.size) else "all*"
        marks.add(size if size == "all*" else "*")
    jump, start = ("" if set(values) == {None} else by_axis(values) for values in (local.jump, local.start))
    return size, jump, start


def _frozen(layer: Layer) -> bool:
    """Whether no parameter of it is trained; of a layer without children, whether some are not."""
    return layer.trainable < layer.parameters and (layer.leaf or layer.unused or not layer.trainable)


def human_bytes(count: int) -> str:
    """768 B and 12.3 kB."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"
