"""Whether a network does on a larger input the same operations, on the same parameters and with the same windows."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any, cast

from convblocks.introspect.aliasing import Ref
from convblocks.introspect.following import RESHAPES
from convblocks.introspect.graph import Graph, Node
from convblocks.introspect.registry import spread


class Agreement:
    """Whether a run does what another did, sizes apart: asked at every node of the one that goes on."""

    def __init__(self, first: Graph) -> None:
        self._first = first
        self._parameters = [*first.parameters.items()]
        self._known = 0

    def __call__(self, second: Graph) -> bool:
        """Whether the last node of `second` is the same in both."""
        first, number = self._first, len(second.nodes) - 1
        if number >= len(first.nodes):
            return False
        a, b = first.nodes[number], second.nodes[number]
        if a.op != b.op or a.outputs != b.outputs or (a.args != b.args and _refs(a.args) != _refs(b.args)):
            return False
        return self._same_parameters(second, a.outputs[0]) and _same_windows(first, second, a, b)

    def _same_parameters(self, second: Graph, value: int) -> bool:
        """Whether no value before `value` is one parameter here and another there.

        Otherwise Python chose a layer by the size of its input.
        """
        fresh = len(second.parameters) - self._known
        found = [*islice(reversed(second.parameters.items()), fresh)] if fresh else []
        for number, parameter in reversed(found):
            here = self._parameters[self._known] if self._known < len(self._parameters) else (-1, None)
            if here[0] != number or here[1] is not parameter:
                return False
            self._known += 1
        return self._known == len(self._parameters) or self._parameters[self._known][0] > value


def _same_windows(first: Graph, second: Graph, a: Node, b: Node) -> bool:
    """Whether a convolution or a pooling slides the same window, or takes the whole of a dimension both times."""
    if a.op in ("convolution", "_convolution"):
        weight: Ref = a.arguments["weight"]
        return a.args == b.args and first.shapes[weight.value] == second.shapes[weight.value]
    if "pool" not in a.op or a.args == b.args or "kernel_size" not in a.arguments:
        return True
    mine, other = (_by_dimension(node) for node in (a, b))
    sources: tuple[Ref, Ref] = a.args[0], b.args[0]
    sizes = [graph.shapes[ref.value][-len(mine) :] for graph, ref in zip((first, second), sources, strict=True)]
    return all(
        m == o or (m[0] == here and o[0] == there) for m, o, here, there in zip(mine, other, *sizes, strict=True)
    )


def _by_dimension(node: Node) -> list[tuple[int, ...]]:
    """Kernel, stride, padding and dilation of a pooling, by dimension."""
    arguments = node.arguments
    count = int(node.op.removesuffix("_with_indices")[-2])
    kernel = spread(arguments["kernel_size"], count)
    defaults: dict[str, Any] = {"stride": kernel, "padding": 0, "dilation": 1}
    columns = [kernel, *(spread(arguments.get(name) or default, count) for name, default in defaults.items())]
    return [tuple(column[i] for column in columns) for i in range(count)]


def settled(native: Graph, grown: Graph, larger: Graph, count: int) -> int:
    """How many of the first `count` nodes have no argument that is another at the original size alone.

    One that follows the size differs in all three; one that Python chose where the input was large enough does not.
    """
    for number, nodes in enumerate(zip(native.nodes[:count], grown.nodes, larger.nodes, strict=False)):
        here, there, beyond = ((node.args, node.kwargs) for node in nodes)
        if here != there and there == beyond and nodes[0].op not in RESHAPES:
            return number
    return count


def _refs(tree: Any) -> list[Any]:
    if isinstance(tree, (list, tuple)):
        return [_refs(item) for item in cast("Sequence[Any]", tree) if isinstance(item, (list, tuple, Ref))]
    return [tree] if isinstance(tree, Ref) else []
