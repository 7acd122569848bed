"""What `receptive_field` returns: the field of one tensor of a network, and of every other on the way."""

# What torch leaves without types.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

from convblocks.introspect.analysis import Analysis
from convblocks.introspect.arrays import TooLarge
from convblocks.introspect.field import AxisField
from convblocks.introspect.labels import least
from convblocks.introspect.propagation import Axis
from convblocks.introspect.runs import downstream
from convblocks.introspect.units import units_of


@dataclass(frozen=True, slots=True)
class Field:
    """A receptive field along every spatial axis of the input, height first.

    Attributes:
        size: input pixels from the first to the last that a unit in the middle depends on; `math.inf` where that is
            the whole input whatever its size (or at the given size, where the network does something else on a larger
            one), None where nothing is proved (`ReceptiveField.at_most` still holds).
        jump: input pixels between neighbouring units; None where there is none (a pooled layer) or it is not constant.
        start: input coordinate of the centre of the first unit, pixel 0 having its centre at 0.
        period: 1 where all units see alike; n where the pattern repeats after n units, and then `size` is the
            largest and `jump` the mean; None where it never does.
    """

    size: tuple[float | None, ...]
    jump: tuple[float | None, ...]
    start: tuple[float | None, ...]
    period: tuple[int | None, ...]

    @property
    def padding(self) -> tuple[float | None, ...]:
        """Input pixels by which the first unit's field begins before the input: the effective padding."""
        return tuple(
            None if size is None or start is None or math.isinf(size) else (size - 1) / 2 - start
            for size, start in zip(self.size, self.start, strict=True)
        )


class ReceptiveField:
    """The receptive field of one tensor of a network, as `receptive_field` returns it for the output.

    The full answer is in `size`, `jump` and `start`; `local` is the field with gates cut: squeeze-and-excitation,
    attention and whatever else gathers the whole image makes every later field global, which says little of the
    layers.
    """

    def __init__(self, analysis: Analysis, value: int, name: str = "", input_index: int = 0) -> None:
        self._analysis, self._value, self.name, self._input = analysis, value, name, input_index

    @property
    def axes(self) -> tuple[Axis, ...]:
        """The spatial axes of the input asked about."""
        return tuple([axis for axis in self._analysis.axes if axis.input == self._input])

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor at the given input size, batch dimension included."""
        return self._analysis.native.shapes[self._value]

    @property
    def local(self) -> Field:
        """The field with gates cut; that of a pooled tensor is as wide as the units pooled at the given input size."""
        found = [field for field, _, _ in self._found]
        return Field(
            tuple([field.size for field in found]),
            tuple([field.jump for field in found]),
            tuple([field.start for field in found]),
            tuple([field.period for field in found]),
        )

    @property
    def full(self) -> Field:
        """The field with gates: infinite where anything upstream gathers the whole image, None where it is unknown."""
        local = self.local
        gated = self.is_global
        left_out = [g or bool(reasons) for g, (_, reasons, _) in zip(gated, self._found, strict=True)]
        size, jump, start = (
            tuple(None if out else item for out, item in zip(left_out, part, strict=True))
            for part in (local.size, local.jump, local.start)
        )
        return Field(
            tuple(math.inf if g else item for g, item in zip(gated, size, strict=True)),
            jump,
            start,
            tuple(None if out else item for out, item in zip(left_out, local.period, strict=True)),
        )

    @property
    def size(self) -> tuple[float | None, ...]:
        """Size of the full field, by axis."""
        return self.full.size

    @property
    def jump(self) -> tuple[float | None, ...]:
        """Jump of the full field, by axis."""
        return self.full.jump

    @property
    def start(self) -> tuple[float | None, ...]:
        """Start of the full field, by axis."""
        return self.full.start

    @property
    def is_global(self) -> tuple[bool, ...]:
        """Whether the tensor sees the whole input whatever its size, by axis."""
        return tuple([gated and not reasons for _, reasons, gated in self._found])

    @property
    def is_pooled(self) -> bool:
        """Whether the tensor has no position left along any axis, as after a pooling of the whole map and in a gate."""
        return all(field.pooled for field, _, _ in self._found)

    @cached_property
    def _found(self) -> list[tuple[AxisField, tuple[str, ...], bool]]:
        """What is known along every axis, what is not, and whether gates make the field global."""
        return [self._analysis.field(axis, self._value) for axis in self.axes]

    @property
    def unknown(self) -> tuple[str, ...]:
        """Operations upstream of which nothing could be proved; empty where the answer is exact."""
        return tuple(dict.fromkeys([reason for _, reasons, _ in self._found for reason in reasons]))

    @property
    def at_most(self) -> tuple[int, ...]:
        """Input pixels from the first to the last that any unit can depend on at the given input size, by axis.

        A bound that holds whatever is unknown, with gates, and with the borders of the input, beyond which nothing
        lies: where nothing better is known it is the length of the input.

        Examples:
            >>> import torch
            >>> from convblocks import receptive_field
            >>> field = receptive_field(lambda x: torch.linalg.inv(x[..., 8:18, 8:18]), (3, 32, 32))
            >>> field.size, field.at_most, field.unknown
            ((None, None), (10, 10), ('aten.linalg_inv_ex',))
        """
        return tuple(self._at_most(axis) for axis in self.axes)

    def _at_most(self, axis: Axis) -> int:
        labels = self._analysis.whole(axis).labels.get(self._value)
        if labels is None:
            return 0
        try:
            units = units_of(labels, self._analysis.prefer(self.shape, axis))
        except TooLarge:
            return self._analysis.length(axis)
        return max(0, int((units.hi - units.lo + 1).max())) if len(units.lo) else 0

    @property
    def gates(self) -> tuple[str, ...]:
        """The modules that gather the whole image upstream of this tensor."""
        names: dict[str, None] = {}
        for axis in self.axes:
            for number, op, where in self._analysis.gates(axis):
                if self._value in downstream(self._analysis.native, [number]):
                    names[where or f"aten.{op}"] = None
        return tuple(names)

    def interval(self, *unit: int) -> tuple[tuple[int, int] | None, ...]:
        """First and last input position that one unit depends on, at the given input size: borders and gates included.

        Args:
            *unit: index of the unit: one number a dimension of the tensor without batch and channels, or all but the
                batch.

        Returns:
            (first, last) by axis, None where the unit depends on no input at all (it sees padding alone).

        Raises:
            ValueError: the unit does not exist, or an operation upstream is unknown; the message names it and the
                interval within which that of the unit lies.
        """
        shape = self.shape
        index = unit if len(unit) == len(shape) - 1 else (None, *unit)
        places: list[tuple[Any, int]] = [(i, n) for i, n in zip(index, shape[1:], strict=False) if i is not None]
        if len(index) != len(shape) - 1 or not all(isinstance(i, int) and -n <= i < n for i, n in places):
            raise ValueError(f"unit must be an index into {shape[2:]} or {shape[1:]}, got {unit}")
        found: list[tuple[int, int] | None] = []
        reasons: set[str] = set()
        for axis in self.axes:
            whole = self._analysis.whole(axis)
            reasons |= whole.unknown.get(self._value, frozenset())
            labels = whole.labels.get(self._value)
            if labels is None:
                found.append(None)
                continue
            at = labels.at(
                [None if place is None else place % n for place, n in zip((None, *index), shape, strict=True)]
            )
            lo, hi = cast("list[int]", least(at, range(at.ndim)).data.flatten().tolist())
            found.append((lo, -hi) if lo <= -hi else None)
        if reasons:
            raise ValueError(f"the interval is not known, but lies within {found}: {', '.join(sorted(reasons))}")
        return (None,) * len(found) if None in found else tuple(found)

    @property
    def coverage(self) -> float | None:
        """Share of the pixels inside the local field that do reach a unit in the middle; below 1 is gridding."""
        from convblocks.introspect.coverage import coverage

        return coverage(self._analysis, self._value, self._input)

    @property
    def outputs(self) -> tuple[ReceptiveField, ...]:
        """One for every tensor that the network returns."""
        outputs = self._analysis.native.outputs
        return tuple(
            ReceptiveField(self._analysis, value, f"output {i}", self._input) for i, value in enumerate(outputs)
        )

    @property
    def layers(self) -> Mapping[str, ReceptiveField]:
        """By the name of the module, for its first output; a module called again is `name:1`, `name:2`."""
        return _Layers(self._analysis, self._input)

    def for_input(self, index: int) -> ReceptiveField:
        """The same tensor's field on another input of a network with several."""
        if not 0 <= index < len(self._analysis.inputs.shapes):
            raise ValueError(f"index must be 0 to {len(self._analysis.inputs.shapes) - 1}, got {index}")
        return ReceptiveField(self._analysis, self._value, self.name, index)

    def __repr__(self) -> str:
        field, local = self.full, self.local
        parts = [f"size={_show(field.size)}", f"jump={_show(field.jump)}", f"start={_show(field.start)}"]
        if field != local:
            parts.append(f"local size={_show(local.size)}")
        if self.unknown:
            parts.append(f"at most={_show(self.at_most)}")
            parts.append(f"unknown: {', '.join(self.unknown)}")
        return f"ReceptiveField({', '.join(parts)})"


class _Layers(Mapping[str, ReceptiveField]):
    def __init__(self, analysis: Analysis, input_index: int) -> None:
        self._analysis, self._input = analysis, input_index
        self._values: dict[str, int] = {}
        times: dict[str, int] = {}
        for call in analysis.native.calls:
            count = times.get(call.name, 0)
            times[call.name] = count + 1
            if call.outputs and call.name:
                self._values[f"{call.name}:{count}" if count else call.name] = call.outputs[0]

    def __getitem__(self, name: str) -> ReceptiveField:
        return ReceptiveField(self._analysis, self._values[name], name, self._input)

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


def _show(values: Sequence[float | None]) -> str:
    def one(value: float | None) -> str:
        if value is None:
            return "?"
        if math.isinf(value):
            return "global"
        return str(int(value)) if value == int(value) else f"{value:g}"

    return "(" + ", ".join(one(value) for value in values) + ")"
