"""What the runs of a network say of the fields of its values, kept for whoever asks again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from convblocks.introspect.arrays import TooLarge
from convblocks.introspect.defaults import on_cpu
from convblocks.introspect.field import AxisField, axis_field, see_alike
from convblocks.introspect.graph import Graph
from convblocks.introspect.inputs import Inputs
from convblocks.introspect.labels import Identity, Labels
from convblocks.introspect.propagation import Axis, Local
from convblocks.introspect.runs import Grown, Runs, marked
from convblocks.introspect.turns import Turn
from convblocks.introspect.units import of_two_places, rows_of, shows_all, units_of

TWO_PLACES = "every element belongs to two places, as the scores of an attention do"


class Analysis(Runs):
    """All that is known of one network at one input size."""

    def __init__(self, model: Callable[..., Any], inputs: Inputs) -> None:
        super().__init__(model, inputs)
        self._fields: dict[tuple[Axis, int], tuple[AxisField, tuple[str, ...], bool]] = {}
        self._native_fields: dict[tuple[Identity, int | None, int], AxisField | None] = {}
        self._behind_gates: dict[tuple[int, int], tuple[list[str], dict[int, int]]] = {}

    def field(self, axis: Axis, value: int) -> tuple[AxisField, tuple[str, ...], bool]:
        """Local field of a value along an axis, what is not known of it, and whether gates make the full one global."""
        key = (axis, value)
        found = self._fields.get(key)
        if found is None:
            if axis != self.axes[0] and self.turns is not None and self.grown(axis)[0].is_image:
                found = self.field(self.axes[0], value)
                if not _is_same(self.turns.get(value), found[0]):
                    found = None
            if found is None:
                try:
                    found = self._field(axis, value)
                except TooLarge as error:
                    found = AxisField(None), (str(error),), False
            self._fields[key] = found
        return found

    @on_cpu
    def _field(self, axis: Axis, value: int) -> tuple[AxisField, tuple[str, ...], bool]:
        runs = self.grown(axis)
        graph = runs[0].graph
        if all(run.has(value) for run in runs):
            reasons = {reason for run in runs for reason in run.own.unknown.get(value, ())}
            gated, parts = self._gathered(graph, runs[0].policy, value)
            if reasons:
                return AxisField(None), tuple(sorted(reasons)), gated
            labels = runs[0].unturned(value)
            if self.attends and not labels.pooled and self._of_two_places(runs[0], labels):
                return AxisField(None), (TWO_PLACES,), gated
            found = self._seen(runs[0], value)
            if found is not None and all(self._seen(run, value) == found for run in runs[1:]):
                return found, parts, gated
            if found is None and labels.pooled:
                # What holds at the original size says no more of what has gathered too much.
                return AxisField(None, pooled=True), parts, not parts
        return self._native_field(axis, value)

    def _of_two_places(self, run: Grown, labels: Labels) -> bool:
        if labels.identity not in run.scores:
            run.scores[labels.identity] = of_two_places(labels, run.length, run.sizes)
        return run.scores[labels.identity]

    def _seen(self, run: Grown, value: int) -> AxisField | None:
        """The field of a value in one run; a convolution, its norm and its activation share their labels."""
        if run.like is not None and value in run.turns:
            found = self._seen(run.like, value)
            if _is_same(run.turns[value], found):
                return found
        labels = run.labels(value)
        key = labels.identity, self.prefer(run.graph.shapes[value], run.axis)
        if key not in run.fields:
            # Other tensors, heads and windows among them, show the same rows, or the same columns, in another way.
            rows = rows_of(labels)
            alike = key if rows is None else (rows, None)
            if alike not in run.fields:
                run.fields[alike] = axis_field(labels, run.length, key[1], (run.length - self.length(run.axis)) // 4)
            run.fields[key] = run.fields[alike]
        return run.fields[key]

    def _native_field(self, axis: Axis, value: int) -> tuple[AxisField, tuple[str, ...], bool]:
        """What holds at the original size alone.

        The network refuses a larger input, or its geometry follows the size.
        """
        run = self.local(axis)
        gated, parts = self._gathered(self.native, run.policy, value)
        reasons = tuple(sorted(run.own.unknown.get(value, frozenset())))
        if reasons:
            return AxisField(None), reasons, gated
        if not run.has(value):
            return AxisField(0, empty=True), (), gated
        if run.unturned(value).pooled:
            return AxisField(None, pooled=True), parts, not parts
        # Of what layers that do not pad have trimmed it sees half of its field at most.
        found = self._seen_natively(run, value, self.reach(axis).sizes[value] // 2)
        if found is None:
            return AxisField(None), ("every unit reaches the border, and the geometry follows the input size",), gated
        return found, parts, gated

    def _seen_natively(self, run: Grown, value: int, margin: int) -> AxisField | None:
        """The field of a value at the original size; None where every unit reaches the border."""
        if run.like is not None and value in run.turns:
            found = self._seen_natively(run.like, value, margin)
            if _is_same(run.turns[value], found):
                return found
        labels, length = run.labels(value), run.length
        key = labels.identity, self.prefer(run.graph.shapes[value], run.axis), margin
        if key not in self._native_fields:
            reaches = shows_all(labels, length, {}) and not see_alike(labels, length, key[1], margin)
            self._native_fields[key] = None if reaches else axis_field(labels, length, key[1], margin)
        return self._native_fields[key]

    @on_cpu
    def units(self, axis: Axis, value: int) -> tuple[Tensor, Tensor, Tensor]:
        """First and last position that every unit of a value sees in the enlarged input, and which see no border."""
        run = self.grown(axis)[0]
        prefer = self.prefer(run.graph.shapes[value], axis)
        found = units_of(run.labels(value), prefer)
        lo, hi = found.lo, found.hi
        margin = (run.length - self.length(axis)) // 4
        return lo, hi, (lo > margin) & (hi < run.length - 1 - margin) & (hi >= lo)

    def prefer(self, shape: Sequence[int], axis: Axis) -> int | None:
        """The dimension of a tensor of this shape that is likely to run along the axis."""
        return axis.dim if len(shape) == len(self.inputs.shapes[axis.input]) else None

    def _gathered(self, graph: Graph, policy: Local, value: int) -> tuple[bool, tuple[str, ...]]:
        """Whether gates make a value see all of an axis, and if not, which make it see a part that grows with it."""
        if not policy.gates:
            return False, ()
        key = id(graph), id(policy)
        if key not in self._behind_gates:
            parts: dict[str, list[int]] = {}
            for number in policy.partial:
                node = graph.nodes[number]
                where = self.native.where(node)
                name = f"aten.{node.op} (gathers a part of the input that grows with it)"
                parts.setdefault(name + (f" in {where}" if where else ""), []).append(number)
            marks = dict.fromkeys(policy.gates - policy.partial, 1)
            for place, name in enumerate(sorted(parts)):
                marks.update(dict.fromkeys(parts[name], 2 << place))
            self._behind_gates[key] = sorted(parts), marked(graph, marks)
        names, reached = self._behind_gates[key]
        found = reached.get(value, 0)
        if found & 1:
            return True, ()
        return False, tuple([name for place, name in enumerate(names) if found & 2 << place])

    def gates(self, axis: Axis) -> list[tuple[int, str, str]]:
        """(node, operation, module) of every operation that gathers the whole axis."""
        run = self.grown(axis)[0]
        found = [(number, run.graph.nodes[number]) for number in sorted(run.policy.gates)]
        if len(run.graph.nodes) < len(self.native.nodes):
            policy = self.local(axis).policy
            found += [(n, self.native.nodes[n]) for n in sorted(policy.gates) if n >= len(run.graph.nodes)]
        return [(number, node.op, self.native.where(node)) for number, node in found]


def _is_same(turn: Turn | None, found: AxisField | None) -> bool:
    """Whether this field along the height is that along the width of a value that turns so.

    Where both have become one dimension, the order of its units is another one for each.
    """
    return turn is None or turn.is_plain or found is None or found.size is None or found.pooled or found.period == 1
