"""How far to enlarge the input so that a unit in the middle sees no border."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any, cast

from convblocks.introspect.aliasing import Ref
from convblocks.introspect.graph import Graph, Node
from convblocks.introspect.labels import factors
from convblocks.introspect.propagation import Axis, refs_of
from convblocks.introspect.registry import spread

Pair = tuple[int, int]
RESAMPLING = ("upsample", "_upsample")
RESHAPES = frozenset({"view", "_unsafe_view", "reshape", "_reshape_alias", "expand", "broadcast_to"})
RESIZING = ("adaptive", "_adaptive", "flip", "roll", "rot90", "index", "gather", "tril", "triu", "_cdist")
"""Operations whose geometry may follow the size of the input although their arguments do not change."""
VALUED = frozenset({"mul", "where", "masked_fill", "mm", "bmm", "addmm", "baddbmm"})
"""Operations that read what the values of a constant let through: one that grows may let through other places."""


def reach(graph: Graph, axis: Axis) -> tuple[int, int]:
    """An upper estimate of the field of any unit, and a common multiple of the strides, from the windows of a path."""
    source = graph.inputs[axis.input]
    length, rank = graph.shapes[source][axis.dim], len(graph.shapes[source])
    multiple = 1
    sizes, jumps = {source: 1}, {source: 1}
    for node in graph.nodes:
        operands = [value for value in refs_of(node) if value in jumps]
        jump = max((jumps[value] for value in operands), default=1)
        size = max((sizes[value] for value in operands), default=1)
        for offset, kernel, dilation, stride in _windows(graph, node):
            operand: Ref = node.args[0]
            shape = graph.shapes[operand.value]
            if offset == axis.dim - rank and len(shape) >= -offset and shape[offset] > 0:
                size += math.ceil((kernel - 1) * dilation * length / shape[offset])
                out = graph.shapes[node.outputs[0]][offset]
                if out > shape[offset]:
                    jump = max(1, jump // round(out / shape[offset]))
                elif out > 1:
                    jump *= stride
        multiple = math.lcm(multiple, jump) if math.lcm(multiple, jump) <= 4096 else multiple
        jumps.update(dict.fromkeys(node.outputs, jump))
        sizes.update(dict.fromkeys(node.outputs, size))
    return max(sizes.values()), multiple


def _windows(graph: Graph, node: Node) -> Iterator[tuple[int, int, int, int]]:
    """(dimension from the end, kernel, dilation, stride) of the windows of a node."""
    op = node.op
    if not node.args or not isinstance(node.args[0], Ref):
        return
    if op in ("convolution", "_convolution"):
        arguments: dict[str, Any] = node.arguments
        weight: Ref = arguments["weight"]
        kernel = graph.shapes[weight.value][2:]
        dilation = spread(arguments["dilation"], len(kernel))
        stride = [1] * len(kernel) if arguments["transposed"] else spread(arguments["stride"], len(kernel))
    elif "pool" in op and "kernel_size" in (arguments := node.arguments):
        count = int(op.removesuffix("_with_indices")[-2])
        kernel = spread(arguments["kernel_size"], count)
        dilation = spread(arguments.get("dilation", 1), count)
        stride = spread(arguments.get("stride") or kernel, count)
    elif op.startswith(("upsample", "_upsample")):
        count = len(graph.shapes[node.args[0].value]) - 2
        kernel, dilation, stride = [5] * count, [1] * count, [1] * count
    else:
        return
    for i, row in enumerate(zip(kernel, dilation, stride, strict=True)):
        yield i - len(kernel), *row


def grown_length(length: int, needed: int, multiple: int) -> int:
    """A length of at least `needed` that strides and windows divide as they divide `length`."""
    step = math.lcm(length, multiple)
    if step > 4096 or length % multiple:
        step = multiple
    return length + -(-max(needed - length, step) // step) * step


def agreement(first: Graph, second: Graph) -> int:
    """How many leading nodes are the same in both graphs, sizes apart."""
    foreign = _first_foreign(first, second)
    for count, (a, b) in enumerate(zip(first.nodes, second.nodes, strict=False)):
        if a.op != b.op or a.outputs != b.outputs or (a.args != b.args and _refs(a.args) != _refs(b.args)):
            return count
        if a.outputs[0] > foreign or not _same_windows(first, second, a, b):
            return count
    return min(len(first.nodes), len(second.nodes))


def _first_foreign(first: Graph, second: Graph) -> float:
    """The first value that is one parameter here and another there: Python chose a layer by the size of its input."""
    numbers = first.parameters.keys() | second.parameters.keys()
    return min((n for n in numbers if first.parameters.get(n) is not second.parameters.get(n)), default=math.inf)


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


def follows_size(first: Graph, second: Graph, count: int) -> bool:
    """Whether any of the first `count` nodes may have another geometry at another size of the input."""
    seen: set[tuple[Pair, ...]] = set()
    behind = list(first.inputs)
    for a, b in zip(first.nodes[:count], second.nodes[:count], strict=True):
        if a.op.startswith(RESAMPLING):
            if not _same_ratio(first, second, a, b):
                return True
        elif a.op.startswith(RESIZING):
            outs: Sequence[int] = first.shapes[a.outputs[0]]
            if "adaptive" not in a.op or any(n > 1 for n in outs[2:]):
                return True
        elif a.op.rstrip("_") in VALUED:
            if a.args != b.args or any(first.shapes[v] != second.shapes[v] for v in a.operands if not first.depends[v]):
                return True
        elif a.op in RESHAPES - {"expand", "broadcast_to"}:
            if all(first.shapes[value] == second.shapes[value] for value in (*a.operands, *a.outputs)):
                behind += a.outputs
                continue
            seen.update(*(_runs(first.shapes[value], second.shapes[value]) for value in behind))
            behind.clear()
            if not _same_grouping(first, second, a, b, seen):
                return True
        elif a.op not in ("expand", "broadcast_to") and (a.args != b.args or a.kwargs != b.kwargs):
            return True
        behind += a.outputs
        if a.op in ("cat", "stack"):
            dim = a.arguments["dim"]
            if first.shapes[a.outputs[0]][dim] != second.shapes[b.outputs[0]][dim]:
                return True
    return False


def _same_ratio(first: Graph, second: Graph, a: Node, b: Node) -> bool:
    """Whether a resampling puts its elements at the same places of a larger map: corners that stay fixed do not."""
    bound = a.arguments, b.arguments
    if any(arguments.get("align_corners") for arguments in bound):
        return False
    scales = [{k: v for k, v in arguments.items() if k.startswith("scale")} for arguments in bound]
    sizes: list[tuple[Sequence[int], Sequence[int]]] = [
        (g.shapes[node.outputs[0]][2:], g.shapes[node.args[0].value][2:]) for g, node in ((first, a), (second, b))
    ]
    ratios = [[Fraction(n, m) for n, m in zip(out, shape, strict=True)] for out, shape in sizes]
    return scales[0] == scales[1] and ratios[0] == ratios[1]


def _runs(native: Sequence[int], grown: Sequence[int]) -> Iterator[tuple[Pair, ...]]:
    """Neighbouring dimensions, two and three at a time, each as (original length, grown length)."""
    pairs = list(zip(native, grown, strict=True))
    for count in (2, 3):
        for i in range(len(pairs) - count + 1):
            yield tuple(pairs[i : i + count])


def _same_grouping(first: Graph, second: Graph, a: Node, b: Node, seen: set[tuple[Pair, ...]]) -> bool:
    """Whether a reshape does the same to every place: it merges dimensions, restores a merged map, or cuts windows.

    Cutting a dimension into a fixed number of pieces, each of which grows, is what brings distant places together.
    """
    source: Ref = a.args[0]
    twin: Ref = b.args[0]
    old, new = first.shapes[source.value], first.shapes[a.outputs[0]]
    wide = second.shapes[twin.value], second.shapes[b.outputs[0]]
    groups = factors(tuple(old), tuple(new))
    if groups != factors(tuple(wide[0]), tuple(wide[1])):
        return False
    for before, after in groups:
        pairs = tuple((new[dim], wide[1][dim]) for dim in after if (new[dim], wide[1][dim]) != (1, 1))
        growing = [n != m for n, m in pairs]
        if len(before) == 1 and any(growing) and len(pairs) > 1:
            window = growing[0] and not any(growing[1:])
            if not window and pairs not in seen:
                return False
        elif len(before) > 1 and len(pairs) > 1 and any(growing) and pairs not in seen:
            return False
    return True
