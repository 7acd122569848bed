"""Branches that read the same input and whose outputs are only added: one convolution can do the work of all.

A batch norm beside a convolution is a 1x1 convolution that mixes no channels; a smaller kernel is a larger one
with zeros.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeAlias, cast

from torch import Tensor, nn

from convblocks.deploy import fold, own, places
from convblocks.deploy.flow import BATCH_NORMS, NORMS, Flow, replace
from convblocks.deploy.report import FusionReport
from convblocks.introspect.graph import Node

Window: TypeAlias = "tuple[int, int, int, int]"
"""Kernel size, stride, padding and dilation along one axis."""


class Absorbed(nn.Module):
    """What is left of a branch that another one has taken in: zeros of its shape, without memory of their own.

    Args:
        channels: of the output.
        windows: kernel size, stride, padding and dilation of each axis.

    Shape:
        - Input: ``(N, C, *sizes)``
        - Output: ``(N, channels, *)``, the size of each axis as a convolution of that window gives it
    """

    def __init__(self, channels: int, windows: Sequence[Window]) -> None:
        super().__init__()
        self.channels, self.windows = channels, tuple(windows)

    def forward(self, x: Tensor) -> Tensor:
        """Give zeros."""
        sizes = (
            (n + 2 * p - d * (k - 1) - 1) // s + 1 for n, (k, s, p, d) in zip(x.shape[2:], self.windows, strict=True)
        )
        return x.new_zeros(()).expand(x.shape[0], self.channels, *sizes)

    def extra_repr(self) -> str:
        """Show the channels."""
        return f"{self.channels}"


class Branch(NamedTuple):
    """A convolution, or a norm, which is seen as one of kernel size 1."""

    node: Node
    module: fold.Conv | fold.Norm
    windows: list[Window]
    """Of each axis."""
    removable: bool
    """Whether zeros may stand where its module stood."""


def absorb(model: nn.Module, flow: Flow, report: FusionReport) -> bool:
    """Let one branch of every sum take in the others that it can; return whether there were any."""
    done = 0
    for root in _sums(flow):
        found = list(_branches(flow, root))
        gone: set[int] = set()
        # The largest kernel first: the others fit into it.
        for host in sorted(found, key=lambda branch: -math.prod(k for k, *_ in branch.windows)):
            for guest in found:
                if id(host.node) not in gone and id(guest.node) not in gone and _take_in(flow, host, guest):
                    gone.add(id(guest.node))
                    name, into = (flow.names[id(branch.module)] for branch in (guest, host))
                    replace(model, name, Absorbed(flow.graph.shapes[guest.node.outputs[0]][1], guest.windows))
                    report.absorb(name, into)
        done += len(gone)
    return done > 0


def _sums(flow: Flow) -> Iterator[Node]:
    """The last addition of every chain."""
    for node in flow.graph.nodes:
        if _adds(flow, node):
            reader = flow.only_reader(node.outputs[0])
            if isinstance(reader, str) or not _adds(flow, reader):
                yield node


def _adds(flow: Flow, node: Node) -> bool:
    """Whether a node adds two tensors of one shape, or a number to a tensor."""
    if node.op not in places.ADDITIONS or flow.arguments(node)["alpha"] != 1:
        return False
    return len(flow.refs(node)) == 1 or bool(places.addends(flow, node))


def _branches(flow: Flow, root: Node) -> Iterator[Branch]:
    """The branches that a chain of additions adds and that nothing else reads."""
    for position, value in enumerate(flow.refs(root)):
        maker = flow.maker(value)
        if maker is None or isinstance(flow.only_reader(value), str):
            continue
        if _adds(flow, maker):
            yield from _branches(flow, maker)
        elif branch := _branch(flow, maker, written=root.op == "add_" and position == 0):
            yield branch


def _branch(flow: Flow, node: Node, written: bool) -> Branch | None:
    module = flow.module(node)
    if module is None or flow.obstacle(module):
        return None
    call = flow.graph.calls[node.call]
    removable = not written and call.outputs == node.outputs[:1] and call.nodes[1] - call.nodes[0] == 1
    if isinstance(module, NORMS) and node.op in BATCH_NORMS:
        if module.running_mean is None or not flow.own_norm(node, module):
            return None
        axes = len(flow.graph.shapes[node.outputs[0]]) - 2
        return Branch(node, module, [(1, 1, 0, 1)] * axes, removable)
    conv = places.conv(flow, node)
    if conv is None or conv.transposed:
        return None
    arguments = flow.arguments(node)
    kernel, *rest = (conv.weight.shape[2:], *(arguments[key] for key in ("stride", "padding", "dilation")))
    return Branch(node, conv, list(zip(kernel, *cast("list[Sequence[int]]", rest), strict=True)), removable)


def _take_in(flow: Flow, host: Branch, guest: Branch) -> bool:
    """Add the guest's kernel to the host's, if it falls on taps of it; return whether it did."""
    conv = host.module
    if host is guest or not guest.removable or flow.input(host.node) != flow.input(guest.node):
        return False
    taps = [_taps(ours, theirs) for ours, theirs in zip(host.windows, guest.windows, strict=True)]
    if not isinstance(conv, own.CONVS) or not all(taps):
        return False
    if isinstance(guest.module, NORMS):
        if conv.in_channels != conv.out_channels:
            return False
        scale, bias = fold.affine(guest.module)
        kernel = fold.diagonal(scale, conv.groups, len(taps))
    else:
        if guest.module.groups != conv.groups:
            return False
        kernel, bias = guest.module.weight.detach(), guest.module.bias
    fold.beside(conv, kernel, bias, taps)
    return True


def _taps(host: Window, guest: Window) -> list[int]:
    """The taps of the host that those of the guest fall on, or none."""
    (size, stride, padding, dilation), (k, s, p, d) = host, guest
    offsets = [tap * d - p + padding for tap in range(k)]
    fits = s == stride and all(at % dilation == 0 and 0 <= at // dilation < size for at in offsets)
    return [at // dilation for at in offsets] if fits else []
