"""Carry labels from the input of a recorded graph to every tensor of it, by the rules."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from convblocks.introspect import rules as _rules  # noqa: F401  # pyright: ignore[reportUnusedImport] - importing registers them
from convblocks.introspect.arrays import NOTHING, TooLarge, extent, extents, interval
from convblocks.introspect.graph import Graph, Node
from convblocks.introspect.labels import (
    Concatenation,
    Flattened,
    Labels,
    least_of_middle,
    least_of_run,
    middle_of,
    slices,
)
from convblocks.introspect.operations import is_pointwise, results_of
from convblocks.introspect.registry import RULES, Call, NoRule, Policy, Result, Rule
from convblocks.introspect.repeats import Repeats
from convblocks.introspect.rules.pointwise import pointwise
from convblocks.introspect.symmetry import Mirror
from convblocks.introspect.turns import Turn

NO_REASONS: frozenset[str] = frozenset()


class Axis(NamedTuple):
    """One spatial dimension of one input of the network."""

    input: int
    dim: int


@dataclass(slots=True)
class Propagation:
    """What every value of a graph depends on along one axis.

    `unknown` names, for each value downstream of an operation without a proof, the operations; its labels are an upper
    bound.
    """

    labels: dict[int, Labels] = field(default_factory=dict[int, Labels])
    unknown: dict[int, frozenset[str]] = field(default_factory=dict[int, frozenset[str]])


class Whole:
    """Gathering an axis is taken as it is: the field of a squeeze-and-excitation gate is the whole image."""

    exact_borders = True

    def crossed(self, call: Call, dim: int) -> None:
        """See `Policy`."""

    def is_gate(self, call: Call, before: Labels, after: Labels) -> bool:
        """See `Policy`."""
        return False

    def gathered(self, call: Call, before: Labels, after: Labels, dims: Sequence[int]) -> Labels:
        """See `Policy`."""
        return after

    def scanned(self, call: Call, before: Labels, after: Labels, dim: int) -> Labels:
        """See `Policy`."""
        return after


class Local:
    """Gathering the whole axis makes a tensor pooled, which is left out where it meets one that has a position.

    Whole is what spans more than half of an input grown to at least twice the field of any unit. The field of a pooled
    element is that of a window of as many units as there are at the original input size, taken from the middle.

    `windows` says whether places attend to one another within windows: it begins where one of them does. `repeats`
    holds what the rules have said of the graph, if they are worth asking.
    """

    exact_borders = False

    def __init__(
        self,
        length: int,
        native_shapes: Sequence[tuple[int, ...]],
        native: int,
        *,
        windows: bool = False,
        repeats: Repeats | None = None,
    ) -> None:
        self.half = length // 2
        self.windows, self.repeats = windows, repeats
        self.native_shapes = native_shapes
        self.share = native / length
        """Length of the axis at the original size, as a part of that of the input followed."""
        self.gates: set[int] = set()
        self.crosses: set[int] = set()
        """Nodes that slide windows over places that go row by row: which rows meet follows the width of the map."""
        self.partial: set[int] = set()
        """Gates whose elements gather other parts of the input each: one row in eight, one half and the other."""

    @property
    def marks(self) -> tuple[set[int], ...]:
        """All that is noted of nodes."""
        return self.gates, self.partial, self.crosses

    def crossed(self, call: Call, dim: int) -> None:
        """See `Policy`; the rows of a window, which are as long at any size of the map, are left out."""
        value = call.source.value
        here, native = call.graph.shapes[value], self.native_shapes[value]
        if not 0 <= dim < len(here) == len(native) or here[dim] != native[dim]:
            self.crosses.add(call.number)

    def is_gate(self, call: Call, before: Labels, after: Labels) -> bool:
        """See `Policy`."""
        if before.pooled or not self._spans(after) or self._spans(before):
            return False
        self.gates.add(call.number)
        if self._moves(after):
            self.partial.add(call.number)
        return True

    def gathered(self, call: Call, before: Labels, after: Labels, dims: Sequence[int]) -> Labels:
        """See `Policy`."""
        return self.middle(call, before, dims) if self.is_gate(call, before, after) else after

    def scanned(self, call: Call, before: Labels, after: Labels, dim: int) -> Labels:
        """See `Policy`; what gathers more the later it comes is a gate that gathers a part."""
        if before.pooled or self._longest(after) <= self.half or self._longest(before) > self.half:
            return after
        self.gates.add(call.number)
        self.partial.add(call.number)
        return self.middle(call, before, [dim])

    def _longest(self, labels: Labels) -> int:
        return max((int(extent(data).max()) for data in slices(labels) if data.numel()), default=0)

    def middle(self, call: Call, before: Labels, dims: Sequence[int]) -> Labels:
        """The pooled labels of as many units as there are at the original size."""
        for dim in dims:
            rows = least_of_middle(before, dim, self.share, self.windows)
            count = self._native_length(call, before, dim) if rows is None else 0
            start = middle_of(before.length(dim), count, self.windows)
            before = rows or least_of_run(before, dim, start, count)
        return before.as_pooled()

    def _spans(self, labels: Labels) -> bool:
        """Whether every element that depends on anything depends on more than half of the input."""
        if isinstance(labels, Flattened):
            # A view shows the same elements.
            return self._spans(labels.source)
        if 0 in labels.lengths:
            return False
        # One element in the middle tells it of most arrays, which can be large.
        if 0 < 1 - sum(labels.element([n // 2 for n in labels.lengths])) <= self.half:
            return False
        # What merges with others depends on no less.
        if any(int(extent(data).min()) > self.half for term in labels.terms for data in slices(term)):
            return True
        some = False
        for part in slices(labels):
            smallest, largest = extents(part)
            if 0 < smallest <= self.half:
                return False
            some = some or largest > 0
        return some

    def _moves(self, labels: Labels) -> bool:
        """Whether what the elements gather begins or ends at other places, by more than windows and borders do."""
        parts = [data.flatten(1) for data in slices(labels)]
        ends = torch.cat(parts, 1) if len(parts) > 1 else parts[0]
        if int(ends.sum(0, dtype=ends.dtype).max()) > 0:
            # To pick some takes ten times as long as to look at all.
            ends = ends[:, extent(ends) > 0]
        low, high = ends.aminmax(dim=1)
        return int((high - low).max()) > self.half // 8

    def _native_length(self, call: Call, labels: Labels, dim: int) -> int:
        length = labels.length(dim)
        if self.share == 1:
            return length
        for value in call.node.operands:
            shape = call.graph.shapes[value]
            if len(shape) > dim and shape[dim] == length:
                return self.native_shapes[value][dim]
        raise NoRule("a reduction whose length at the original size is not known")


def find_rule(func: Any, op: str) -> Rule | None:
    """The rule of an operation; its in-place form ends in an underscore."""
    known = RULES.get(op) or RULES.get(op.rstrip("_"))
    if known is None and is_pointwise(func):
        return pointwise
    return known


def propagate(graph: Graph, axis: Axis, policy: Policy, start: Callable[[int], Tensor] | None = None) -> Propagation:
    """Labels of every value along `axis`.

    `start` gives the features of the input's positions (intervals by default).
    """
    done = Propagation()
    value = graph.inputs[axis.input]
    shape = graph.shapes[value]
    length = shape[axis.dim]
    features: Callable[[int], Tensor] = start or (lambda n: interval(torch.arange(n)))
    data = features(length)
    done.labels[value] = Labels(
        data.reshape(data.shape[0], *[length if d == axis.dim else 1 for d in range(len(shape))])
    )
    for number, node in enumerate(graph.nodes):
        _step(graph, node, number, policy, done)
    return done


def propagate_across(
    graph: Graph, axis: Axis, policy: Local, along: Propagation, like: Local
) -> tuple[Propagation, dict[int, Turn]]:
    """Labels along the width but for those that are the mirror image of labels along the height, and how these turn.

    `along` and `like` are what following the height has given, and its policy.
    """
    mirror = Mirror(graph, along.labels)
    done = Propagation()
    try:
        taken = _follow_across(graph, policy, along, done, mirror)
    except TooLarge:
        return propagate(graph, axis, policy), {}
    for mine, others in zip(policy.marks, like.marks, strict=True):
        mine |= others & taken
    done.labels = {value: labels for value, labels in done.labels.items() if value not in mirror.turns}
    return done, mirror.turns


def _follow_across(graph: Graph, policy: Local, along: Propagation, done: Propagation, mirror: Mirror) -> set[int]:
    """The nodes of which the results are the mirror image, as their operands tell; rules tell of all others."""
    own, turns = done.labels, mirror.turns
    taken: set[int] = set()
    for number, node in enumerate(graph.nodes):
        operands = [value for value in node.operands if value in own or value in turns]
        if not operands:
            continue
        if all(value in turns for value in operands) and mirror.takes(node):
            taken.add(number)
            if along.unknown or done.unknown:
                _take_reasons(node, [value for value in node.outputs if value in turns], along.unknown, done.unknown)
            continue
        for value in operands:
            if value not in own:
                own[value] = mirror.image(value)
        _step(graph, node, number, policy, done)
        # Most operations leave labels as they are: those have been looked at.
        others = along.labels
        seen = {(id(own[value]), id(others.get(value))) for value in operands if value not in turns}
        for value in node.outputs:
            if value not in own or (id(own[value]), id(others.get(value))) in seen:
                continue
            if mirror.shows(value, own[value], operands):
                # In the memory of the others, so that what has been said of those is found again.
                own[value] = mirror.image(value)
    return taken


def _take_reasons(
    node: Node, results: Sequence[int], along: dict[int, frozenset[str]], across: dict[int, frozenset[str]]
) -> None:
    """What is unknown of the results of a node across: what is of its operands, and what itself adds along."""
    before, here = (NO_REASONS.union(*(of.get(value, NO_REASONS) for value in node.operands)) for of in (along, across))
    for value in results:
        reasons = here | (along.get(value, NO_REASONS) - before)
        if reasons:
            across[value] = reasons


def _step(graph: Graph, node: Node, number: int, policy: Policy, done: Propagation) -> None:
    operands = node.operands
    known = [done.labels[value] for value in operands if value in done.labels]
    if not known:
        return
    reasons = NO_REASONS
    if done.unknown:
        reasons = NO_REASONS.union(*(done.unknown.get(value, frozenset()) for value in operands))
    try:
        if isinstance(policy, Local) and policy.repeats is not None:
            results = _repeated(graph, node, number, policy, policy.repeats, done.labels)
        else:
            results = _apply(graph, node, number, policy, done.labels)
    except Exception as error:
        detail = f" ({error})" if isinstance(error, (NoRule, TooLarge)) and str(error) else ""
        where = graph.where(node)
        name = node.op if "::" in node.op else f"aten.{node.op}"
        reasons |= {f"{name}{detail}" + (f" in {where}" if where else "")}
        results = [_hull(known, len(graph.shapes[value])) for value in node.outputs]
    for value, labels in zip(node.outputs, results, strict=True):
        if labels is not None:
            done.labels[value] = labels
            if reasons:
                done.unknown[value] = reasons


def _repeated(
    graph: Graph, node: Node, number: int, policy: Local, repeats: Repeats, labels: dict[int, Labels]
) -> list[Labels | None]:
    """What the rule says, or has said of a node before: if that was a gate, so is this."""
    key = repeats.key(number, labels)
    found = repeats.find(key) if key is not None else None
    if found is not None:
        for nodes, marked in zip(policy.marks, found[0], strict=True):
            if marked:
                nodes.add(number)
        return found[1]
    answer = _apply(graph, node, number, policy, labels)
    if key is not None:
        repeats.keep(
            key,
            [number in nodes for nodes in policy.marks],
            answer,
            [labels[value] for value in node.operands if value in labels],
        )
    return answer


def _apply(graph: Graph, node: Node, number: int, policy: Policy, labels: dict[int, Labels]) -> list[Labels | None]:
    rule = find_rule(node.func, node.op)
    if rule is None:
        raise NoRule
    if node.hides:
        raise NoRule("a mask that hides places")
    call = Call(graph, node, number, labels, policy)
    result: Result = rule(call)
    if node.kwargs:
        call.ignore(*(node.kwargs.get(name) for name in results_of(node.func)))
    if call.unread(node.operands):
        raise NoRule("an argument that depends on the input")
    if result is None or isinstance(result, Labels):
        results: list[Labels | None] = [result] * len(node.outputs)
    else:
        results = list(result)
    if len(results) != len(node.outputs):
        raise NoRule("the rule gave another number of results")
    for value, item in zip(node.outputs, results, strict=True):
        shape = graph.shapes[value]
        if item is not None and not _fits(item.lengths, shape):
            raise NoRule("the rule does not fit the shapes")
    return results


def _fits(lengths: Sequence[int], shape: Sequence[int]) -> bool:
    if len(lengths) != len(shape):
        return False
    for n, m in zip(lengths, shape, strict=True):  # noqa: SIM110 - of every result of every node: half the time
        if n not in (1, m):
            return False
    return True


def _leaves(labels: Labels) -> Iterator[Tensor]:
    if isinstance(labels, Concatenation):
        for part in labels.different:
            yield from _leaves(part)
    elif isinstance(labels, Flattened):
        yield from _leaves(labels.source)
    elif labels.terms:
        for term in labels.terms:
            yield from _leaves(term)
    else:
        yield labels.data


def _hull(known: Sequence[Labels], ndim: int) -> Labels:
    """The most that any result can depend on: everything the operands depend on."""
    parts = [item for labels in known for item in _leaves(labels)]
    features = [part.flatten(1).amin(1) for part in parts if part.numel()]
    data = torch.stack(features).amin(0) if features else parts[0].new_full(parts[0].shape[:1], NOTHING)
    return Labels(data.reshape(-1, *[1] * ndim))
