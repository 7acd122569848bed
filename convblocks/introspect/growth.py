"""How far to enlarge the input so that a unit in the middle sees no border."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from convblocks.introspect.aliasing import Ref
from convblocks.introspect.graph import Graph, Node
from convblocks.introspect.operations import ATTENTION, FUSED_ATTENTION
from convblocks.introspect.propagation import Axis
from convblocks.introspect.registry import spread

MATRIX_PRODUCTS = frozenset({"mm", "bmm", "addmm", "baddbmm"})


class Reach(NamedTuple):
    """Upper estimates of fields, and a common multiple of the strides.

    `sizes` holds for every value the field of its units by the convolutions and poolings of a path; `total` is the
    largest of all, with windows within which places attend to one another; `windows` says whether there are any.
    `steps` holds how far units are apart.
    """

    sizes: dict[int, int]
    steps: dict[int, int]
    total: int
    multiple: int
    windows: bool


class _Seen(NamedTuple):
    """How far units of a value are apart, and how far they see; the same where attentions of the whole map are cut."""

    jump: int = 1
    size: int = 1
    apart: int = 1
    width: int = 1
    """With windows of attentions."""


def reach(graph: Graph, axis: Axis) -> Reach:
    """How far units see at most, from the windows of a path."""
    source = graph.inputs[axis.input]
    length, rank = graph.shapes[source][axis.dim], len(graph.shapes[source])
    # Channels are first or last, and fewer than rows or columns.
    area = max(math.prod(graph.shapes[source][2:]), math.prod(graph.shapes[source][1:-1]))
    # The branches of an attention are no layers one after the other: there the lengths tell how far units are apart.
    attends = graph.attends()
    multiple = 1
    nothing = _Seen()
    seen = {source: _Seen()}
    scores: set[int] = set()
    windows = False
    for node in graph.nodes:
        here = nothing
        for value in node.operands:
            other = seen.get(value, here)
            if other is not here:
                here = other if here is nothing else _Seen(*map(max, here, other))
        if attends and (node.op in ATTENTION or not scores.isdisjoint(node.operands)):
            # What an attention gathers of the whole map is cut as a gate, and what it gathers from adds nothing to the
            # field.
            if node.op in MATRIX_PRODUCTS or node.op in FUSED_ATTENTION:
                jump, _, apart, width = here
                window = _window(graph, node, area // apart ** (rank - 2))
                here = _Seen(jump)
                windows = windows or window is not None
                if window is not None:
                    # Neighbours in two windows see as far apart as these are: what reads both sees both windows.
                    here = _Seen(jump, 1, apart, width + 2 * math.ceil(window ** (1 / (rank - 2))) * apart)
            else:
                scores.update(node.outputs)
        for offset, kernel, dilation, stride in _windows(graph, node):
            operand: Ref = node.args[0]
            shape = graph.shapes[operand.value]
            if offset == axis.dim - rank and len(shape) >= -offset and shape[offset] > 0:
                jump, size, apart, width = here
                more = math.ceil((kernel - 1) * dilation * length / shape[offset])
                out = graph.shapes[node.outputs[0]][offset]
                if out > shape[offset]:
                    jump, apart = (max(1, steps // round(out / shape[offset])) for steps in (jump, apart))
                elif out > 1 and len(shape) >= min(4, rank):
                    jump, apart = jump * stride, apart * stride
                    while attends and jump % 2 == 0 and jump > max(stride, 1.5 * length / out):
                        jump //= 2
                    apart = min(jump, apart)
                here = _Seen(jump, size + more, apart, width + more)
        common_multiple = math.lcm(multiple, here.jump)
        multiple = common_multiple if common_multiple <= 4096 else multiple
        for value in node.outputs:
            seen[value] = here
    sizes, steps = ({value: of[field] for value, of in seen.items()} for field in (1, 0))
    return Reach(sizes, steps, max(of.width for of in seen.values()), multiple, windows)


def _window(graph: Graph, node: Node, places: int) -> int | None:
    """How many of so many places an attention gathers within windows; None where lengths tell that it is no such one.

    Many windows of fewer queries than there are places have as many as there are places; the keys of a halo are some
    more. The queries of a class are one, and the values of channels that attend to one another are the places.
    """
    pair = node.operands[:2] if node.op in FUSED_ATTENTION else node.operands[-2:]
    left, right = (graph.shapes[value] for value in pair)
    if min(len(left), len(right)) < 2:
        return None
    queries, keys, columns = left[-2], right[-2], right[-1]
    fits = 1 < queries <= places <= math.prod(left[:-1]) and keys <= 16 * queries
    # With a halo a single window has more keys than the map has places.
    within = fits and ((queries < places and columns < places) or keys > places)
    return keys if within else None


def _windows(graph: Graph, node: Node) -> Iterator[tuple[int, int, int, int]]:
    """(dimension from the end, kernel, dilation, stride) of the windows of a node."""
    op = node.op
    if not ("conv" in op or "pool" in op or "upsample" in op) or not node.args or not isinstance(node.args[0], Ref):
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
