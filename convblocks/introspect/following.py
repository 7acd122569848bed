"""Whether operations that are the same on a larger input have the same geometry, and what they cut into windows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from fractions import Fraction

import torch

from convblocks.introspect.aliasing import Ref
from convblocks.introspect.arrays import common, factors, shared
from convblocks.introspect.constants import known
from convblocks.introspect.graph import Graph, Node
from convblocks.introspect.zeros import zeros

Pair = tuple[int, int]
Shape = tuple[int, ...]
RESAMPLING = ("upsample", "_upsample")
RESHAPES = frozenset({"view", "_unsafe_view", "reshape", "_reshape_alias", "expand", "broadcast_to"})
RESIZING = ("adaptive", "_adaptive", "flip", "roll", "rot90", "index", "gather", "tril", "triu", "_cdist")
"""Operations whose geometry may follow the size of the input although their arguments do not change."""
COUNTING = frozenset({"expand", "broadcast_to", "native_group_norm"})
"""Operations that are told lengths of their argument, and do the same to every place of it."""
REGROUPS = RESHAPES - COUNTING
VALUED = frozenset({"mul", "where", "masked_fill", "mm", "bmm", "addmm", "baddbmm"})
"""Operations that read what the values of a constant let through: one that grows may let through other places."""


def follows_size(first: Graph, second: Graph, count: int) -> bool:
    """Whether any of the first `count` nodes may have another geometry at another size of the input."""
    seen: set[tuple[Pair, ...]] = set()
    behind = list(first.inputs)
    # Of networks of equal blocks most shapes, and most reshapes, come again and again, and add nothing to what is seen.
    taken: set[tuple[Shape, Shape]] = set()
    done: set[tuple[Shape, ...]] = set()
    for a, b in zip(first.nodes[:count], second.nodes[:count], strict=True):
        if not first.depends[a.outputs[0]]:
            continue
        if a.op.startswith(RESAMPLING):
            if not _same_ratio(first, second, a, b):
                return True
        elif a.op == "col2im":
            # The size of its result goes with the number of its windows.
            if a.args[2:] != b.args[2:]:
                return True
        elif a.op in ("index", "_unsafe_index"):
            if not _same_places(first, second, a, b):
                return True
        elif a.op.startswith(RESIZING):
            outs: Sequence[int] = first.shapes[a.outputs[0]]
            if "adaptive" not in a.op or any(n > 1 for n in outs[2:]):
                return True
        elif a.op.rstrip("_") in VALUED:
            if not _same_values(a, b) or any(_may_hide_others(first, second, a.op, v) for v in a.operands):
                return True
        elif a.op in REGROUPS:
            if all(first.shapes[value] == second.shapes[value] for value in (*a.operands, *a.outputs)):
                behind += a.outputs
                continue
            new = {(first.shapes[value], second.shapes[value]) for value in behind} - taken
            seen.update(*(_runs(*shapes) for shapes in new))
            taken |= new
            behind.clear()
            reshape = tuple([g.shapes[v] for g, n in ((first, a), (second, b)) for v in (n.operands[0], n.outputs[0])])
            if reshape not in done and not _same_grouping(reshape, seen):
                return True
            done.add(reshape)
        elif a.op not in COUNTING and (a.args != b.args or a.kwargs != b.kwargs):
            return True
        behind += a.outputs
        if a.op == "cat":
            dim: int = a.arguments["dim"]
            # Beside one that grows, others are its border: tokens of a class.
            if sum(first.shapes[v][dim] != second.shapes[v][dim] for v in a.operands) > 1:
                return True
    return False


def windows(first: Graph, second: Graph) -> Iterator[tuple[int, int]]:
    """What is cut into windows, as values and the places of a window along a dimension that grows with the input."""
    merged: set[tuple[Pair, ...]] = set()
    for a, b in zip(first.nodes, second.nodes, strict=False):
        if a.op == "unfold":
            yield a.operands[0], a.arguments["step"]
        elif a.op == "im2col":
            yield a.operands[0], max(a.arguments["stride"])
        elif a.op in ("view", "_reshape_alias"):
            native, grown = ((g.shapes[n.operands[0]], g.shapes[n.outputs[0]]) for g, n in ((first, a), (second, b)))
            if native == grown or [*map(len, native)] != [*map(len, grown)]:
                continue
            for before, after in factors(*grown):
                if len(after) == 1:
                    merged.add(_longer([tuple([shape[i] for i in before]) for shape in (native[0], grown[0])]))
                    continue
                pairs = _longer([tuple([shape[i] for i in after]) for shape in (native[1], grown[1])])
                count = _places(pairs)
                if count > 1 and pairs not in merged:
                    yield a.operands[0], count


def _places(pairs: Sequence[Pair]) -> int:
    """The most elements of neighbouring dimensions of a fixed length behind one that grows."""
    most, count, grows = 1, 1, False
    for native, grown in pairs:
        if native != grown:
            grows, count = True, 1
        elif grows:
            count *= grown
            most = max(most, count)
    return most


def _same_places(first: Graph, second: Graph, a: Node, b: Node) -> bool:
    """Whether the same places are picked of dimensions that do not grow."""
    sources: tuple[Ref, Ref] = a.args[0], b.args[0]
    shapes = first.shapes[sources[0].value], second.shapes[sources[1].value]
    indices: Sequence[Ref | None] = a.args[1]
    for dim, (index, twin) in enumerate(zip(indices, b.args[1], strict=True)):
        if index is not None:
            here, there = known(first, index.value), known(second, twin.value)
            if here is None or there is None or not torch.equal(here, there) or shapes[0][dim] != shapes[1][dim]:
                return False
    return True


def _same_values(a: Node, b: Node) -> bool:
    """Whether the arguments are the same, but for the number that a product is scaled by: a mean's, an attention's."""
    if a.op.rstrip("_") != "mul" or len(a.args) != 2:
        return a.args == b.args
    scales = a.args[1], b.args[1]
    return a.args[0] == b.args[0] and (scales[0] == scales[1] or all(type(n) is float and n != 0 for n in scales))


def _may_hide_others(first: Graph, second: Graph, op: str, value: int) -> bool:
    """Whether a constant that grows may let through other places: one that is nowhere zero lets through all."""
    if first.depends[value] or first.shapes[value] == second.shapes[value]:
        return False
    by_zeros = op.rstrip("_") not in ("where", "masked_fill")
    return not by_zeros or any(zeros(graph, value) is not None for graph in (first, second))


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
    """Neighbouring dimensions, two to four at a time, each as (original length, grown length)."""
    pairs = list(zip(native, grown, strict=True))
    for count in (2, 3, 4):
        for i in range(len(pairs) - count + 1):
            yield tuple(pairs[i : i + count])


def _same_grouping(reshape: Sequence[Shape], seen: set[tuple[Pair, ...]]) -> bool:
    """Whether a reshape does the same to every place: it merges dimensions, restores a merged map, or cuts windows.

    Cutting a dimension into a fixed number of pieces, each of which grows, is what brings distant places together.
    `reshape` are the shapes before and after it at the original size, and those on the larger input.
    """
    native, grown = reshape[:2], reshape[2:]
    if [*map(len, native)] != [*map(len, grown)]:
        return False
    # Among lengths of 1 there is more than one way to tell what has become of which dimension.
    runs = factors(*grown)
    if any(math.prod(native[0][i] for i in old) != math.prod(native[1][i] for i in new) for old, new in runs):
        return False
    return all(_same_cut((native, grown), before, after, seen) for before, after in runs)


def _same_cut(
    shapes: Sequence[Sequence[Shape]],
    before: Sequence[int],
    after: Sequence[int],
    seen: set[tuple[Pair, ...]],
) -> bool:
    """Whether every dimension of a run is left whole, or cut into windows, or into what has been merged before."""
    olds, news = ([tuple([shape[i][dim] for dim in dims]) for shape in shapes] for i, dims in ((0, before), (1, after)))
    if olds[0] == olds[1]:
        return True
    if len(after) == 1:
        # What is merged here may be cut again.
        seen.add(_longer(olds))
        return True
    if len(before) == 1:
        return _is_window(_longer(news), seen)
    finer = [common(old, new) for old, new in zip(olds, news, strict=True)]
    shorter = [shape for shape in finer if shape is not None]
    if len({len(shape) for shape in shorter}) != 1 or len(shorter) != 2:
        return tuple(zip(*news, strict=True)) in seen
    for here, there in zip(*(shared(old, fine) for old, fine in zip(olds, shorter, strict=True)), strict=True):
        if len(here) != len(there):
            return False
        if not _is_window(list(zip(here, there, strict=True)), seen):
            return False
    seen.update(
        tuple(zip(here, there, strict=True))
        for here, there in zip(*(shared(new, fine) for new, fine in zip(news, shorter, strict=True)), strict=True)
        if len(here) == len(there)
    )
    return True


def _longer(shapes: Sequence[tuple[int, ...]]) -> tuple[Pair, ...]:
    """Dimensions that are not of length 1 in both, each as (original length, grown length)."""
    native, grown = shapes
    return tuple([pair for pair in zip(native, grown, strict=True) if pair != (1, 1)])


def _is_window(pairs: Sequence[Pair], seen: set[tuple[Pair, ...]]) -> bool:
    """Whether a dimension is cut into pieces of which the number alone grows, or as it has been before."""
    return not any(n != m for n, m in pairs[1:]) or tuple(pairs) in seen
