"""Runs a network as often as its receptive fields need, and keeps the answers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import Tensor

from convblocks.introspect.agreement import Agreement, follows_size, settled
from convblocks.introspect.arrays import TooLarge
from convblocks.introspect.defaults import on_cpu
from convblocks.introspect.field import AxisField, axis_field, see_alike
from convblocks.introspect.graph import Graph
from convblocks.introspect.growth import Reach, grown_length, reach
from convblocks.introspect.inputs import Inputs
from convblocks.introspect.labels import Identity, Labels
from convblocks.introspect.propagation import Axis, Local, Propagation, Whole, propagate
from convblocks.introspect.repeats import Repeats
from convblocks.introspect.symmetry import exchanged, mirrored
from convblocks.introspect.tracing import trace
from convblocks.introspect.units import of_two_places, shows_all, units_of

LONGEST = 2**16

TWO_PLACES = "every element belongs to two places, as the scores of an attention do"


@dataclass(slots=True)
class Grown:
    """The network on an enlarged input, with the local labels along one axis.

    `like` is the run along another axis of which this one is the mirror image.
    """

    graph: Graph
    axis: Axis
    length: int
    labels: Propagation
    policy: Local
    agreed: int
    like: Grown | None = None
    fields: dict[tuple[Identity, int | None], AxisField | None] = field(
        default_factory=dict[tuple[Identity, int | None], AxisField | None]
    )
    scores: dict[Identity, bool] = field(default_factory=dict[Identity, bool])

    def cut(self, count: int) -> None:
        """Forget all but the first `count` nodes."""
        kept = {value for node in self.graph.nodes[:count] for value in node.outputs} | set(self.graph.inputs)
        # The axes share a graph.
        self.graph.nodes = self.graph.nodes[:count]
        self.labels.labels = {value: labels for value, labels in self.labels.labels.items() if value in kept}
        self.policy.gates = {number for number in self.policy.gates if number < count}
        self.policy.partial = {number for number in self.policy.partial if number < count}
        self.policy.crosses = {number for number in self.policy.crosses if number < count}
        self.agreed = count


class Analysis:
    """All that is known of one network at one input size."""

    @on_cpu
    def __init__(self, model: Callable[..., Any], inputs: Inputs) -> None:
        self.model, self.inputs = model, inputs
        self.native = trace(model, inputs.shapes, inputs.dtypes)
        self._fields: dict[tuple[Axis, int], tuple[AxisField, tuple[str, ...], bool]] = {}
        self._native_fields: dict[tuple[Identity, int | None, int], AxisField | None] = {}
        self._reach: dict[Axis, Reach] = {}
        self._grown: dict[Axis, list[Grown]] = {}
        self._whole: dict[Axis, Propagation] = {}
        self._local: dict[Axis, tuple[Propagation, Local]] = {}
        self._behind_gates: dict[tuple[int, int], tuple[set[int], dict[str, set[int]]]] = {}

    @cached_property
    def axes(self) -> tuple[Axis, ...]:
        """Every spatial axis of every input."""
        return tuple(Axis(i, dim) for i, dims in enumerate(self.inputs.axes) for dim in dims)

    def length(self, axis: Axis) -> int:
        """Length of an axis at the original size."""
        return self.inputs.shapes[axis.input][axis.dim]

    @on_cpu
    def whole(self, axis: Axis) -> Propagation:
        """Exact intervals at the original size, borders and gates included."""
        if axis not in self._whole:
            self._whole[axis] = propagate(self.native, axis, Whole())
        return self._whole[axis]

    @on_cpu
    def local(self, axis: Axis) -> tuple[Propagation, Local]:
        """Local labels at the original size, for what a larger input cannot reach."""
        if axis not in self._local:
            policy = self._policy(axis, self.length(axis), self._repeats)
            self._local[axis] = propagate(self.native, axis, policy), policy
        return self._local[axis]

    def _policy(self, axis: Axis, length: int, repeats: Repeats | None) -> Local:
        windows = self.reach(axis).windows
        return Local(length, self.native.shapes, self.length(axis), windows=windows, repeats=repeats)

    def _repeats_of(self, graph: Graph) -> Repeats | None:
        # Where there is no attention every layer sees more than the one before it.
        return Repeats(graph, self.native.shapes) if self._attends else None

    @cached_property
    def _repeats(self) -> Repeats | None:
        return self._repeats_of(self.native)

    @cached_property
    def _attends(self) -> bool:
        """Whether places of the network read one another by an attention."""
        return self.native.attends()

    @cached_property
    def _alike(self) -> bool:
        """Whether the network treats the height and the width of its input alike."""
        return [axis.dim for axis in self.axes] == [2, 3] and exchanged(self.native) is not None

    def reach(self, axis: Axis) -> Reach:
        """An upper estimate of the field of any unit, and a common multiple of the strides."""
        if self._alike:
            axis = self.axes[0]
        if axis not in self._reach:
            self._reach[axis] = reach(self.native, axis)
        return self._reach[axis]

    def grown(self, axis: Axis) -> list[Grown]:
        """The network on an input large enough, twice if its geometry may follow the size of the input."""
        if not self._grown:
            self._grow()
        return self._grown[axis]

    @on_cpu
    def _grow(self) -> None:
        factor, before = 2, None
        while True:
            lengths = {axis: self._enlarged(axis, factor) for axis in self.axes}
            grown = self.run(lengths)
            small = [self._too_small(grown[axis]) for axis in self.axes]
            if before is not None and (small == before[2] or self._lost(before[1], grown)):
                # What sees both ends of any input, as the border does under circular padding, is left as it is.
                lengths, grown, _ = before
                break
            if not any(small) or max(lengths.values()) * 3 > LONGEST:
                break
            factor, before = factor * 3, (lengths, grown, small)
        self._grown = {axis: [grown[axis]] for axis in self.axes}
        some = grown[self.axes[0]]
        crossed = any(run.policy.crosses for run in grown.values())
        if crossed or follows_size(self.native, some.graph, some.agreed):
            larger = {
                axis: grown_length(self.length(axis), lengths[axis] + 1, self.reach(axis).multiple)
                for axis in self.axes
            }
            again = self.run(larger)
            agreed = some.agreed
            count = settled(self.native, some.graph, again[self.axes[0]].graph, agreed)
            for axis in self.axes:
                self._grown[axis].append(again[axis])
                if count < agreed:
                    for run in self._grown[axis]:
                        run.cut(count)

    def _enlarged(self, axis: Axis, factor: int) -> int:
        """A length in which units in the middle see no border, by the estimate of their fields."""
        found, length = self.reach(axis), self.length(axis)
        return grown_length(length, min(LONGEST, length + factor * (found.total + 2 * found.multiple)), found.multiple)

    @on_cpu
    def run(self, lengths: dict[Axis, int]) -> dict[Axis, Grown]:
        """The network on an input of other lengths, with local labels along every axis."""
        shapes = [list(shape) for shape in self.inputs.shapes]
        for axis, length in lengths.items():
            shapes[axis.input][axis.dim] = length
        graph = trace(
            self.model,
            shapes,
            self.inputs.dtypes,
            watch_modules=False,
            functions=self.native.functions,
            goes_on=Agreement(self.native),
        )
        agreed = len(graph.nodes)
        # The same operations ran in the same modules.
        graph.calls = self.native.calls
        for node, twin in zip(graph.nodes, self.native.nodes, strict=False):
            node.call = twin.call
        result: dict[Axis, Grown] = {}
        repeats = self._repeats_of(graph)
        maps = exchanged(graph) if self._alike else None
        for axis, length in lengths.items():
            if result and maps is not None:
                [like] = result.values()
                result[axis] = self._mirror(like, axis, maps)
            else:
                policy = self._policy(axis, length, repeats)
                result[axis] = Grown(graph, axis, length, propagate(graph, axis, policy), policy, agreed)
        return result

    def _mirror(self, like: Grown, axis: Axis, maps: frozenset[int]) -> Grown:
        """The run along the width of a network that treats it as the height, from that along the height."""
        done: dict[int, Labels] = {}
        labels = {value: mirrored(item, done) if value in maps else item for value, item in like.labels.labels.items()}
        along = Propagation(labels, dict(like.labels.unknown))
        return Grown(like.graph, axis, like.length, along, like.policy, like.agreed, like)

    def _too_small(self, grown: Grown) -> frozenset[int]:
        """Values of which some unit sees too much of the input to tell its field."""
        if grown.like is not None:
            return self._too_small(grown.like)
        seen: dict[Identity, bool] = {}
        found: set[int] = set()
        # A window from the end of a row to the next sees both ends of any input.
        crossed = downstream(grown.graph, grown.policy.crosses) if grown.policy.crosses else set[int]()
        for value, labels in grown.labels.labels.items():
            if labels.pooled or value in grown.labels.unknown or value in crossed:
                continue
            if labels.identity not in seen:
                seen[labels.identity] = shows_all(labels, grown.length)
            if seen[labels.identity]:
                found.add(value)
        return frozenset(found)

    def _lost(self, before: dict[Axis, Grown], grown: dict[Axis, Grown]) -> bool:
        """Whether a larger input leaves unknown what was known: its labels have become too large."""
        return any(grown[axis].labels.unknown.keys() - before[axis].labels.unknown.keys() for axis in self.axes)

    def field(self, axis: Axis, value: int) -> tuple[AxisField, tuple[str, ...], bool]:
        """Local field of a value along an axis, what is not known of it, and whether gates make the full one global."""
        key = (axis, value)
        found = self._fields.get(key)
        if found is None:
            if axis != self.axes[0] and self.grown(axis)[0].like is not None:
                found = self.field(self.axes[0], value)
            else:
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
        reached = all(value in run.labels.labels for run in runs)
        if reached:
            reasons = frozenset[str]().union(*[run.labels.unknown.get(value, ()) for run in runs])
            gated, parts = self._gathered(graph, runs[0].policy, value)
            if reasons:
                return AxisField(None), tuple(sorted(reasons)), gated
            alone = runs[0].like or runs[0]
            labels = alone.labels.labels[value]
            if self._attends and not labels.pooled and self._of_two_places(alone, labels):
                return AxisField(None), (TWO_PLACES,), gated
            found = [self._seen(run, value) for run in runs]
            if found[0] is not None and all(other == found[0] for other in found):
                return found[0], parts, gated
            if found[0] is None and labels.pooled:
                # What holds at the original size says no more of what has gathered too much.
                return AxisField(None, pooled=True), parts, not parts
        return self._native_field(axis, value)

    def _of_two_places(self, run: Grown, labels: Labels) -> bool:
        if labels.identity not in run.scores:
            run.scores[labels.identity] = of_two_places(labels, run.length)
        return run.scores[labels.identity]

    def _seen(self, run: Grown, value: int) -> AxisField | None:
        """The field of a value in one run; a convolution, its norm and its activation share their labels."""
        run = run.like or run
        labels = run.labels.labels[value]
        key = labels.identity, self.prefer(run.graph.shapes[value], run.axis)
        if key not in run.fields:
            run.fields[key] = axis_field(labels, run.length, key[1], (run.length - self.length(run.axis)) // 4)
        return run.fields[key]

    def _native_field(self, axis: Axis, value: int) -> tuple[AxisField, tuple[str, ...], bool]:
        """What holds at the original size alone.

        The network refuses a larger input, or its geometry follows the size.
        """
        labels, policy = self.local(axis)
        gated, parts = self._gathered(self.native, policy, value)
        reasons = tuple(sorted(labels.unknown.get(value, frozenset())))
        if reasons:
            return AxisField(None), reasons, gated
        length = self.length(axis)
        if value not in labels.labels:
            return AxisField(0, empty=True), (), gated
        here = labels.labels[value]
        # Of what layers that do not pad have trimmed it sees half of its field at most.
        margin = self.reach(axis).sizes[value] // 2
        key = here.identity, self.prefer(self.native.shapes[value], axis), margin
        if key not in self._native_fields:
            self._native_fields[key] = axis_field(here, length, key[1], margin)
        found = self._native_fields[key]
        if here.pooled:
            return AxisField(None, pooled=True), parts, not parts
        if found is None or (shows_all(here, length) and not see_alike(here, length, key[1], margin)):
            return AxisField(None), ("every unit reaches the border, and the geometry follows the input size",), gated
        return found, parts, gated

    @on_cpu
    def units(self, axis: Axis, value: int) -> tuple[Tensor, Tensor, Tensor]:
        """First and last position that every unit of a value sees in the enlarged input, and which see no border."""
        run = self.grown(axis)[0]
        prefer = self.prefer(run.graph.shapes[value], axis)
        lo, hi, *_ = units_of(run.labels.labels[value], prefer)
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
            reached = {name: downstream(graph, numbers) for name, numbers in sorted(parts.items())}
            self._behind_gates[key] = downstream(graph, policy.gates - policy.partial), reached
        whole, reached = self._behind_gates[key]
        if value in whole:
            return True, ()
        return False, tuple([name for name, values in reached.items() if value in values])

    def gates(self, axis: Axis) -> list[tuple[int, str, str]]:
        """(node, operation, module) of every operation that gathers the whole axis."""
        run = self.grown(axis)[0]
        found = [(number, run.graph.nodes[number]) for number in sorted(run.policy.gates)]
        if len(run.graph.nodes) < len(self.native.nodes):
            _, policy = self.local(axis)
            found += [(n, self.native.nodes[n]) for n in sorted(policy.gates) if n >= len(run.graph.nodes)]
        return [(number, node.op, self.native.where(node)) for number, node in found]


def downstream(graph: Graph, sources: Collection[int]) -> set[int]:
    """The values that depend on the results of the nodes `sources`."""
    reached: set[int] = set()
    numbers = set(sources)
    for number, node in enumerate(graph.nodes):
        if number in numbers or any(value in reached for value in node.operands):
            reached.update(node.outputs)
    return reached
