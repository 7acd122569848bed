"""Writes into tensors and into views of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import cast

import torch

from convblocks.introspect.aliasing import Step
from convblocks.introspect.arrays import affordable, compress, nothing_like
from convblocks.introspect.labels import Labels, joined, reshaped
from convblocks.introspect.operations import bind, name_of
from convblocks.introspect.registry import Call, NoRule, Result, rule
from convblocks.introspect.rules.moves import swapped
from convblocks.introspect.rules.parts import crop, slice_of

LARGE = 2**16
"""Elements of an array that is not put together to be written into."""

REARRANGED = frozenset(
    {"alias", "detach", "view", "_unsafe_view", "_reshape_alias", "squeeze", "unsqueeze", "transpose", "t", "permute"}
)
"""Views that show every element of their base once."""


@rule("copy")
def copy(call: Call) -> Result:
    """The target takes what the source depends on."""
    call.ignore(call.source)
    source = call.of(call["src"])
    return source and source.with_ndim(len(call.out_shape()))


@rule("scatter_into_view")
def scatter_into_view(call: Call) -> Result:
    """One view of the base has been overwritten."""
    base_ref, piece_ref = call.node.args
    base, piece = call.of(base_ref), call.of(piece_ref)
    step: Step = call.node.func.step
    op, shape = name_of(step.func), call.shape
    arguments = bind(step.func, step.args, step.kwargs)
    if base is None and piece is None:
        return None
    some = base if base is not None else piece
    assert some is not None
    blank = some.blank(len(shape))
    base = base if base is not None else blank
    if op in ("slice", "select", "split", "split_with_sizes", "chunk", "unbind"):
        dim: int = arguments["dim"] % len(shape)
        piece_shape = call.shape_of(piece_ref)
        if op == "slice":
            place = range(shape[dim])[slice_of(arguments, shape[dim])]
        elif op == "select":
            index: int = arguments["index"] % shape[dim]
            place = range(index, index + 1)
        elif op == "unbind":
            place = range(step.output, step.output + 1)
        else:
            start = sum(earlier[dim] for earlier in step.shapes[: step.output])
            place = range(start, start + piece_shape[dim])
        if piece is not None and op in ("select", "unbind"):
            piece = piece.unsqueezed([dim])
        return _overwrite(base, piece if piece is not None else blank, dim, shape[dim], place)
    if op in ("diagonal", "unfold"):
        return _overwrite_places(base, piece if piece is not None else blank, step, shape)
    if op not in REARRANGED:
        raise NoRule(f"a write into a view made by aten.{op}")
    if piece is None:
        return blank
    if op in ("alias", "detach"):
        return piece
    if op in ("view", "_unsafe_view", "_reshape_alias", "squeeze", "unsqueeze"):
        return reshaped(piece, call.shape_of(piece_ref), shape)
    if op in ("transpose", "t"):
        first, second = (0, 1) if op == "t" else (arguments["dim0"] % len(shape), arguments["dim1"] % len(shape))
        return piece.permuted(swapped(len(shape), first, second))
    order = [dim % len(shape) for dim in arguments["dims"]]
    return piece.permuted([order.index(dim) for dim in range(len(shape))])


@rule("slice_scatter", "select_scatter")
def scatter(call: Call) -> Result:
    """A copy with one part replaced."""
    base, piece = call.input, call.of(call["src"])
    dim: int = call["dim"] % call.ndim
    some = base if base is not None else piece
    if some is None:
        return None
    length = call.shape[dim]
    if call.node.op == "select_scatter":
        index: int = call["index"] % length
        place = range(index, index + 1)
        piece = piece and piece.unsqueezed([dim])
    else:
        place = range(length)[slice_of(call.arguments, length)]
    blank = some.blank(call.ndim)
    return _overwrite(base or blank, piece or blank, dim, length, place)


def _overwrite(base: Labels, piece: Labels, dim: int, length: int, place: range) -> Labels:
    """`base` with the positions `place` of one dimension replaced by `piece`."""
    base, piece = _without_gate(base, piece)
    # torch's function has no types.
    broadcast = cast("Callable[..., Sequence[int]]", torch.broadcast_shapes)  # pyright: ignore[reportUnknownMemberType] - torch leaves it untyped
    shape = list(
        broadcast(
            [1 if d == dim else n for d, n in enumerate(base.lengths)],
            [1 if d == dim else n for d, n in enumerate(piece.lengths)],
        )
    )
    shape.insert(0, base.features)
    shape[dim + 1] = length
    if math.prod(shape[1:]) > LARGE and place.step == 1:
        # Three parts, and none of them put together.
        ends = [(base, 0, place.start), (piece, 0, len(place)), (base, place.stop, length)]
        return joined(dim, [(crop(item, dim, slice(i, j, 1)), j - i) for item, i, j in ends if i < j])
    affordable(shape[1:])
    data = base.data.expand(shape).clone()
    region = (slice(None),) * (dim + 1) + (slice(place.start, place.stop, place.step),)
    data[region] = piece.data
    return Labels(compress(data, [dim]), base.pooled and piece.pooled)


def _without_gate(base: Labels, piece: Labels) -> tuple[Labels, Labels]:
    """Of two, the one that is pooled beside one that is not is a gate."""
    if base.pooled == piece.pooled:
        return base, piece
    return (base.map(nothing_like), piece) if base.pooled else (base, piece.map(nothing_like))


def _overwrite_places(base: Labels, piece: Labels, step: Step, shape: Sequence[int]) -> Labels:
    """`base` with the elements that a view shows replaced by `piece`: the same view of their numbers tells which."""
    affordable(shape)
    base, piece = _without_gate(base, piece)
    numbers: torch.Tensor = step.func(torch.arange(math.prod(shape)).reshape(*shape), *step.args[1:], **step.kwargs)
    data = base.data.expand(base.features, *shape).flatten(1).clone()
    data[:, numbers.flatten()] = piece.data.expand(base.features, *numbers.shape).flatten(1)
    return Labels(compress(data.reshape(base.features, *shape), range(len(shape))), base.pooled and piece.pooled)
