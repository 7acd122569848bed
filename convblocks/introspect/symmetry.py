"""Networks that treat height and width alike: what holds along one of the two holds along the other.

If exchanging the height and the width of the input exchanges the last two dimensions of every map, and changes nothing
else, the labels along the width are those along the height with the two dimensions exchanged.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch

from convblocks.introspect.aliasing import Ref
from convblocks.introspect.graph import Graph, Node
from convblocks.introspect.labels import Concatenation, Labels
from convblocks.introspect.operations import is_pointwise
from convblocks.introspect.registry import RULES
from convblocks.introspect.rules.pointwise import elementwise
from convblocks.introspect.zeros import zeros

KEEP = frozenset({"alias", "detach", "_to_copy", "native_batch_norm", "native_group_norm"})
"""Operations that treat all places alike, and read no other map."""

ALONG = frozenset(
    {"cat", "stack", "slice", "split", "split_with_sizes", "unsafe_split", "unsafe_split_with_sizes", "_softmax"}
)
"""Operations along one dimension."""

GATHER = frozenset({"mean", "sum", "amax", "amin", "var", "std", "var_mean"})

RESAMPLED = frozenset({"upsample_nearest2d", "_upsample_nearest_exact2d", "upsample_bilinear2d", "upsample_bicubic2d"})

WINDOWED = frozenset({"convolution", "avg_pool2d", "max_pool2d_with_indices", "_adaptive_avg_pool2d"}) | RESAMPLED

PADS = frozenset({"constant_pad_nd", "reflection_pad2d", "replication_pad2d"})

ONE_PLACE = frozenset({(1, 1), (1,), ()})
"""The last two lengths of what has a single place."""

PAIRS = ("stride", "padding", "dilation", "output_padding", "kernel_size", "output_size", "scale_factors")
"""Arguments with a number for the height and one for the width."""


def exchanged(graph: Graph) -> frozenset[int] | None:
    """The maps whose height and width change places if those of the input do, all other values staying as they are.

    None where that is not so, or not certain.
    """
    if len(graph.inputs) != 1 or not _is_square(graph.shapes[graph.inputs[0]]):
        return None
    maps: dict[int, bool] = {graph.inputs[0]: True}
    for node in graph.nodes:
        found = [maps[value] for value in node.operands if value in maps]
        if not found:
            continue
        turns = any(found)
        if turns and not _treats_alike(graph, node, maps):
            return None
        for value in node.outputs:
            shape = graph.shapes[value]
            # What has one place stays as it is, and so do the statistics of a norm; one place repeated is a map.
            repeated = (node.op == "expand" or node.op in RESAMPLED) and _has_one_place(graph.shapes[node.operands[0]])
            maps[value] = (turns or repeated) and len(shape) > 2 and not _has_one_place(shape)
            if maps[value] and not _is_square(shape):
                return None
    return frozenset(value for value, turns in maps.items() if turns)


def _is_square(shape: Sequence[int]) -> bool:
    return len(shape) > 2 and shape[-1] == shape[-2]


def _treats_alike(graph: Graph, node: Node, maps: dict[int, bool]) -> bool:
    """Whether exchanging height and width of the maps among the operands exchanges those of the results."""
    op = node.op.rstrip("_")
    if is_pointwise(node.func) or RULES.get(op) is elementwise:
        return all(maps.get(value, False) or _has_one_place(graph.shapes[value]) for value in node.operands)
    first = node.operands[0]
    rank = len(graph.shapes[first])
    if not maps.get(first) or not all(maps.get(value, True) for value in node.operands):
        return False
    arguments = node.arguments
    if op in ALONG:
        return arguments["dim"] % (rank + (op == "stack")) < rank - 2 + (op == "stack")
    if op in KEEP:
        return True
    if op in ("view", "_unsafe_view"):
        return graph.shapes[first][-2:] == graph.shapes[node.outputs[0]][-2:]
    if op in GATHER:
        dims = arguments.get("dim")
        gathered = {dim % rank for dim in cast("Sequence[int]", dims if isinstance(dims, (list, tuple)) else [])}
        places = len(gathered & {rank - 2, rank - 1})
        return not gathered or places == 2 or (places == 0 and len(graph.shapes[node.outputs[0]]) > 2)
    if op in PADS:
        pads: Sequence[int] = arguments["pad" if op == "constant_pad_nd" else "padding"]
        return list(pads[:2]) == list(pads[2:4])
    if op in WINDOWED:
        alike = all(_is_even(arguments[name]) for name in PAIRS if name in arguments)
        alike = alike and arguments.get("scales_h") == arguments.get("scales_w")
        return alike and rank == 4 and (op != "convolution" or _is_even_kernel(graph, arguments["weight"]))
    return False


def _has_one_place(shape: tuple[int, ...]) -> bool:
    return shape[-2:] in ONE_PLACE


def _is_even(argument: Any) -> bool:
    return not isinstance(argument, (list, tuple)) or len(set(cast("Sequence[Any]", argument))) <= 1


def _is_even_kernel(graph: Graph, weight: Ref) -> bool:
    zero = zeros(graph, weight.value)
    return _is_square(graph.shapes[weight.value]) and (zero is None or torch.equal(zero, zero.transpose(2, 3)))


def mirrored(labels: Labels, done: dict[int, Labels]) -> Labels:
    """Labels of a map with its height and width exchanged; `done` keeps them by the identity of what was given."""
    found = done.get(id(labels))
    if found is None:
        if isinstance(labels, Concatenation) and labels.dim < labels.ndim - 2:
            items = [(mirrored(item, done), length) for item, length in labels.items]
            found = Concatenation(labels.dim, items, labels.pooled)
        elif labels.lengths[-2:] == [1, 1]:
            found = labels
        else:
            found = labels.permuted([*range(labels.ndim - 2), labels.ndim - 1, labels.ndim - 2])
        done[id(labels)] = found
    return found
