"""Where the scale and the shift of a norm can go: into the layers that make its input, or those that read its output.

On the way they pass every operation that treats the values of a channel alike and whose weights add up to one: means,
interpolation, padding by reflection, views that keep the channels. A concatenation divides them; before a sum all parts
are scaled and one is shifted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias, cast

import torch
from torch import Tensor, nn

from convblocks.deploy import fold, own
from convblocks.deploy.flow import CONVOLUTIONS, LINEAR, Flow
from convblocks.introspect.aliasing import Ref
from convblocks.introspect.graph import Node

ADDITIONS = ("add", "add_")
ALIKE = ("_adaptive_avg_pool", "adaptive_avg_pool", "upsample_", "_upsample_", "reflection_pad", "replication_pad")
VIEWS = ("view", "_unsafe_view", "_reshape_alias", "squeeze", "unsqueeze", "alias", "clone", "detach")


class Place(NamedTuple):
    """A layer, and what of a norm goes into it."""

    layer: fold.Layer
    scale: Tensor
    shift: Tensor


Places: TypeAlias = "list[Place] | str"
"""All the layers that a norm goes into, or the reason why it goes nowhere."""


def before(flow: Flow, value: int, scale: Tensor, shift: Tensor) -> Places:
    """The layers that make `value`, to be multiplied and shifted where they stand."""
    reader = flow.only_reader(value)
    if isinstance(reader, str):
        return reader
    node = flow.maker(value)
    if node is None:
        return "no convolution before it but the input"
    if node.op in CONVOLUTIONS + LINEAR:
        layer = usable(flow, node, "before")
        return layer if isinstance(layer, str) else [Place(layer, scale, shift)]
    if node.op == "cat" and _joins_channels(flow, node):
        parts = flow.refs(node)
        widths = [flow.graph.shapes[part][1] for part in parts]
        scales, shifts = torch.split(scale, widths), torch.split(shift, widths)
        branches = list(zip(parts, scales, shifts, strict=True))
    elif node.op in ADDITIONS and (parts := addends(flow, node)):
        branches = [(parts[0], scale, shift), (parts[1], scale, torch.zeros_like(shift))]
    elif passes(flow, node) == 1:
        branches = [(flow.input(node), scale, shift)]
    else:
        return f"no convolution before it but {node.op}"
    return _all(before(flow, *branch) for branch in branches)


def after(flow: Flow, value: int, scale: Tensor, shift: Tensor) -> Places:
    """The layers that read `value`, to be multiplied and shifted as they read it."""
    if value in flow.seen:
        return f"its output is also {flow.seen_as(value)}"
    readers = flow.readers(value)
    if not readers:
        return "its output is not read"
    return _all(_reading(flow, node, value, scale, shift) for node in readers)


def _reading(flow: Flow, node: Node, value: int, scale: Tensor, shift: Tensor) -> Places:
    if node.op in CONVOLUTIONS + LINEAR and flow.input(node) == value:
        if node.op in CONVOLUTIONS:
            arguments = flow.arguments(node)
            if arguments["transposed"]:
                return "the convolution after it is transposed"
            if any(cast("Sequence[int]", arguments["padding"])) and (shift.is_meta or bool(shift.any())):
                return "the convolution after it pads zeros"
        layer = usable(flow, node, "after")
        return layer if isinstance(layer, str) else [Place(layer, scale, shift)]
    if node.op == "cat" and _joins_channels(flow, node):
        parts = flow.refs(node)
        if parts.count(value) > 1:
            return "its output is read twice by one operation"
        widths = [flow.graph.shapes[part][1] for part in parts]
        at = parts.index(value)
        scale = torch.cat([scale if i == at else scale.new_ones(width) for i, width in enumerate(widths)])
        shift = torch.cat([shift if i == at else shift.new_zeros(width) for i, width in enumerate(widths)])
        return after(flow, node.outputs[0], scale, shift)
    if flow.refs(node) == [value] and (spread := passes(flow, node)):
        return after(flow, node.outputs[0], scale.repeat_interleave(spread), shift.repeat_interleave(spread))
    return f"no convolution after it but {node.op}"


def usable(flow: Flow, node: Node, side: str) -> fold.Layer | str:
    """The layer that did an operation, if its weights may be changed, or the reason why they may not."""
    layer = flow.module(node)
    what = f"the {'linear layer' if node.op in LINEAR else 'convolution'} {side} it"
    if node.op in LINEAR:
        # Only its own forward is known to read its weight as it is.
        if type(layer) is not nn.Linear or not own.plain(layer):
            return f"{what} is computed by a function"
    elif not isinstance(layer, own.CONVS):
        return f"{what} is computed by a function"
    elif altered := flow.altered(node, layer):
        return f"{what} {altered}"
    obstacle = flow.obstacle(layer)
    return f"{what} {obstacle}" if obstacle else layer


def conv(flow: Flow, node: Node) -> fold.Conv | None:
    """The convolution that did an operation, if its weights may be changed."""
    layer = usable(flow, node, "before") if node.op in CONVOLUTIONS else None
    return layer if isinstance(layer, own.CONVS) else None


def passes(flow: Flow, node: Node) -> int:
    """How many channels each channel becomes, where node(x * scale + shift) = node(x) * scale + shift; otherwise 0."""
    op, arguments = node.op, flow.arguments(node)
    if len(flow.refs(node)) != 1 or not isinstance(node.args[0], Ref):
        return 0
    shape, made = flow.graph.shapes[flow.input(node)], flow.graph.shapes[node.outputs[0]]
    if len(shape) < 2:
        return 0
    if op.startswith(ALIKE):
        # Not what reads an image of a batch as channels: shapes without a batch are not told apart otherwise.
        return int(shape[:2] == made[:2])
    if op in ("avg_pool1d", "avg_pool2d", "avg_pool3d"):
        inside = not any(cast("Sequence[int]", arguments["padding"])) or not arguments.get("count_include_pad", True)
        return int(inside and arguments.get("divisor_override") is None)
    if op == "mean":
        dims = cast("Sequence[int] | None", arguments.get("dim"))
        return int(bool(dims) and all(dim % len(shape) > 1 for dim in dims or ()))
    if op in VIEWS and made[:1] == shape[:1]:
        if made[:2] == shape[:2]:
            return 1
        return math.prod(shape[2:]) if len(made) == 2 and made[1] == math.prod(shape[1:]) else 0
    return 0


def addends(flow: Flow, node: Node) -> list[int]:
    """The two different values of one shape that an addition adds; otherwise none."""
    parts = flow.refs(node)
    alike = len(set(parts)) == 2 and len({flow.graph.shapes[value] for value in (*parts, node.outputs[0])}) == 1
    return parts if alike else []


def _joins_channels(flow: Flow, node: Node) -> bool:
    """Whether a concatenation is of channels; torch also takes empty tensors of one axis, which count for nothing."""
    axes = len(flow.graph.shapes[node.outputs[0]])
    alike = all(len(flow.graph.shapes[part]) == axes for part in flow.refs(node))
    return alike and axes > 1 and cast("int", flow.arguments(node)["dim"]) % axes == 1


def _all(found: object) -> Places:
    places: list[Place] = []
    for part in cast("Sequence[Places]", found):
        if isinstance(part, str):
            return part
        places += part
    if len({id(place.layer) for place in places}) < len(places):
        return "one layer would take it twice"
    return places
