"""Which layers of a network are of a kind that a specification counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, cast

from convblocks.introspect.graph import Node
from convblocks.introspect.layers import Layer, window_of

if TYPE_CHECKING:
    from convblocks.introspect.aliasing import Ref
    from convblocks.introspect.summary import Summary


KINDS: dict[str, Callable[[Layer], bool]] = {
    "convolution": lambda row: row.window is not None and row.window.kind == "conv",
    "transposed": lambda row: row.window is not None and row.window.kind == "transposed conv",
    "depthwise": lambda row: row.window is not None and row.window.depthwise,
    "depthwise separable": lambda row: (
        row.type == "separable" and row.window is not None and max(row.window.kernel) > 1
    ),
    "dilated": lambda row: row.window is not None and max(row.window.dilation) > 1 and max(row.window.kernel) > 1,
    "strided": lambda row: row.window is not None and row.window.kind == "conv" and max(row.window.stride) > 1,
    "max pool": lambda row: row.window is not None and row.window.kind == "max pool",
    "average pool": lambda row: row.window is not None and row.window.kind in ("avg pool", "global pool"),
    "linear": lambda row: False,
}
"""By name: whether a window is of the kind; a separable one is told by what follows it, a linear one is no window."""

DENSE = frozenset(("addmm", "mm", "linear", "bmm", "baddbmm"))


def layers_of_kind(table: Summary, rows: Sequence[Layer], kind: str) -> list[str]:
    """Names of the layers of one kind, in order."""
    if kind == "linear":
        graph = table.analysis.native
        return [graph.where(n) or n.op for n in graph.nodes if n.op in DENSE and graph.depends[n.outputs[0]]]
    if kind == "depthwise separable":
        return _separable(rows)
    return [row.name or row.type for row in rows if KINDS[kind](row)]


def _separable(rows: Sequence[Layer]) -> list[str]:
    """Depthwise convolutions of more than one tap that a pointwise one follows, padded or not, after a gate or not."""
    names: list[str] = []
    for number, row in enumerate(rows):
        if row.window is None or not row.window.depthwise or max(row.window.kernel) == 1:
            continue
        following = next((after for after in rows[number + 1 :] if _pooled(row) or not _pooled(after)), None)
        if following is not None and following.window is not None and following.window.pointwise:
            names.append(row.name or row.type)
    return names


def _pooled(row: Layer) -> bool:
    return row.field is not None and row.field.is_pooled


def after_pooling(table: Summary) -> list[str]:
    """Fully connected layers after the last global pooling: matrix products, and convolutions of a single place."""
    graph = table.analysis.native
    pooled: set[int] = set()
    names: list[str] = []
    for node in graph.nodes:
        inputs = [value for value in node.operands if graph.depends[value]]
        if not inputs:
            continue
        below = any(value in pooled for value in inputs)
        if _gathers_map(table, node):
            # A later pooling starts anew: gates within the network are not the head.
            pooled, names = set(node.outputs), []
            continue
        if not below:
            continue
        if all(value in pooled for value in inputs):
            pooled.update(node.outputs)
            window = window_of(graph, node)
            if node.op in DENSE or (window is not None and window.kind == "conv" and window.groups == 1):
                names.append(graph.where(node) or node.op)
        else:
            # A gate goes back into a map that has positions.
            pooled.difference_update(node.outputs)
    return names


def _gathers_map(table: Summary, node: Node) -> bool:
    graph = table.analysis.native
    window = window_of(graph, node)
    if window is None or "pool" not in window.kind:
        return False
    n = len(window.kernel)
    return window.kind == "global pool" or graph.shapes[cast("Ref", node.args[0]).value][-n:] == window.kernel


def blocks_of(table: Summary) -> list[str]:
    """Top-level children that hold a convolution or a matrix product, in the order in which they run."""
    rows = [row for row in table.layers if row.depth == 1 and not row.functional and not row.unused]
    return list(dict.fromkeys(row.name for row in rows if row.macs))
