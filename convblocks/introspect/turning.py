"""How the results of an operation turn where its operands do, as `turns` says: one rule an operation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch

from convblocks.introspect import turns
from convblocks.introspect.aliasing import Ref
from convblocks.introspect.graph import Graph, Node
from convblocks.introspect.operations import ATTENTION, FUSED_ATTENTION, is_pointwise
from convblocks.introspect.registry import RULES
from convblocks.introspect.rules.pointwise import elementwise
from convblocks.introspect.turns import FREE, Turn, emptied, moved, resized, slid, still, stretched, viewed
from convblocks.introspect.zeros import zeros

PAIRS = ("stride", "padding", "dilation", "output_padding", "kernel_size", "output_size", "scale_factors")
"""Arguments with a number for the height and one for the width."""


def turned(graph: Graph, node: Node, known: dict[int, Turn]) -> list[Turn] | None:
    """How the results turn, given how the values do that depend on the input; None where nobody knows."""
    given = [known[value] for value in node.operands if value in known]
    if not any(turn.turns for turn in given):
        return _unturned(graph, node, given)
    return None if node.hides else _found(_Turning(graph, node, known))


def _unturned(graph: Graph, node: Node, given: Sequence[Turn]) -> list[Turn]:
    """Of an operation on what stays: so do its results. One place repeated is the same at every place."""
    shapes = [graph.shapes[value] for value in node.outputs]
    source = graph.shapes[node.operands[0]]
    if node.op == "expand":
        return [_repeated(given[0], source, shapes[0])]
    if node.op.startswith(("upsample", "_upsample")) and all(length == 1 for length in source[2:]):
        return [_repeated(still(source), source, shapes[0])]
    return [still(shape) for shape in shapes]


def _repeated(turn: Turn, source: Sequence[int], shape: Sequence[int]) -> Turn:
    """Broadcast to a larger shape."""
    lead = len(shape) - len(source)
    found = moved(turn, (*[None] * lead, *range(len(source))))
    for dim, length in enumerate(shape):
        if found is not None and length > 1 and (dim < lead or source[dim - lead] == 1):
            found = resized(found, dim, length, free=True)
    assert found is not None
    return found


class _Turning:
    """A node of which an operand turns, as its rule sees it."""

    def __init__(self, graph: Graph, node: Node, known: dict[int, Turn]) -> None:
        self.graph, self.node, self.known = graph, node, known
        self.op = node.op.rstrip("_")
        self.shape = graph.shapes[node.operands[0]]
        self.shapes = [graph.shapes[value] for value in node.outputs]
        self.out = self.shapes[0]
        self.rank = len(self.shape)

    def __getitem__(self, name: str) -> Any:
        return self.node.arguments[name]

    @property
    def first(self) -> Turn | None:
        """How the first operand turns, if it is the only one that depends on the input."""
        first, *others = self.node.operands
        return self.known.get(first) if self.known.keys().isdisjoint(others) else None

    def dims(self, name: str = "dim") -> list[int]:
        """An argument that names dimensions; all for none."""
        given = self.node.arguments.get(name)
        if given is None or given == []:
            return list(range(self.rank))
        listed = cast("Sequence[int]", given if isinstance(given, (list, tuple)) else [given])
        return [dim % self.rank for dim in listed]

    def of(self, ref: Any) -> Turn | None:
        """How an operand turns: nothing varies along a constant that is nowhere zero."""
        value = cast("Ref", ref).value
        if value in self.known:
            return self.known[value]
        return still(self.graph.shapes[value], free=True) if zeros(self.graph, value) is None else None


Found = Sequence[Turn | None] | None
Rule = Callable[[_Turning], Found]


def _found(call: _Turning) -> list[Turn] | None:
    """What the rule says; of results that it leaves out, all stay."""
    rule = _RULES.get(call.op)
    if rule is None and (is_pointwise(call.node.func) or RULES.get(call.op) is elementwise):
        rule = _pointwise
    found = rule(call) if rule is not None else None
    fitting = [turn for turn, shape in zip(found or (), call.shapes, strict=False) if turn and turn.shape == shape]
    if found is None or len(fitting) < len(found):
        return None
    return [*fitting, *[still(shape) for shape in call.shapes[len(fitting) :]]]


def _pointwise(call: _Turning) -> Found:
    operands = call.node.operands
    if len(operands) == 1:
        return [call.known[operands[0]]] * len(call.shapes)
    given = [value for value in operands if value in call.known]
    if len({call.known[value] for value in given}) == 1 and call.graph.shapes[given[0]] == call.out:
        found: Turn | None = call.known[given[0]]
    else:
        found = turns.met(
            tuple([call.known[value] for value in given]), tuple([call.graph.shapes[value] for value in given])
        )
        if found is not None and len(found.groups) < len(call.out):
            found = moved(found, (*[None] * (len(call.out) - len(found.groups)), *range(len(found.groups))))
    if found is None:
        return None
    for value in operands:
        if found is not None and value not in call.known:
            found = _beside(call, found, value)
    return [found] * len(call.shapes)


def _beside(call: _Turning, found: Turn, value: int) -> Turn | None:
    """What meets a constant element by element: along what stays it may be zero somewhere, and not along the others."""
    shape = call.graph.shapes[value]
    lead = len(call.out) - len(shape)
    varying = [dim + lead for dim, length in enumerate(shape) if length > 1]
    uneven = [dim for dim in varying if not found.stays(dim)]
    free = [dim for dim in varying if any(found.places[number] == FREE for number in found.numbers(dim))]
    if not (uneven or free) or zeros(call.graph, value) is None:
        return found
    turn: Turn | None = None if uneven else found
    for dim in free:
        turn = turn and resized(turn, dim, call.out[dim], free=False)
    return turn


def _same(call: _Turning) -> Found:
    return [call.first]


def _view(call: _Turning) -> Found:
    return [call.first and viewed(call.first, call.out)]


def _permute(call: _Turning) -> Found:
    return [call.first and moved(call.first, tuple(call.dims("dims")))]


def _transpose(call: _Turning) -> Found:
    order = list(range(call.rank))
    a, b = (call[name] % call.rank for name in ("dim0", "dim1"))
    order[a], order[b] = b, a
    return [call.first and moved(call.first, tuple(order))]


def _t(call: _Turning) -> Found:
    return [call.first and moved(call.first, tuple(reversed(range(call.rank))))]


def _unsqueeze(call: _Turning) -> Found:
    order: list[int | None] = list(range(call.rank))
    order.insert(call["dim"] % (call.rank + 1), None)
    return [call.first and moved(call.first, tuple(order))]


def _expand(call: _Turning) -> Found:
    return [call.first and _repeated(call.first, call.shape, call.out)]


def _without_one(call: _Turning) -> Found:
    """One place, or each, along a dimension that stays."""
    dim: int = call["dim"] % call.rank
    found = call.first and moved(call.first, tuple([other for other in range(call.rank) if other != dim]))
    return [found] * len(call.shapes)


def _parts(call: _Turning) -> Found:
    dim: int = call["dim"] % call.rank
    first = call.first
    if first is None or all(shape == call.shape for shape in call.shapes):
        return [first] * len(call.shapes)
    return [resized(first, dim, shape[dim]) for shape in call.shapes]


def _joined(call: _Turning) -> Found:
    """Along a dimension within which nothing changes places."""
    rank = len(call.out)
    dim: int = call["dim"] % rank
    parts: list[Turn] = []
    for value in call.node.operands:
        # A constant has no labels, where others have some.
        turn = call.known.get(value) or still(call.graph.shapes[value], free=True)
        if call.op == "stack":
            turn = moved(turn, (*range(dim), None, *range(dim, rank - 1)))
        elif not turn.stays(dim):
            return None
        turn = turn and resized(turn, dim, 1)
        if turn is None:
            return None
        parts.append(turn)
    shape = tuple([1 if other == dim else length for other, length in enumerate(call.out)])
    met = turns.met(tuple(parts), (shape,) * len(parts))
    return [met and resized(met, dim, call.out[dim], free=False)]


def _gather(call: _Turning) -> Found:
    first, dims = call.first, call.dims()
    if first is None or not first.closed(dims):
        return None
    for dim in dims:
        first = emptied(first, dim)
    if len(call.out) < call.rank:
        first = moved(first, tuple([dim for dim in range(call.rank) if dim not in dims]))
    return [first] * len(call.shapes)


def _row(call: _Turning) -> Found:
    return [call.first if call.first and call.first.closed(call.dims()) else None]


def _layer_norm(call: _Turning) -> Found:
    first = call.first
    last = range(call.rank - len(call["normalized_shape"]), call.rank)
    if first is None or not first.closed(last):
        return None
    statistics = first
    for dim in last:
        statistics = emptied(statistics, dim)
    return [first, *[statistics] * (len(call.shapes) - 1)]


def _channel_norm(call: _Turning) -> Found:
    """All places of a channel, or of several, together."""
    first = call.first
    ok = first is not None and first.stays(1) and (call.op == "native_batch_norm" or first.stays(0))
    return [first] if ok else None


def _matrices(call: _Turning) -> Found:
    names = {"addmm": ("mat1", "mat2"), "baddbmm": ("batch1", "batch2")}.get(call.op, ("self", "mat2"))
    added = call["self"] if call.op in ("addmm", "baddbmm") else None
    if isinstance(added, Ref) and added.value in call.known:
        return None
    left, right = (call.of(call[name]) for name in names)
    return [left and right and turns.product(left, right)]


def _attention(call: _Turning) -> Found:
    query, key, value = (call.of(call[name]) for name in ("query", "key", "value"))
    others = [ref for name in ("attn_mask", "attn_bias") if isinstance(ref := call.node.arguments.get(name), Ref)]
    if query is None or key is None or value is None or any(ref.value in call.known for ref in others):
        return None
    if call.node.arguments.get("is_causal") or any(zeros(call.graph, ref.value) is not None for ref in others):
        return None
    turned = moved(key, (*range(call.rank - 2), call.rank - 1, call.rank - 2))
    scores = turned and turns.product(query, turned)
    return [scores and turns.product(scores, value)]


def _pads(call: _Turning) -> Found:
    pads: Sequence[int] = call["pad" if call.op == "constant_pad_nd" else "padding"]
    by_dim = {call.rank - 1 - n: tuple(pads[2 * n : 2 * n + 2]) for n in range(len(pads) // 2)}
    found = call.first
    for dim, pad in by_dim.items():
        if found is None or pad == (0, 0):
            continue
        if found.stays(dim):
            found = resized(found, dim, call.out[dim], free=False)
            continue
        other = found.partner(dim)
        if other is None or by_dim.get(other) != pad:
            return None
        if dim > other:
            found = stretched(found, (dim, other), (call.out[dim], call.out[other]))
    return [found]


def _roll(call: _Turning) -> Found:
    shifts = dict(zip(call.dims("dims"), cast("Sequence[int]", call["shifts"]), strict=False))
    first = call.first
    if first is None or not call["dims"]:
        return None
    for dim, shift in shifts.items():
        other = first.partner(dim)
        if not first.stays(dim) and (other is None or shifts.get(other) != shift):
            return None
    return [first]


def _window(call: _Turning) -> Found:
    """A convolution, a pooling or a resampling, of the last two dimensions."""
    first = call.first
    if first is None or call.rank != 4:
        return None
    arguments = call.node.arguments
    given = map(arguments.get, PAIRS)
    pairs = cast("list[Sequence[Any]]", [item for item in given if item and isinstance(item, (list, tuple))])
    if any(item[0] != item[-1] for item in pairs) or arguments.get("scales_h") != arguments.get("scales_w"):
        return None
    if call.op != "convolution":
        return [slid(first, call.out[1:], free=first.is_free(1), pointwise=False)] * len(call.shapes)
    weight: Ref = arguments["weight"]
    kernel = call.graph.shapes[weight.value][2:]
    zero = zeros(call.graph, weight.value)
    if kernel[0] != kernel[1] or (zero is not None and not torch.equal(zero, zero.transpose(2, 3))):
        return None
    # What a constant makes zero may be other places for other channels.
    free = zero is None and (arguments["groups"] == 1 or first.is_free(1))
    pointwise = kernel[0] == 1 and set(arguments["stride"]) == {1} and set(arguments["padding"]) == {0}
    return [slid(first, call.out[1:], free=free, pointwise=pointwise)]


_RULES: dict[str, Rule] = {
    **dict.fromkeys(("alias", "detach", "_to_copy"), _same),
    **dict.fromkeys(("native_batch_norm", "native_group_norm"), _channel_norm),
    **dict.fromkeys(("view", "_unsafe_view", "squeeze"), _view),
    **dict.fromkeys(("cat", "stack"), _joined),
    **dict.fromkeys(("slice", "split", "split_with_sizes", "unsafe_split", "unsafe_split_with_sizes"), _parts),
    **dict.fromkeys(("select", "unbind"), _without_one),
    **dict.fromkeys(("mean", "sum", "amax", "amin", "var", "std", "var_mean", "linalg_vector_norm"), _gather),
    **dict.fromkeys(ATTENTION - FUSED_ATTENTION, _row),
    **dict.fromkeys(FUSED_ATTENTION, _attention),
    **dict.fromkeys(("mm", "bmm", "addmm", "baddbmm"), _matrices),
    **dict.fromkeys(("constant_pad_nd", "reflection_pad2d", "replication_pad2d"), _pads),
    **dict.fromkeys(("convolution", "avg_pool2d", "max_pool2d_with_indices", "_adaptive_avg_pool2d"), _window),
    **dict.fromkeys(("upsample_nearest2d", "_upsample_nearest_exact2d"), _window),
    **dict.fromkeys(("upsample_bilinear2d", "upsample_bicubic2d"), _window),
    "native_layer_norm": _layer_norm,
    "permute": _permute,
    "transpose": _transpose,
    "t": _t,
    "unsqueeze": _unsqueeze,
    "expand": _expand,
    "roll": _roll,
}
