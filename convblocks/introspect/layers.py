"""One record for every layer of a recorded network: modules, and operations that no module of their own stands for."""

# What torch leaves without types.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import cast

from torch import Tensor, nn

from convblocks.geometry import effective_kernel_size
from convblocks.introspect.aliasing import Ref
from convblocks.introspect.analysis import Analysis
from convblocks.introspect.answers import ReceptiveField
from convblocks.introspect.cost import VIEWS, activation_bytes, macs, reads_parameters
from convblocks.introspect.graph import Graph, ModuleCall, Node
from convblocks.introspect.registry import spread
from convblocks.introspect.tracing import parameters_of

Sizes = tuple[int, ...]
GATHERS = frozenset({"mean", "amax", "sum"})
"""Operations that are a global pooling where they gather all places of a map."""


@dataclass(frozen=True, slots=True)
class Window:
    """Geometry of a window; `kind` is "conv", "transposed conv", "max pool", "avg pool" or "global pool"."""

    kind: str
    kernel: Sizes
    stride: Sizes
    padding: Sizes
    dilation: Sizes
    groups: int
    in_channels: int
    out_channels: int

    @property
    def effective_kernel(self) -> Sizes:
        """Input elements from the first tap to the last, d (k - 1) + 1."""
        return tuple(effective_kernel_size(k, d) for k, d in zip(self.kernel, self.dilation, strict=True))

    @property
    def depthwise(self) -> bool:
        """Whether every channel is convolved by itself."""
        return self.kind == "conv" and self.groups == self.in_channels > 1

    @property
    def pointwise(self) -> bool:
        """Whether it mixes channels at one place."""
        return self.kind == "conv" and set(self.kernel) <= {1} and self.groups == 1


@dataclass(frozen=True, slots=True)
class Layer:
    """One row of a summary: a call of a module, an operation outside any leaf, or a module never called.

    `parameters` and `macs` of a module include those of its children; a second call, and a parameter that an earlier
    row has counted, add none.
    """

    name: str
    type: str
    depth: int
    window: Window | None
    input_shape: Sizes
    output_shape: Sizes
    field: ReceptiveField | None
    before: ReceptiveField | None
    parameters: int
    trainable: int
    macs: int
    activation_bytes: int
    leaf: bool
    functional: bool = False
    reused: bool = False
    unused: bool = False


def _type_of(module: nn.Module) -> str:
    """The name that a module prints itself by."""
    return module._get_name()  # pyright: ignore[reportPrivateUsage] - no public name, and classes override it


def window_of(graph: Graph, node: Node) -> Window | None:
    """The window that an operation slides; None for any other operation."""
    op = node.op
    if not ("conv" in op or "pool" in op or op in GATHERS):
        # Most operations are ruled out by their names.
        return None
    if not node.args or not isinstance(node.args[0], Ref) or not graph.depends[node.outputs[0]]:
        return None
    arguments = node.arguments
    shape, out = graph.shapes[node.args[0].value], graph.shapes[node.outputs[0]]
    if op in ("convolution", "_convolution"):
        weight: Ref = arguments["weight"]
        kernel = graph.shapes[weight.value][2:]
        n = len(kernel)
        stride, padding, dilation = (tuple(spread(arguments[k], n)) for k in ("stride", "padding", "dilation"))
        kind = "transposed conv" if arguments["transposed"] else "conv"
        return Window(kind, kernel, stride, padding, dilation, arguments["groups"], shape[-n - 1], out[-n - 1])
    if "pool" in op and "kernel_size" in arguments:
        n = int(op.removesuffix("_with_indices")[-2])
        kernel = tuple(spread(arguments["kernel_size"], n))
        stride = tuple(spread(arguments["stride"], n)) if arguments["stride"] else kernel
        kind = "max pool" if op.startswith("max") else "avg pool"
        dilation = tuple(spread(arguments.get("dilation", 1), n))
        return Window(
            kind, kernel, stride, tuple(spread(arguments["padding"], n)), dilation, 1, shape[-n - 1], out[-n - 1]
        )
    dims = gathered_dims(graph, node)
    if dims is not None:
        kernel = tuple(shape[dim] for dim in dims)
        ones, channels = (1,) * len(kernel), shape[1] if len(shape) > 1 else 1
        return Window("global pool", kernel, ones, (0,) * len(kernel), ones, 1, channels, channels)
    return None


def gathered_dims(graph: Graph, node: Node) -> list[int] | None:
    """The spatial dimensions that a global pooling gathers: adaptive to 1, or a mean or maximum over them."""
    source: Ref = node.args[0]
    shape = graph.shapes[source.value]
    out, arguments = graph.shapes[node.outputs[0]], node.arguments
    if "adaptive" in node.op and "pool" in node.op:
        n = len(arguments["output_size"])
        return list(range(len(shape) - n, len(shape))) if set(out[-n:]) == {1} else None
    if node.op in GATHERS and arguments.get("dim") and len(shape) >= 3:
        dims = arguments["dim"]
        listed = cast("Sequence[int]", dims) if isinstance(dims, (list, tuple)) else [cast("int", dims)]
        chosen = sorted(dim % len(shape) for dim in listed)
        if chosen in (list(range(2, len(shape))), list(range(1, len(shape) - 1))):
            return chosen
    return None


class LayerList:
    """The layers of an analysed network in the order of their calls, containers before what they hold."""

    def __init__(self, analysis: Analysis) -> None:
        self.analysis, self.graph = analysis, analysis.native
        self._rows: list[Layer] = []
        self._counted: set[int] = set()
        self._called: set[int] = set()
        self._parameters: dict[int, dict[int, Tensor]] = {}

    def build(self) -> list[Layer]:
        """All rows."""
        graph = self.graph
        children: dict[int, list[int]] = {}
        for index, call in enumerate(graph.calls):
            children.setdefault(call.parent, []).append(index)
        own: dict[int, list[int]] = {}
        for number, node in enumerate(graph.nodes):
            own.setdefault(node.call, []).append(number)
        self._children, self._own = children, own
        self._macs = [0, *accumulate(macs(graph, node) for node in graph.nodes)]
        self._bytes = [0, *accumulate(activation_bytes(graph, [node]) for node in graph.nodes)]
        self._copies: dict[int, int] = {}
        for inside, size in graph.copies.items():
            while inside >= 0:
                self._copies[inside] = self._copies.get(inside, 0) + size
                inside = graph.calls[inside].parent
        for index in children.get(-1, []):
            self._call(index)
        for number in own.get(-1, []):
            self._rows += self._functional(number, "", 0)
        return [*self._rows, *self._unused()]

    def _call(self, index: int) -> None:
        """The rows of a call and of all within it."""
        graph, call = self.graph, self.graph.calls[index]
        first, last = call.nodes
        reused = id(call.module) in self._called
        self._called.add(id(call.module))
        kids = self._children.get(index, [])
        own = self._own.get(index, [])
        windows = [window for number in own if (window := window_of(graph, graph.nodes[number])) is not None]
        leaf = not kids
        parameters, trainable = self._new_parameters(call.module, count=leaf)
        row = Layer(
            name=call.name,
            type=_type_of(call.module),
            depth=call.depth,
            window=windows[0] if leaf and len(windows) == 1 else None,
            input_shape=graph.shapes[call.inputs[0]] if call.inputs else (),
            output_shape=graph.shapes[call.outputs[0]] if call.outputs else (),
            field=self._field(call.outputs),
            before=self._field(call.inputs),
            parameters=0 if reused else parameters,
            trainable=0 if reused else trainable,
            macs=self._macs[last] - self._macs[first],
            activation_bytes=self._bytes[last] - self._bytes[first] + self._copies.get(index, 0),
            leaf=leaf and len(windows) < 2,
            reused=reused,
        )
        self._rows.append(row)
        self._inside(call, kids, own, show=not leaf or len(windows) > 1)

    def _inside(self, call: ModuleCall, kids: Sequence[int], own: Sequence[int], show: bool) -> None:
        """Children and operations of a call in the order in which they ran."""
        starts = [(self.graph.calls[kid].nodes[0], 0, kid) for kid in kids]
        starts += [(number, 1, number) for number in own] if show else []
        for _, kind, item in sorted(starts):
            if kind == 0:
                self._call(item)
            else:
                self._rows += self._functional(item, call.name, call.depth + 1)

    def _functional(self, number: int, where: str, depth: int) -> list[Layer]:
        """The row of an operation that no module stands for; none of views and copies."""
        graph, node = self.graph, self.graph.nodes[number]
        cost = macs(graph, node)
        if not cost and (node.op in VIEWS or not node.outputs or not graph.depends[node.outputs[0]]):
            return []
        if node.op in ("copy_", "_to_copy"):
            return []
        read = [p for p in reads_parameters(node, graph.parameters) if id(p) not in self._counted]
        self._counted.update(id(p) for p in read)
        source = node.args[0] if node.args and isinstance(node.args[0], Ref) else None
        row = Layer(
            name=where,
            type=node.op.strip("_"),
            depth=depth,
            window=window_of(graph, node),
            input_shape=graph.shapes[source.value] if source else (),
            output_shape=graph.shapes[node.outputs[0]],
            field=self._field(node.outputs),
            before=self._field((source.value,)) if source else None,
            parameters=sum(p.numel() for p in read),
            trainable=sum(p.numel() for p in read if p.requires_grad),
            macs=cost,
            activation_bytes=activation_bytes(graph, [node]),
            leaf=True,
            functional=True,
        )
        return [row]

    def _unused(self) -> Iterator[Layer]:
        """Modules with parameters that the forward pass never called nor read."""
        known = self._counted | {id(p) for p in self.graph.parameters.values()}
        for name, module in self.analysis.modules.items():
            if id(module) in self._called:
                continue
            left = [p for p in parameters_of([module]).values() if id(p) not in known]
            if left:
                count = sum(p.numel() for p in left)
                trainable = sum(p.numel() for p in left if p.requires_grad)
                depth = name.count(".") + 1 if name else 0
                kind = _type_of(module)
                yield Layer(name, kind, depth, None, (), (), None, None, count, trainable, 0, 0, leaf=True, unused=True)

    def _new_parameters(self, module: nn.Module, count: bool) -> tuple[int, int]:
        fresh = [p for number, p in self._parameters_of(module).items() if number not in self._counted]
        if count:
            self._counted.update(id(p) for p in fresh)
        return sum(p.numel() for p in fresh), sum(p.numel() for p in fresh if p.requires_grad)

    def _parameters_of(self, module: nn.Module) -> dict[int, Tensor]:
        """The parameters of a module and of those within it; of these, asked at every level, each is asked once."""
        found = self._parameters.get(id(module))
        if found is None:
            found = self._parameters[id(module)] = parameters_of([module])
            for child in module.children():
                found.update(self._parameters_of(child))
        return found

    def _field(self, values: Sequence[int]) -> ReceptiveField | None:
        if not values or not self.graph.depends[values[0]]:
            return None
        return ReceptiveField(self.analysis, values[0])


def geometry_rows(analysis: Analysis, *, merged: bool = True) -> list[Layer]:
    """Convolutions and poolings in order; `merged`: a depthwise one and the pointwise one after it are one row."""
    rows: list[Layer] = []
    listing = LayerList(analysis)
    for number, node in enumerate(analysis.native.nodes):
        window = window_of(analysis.native, node)
        if window is None:
            continue
        # The same file's.
        [row] = listing._functional(number, analysis.native.where(node), 0)  # pyright: ignore[reportPrivateUsage] - of this file
        previous = rows[-1].window if rows else None
        if (
            merged
            and previous is not None
            and previous.depthwise
            and window.pointwise
            and window.in_channels == previous.out_channels
            and set(window.padding) == {0}
        ):
            rows[-1] = replace(
                rows[-1],
                type="separable",
                output_shape=row.output_shape,
                macs=rows[-1].macs + row.macs,
                parameters=rows[-1].parameters + row.parameters,
            )
            continue
        rows.append(replace(row, type=window.kind))
    return rows
