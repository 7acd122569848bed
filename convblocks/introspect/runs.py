"""Runs a network as often as its receptive fields need: at its own size, and on larger inputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from convblocks.introspect.agreement import Agreement, settled
from convblocks.introspect.arrays import TooLarge
from convblocks.introspect.defaults import on_cpu
from convblocks.introspect.field import AxisField
from convblocks.introspect.following import follows_size, windows
from convblocks.introspect.graph import Graph
from convblocks.introspect.growth import Reach, grown_length, reach
from convblocks.introspect.inputs import Inputs
from convblocks.introspect.labels import Identity, Labels
from convblocks.introspect.propagation import Axis, Local, Propagation, Whole, propagate, propagate_across
from convblocks.introspect.repeats import Repeats
from convblocks.introspect.symmetry import exchanged, mirrored, square
from convblocks.introspect.tracing import named_modules, trace
from convblocks.introspect.turns import Turn
from convblocks.introspect.units import shows_all, widest

LONGEST = 2**16


@dataclass(slots=True)
class Grown:
    """The network on an enlarged input, with the local labels along one axis.

    `like` is the run along another axis of which labels here are the mirror image, as `turns` says; `own` are the
    others. An image is made when somebody asks for it.
    """

    graph: Graph
    axis: Axis
    length: int
    own: Propagation
    policy: Local
    agreed: int
    like: Grown | None = None
    turns: dict[int, Turn] = field(default_factory=dict[int, Turn])
    fields: dict[tuple[Identity, int | None], AxisField | None] = field(
        default_factory=dict[tuple[Identity, int | None], AxisField | None]
    )
    scores: dict[Identity, bool] = field(default_factory=dict[Identity, bool])
    sizes: dict[Identity, int] = field(default_factory=dict[Identity, int])
    """What is known of arrays, by their memory."""
    _widest: int | None = None
    _images: dict[tuple[int, Turn], Labels] = field(default_factory=dict[tuple[int, Turn], Labels])

    def labels(self, value: int) -> Labels:
        """What a value depends on along the axis."""
        if self.like is not None and value in self.turns:
            try:
                along, shape = self.like.own.labels[value], self.graph.shapes[value]
                return mirrored(along, self.turns[value], shape, self._images)
            except TooLarge:
                self.own, self.turns, self.like = propagate(self.graph, self.axis, self.policy), {}, None
        return self.own.labels[value]

    def widest(self) -> int:
        """The most positions that an element sees, of those that see half of the input at most; `like` is included."""
        if self._widest is None:
            found, seen = self.like.widest() if self.like is not None else 0, set[Identity]()
            for value, labels in self.own.labels.items():
                if labels.pooled or labels.terms or value in self.own.unknown or labels.identity in seen:
                    continue
                seen.add(labels.identity)
                size = widest(labels, self.sizes)
                if size <= self.length // 2:
                    found = max(found, size)
            self._widest = found
        return self._widest

    def unturned(self, value: int) -> Labels:
        """Labels of a value, as they are along the other axis if they are their mirror image."""
        run = self if self.like is None or value in self.own.labels else self.like
        return run.own.labels[value]

    def values(self) -> Iterable[int]:
        """All values that have labels."""
        return (*self.turns, *self.own.labels)

    @property
    def is_image(self) -> bool:
        """Whether all labels are the mirror image of those along another axis."""
        return self.like is not None and not self.own.labels

    def has(self, value: int) -> bool:
        """Whether a value has labels."""
        return value in self.own.labels or value in self.turns

    def cut(self, count: int) -> None:
        """Forget all but the first `count` nodes."""
        self.agreed = count
        self._widest = None
        kept = {value for node in self.graph.nodes[:count] for value in node.outputs} | set(self.graph.inputs)
        # The axes share a graph.
        self.graph.nodes = self.graph.nodes[:count]
        self.own.labels = {value: labels for value, labels in self.own.labels.items() if value in kept}
        self.turns = {value: turn for value, turn in self.turns.items() if value in kept}
        # The memory of those forgotten may become that of others.
        self.sizes.clear()
        self._images.clear()
        for nodes in self.policy.marks:
            nodes.intersection_update(range(count))


class Runs:
    """A network at one input size, and what it depends on there and on larger inputs."""

    @on_cpu
    def __init__(self, model: Callable[..., Any], inputs: Inputs) -> None:
        self.model, self.inputs = model, inputs
        self.modules = named_modules(model)
        self.native = trace(model, inputs.shapes, inputs.dtypes, named=self.modules)
        self._reach: dict[Axis, Reach] = {}
        self._grown: dict[Axis, list[Grown]] = {}
        self._whole: dict[Axis, Propagation] = {}
        self._local: dict[Axis, Grown] = {}

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
    def local(self, axis: Axis) -> Grown:
        """The network at the original size with local labels, for what a larger input cannot reach."""
        if axis not in self._local:
            like = self._local.get(self.axes[0])
            self._local[axis] = self._follow(
                self.native, axis, self.length(axis), self._repeats, len(self.native.nodes), like
            )
        return self._local[axis]

    def _follow(
        self, graph: Graph, axis: Axis, length: int, repeats: Repeats | None, agreed: int, like: Grown | None
    ) -> Grown:
        """Follow an axis of a run; of the width what is not as along the height, which is `like`."""
        if like is not None and self.turns is not None:
            windows = like.policy.windows
        else:
            # A window may be as large as the map that the original size leaves.
            windows = self.attends and (self.reach(axis).windows or reach(graph, axis).windows)
        policy = Local(length, self.native.shapes, self.length(axis), windows=windows, repeats=repeats)
        if like is not None and self._may_turn(like, policy):
            own, turns = propagate_across(graph, axis, policy, like.own, like.policy)
        else:
            own, turns, like = propagate(graph, axis, policy), {}, None
        return Grown(graph, axis, length, own, policy, agreed, like, turns)

    def _may_turn(self, like: Grown, policy: Local) -> bool:
        """Whether an image is as high as it is wide, and both axes are looked at in the same way."""
        ways = [(one.half, one.share, one.windows) for one in (policy, like.policy)]
        return ways[0] == ways[1] and [axis.dim for axis in self.axes] == [2, 3] and square(like.graph)

    def _repeats_of(self, graph: Graph) -> Repeats | None:
        # Where there is no attention every layer sees more than the one before it.
        return Repeats(graph, self.native.shapes) if self.attends else None

    @cached_property
    def _repeats(self) -> Repeats | None:
        return self._repeats_of(self.native)

    @cached_property
    def attends(self) -> bool:
        """Whether places of the network read one another by an attention."""
        return self.native.attends()

    @cached_property
    def turns(self) -> dict[int, Turn] | None:
        """How values turn if height and width of the input change places; None if it does not treat both alike."""
        return exchanged(self.native) if [axis.dim for axis in self.axes] == [2, 3] else None

    def reach(self, axis: Axis) -> Reach:
        """An upper estimate of the field of any unit, and a common multiple of the strides."""
        if self.turns is not None:
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
            small: list[frozenset[int]] = []
            for axis in self.axes:
                small.append(self._too_small(grown[axis], small[0] if small else frozenset()))
            if before is not None and (small == before[2] or self._lost(before[1], grown)):
                # What sees both ends of any input, as the border does under circular padding, is left as it is.
                lengths, grown, _ = before
                break
            if not any(small) or max(lengths.values()) * 3 > LONGEST:
                break
            factor, before = factor * 3, (lengths, grown, small)
        lengths, grown, few = self._with_windows(lengths, grown)
        self._grown = {axis: [grown[axis]] for axis in self.axes}
        some = grown[self.axes[0]]
        crossed = any(run.policy.crosses for run in grown.values())
        if few or crossed or follows_size(self.native, some.graph, some.agreed):
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

    def _with_windows(
        self, lengths: dict[Axis, int], grown: dict[Axis, Grown]
    ) -> tuple[dict[Axis, int], dict[Axis, Grown], bool]:
        """The runs, on an input so large that all places of a window are among the units clear of its border.

        How large windows are, of which the original size has but one, is seen on a larger input alone. The last of the
        three says whether the input could not be made large enough.
        """
        for _ in range(3):
            cut = list(windows(self.native, grown[self.axes[0]].graph))
            needed = {axis: max(lengths[axis], self._needed(grown[axis], cut)) for axis in self.axes}
            if needed == lengths:
                return lengths, grown, False
            larger = self.run(needed) if max(needed.values()) <= LONGEST else None
            if larger is None or self._lost(grown, larger):
                break
            lengths, grown = needed, larger
        return lengths, grown, True

    def _needed(self, grown: Grown, cut: Sequence[tuple[int, int]]) -> int:
        """The length in which the units clear of the border are those of two windows at least; 0 without windows.

        `cut` is what is cut into windows, as `windows` finds it.
        """
        axis, found = grown.axis, self.reach(grown.axis)
        pattern = 1
        for value, count in cut:
            common = math.lcm(pattern, count * found.steps.get(value, 1))
            pattern = common if common <= 4096 else max(pattern, count * found.steps.get(value, 1))
        native = self.length(axis)
        if pattern == 1 or 2 * (found.total + 2 * pattern) - native <= grown.length:
            return 0
        return grown_length(native, 2 * (grown.widest() + 2 * pattern) - native, found.multiple)

    def _enlarged(self, axis: Axis, factor: int) -> int:
        """A length in which units in the middle see no border, by the estimate of their fields."""
        found, length = self.reach(axis), self.length(axis)
        # An image as high as it is wide stays so, that what is alike along both can be followed once.
        others = [
            self.reach(other) for other in self.axes if other.input == axis.input and self.length(other) == length
        ]
        total = max(other.total for other in others if other.multiple == found.multiple)
        return grown_length(length, min(LONGEST, length + factor * (total + 2 * found.multiple)), found.multiple)

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
            named=self.modules,
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
        for axis, length in lengths.items():
            like = result.get(self.axes[0])
            result[axis] = self._follow(graph, axis, length, repeats, agreed, like)
        return result

    def _too_small(self, grown: Grown, along: frozenset[int]) -> frozenset[int]:
        """Values of which some unit sees too much of the input to tell a field; `along` are such along the height."""
        seen: dict[Identity, bool] = {}
        # A window from the end of a row to the next sees both ends of any input.
        crossed = downstream(grown.graph, grown.policy.crosses) if grown.policy.crosses else set[int]()
        found = {value for value in along if value in grown.turns and value not in crossed}
        for value, labels in grown.own.labels.items():
            if labels.pooled or value in grown.own.unknown or value in crossed:
                continue
            if labels.identity not in seen:
                try:
                    seen[labels.identity] = shows_all(labels, grown.length, grown.sizes)
                except TooLarge:
                    # A larger input would make it no smaller.
                    seen[labels.identity] = False
            if seen[labels.identity]:
                found.add(value)
        return frozenset(found)

    def _lost(self, before: dict[Axis, Grown], grown: dict[Axis, Grown]) -> bool:
        """Whether a larger input leaves unknown what was known: its labels have become too large."""
        return any(grown[axis].own.unknown.keys() - before[axis].own.unknown.keys() for axis in self.axes)


def downstream(graph: Graph, sources: Collection[int]) -> set[int]:
    """The values that depend on the results of the nodes `sources`."""
    return set(marked(graph, dict.fromkeys(sources, 1)))


def marked(graph: Graph, marks: dict[int, int]) -> dict[int, int]:
    """The marks, as bits of a number, of the nodes that a value depends on; values without any are left out."""
    reached: dict[int, int] = {}
    for number, node in enumerate(graph.nodes):
        mark = marks.get(number, 0)
        for value in node.operands:
            mark |= reached.get(value, 0)
        if mark:
            for value in node.outputs:
                reached[value] = mark
    return reached
