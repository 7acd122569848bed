"""The table of a network: what every layer is, gives, sees and costs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import torch

from convblocks.introspect.analysis import Analysis
from convblocks.introspect.cost import activation_bytes, tensor_bytes, total_macs
from convblocks.introspect.defaults import on_cpu
from convblocks.introspect.geometry_table import geometry_table
from convblocks.introspect.inputs import InputSize
from convblocks.introspect.layer_table import COLUMNS, NOTES, human_bytes, layer_rows
from convblocks.introspect.layers import Layer, LayerList
from convblocks.introspect.receptive_field import analyse
from convblocks.introspect.tables import Table
from convblocks.introspect.tracing import buffers_of, parameters_of


class Summary:
    """A table of layers; print it, or take `records()` to pandas.

    Attributes:
        layers: one `Layer` a row.
        parameters, trainable, macs: totals; a shared parameter counts once.
        output_shapes: shapes of the outputs, batch of one included.
    """

    @on_cpu
    def __init__(self, analysis: Analysis, depth: int | None) -> None:
        self.analysis = analysis
        rows = LayerList(analysis).build()
        self.layers: list[Layer] = [row for row in rows if depth is None or row.depth <= depth]
        modules = analysis.modules.values()
        parameters, buffers = parameters_of(modules).values(), buffers_of(modules).values()
        self.parameters = sum(p.numel() for p in parameters)
        self.trainable = sum(p.numel() for p in parameters if p.requires_grad)
        self.macs = total_macs(analysis.native)
        graph = analysis.native
        self.output_shapes = [graph.shapes[value] for value in graph.outputs]
        self.parameter_bytes = tensor_bytes([*parameters, *buffers])
        self.activation_bytes = activation_bytes(graph)
        self.input_bytes = sum(math.prod(graph.shapes[v]) * graph.dtypes[v].itemsize for v in graph.inputs)

    @on_cpu
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

    @on_cpu
    def table(self) -> Table:
        """The rows as strings."""
        shown = [layer for layer in self.layers if layer.type != "Identity"]
        rows, marks = layer_rows(shown, type(self.analysis.model).__name__)
        notes = [note for mark, note in NOTES.items() if mark in marks]
        if "?" in marks:
            reasons = dict.fromkeys(r for layer in self.layers if layer.field for r in layer.field.unknown)
            notes.append(f"? not known, at most the whole input: {'; '.join(list(reasons)[:5])}")
        frozen = self.parameters - self.trainable
        notes.append(
            f"parameters {self.parameters:,}" + (f" ({frozen:,} frozen)" if frozen else "") + f", MACs {self.macs:,}"
        )
        notes.append(
            f"memory at batch 1: parameters and buffers {human_bytes(self.parameter_bytes)}, "
            f"input {human_bytes(self.input_bytes)}, activations at most {human_bytes(self.activation_bytes)}"
        )
        if self.analysis.native.error is not None:
            notes.append(f"stopped, what follows is not counted: {self.analysis.native.error}")
        return Table(COLUMNS, rows, notes)

    @on_cpu
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
        return geometry_table(self.analysis)

    def __str__(self) -> str:
        return self.text()

    def __repr__(self) -> str:
        return f"Summary({len(self.layers)} rows, {self.parameters:,} parameters, {self.macs:,} MACs)"

    def _repr_html_(self) -> str:
        return self.html()


@on_cpu
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
