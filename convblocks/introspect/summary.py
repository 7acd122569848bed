"""The table of a network: what every layer is, gives, sees and costs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch

from convblocks.introspect.analysis import Analysis
from convblocks.introspect.answers import Field, ReceptiveField
from convblocks.introspect.cost import activation_bytes, tensor_bytes, total_macs
from convblocks.introspect.inputs import InputSize
from convblocks.introspect.layers import Layer, LayerList, geometry_rows
from convblocks.introspect.receptive_field import analyse
from convblocks.introspect.tables import Column, Table
from convblocks.introspect.tracing import module_of

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


def by_axis(values: Sequence[Any] | None) -> str:
    """`3` for (3, 3), `1x7` for (1, 7), "" for nothing."""
    if not values:
        return ""
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


class Summary:
    """A table of layers; print it, or take `records()` to pandas.

    Attributes:
        layers: one `Layer` a row.
        parameters, trainable, macs: totals; a shared parameter counts once.
        output_shapes: shapes of the outputs, batch of one included.
    """

    def __init__(self, analysis: Analysis, depth: int | None) -> None:
        module = module_of(analysis.model)
        self.analysis = analysis
        rows = LayerList(analysis, module).build()
        self.layers: list[Layer] = [row for row in rows if depth is None or row.depth <= depth]
        parameters = list(module.parameters()) if module is not None else []
        self.parameters = sum(p.numel() for p in parameters)
        self.trainable = sum(p.numel() for p in parameters if p.requires_grad)
        self.macs = total_macs(analysis.native)
        graph = analysis.native
        self.output_shapes = [graph.shapes[value] for value in graph.outputs]
        self.parameter_bytes = tensor_bytes([*parameters, *(module.buffers() if module is not None else ())])
        self.activation_bytes = activation_bytes(graph, graph.nodes)
        self.input_bytes = sum(math.prod(graph.shapes[v]) * graph.dtypes[v].itemsize for v in graph.inputs)

    def records(self) -> list[dict[str, Any]]:
        """One dictionary a row, ready for `pandas.DataFrame`."""
        return [self._record(layer) for layer in self.layers]

    def _record(self, layer: Layer) -> dict[str, Any]:
        window, field = layer.window, layer.field
        local = field.local if field is not None else None
        return {
            "layer": layer.name,
            "type": layer.type,
            "depth": layer.depth,
            "kernel": window.kernel if window else None,
            "stride": window.stride if window else None,
            "padding": window.padding if window else None,
            "dilation": window.dilation if window else None,
            "groups": window.groups if window else None,
            "effective_kernel": window.effective_kernel if window else None,
            "output_shape": layer.output_shape[1:] or None,
            "receptive_field": local.size if local else None,
            "jump": local.jump if local else None,
            "start": local.start if local else None,
            "global": any(field.is_global) if field is not None else False,
            "unknown": field.unknown if field is not None else (),
            "at_most": field.at_most if field is not None and field.unknown else None,
            "parameters": layer.parameters,
            "trainable": layer.trainable,
            "macs": layer.macs,
            "activation_bytes": layer.activation_bytes,
            "functional": layer.functional,
            "reused": layer.reused,
            "unused": layer.unused,
        }

    def table(self) -> Table:
        """The rows as strings."""
        marks: set[str] = set()
        shown = [layer for layer in self.layers if layer.type != "Identity"]
        above: dict[int, str] = {}
        rows: list[list[str]] = []
        for layer in shown:
            rows.append(self._row(layer, above.get(layer.depth - 1, ""), marks))
            if not layer.functional:
                above[layer.depth] = layer.name
        notes = [note for mark, note in NOTES.items() if mark in marks]
        if "?" in marks:
            reasons = dict.fromkeys(r for layer in self.layers if layer.field for r in layer.field.unknown)
            notes.append(f"? not known, at most the whole input: {'; '.join(list(reasons)[:5])}")
        frozen = self.parameters - self.trainable
        notes.append(
            f"parameters {self.parameters:,}" + (f" ({frozen:,} frozen)" if frozen else "") + f", MACs {self.macs:,}"
        )
        notes.append(
            f"memory at batch 1: parameters and buffers {_bytes(self.parameter_bytes)}, "
            f"input {_bytes(self.input_bytes)}, activations at most {_bytes(self.activation_bytes)}"
        )
        if self.analysis.native.error is not None:
            notes.append(f"stopped, what follows is not counted: {self.analysis.native.error}")
        return Table(COLUMNS, rows, notes)

    def _row(self, layer: Layer, above: str, marks: set[str]) -> list[str]:
        """The cells of a layer below the module `above`, by which its name is shortened."""
        label = layer.name if layer.unused else layer.name.removeprefix(f"{above}.")
        label = label or type(self.analysis.model).__name__
        found = [mark for mark, holds in (("+", layer.reused), ("#", _frozen(layer)), ("-", layer.unused)) if holds]
        marks.update(found)
        if layer.functional:
            label = f"{layer.type}()"
            marks.add("()")
        indent = "" if layer.unused else "  " * layer.depth
        window = layer.window
        field, jump, start = _field_cells(layer.field, marks)
        return [
            " ".join([indent + label, *found]),
            "" if layer.functional else layer.type,
            by_axis(window and window.kernel),
            by_axis(window and window.stride),
            by_axis(window and window.padding),
            by_axis(window and window.dilation),
            str(window.groups) if window and window.groups != 1 else "",
            "x".join(map(str, layer.output_shape[1:])),
            by_axis(window and window.effective_kernel),
            field,
            jump,
            start,
            f"{layer.parameters:,}" if layer.parameters else "",
            human(layer.macs) if layer.macs else "",
        ]

    def text(self, width: int | None = None) -> str:
        """The table in `width` columns, by default those of the terminal."""
        return self.table().text(width)

    def markdown(self) -> str:
        """The table in Markdown."""
        return self.table().markdown()

    def html(self) -> str:
        """The table in HTML."""
        return self.table().html()

    def geometry(self) -> Table:
        """The receptive-field table as coursework prints it: field, size and jump, in and out, by convolution.

        A depthwise convolution and the pointwise one that follows it are one row.
        """
        rows: list[list[str]] = []
        last: Sequence[float | None] = ()
        for layer in geometry_rows(self.analysis):
            window, before, after = layer.window, layer.before, layer.field
            assert window is not None
            inside = before.local if before is not None else None
            outside = after.local if after is not None else None
            n = len(window.kernel)
            jump_in = _carried(inside, last)
            jump_out = last = _carried(outside, jump_in)
            rows.append(
                [
                    layer.name or "(functional)",
                    layer.type,
                    by_axis(inside and inside.size),
                    by_axis(outside and outside.size),
                    by_axis(layer.input_shape[-n:]),
                    by_axis(layer.output_shape[-n:] if len(layer.output_shape) > n else (1,) * n),
                    by_axis(jump_in),
                    by_axis(jump_out),
                    by_axis(window.kernel),
                    by_axis(window.stride),
                    by_axis(window.padding),
                    by_axis(window.dilation),
                    by_axis(window.effective_kernel),
                ]
            )
        titles = ("layer", "type", "r in", "r out", "n in", "n out", "j in", "j out", "k", "s", "p", "d", "k eff")
        columns = [Column(title) for title in titles[2:-1]]
        name, kind = (
            Column("layer", right=False, least=16, from_front=True),
            Column("type", right=False, rank=1, least=9),
        )
        return Table([name, kind, *columns, Column("k eff", rank=2)], rows)

    def __str__(self) -> str:
        return self.text()

    def __repr__(self) -> str:
        return f"Summary({len(self.layers)} rows, {self.parameters:,} parameters, {self.macs:,} MACs)"

    def _repr_html_(self) -> str:
        return self.html()


def _carried(field: Field | None, last: Sequence[float | None]) -> Sequence[float | None]:
    """A pooled layer of one unit has no jump of its own: coursework tables carry the last one on."""
    jump = field.jump if field is not None else ()
    return tuple(last[i] if j is None and i < len(last) else j for i, j in enumerate(jump))


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
    jump = "" if set(local.jump) == {None} else by_axis(local.jump)
    return size, jump, "" if set(local.start) == {None} else by_axis(local.start)


def _frozen(layer: Layer) -> bool:
    """Whether no parameter of it is trained; of a layer without children, whether some are not."""
    return layer.trainable < layer.parameters and (layer.leaf or layer.unused or not layer.trainable)


def _bytes(count: int) -> str:
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"


def summary(
    model: Callable[..., Any],
    input_size: InputSize,
    *,
    depth: int | None = None,
    dtype: torch.dtype | None = None,
    channel_last: bool = False,
) -> Summary:
    """Tell what every layer of a network is, gives, sees and costs. No weights are read and no map is allocated.

    Args:
        model: a module, or a bound method of one.
        input_size: `(channels, height, width)` without the batch, or a sequence of such for several inputs.
        depth: levels of nesting to show, 0 for the network alone; all by default.
        dtype: element type of the input; by default that of the first floating parameter.
        channel_last: the network takes `(height, width, channels)`.

    Returns:
        A `Summary`: print it, or take `.records()`, `.markdown()`, `.html()`, `.geometry()`.

    Raises:
        ValueError: the network cannot run on `input_size`; a negative depth.

    Examples:
        >>> from torch import nn
        >>> table = summary(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.MaxPool2d(2)), (3, 32, 32))
        >>> table.macs, table.parameters
        (221184, 224)
        >>> [(row["type"], row["receptive_field"]) for row in table.records()]
        [('Sequential', (4, 4)), ('Conv2d', (3, 3)), ('MaxPool2d', (4, 4))]
    """
    if depth is not None and (not isinstance(cast("Any", depth), int) or depth < 0):
        raise ValueError(f"depth must be a whole number from 0 (the network alone), got {depth!r}")
    return Summary(analyse(model, input_size, dtype=dtype, channel_last=channel_last), depth)
