"""SurgeryReport: what was replaced by what, what was not and why, and what it costs before and after."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import nn

from convblocks.introspect.layer_table import by_axis, human
from convblocks.introspect.layers import geometry_rows
from convblocks.introspect.receptive_field import analyse
from convblocks.introspect.summary import Summary
from convblocks.introspect.tables import Column, Table

Sizes = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Cost:
    """What a network costs and sees, at one input size.

    Attributes:
        parameters: their number.
        macs: multiply-accumulates of one image.
        activation_bytes: memory of everything that one image leaves behind, at most.
        receptive_field: of the last map, (height, width) in input pixels; gates cut; None where it is unknown.
        output_stride: the jump of the last map: input pixels between neighbouring units; None where it is unknown.
        last_map: (channels, height, width) of what the last convolution or pooling with a jump gives.
        output_shape: shape of the output without the batch.
    """

    parameters: int
    macs: int
    activation_bytes: int
    receptive_field: tuple[float | None, ...]
    output_stride: tuple[float | None, ...]
    last_map: Sizes
    output_shape: Sizes

    @classmethod
    def of(cls, model: nn.Module, input_size: Sequence[int]) -> Cost:
        """Measure a network on meta tensors.

        Args:
            model: any network.
            input_size: shape of an input without the batch.

        Returns:
            What it costs.

        Raises:
            ValueError: the network does not run on `input_size`.
        """
        analysis = analyse(model, input_size)
        totals = Summary(analysis, depth=0)
        last = None
        for row in geometry_rows(analysis):
            if row.field is not None and (row.field.unknown or row.field.local.jump[0] is not None):
                last = row.field
        nothing: tuple[None, ...] = (None, None)
        return cls(
            totals.parameters,
            totals.macs,
            totals.activation_bytes,
            last.local.size if last is not None else nothing,
            last.local.jump if last is not None else nothing,
            last.shape[1:] if last is not None else (),
            totals.output_shapes[0][1:],
        )


@dataclass
class SurgeryReport:
    """What an operation on a network did, by the names of its modules.

    Attributes:
        replaced: for each module that was changed, what it was and what it is now.
        kept: for each that might have been changed and was not, the reason.
        scratch: modules whose weights start from scratch: the network must be trained.
        notes: what else to know.
        before: cost of the original.
        after: cost of the result.
    """

    before: Cost
    after: Cost
    replaced: dict[str, str] = field(default_factory=dict[str, str])
    kept: dict[str, str] = field(default_factory=dict[str, str])
    scratch: list[str] = field(default_factory=list[str])
    notes: list[str] = field(default_factory=list[str])

    def table(self) -> Table:
        """The cost before and after; `.text()`, `.markdown()` and `.html()` show it."""
        one, two = self.before, self.after
        rows = [
            ["parameters", human(one.parameters), human(two.parameters), _times(one.parameters, two.parameters)],
            ["MACs", human(one.macs), human(two.macs), _times(one.macs, two.macs)],
            [
                "activations, at most",
                f"{one.activation_bytes / 1e6:,.1f} MB",
                f"{two.activation_bytes / 1e6:,.1f} MB",
                _times(one.activation_bytes, two.activation_bytes),
            ],
            ["receptive field", _shown(one.receptive_field), _shown(two.receptive_field), ""],
            ["output stride", _shown(one.output_stride), _shown(two.output_stride), ""],
            ["last map", _joined(one.last_map), _joined(two.last_map), ""],
            ["output", _joined(one.output_shape), _joined(two.output_shape), ""],
        ]
        return Table([Column("", right=False), Column("before"), Column("after"), Column("ratio")], rows)

    def __str__(self) -> str:
        """The table, then a line a module that was replaced or kept, then the notes."""
        lines = [self.table().text(100), "", f"{len(self.replaced)} replaced, {len(self.kept)} kept"]
        lines += [f"  replaced {name}: {what}" for name, what in self.replaced.items()]
        lines += [f"  kept {name}: {why}" for name, why in self.kept.items()]
        if self.scratch:
            lines.append(f"from scratch: {', '.join(self.scratch)}")
        return "\n".join([*lines, *self.notes])


def _times(before: int, after: int) -> str:
    return f"x {after / before:.2f}" if before else ""


def _shown(values: Sequence[float | None]) -> str:
    return "?" if any(v is None or math.isinf(v) for v in values) else by_axis(values)


def _joined(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
