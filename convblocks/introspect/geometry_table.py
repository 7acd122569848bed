"""The receptive-field table of coursework: r, n and j of every convolution and pooling, in and out."""

from __future__ import annotations

from collections.abc import Sequence

from convblocks.introspect.analysis import Analysis
from convblocks.introspect.answers import Field
from convblocks.introspect.layer_table import by_axis
from convblocks.introspect.layers import geometry_rows
from convblocks.introspect.tables import Column, Table


def geometry_table(analysis: Analysis) -> Table:
    """The receptive-field table as coursework prints it: field, size and jump, in and out, by convolution.

    A depthwise convolution and the pointwise one that follows it are one row.
    """
    rows: list[list[str]] = []
    last: Sequence[float | None] = ()
    for layer in geometry_rows(analysis):
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
    name = Column("layer", right=False, least=16, from_front=True)
    kind = Column("type", right=False, rank=1, least=9)
    return Table([name, kind, *(Column(title) for title in titles[2:-1]), Column("k eff", rank=2)], rows)


def _carried(field: Field | None, last: Sequence[float | None]) -> Sequence[float | None]:
    """A pooled layer of one unit has no jump of its own: coursework tables carry the last one on."""
    jump = field.jump if field is not None else ()
    return tuple(last[i] if j is None and i < len(last) else j for i, j in enumerate(jump))
