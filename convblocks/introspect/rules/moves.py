"""Operations that move elements: views, splits, joins, crops, pads. The labels move as the elements do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from convblocks.introspect.aliasing import Ref, Step
from convblocks.introspect.labels import NOTHING, Joined, Labels, compress, gather, joined, nothing_like, regroup
from convblocks.introspect.operations import bind, name_of
from convblocks.introspect.registry import Call, NoRule, Result, rule


@rule("view", "_unsafe_view", "reshape", "_reshape_alias", "unflatten")
def view(call: Call) -> Result:
    """Elements keep their order."""
    return call.input and call.input.reshaped(call.shape, call.out_shape())


@rule(
    "alias",
    "detach",
    "clone",
    "_to_copy",
    "contiguous",
    "lift_fresh",
    "lift_fresh_copy",
    "to",
    "resolve_conj",
    "resolve_neg",
    "view_of",
)
def same(call: Call) -> Result:
    """Every element stays where it is."""
    return call.input


@rule("permute")
def permute(call: Call) -> Result:
    """Dimensions change places."""
    order = [0, *(dim % call.ndim + 1 for dim in call["dims"])]
    return call.input and call.input.map(lambda data: data.permute(order))


@rule("transpose", "swapaxes", "swapdims")
def transpose(call: Call) -> Result:
    """Two dimensions change places."""
    first, second = (call["dim0"], call["dim1"]) if "dim0" in call.arguments else (call["axis0"], call["axis1"])
    if call.ndim == 0:
        return call.input
    return call.input and call.input.map(lambda data: data.transpose(first % call.ndim + 1, second % call.ndim + 1))


@rule("t")
def matrix_transpose(call: Call) -> Result:
    """Rows become columns."""
    return call.input if call.ndim < 2 else call.input and call.input.map(lambda data: data.transpose(1, 2))


@rule("unsqueeze")
def unsqueeze(call: Call) -> Result:
    """A dimension of length 1 more."""
    return call.input and call.input.map(lambda data: data.unsqueeze(call["dim"] % (call.ndim + 1) + 1))


@rule("squeeze")
def squeeze(call: Call) -> Result:
    """Dimensions of length 1 fewer."""
    return call.input and call.input.reshaped(call.shape, call.out_shape())


@rule("expand", "broadcast_to")
def expand(call: Call) -> Result:
    """Broadcast elements are the same element."""
    return call.input and call.input.with_ndim(len(call.out_shape()))


@rule("repeat")
def repeat(call: Call) -> Result:
    """The tensor again and again."""
    labels = call.input
    if labels is None:
        return None
    labels = labels.with_ndim(len(call.out_shape()))
    times = [1, *(count if labels.length(dim) > 1 else 1 for dim, count in enumerate(call["repeats"]))]
    return labels.map(lambda data: data.repeat(times))


def crop(labels: Labels, dim: int, index: slice) -> Labels:
    """A slice of one dimension."""
    if labels.length(dim) == 1:
        return labels
    if labels.parts is not None and labels.parts.dim == dim and index.step in (None, 1):
        return _crop_parts(labels.parts, index.start, index.stop)
    return labels.map(lambda data: data[(slice(None),) * (dim + 1) + (index,)])


def _crop_parts(parts: Joined, start: int, stop: int) -> Labels:
    kept: list[tuple[Labels, int]] = []
    position = 0
    for item, length in parts.items:
        first, last = max(start - position, 0), min(stop - position, length)
        if first < last:
            kept.append((crop(item, parts.dim, slice(first, last)), last - first))
        position += length
    return joined(parts.dim, kept) if len(kept) != 1 else kept[0][0]


def _slice(arguments: dict[str, Any], length: int) -> slice:
    return slice(*slice(arguments.get("start"), arguments.get("end"), arguments.get("step") or 1).indices(length))


@rule("slice")
def slice_(call: Call) -> Result:
    """A part of one dimension."""
    dim = call["dim"] % call.ndim
    return call.input and crop(call.input, dim, _slice(call.arguments, call.shape[dim]))


@rule("narrow")
def narrow(call: Call) -> Result:
    """A part of one dimension."""
    dim = call["dim"] % call.ndim
    return call.input and crop(call.input, dim, slice(call["start"], call["start"] + call["length"]))


@rule("select")
def select(call: Call) -> Result:
    """One place of one dimension."""
    labels, dim = call.input, call["dim"] % call.ndim
    if labels is None:
        return None
    index = 0 if labels.length(dim) == 1 else call["index"]
    return labels.map(lambda data: data.select(dim + 1, index))


@rule("split", "split_with_sizes", "chunk", "unsafe_split", "unsafe_split_with_sizes", "unsafe_chunk", "tensor_split")
def split(call: Call) -> Result:
    """Parts of one dimension, in order."""
    labels, dim = call.input, call["dim"] % call.ndim
    pieces: list[Labels | None] = []
    start = 0
    for position in range(len(call.node.outputs)):
        length = call.out_shape(position)[dim]
        pieces.append(labels and crop(labels, dim, slice(start, start + length)))
        start += length
    return pieces


@rule("unbind")
def unbind(call: Call) -> Result:
    """Every place of one dimension."""
    labels, dim = call.input, call["dim"] % call.ndim
    if labels is None:
        return None
    short = labels.length(dim) == 1
    return [
        labels.map(lambda data, i=i: data.select(dim + 1, 0 if short else i)) for i in range(len(call.node.outputs))
    ]


def join(parts: Sequence[tuple[Labels | None, int]], ndim: int, dim: int) -> Labels | None:
    """Concatenate labels; each part comes with its length along `dim`."""
    present = [part for part, _ in parts if part is not None]
    if not present:
        return None
    pooled = all(part.pooled for part in present)
    first = present[0]
    blank = Labels(torch.full((first.features, *[1] * ndim), NOTHING, dtype=first.dtype), pooled)
    items: list[tuple[Labels, int]] = []
    for part, length in parts:
        # A pooled part beside one that has a position is a gate: the local field leaves it out.
        kept = part if part is not None and part.pooled == pooled else blank
        if kept.parts is not None and kept.parts.dim == dim:
            items += kept.parts.items
        else:
            items.append((kept, length))
    return joined(dim, items)


@rule("cat", "concat", "concatenate")
def cat(call: Call) -> Result:
    """Tensors one after the other."""
    tensors: list[Ref] = call.node.args[0]
    # An empty one-dimensional tensor may stand in any concatenation, by an old rule of torch.
    tensors = [ref for ref in tensors if call.shape_of(ref) != (0,)]
    ndim = len(call.out_shape())
    dim = call["dim"] % ndim
    return join([(call.of(ref), call.shape_of(ref)[dim]) for ref in tensors], ndim, dim)


@rule("stack")
def stack(call: Call) -> Result:
    """Tensors along a new dimension."""
    ndim = len(call.out_shape())
    dim = call["dim"] % ndim
    parts = [call.of(ref) for ref in call.node.args[0]]
    return join([(part and part.map(lambda data: data.unsqueeze(dim + 1)), 1) for part in parts], ndim, dim)


@rule("roll")
def roll(call: Call) -> Result:
    """Elements move round."""
    labels = call.input
    if labels is None:
        return None
    if not call["dims"]:
        raise NoRule("a roll of the flattened tensor")
    pairs = [(shift, dim % call.ndim + 1) for shift, dim in zip(call["shifts"], call["dims"], strict=True)]
    return labels.map(lambda data: data.roll(*zip(*pairs, strict=True)))


@rule("flip")
def flip(call: Call) -> Result:
    """Elements in the other order."""
    return call.input and call.input.map(lambda data: data.flip([dim % call.ndim + 1 for dim in call["dims"]]))


@rule("constant_pad_nd")
def constant_pad(call: Call) -> Result:
    """What is added depends on nothing; negative amounts crop."""
    labels, shape, pad = call.input, call.shape, call["pad"]
    if labels is None:
        return None
    for i in range(len(pad) // 2):
        dim = len(shape) - 1 - i
        before, after = pad[2 * i], pad[2 * i + 1]
        if before or after:
            taps = torch.arange(shape[dim] + before + after)[:, None] - before
            taps = torch.where((taps >= 0) & (taps < shape[dim]), taps, shape[dim])
            labels = call.window(labels, dim, shape[dim], taps)
    return labels


def reflected(taps: Tensor, length: int) -> Tensor:
    """0 1 2 3 continues as 3 2 1 | 0 1 2 3 | 2 1 0."""
    if length == 1:
        return torch.zeros_like(taps)
    period = 2 * (length - 1)
    folded = taps % period
    return torch.where(folded < length, folded, period - folded)


def _border_pad(call: Call, count: int, rule_of: Any) -> Result:
    labels, shape, pad = call.input, call.shape, call["padding"]
    if labels is None:
        return None
    for i in range(count):
        dim = len(shape) - 1 - i
        taps = torch.arange(shape[dim] + pad[2 * i] + pad[2 * i + 1])[:, None] - pad[2 * i]
        labels = call.window(labels, dim, shape[dim], rule_of(taps, shape[dim]))
    return labels


@rule("reflection_pad1d", "reflection_pad2d", "reflection_pad3d")
def reflection_pad(call: Call) -> Result:
    """What is added mirrors the inside."""
    return _border_pad(call, int(call.node.op[-2]), reflected)


@rule("replication_pad1d", "replication_pad2d", "replication_pad3d")
def replication_pad(call: Call) -> Result:
    """What is added repeats the border."""
    return _border_pad(call, int(call.node.op[-2]), lambda taps, length: taps.clamp(0, length - 1))


@rule("pixel_shuffle")
def pixel_shuffle(call: Call) -> Result:
    """(C r r, H, W) -> (C, H r, W r)."""
    labels, (*lead, channels, height, width), r = call.input, call.shape, call["upscale_factor"]
    if labels is None:
        return None
    split_shape = (*lead, channels // r**2, r, r, height, width)
    n = len(lead) + 1
    data = regroup(labels.data, call.shape, split_shape).permute(*range(n + 1), n + 3, n + 1, n + 4, n + 2)
    moved = (*lead, channels // r**2, height, r, width, r)
    return labels.map(lambda _: regroup(data, moved, call.out_shape()))


@rule("pixel_unshuffle")
def pixel_unshuffle(call: Call) -> Result:
    """(C, H r, W r) -> (C r r, H, W)."""
    labels, (*lead, channels, height, width), r = call.input, call.shape, call["downscale_factor"]
    if labels is None:
        return None
    split_shape = (*lead, channels, height // r, r, width // r, r)
    n = len(lead) + 1
    data = regroup(labels.data, call.shape, split_shape).permute(*range(n + 1), n + 2, n + 4, n + 1, n + 3)
    moved = (*lead, channels, r, r, height // r, width // r)
    return labels.map(lambda _: regroup(data, moved, call.out_shape()))


@rule("channel_shuffle", "native_channel_shuffle")
def channel_shuffle(call: Call) -> Result:
    """Channels (g, n) become (n, g)."""
    labels, groups = call.input, call["groups"]
    if labels is None or labels.length(1) == 1:
        return labels
    return labels.map(lambda data: data.unflatten(2, (groups, -1)).transpose(2, 3).flatten(2, 3))


@rule("unfold")
def tensor_unfold(call: Call) -> Result:
    """Windows of one dimension, along a new last one."""
    labels = call.input
    if labels is None:
        return None
    dim, size = call["dimension"] % call.ndim, call["size"]
    if labels.length(dim) == 1:
        return labels.map(lambda data: data.unsqueeze(-1))
    return labels.map(lambda data: data.unfold(dim + 1, size, call["step"]))


@rule("diagonal")
def diagonal(call: Call) -> Result:
    """The diagonal of two dimensions."""
    first, second = call["dim1"] % call.ndim, call["dim2"] % call.ndim
    full = [call.shape[d] if d in (first, second) else -1 for d in range(call.ndim)]
    return call.input and call.input.map(
        lambda data: data.expand(-1, *full).diagonal(call["offset"], first + 1, second + 1)
    )


@rule("index_select")
def index_select(call: Call) -> Result:
    """Places of one dimension by a list that does not depend on the input."""
    labels, dim = call.input, call["dim"] % call.ndim
    if call.of(call["index"]) is not None:
        raise NoRule("indices that depend on the input")
    if labels is None or labels.length(dim) == 1:
        return labels
    taps = call.constant(call["index"]).reshape(-1, 1) % call.shape[dim]
    return labels.map(lambda data: gather(data, dim, taps))


@rule("index")
def index(call: Call) -> Result:
    """Places by lists that do not depend on the input."""
    labels, indices = call.input, call["indices"]
    if any(call.of(ref) is not None for ref in indices if ref is not None):
        raise NoRule("indices that depend on the input")
    if labels is None:
        return None
    places: list[Any] = [slice(None)]
    sizes = [-1]
    for dim, ref in enumerate(indices):
        places.append(slice(None) if ref is None else call.constant(ref))
        sizes.append(-1 if ref is None else call.shape[dim])
    sizes += [-1] * (labels.ndim + 1 - len(sizes))
    return labels.map(lambda data: data.expand(sizes)[tuple(places)])


@rule("copy")
def copy(call: Call) -> Result:
    """The target takes what the source depends on."""
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
    blank = Labels(some.data.new_full((some.data.shape[0], *[1] * len(shape)), NOTHING), some.pooled)
    base = base if base is not None else blank
    if op in ("slice", "select", "split", "split_with_sizes", "chunk", "unbind"):
        dim = arguments["dim"] % len(shape)
        piece_shape = call.shape_of(piece_ref)
        if op == "slice":
            place = range(shape[dim])[_slice(arguments, shape[dim])]
        elif op == "select":
            place = range(arguments["index"] % shape[dim], arguments["index"] % shape[dim] + 1)
        elif op == "unbind":
            place = range(step.output, step.output + 1)
        else:
            start = sum(earlier[dim] for earlier in step.shapes[: step.output])
            place = range(start, start + piece_shape[dim])
        if piece is not None and op in ("select", "unbind"):
            piece = piece.map(lambda data: data.unsqueeze(dim + 1))
        return _overwrite(base, piece if piece is not None else blank, dim, shape[dim], place)
    if piece is None:
        return blank
    if op in ("alias", "detach"):
        return piece
    if op in ("view", "_unsafe_view", "_reshape_alias", "squeeze", "unsqueeze"):
        return piece.map(lambda data: regroup(data, call.shape_of(piece_ref), shape))
    if op in ("transpose", "t"):
        first, second = (0, 1) if op == "t" else (arguments["dim0"] % len(shape), arguments["dim1"] % len(shape))
        return piece.map(lambda data: data.transpose(first + 1, second + 1))
    if op == "permute":
        order = [dim % len(shape) for dim in arguments["dims"]]
        return piece.map(lambda data: data.permute(0, *(order.index(dim) + 1 for dim in range(len(shape)))))
    raise NoRule(f"a write into a view made by aten.{op}")


def _overwrite(base: Labels, piece: Labels, dim: int, length: int, place: range) -> Labels:
    """`base` with the positions `place` of one dimension replaced by `piece`."""
    if base.pooled != piece.pooled:
        # The one that is pooled is a gate beside the other.
        base, piece = (base.map(nothing_like), piece) if base.pooled else (base, piece.map(nothing_like))
    shape = list(
        torch.broadcast_shapes(
            [1 if d == dim + 1 else n for d, n in enumerate(base.data.shape)],
            [1 if d == dim + 1 else n for d, n in enumerate(piece.data.shape)],
        )
    )
    shape[dim + 1] = length
    data = base.data.expand(shape).clone()
    region = (slice(None),) * (dim + 1) + (slice(place.start, place.stop, place.step),)
    data[region] = piece.data
    return Labels(compress(data, [dim]), base.pooled and piece.pooled)
