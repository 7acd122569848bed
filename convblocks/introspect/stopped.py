"""The answer where the values of a tensor decide what runs, so that no run without data reaches the output."""

# The same package's.
# pyright: reportPrivateUsage=false

from __future__ import annotations

from functools import cached_property

from convblocks.introspect.analysis import Analysis
from convblocks.introspect.answers import ReceptiveField
from convblocks.introspect.field import AxisField
from convblocks.introspect.propagation import Axis


class StoppedField(ReceptiveField):
    """The answer for a network that cannot be followed to its output: the layers before the stop are known."""

    def __init__(self, analysis: Analysis, error: Exception, where: str, input_index: int = 0) -> None:
        super().__init__(analysis, analysis.native.inputs[0], "output", input_index)
        self._error, self._where = error, where
        self._reason = f"{error}" + (f" in {where}" if where else "")

    def for_input(self, index: int) -> ReceptiveField:
        """Nothing is known of another input either."""
        checked = super().for_input(index)
        return StoppedField(self._analysis, self._error, self._where, checked._input)

    @property
    def coverage(self) -> float | None:
        """Not known."""
        return None

    @cached_property
    def _found(self) -> list[tuple[AxisField, tuple[str, ...], bool]]:
        return [(AxisField(None), (self._reason,), False) for _ in self.axes]

    def _at_most(self, axis: Axis) -> int:
        return self._analysis.length(axis)

    @property
    def shape(self) -> tuple[int, ...]:
        """Raises: the output is not known."""
        raise ValueError(f"the output is not known: {self._reason}")
