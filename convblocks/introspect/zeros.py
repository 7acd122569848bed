"""Which elements of a weight are zero whatever its parameters are: those that the network masks with a constant."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from convblocks.introspect.arrays import LARGEST
from convblocks.introspect.constants import NotKnown, known, rerun
from convblocks.introspect.graph import Graph, Node
from convblocks.introspect.operations import operator

MAKES = frozenset({"tril", "triu", "masked_fill", "where", "constant_pad_nd", "scatter_into_view"})
"""Operations that put zeros where there were none."""

KEEPS = frozenset(
    {"mul", "div", "neg", "clone", "_to_copy", "copy", "cat", "stack", "_unsafe_view", "flip", "repeat", "roll"}
)
"""Operations besides views of whose results an element is zero where an operand's is, or one of a product's."""


def zeros(graph: Graph, value: int) -> Tensor | None:
    """Return where a tensor that does not depend on the input is zero for sure; None where it nowhere is."""
    made = _pattern(graph, value)
    if made is None:
        return None
    found = made == 0
    return found if bool(found.any()) else None


def _pattern(graph: Graph, value: int) -> Tensor | None:
    """A tensor that is zero where `value` is for sure; None for one that need not be anywhere."""
    if value not in graph.patterns:
        graph.patterns[value] = None
        constant = known(graph, value)
        node = graph.made.get(value)
        if constant is not None:
            graph.patterns[value] = constant
        elif node is not None and value not in graph.parameters:
            _follow(graph, node)
    return graph.patterns[value]


def _follow(graph: Graph, node: Node) -> None:
    op = node.op.rstrip("_")
    follows = op in MAKES or op in KEEPS or operator(node.func).view
    if not follows or math.prod(graph.shapes[node.outputs[0]]) > LARGEST:
        return
    if op not in MAKES and all(_pattern(graph, value) is None for value in node.operands):
        return

    def find(value: int) -> Tensor | None:
        found = _pattern(graph, value)
        if found is None and graph.dtypes[value].is_floating_point:
            # Parameters may be anything: ones stand for them, and none of these operations adds them up.
            return torch.ones((), dtype=graph.dtypes[value]).expand(graph.shapes[value])
        return found

    try:
        results = rerun(graph, node, find)
    except (NotKnown, RuntimeError, NotImplementedError, TypeError):
        return
    for output, item in zip(node.outputs, results, strict=False):
        if isinstance(item, Tensor) and tuple(item.shape) == graph.shapes[output]:
            graph.patterns[output] = item
