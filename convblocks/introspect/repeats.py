"""Answers of rules kept: the blocks of a transformer do the same to the same labels, once its gates are cut."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from convblocks.introspect.aliasing import Ref
from convblocks.introspect.graph import Graph, Node
from convblocks.introspect.labels import Labels
from convblocks.introspect.zeros import zeros

WEIGHED = frozenset(
    {"convolution", "mm", "addmm", "bmm", "baddbmm", "mul", "add", "sub", "div"}
    | {"native_layer_norm", "native_batch_norm", "native_group_norm"}
)
"""Operations that ask of a constant only where it is zero: one set of weights is to them as another."""


class Repeats:
    """What the rules have said of nodes, by what they ask: operation, arguments, shapes, and the labels themselves."""

    def __init__(self, graph: Graph, native_shapes: Sequence[tuple[int, ...]]) -> None:
        self._graph, self._native_shapes = graph, native_shapes
        self._answers: dict[Hashable, tuple[Sequence[bool], list[Labels | None]]] = {}
        # Labels are told apart by their identity, so they must outlive the answers.
        self._alive: list[Labels] = []
        self._asked = self._found = 0
        self._kinds: dict[int, tuple[int, tuple[int, ...]] | None] = {}
        self._numbers: dict[Hashable, int] = {}
        self._zeros: list[Tensor] = []
        self._patterns: dict[int, int | None] = {}

    def find(self, key: Hashable) -> tuple[Sequence[bool], list[Labels | None]] | None:
        """How the first node of this key was marked, and its answer."""
        found = self._answers.get(key)
        self._asked += 1
        self._found += found is not None
        return found

    def keep(
        self, key: Hashable, marks: Sequence[bool], answer: list[Labels | None], operands: Sequence[Labels]
    ) -> None:
        """Note the answer for a node."""
        self._alive += operands
        self._answers[key] = marks, answer

    def key(self, number: int, labels: dict[int, Labels]) -> Hashable | None:
        """Equal for nodes of which the rules say the same; None where that cannot be told."""
        if self._asked > 1000 and 16 * self._found < self._asked:
            # Where little is found, looking costs more.
            return None
        if number not in self._kinds:
            self._kinds[number] = self._kind(self._graph.nodes[number])
        kind = self._kinds[number]
        if kind is None:
            return None
        return kind[0], *[labels[value].identity if value in labels else value for value in kind[1]]

    def _kind(self, node: Node) -> tuple[int, tuple[int, ...]] | None:
        """A number, the same for nodes that differ in their operands alone, and those of them that may have labels."""
        if node.hides or node.op == "scatter_into_view":
            # It is not in the arguments of this one what is written into.
            return None
        shapes = self._graph.shapes
        found: list[Hashable] = [node.func, *[shapes[value] for value in node.outputs]]
        try:
            found.append(self._part(node, node.args))
            found += [(name, self._part(node, item)) for name, item in node.kwargs.items()]
            number = self._numbers.setdefault(tuple(found), len(self._numbers))
        except TypeError:
            return None
        return number, tuple([value for value in node.operands if self._graph.depends[value]])

    def _part(self, node: Node, item: Any) -> Hashable:
        if isinstance(item, Ref):
            value = item.value
            if self._graph.depends[value]:
                return "labels", self._graph.shapes[value], self._native_shapes[value]
            if node.op in WEIGHED:
                return "weights", self._graph.shapes[value], self._pattern(value)
            return "value", value
        if isinstance(item, (list, tuple)):
            # Most are lists of numbers.
            parts = cast("Sequence[Any]", item)
            return tuple([part if type(part) is int else self._part(node, part) for part in parts])
        return cast("Hashable", item)

    def _pattern(self, value: int) -> int | None:
        """A number of the places where a constant is zero, the same for all that are zero there; None for no zeros."""
        if value not in self._patterns:
            zero = zeros(self._graph, value)
            if zero is not None and not any(torch.equal(zero, other) for other in self._zeros):
                self._zeros.append(zero)
            same = [n for n, other in enumerate(self._zeros) if zero is not None and torch.equal(zero, other)]
            self._patterns[value] = same[0] if same else None
        return self._patterns[value]
