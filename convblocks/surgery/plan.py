"""What a smaller output stride asks of every operation: the rate of each value in the dilated network."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import cast

from torch import nn

from convblocks.introspect.aliasing import Ref
from convblocks.introspect.analysis import Analysis
from convblocks.introspect.graph import Graph, Node
from convblocks.introspect.layers import Window, gathered_dims, window_of
from convblocks.introspect.operations import bind
from convblocks.introspect.runs import downstream

Pair = tuple[int, int]


@dataclass
class Change:
    """What a window becomes: the rate of its input, and whether it keeps its stride, by axis."""

    rate: Pair
    keep: tuple[bool, bool]
    window: Window

    @property
    def stride(self) -> Pair:
        """The stride that is left."""
        height, width = (s if keep else 1 for s, keep in zip(self.window.stride, self.keep, strict=True))
        return height, width

    @property
    def dilation(self) -> Pair:
        """A kernel of 1 has no taps to spread."""
        rates = (1, 1) if set(self.window.kernel) == {1} else self.rate
        height, width = (d * r for d, r in zip(self.window.dilation, rates, strict=True))
        return height, width

    @property
    def padding(self) -> Pair:
        """Spread like the kernel."""
        height, width = (p * r for p, r in zip(self.window.padding, self.rate, strict=True))
        return height, width

    @property
    def nothing(self) -> bool:
        """Whether the window stays what it is."""
        return self.rate == (1, 1) and all(self.keep)


@dataclass
class Plan:
    """The rate of every value in the dilated network, and what that asks of every operation."""

    analysis: Analysis
    output_stride: int
    rates: dict[int, Pair] = field(default_factory=dict[int, Pair])
    changes: dict[int, Change] = field(default_factory=dict[int, Change])
    pads: dict[int, Pair] = field(default_factory=dict[int, Pair])
    problems: list[str] = field(default_factory=list[str])
    gates: list[str] = field(default_factory=list[str])
    thinned: dict[str, Pair] = field(default_factory=dict[str, Pair])
    heads: list[str] = field(default_factory=list[str])

    def __post_init__(self) -> None:
        graph = self.graph
        jumps: dict[int, Pair] = {}
        self._inexact: set[int] = set()
        for number, node in enumerate(graph.nodes):
            sources = [value for value in node.operands if value in self.rates or value in graph.inputs]
            if not sources:
                continue
            rate = _largest(self.rates.get(value, (1, 1)) for value in sources)
            jump = _largest(jumps.get(value, (1, 1)) for value in sources)
            window = window_of(graph, node)
            if window is not None and window.kind != "global pool" and len(window.kernel) == 2:
                rate, jump = self._window(number, node, window, rate, jump)
            elif gathered_dims(graph, node) is not None if node.args and isinstance(node.args[0], Ref) else False:
                rate, jump = (1, 1), (1, 1)
            else:
                self._other(number, node, rate)
            self.rates |= dict.fromkeys(node.outputs, rate)
            jumps |= dict.fromkeys(node.outputs, jump)
        self.reached = _largest(jumps.values()) if jumps else (1, 1)
        self._find_gates()

    @property
    def graph(self) -> Graph:
        """The network as it is."""
        return self.analysis.native

    def label(self, node: Node) -> str:
        """How to call an operation: by its module and, where that is no leaf, by what it is."""
        where = self.graph.where(node) or "forward"
        return where if self.owner(node) else f"{node.op} in {where}"

    def owner(self, node: Node) -> nn.Module | None:
        """The leaf module that ran an operation; None where it stands in the forward of one with children."""
        module = self.graph.calls[node.call].module if node.call >= 0 else None
        return None if module is None or any(module.children()) else module

    def _window(self, number: int, node: Node, window: Window, rate: Pair, jump: Pair) -> tuple[Pair, Pair]:
        if window.kind == "transposed conv":
            if rate != (1, 1):
                self.problems.append(f"{self.label(node)} is a transposed convolution on a dilated map")
            return rate, jump
        keep = tuple(j * s <= self.output_stride for j, s in zip(jump, window.stride, strict=True))
        change = Change(rate, (keep[0], keep[1]), window)
        self.changes[number] = change
        new_rate = tuple(r * s // t for r, s, t in zip(rate, window.stride, change.stride, strict=True))
        new_jump = tuple(j * t for j, t in zip(jump, change.stride, strict=True))
        return (new_rate[0], new_rate[1]), (new_jump[0], new_jump[1])

    def _other(self, number: int, node: Node, rate: Pair) -> None:
        if rate == (1, 1):
            return
        arguments = bind(node.func, node.args, node.kwargs)
        shape = self.graph.shapes[node.args[0].value] if isinstance(node.args[0], Ref) else ()
        if node.op == "constant_pad_nd":
            self.pads[number] = rate
        elif node.op.startswith(("reflection_pad", "replication_pad", "_pad_circular")):
            self.problems.append(f"{self.label(node)} pads by what stands at the border, which a denser map has not")
        elif node.op.startswith(("upsample", "_upsample", "grid_sampler", "pixel_", "im2col", "roll", "flip")):
            self.problems.append(f"{self.label(node)} moves or resizes a dilated map ({node.op})")
        elif node.op == "slice" and len(shape) == 4 and arguments["dim"] % 4 >= 2:
            start, end, step = arguments["start"] or 0, arguments["end"], arguments["step"]
            if start or step != 1 or (end is not None and end < shape[arguments["dim"]]):
                self.problems.append(f"{self.label(node)} cuts a dilated map (a slice in its forward)")

    def _find_gates(self) -> None:
        """Tell the gatherings whose result comes back to a dilated map from those that end in a classifier."""
        graph = self.graph
        found = {number for axis in self.analysis.axes for number, _, _ in self.analysis.gates(axis)}
        found |= {n for n, node in enumerate(graph.nodes) if (w := window_of(graph, node)) and w.kind == "global pool"}
        for number in sorted(found):
            node = graph.nodes[number]
            rate = _largest(self.rates.get(value, (1, 1)) for value in node.operands)
            if rate == (1, 1):
                continue
            name = self.label(node)
            reached = downstream(graph, [number])
            if all(self.rates.get(value, (1, 1)) == (1, 1) for value in reached):
                self.heads.append(name)
            elif isinstance(self.owner(node), nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d):
                self.thinned[name] = rate
                continue
            else:
                self.gates.append(name)
            self._inexact |= reached

    def check(self, exact: bool) -> None:
        """Refuse what cannot be done, all of it in one message."""
        if exact:
            self.problems += [f"{name} gathers the whole map, and would see a denser one" for name in self.gates]
        if self.problems:
            shown = list(dict.fromkeys(self.problems))
            more = f"; and {len(shown) - 5} more" if len(shown) > 5 else ""
            hint = "; exact=False leaves gates as they are" if self.gates and exact else ""
            raise ValueError(f"output_stride={self.output_stride} cannot be: {'; '.join(shown[:5])}{more}{hint}")
        whole = _largest(jump for jump in self._strides())
        if self.reached != (self.output_stride, self.output_stride):
            possible = sorted({max(jump) for jump in self._strides()})
            raise ValueError(
                f"output_stride must be one of {', '.join(map(str, possible))}, the strides that the network passes "
                f"on its way to {max(whole)}, got {self.output_stride}"
            )

    def _strides(self) -> Iterator[Pair]:
        for axes in [self.analysis.axes]:
            for node in self.graph.nodes:
                if window_of(self.graph, node) is None:
                    continue
                jumps = [self.analysis.field(axis, node.outputs[0])[0].jump for axis in axes]
                if all(jump is not None and jump == int(jump) for jump in jumps):
                    yield int(cast("float", jumps[0])), int(cast("float", jumps[1]))
        yield 1, 1

    def exact_outputs(self) -> dict[tuple[str, int], Pair]:
        """By name and count of the call: the rate of each module's output that must agree with the original's."""
        found: dict[tuple[str, int], Pair] = {}
        times: defaultdict[str, int] = defaultdict(int)
        for call in self.graph.calls:
            times[call.name] += 1
            if call.outputs and not set(call.outputs) & self._inexact:
                rate = self.rates.get(call.outputs[0], (1, 1))
                if rate != (1, 1):
                    found[call.name, times[call.name] - 1] = rate
        return found


def _largest(pairs: Iterable[Pair]) -> Pair:
    height = width = 1
    for pair in pairs:
        height, width = max(height, pair[0]), max(width, pair[1])
    return height, width
