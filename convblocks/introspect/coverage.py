"""Which pixels inside the field of a unit do reach it.

The graph is walked backward from one unit with a mask of what the unit depends on. No rule is written twice: a rule
takes the minimum of labels, so with labels that are all zero the gradient of its result is positive exactly at what the
result depends on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

import torch
from torch import Tensor

from convblocks.introspect.analysis import Analysis
from convblocks.introspect.arrays import TooLarge
from convblocks.introspect.defaults import on_cpu
from convblocks.introspect.graph import Node
from convblocks.introspect.growth import grown_length
from convblocks.introspect.labels import Concatenation, Labels
from convblocks.introspect.propagation import Axis, find_rule
from convblocks.introspect.registry import Call, NoRule
from convblocks.introspect.runs import Grown
from convblocks.introspect.units import units_of


class _Replay:
    """Gates as the interval pass has found them."""

    exact_borders = False

    def __init__(self, run: Grown) -> None:
        self.run = run

    def crossed(self, call: Call, dim: int) -> None:
        """Known already."""

    def is_gate(self, call: Call, before: Labels, after: Labels) -> bool:
        return call.number in self.run.policy.gates

    def gathered(self, call: Call, before: Labels, after: Labels, dims: Sequence[int]) -> Labels:
        if not self.is_gate(call, before, after):
            return Labels(after.data, before.pooled)
        return self.run.policy.middle(call, before, dims)

    def scanned(self, call: Call, before: Labels, after: Labels, dim: int) -> Labels:
        return self.gathered(call, before, after, [dim])


def coverage(analysis: Analysis, value: int, input_index: int) -> float | None:
    """Share of the field of a unit in the middle that reaches it; None where it is unknown or too large to walk."""
    mask = reached_pixels(analysis, value, input_index)
    return None if mask is None else float(mask.float().mean())


@on_cpu
def reached_pixels(analysis: Analysis, value: int, input_index: int) -> Tensor | None:
    """The field of a unit in the middle as a mask, True where the pixel reaches the unit."""
    axes = [axis for axis in analysis.axes if axis.input == input_index]
    sizes = [analysis.field(axis, value)[0].size for axis in axes]
    if any(not size for size in sizes):
        return None
    factor = 1.0
    for _ in range(4):
        lengths: dict[Axis, int] = {}
        for axis in analysis.axes:
            reach = analysis.reach(axis)
            size = analysis.field(axis, value)[0].size or 1
            needed = min(
                analysis.length(axis) + reach.total,
                int(factor * (size + analysis.length(axis) // 2 + 4 * reach.multiple)),
            )
            lengths[axis] = grown_length(analysis.length(axis), needed, reach.multiple)
        run = analysis.run(lengths)
        found = _walk(run, axes, value, [size or 1 for size in sizes])
        if found is not None:
            return found if bool(found.any()) else None
        factor *= 1.5
    # A network that refuses every other size can be walked at its own.
    found = _walk({axis: analysis.local(axis) for axis in analysis.axes}, axes, value, [size or 1 for size in sizes])
    return found if found is not None and bool(found.any()) else None


def _walk(runs: dict[Axis, Grown], axes: Sequence[Axis], value: int, sizes: Sequence[int]) -> Tensor | None:
    run = runs[axes[0]]
    graph = run.graph
    if not all(runs[axis].has(value) for axis in axes):
        return None
    place: dict[int, int] = {}
    spans: list[tuple[int, int]] = []
    for axis, size in zip(axes, sizes, strict=True):
        prefer = axis.dim if len(graph.shapes[value]) == len(graph.shapes[graph.inputs[axis.input]]) else None
        units = units_of(runs[axis].labels(value), prefer)
        lo, hi, dim = units.lo, units.hi, units.dim
        if dim is None and not units.single:
            return None
        fits = ((hi - lo + 1 == size) & (lo > 0) & (hi < runs[axis].length - 1)).nonzero().flatten()
        if len(fits) == 0:
            return None
        unit = int(fits[len(fits) // 2])
        spans.append((int(lo[unit]), int(hi[unit])))
        if dim is not None:
            # Rows and columns of a flattened map are found one by one.
            place[dim] = place.get(dim, units.first) + unit * units.step
    mask = torch.zeros([graph.shapes[value][dim] if dim in place else 1 for dim in range(len(graph.shapes[value]))])
    mask[tuple(place.get(dim, 0) for dim in range(mask.ndim))] = 1
    try:
        reached = _backward(runs, axes, value, mask > 0)
    except (NoRule, TooLarge):
        return None
    source = graph.inputs[axes[0].input]
    if source not in reached:
        return None
    pixels = reached[source].expand(graph.shapes[source])
    other = [dim for dim in range(pixels.ndim) if dim not in {axis.dim for axis in axes}]
    flat = pixels.amax(other)
    for i, (first, last) in enumerate(spans):
        flat = flat.narrow(i, first, last - first + 1)
    return flat


def _backward(runs: dict[Axis, Grown], axes: Sequence[Axis], value: int, mask: Tensor) -> dict[int, Tensor]:
    run = runs[axes[0]]
    masks = {value: mask}
    for number in range(len(run.graph.nodes) - 1, -1, -1):
        node = run.graph.nodes[number]
        wanted = [masks.get(output) for output in node.outputs]
        if any(item is not None for item in wanted):
            for operand, found in _through(runs, axes, node, number, wanted).items():
                masks[operand] = found if operand not in masks else masks[operand] | found
    return masks


def _through(
    runs: dict[Axis, Grown], axes: Sequence[Axis], node: Node, number: int, wanted: Sequence[Tensor | None]
) -> dict[int, Tensor]:
    """Masks of the operands of one node from the masks of its results."""
    graph = runs[axes[0]].graph
    operands = [value for value in dict.fromkeys(node.operands) if any(runs[axis].has(value) for axis in axes)]
    narrow = {value: _lengths(runs, axes, value) for value in operands}
    for lengths in (narrow, {value: list(graph.shapes[value]) for value in operands}):
        dummies = {value: torch.zeros([1, *lengths[value]], requires_grad=True) for value in operands}
        labels = {value: Labels(dummies[value], _pooled(runs, axes, value)) for value in operands}
        total = _selected(runs, axes, node, number, labels, wanted)
        if total is not None:
            break
    else:
        raise NoRule("a mask of another shape")
    live = [value for value in operands if total.requires_grad]
    found = torch.autograd.grad(total, [dummies[value] for value in live], allow_unused=True) if live else ()
    # torch declares tensors only; what is unused comes as None.
    gradients = cast("Sequence[Tensor | None]", found)
    return {
        value: gradient[0] > 0
        for value, gradient in zip(live, gradients, strict=True)
        if gradient is not None and bool((gradient > 0).any())
    }


def _selected(
    runs: dict[Axis, Grown],
    axes: Sequence[Axis],
    node: Node,
    number: int,
    labels: dict[int, Labels],
    wanted: Sequence[Tensor | None],
) -> Tensor | None:
    """Sum of the results' labels under their masks; None where they are too short to tell the masks apart."""
    run = runs[axes[0]]
    rule = find_rule(node.func, node.op)
    if rule is None or node.op.startswith(("cum", "logcum")):
        raise NoRule(f"aten.{node.op}")
    result = rule(Call(run.graph, node, number, labels, _Replay(run)))
    results = list(result) if isinstance(result, Sequence) else [result] * len(node.outputs)
    total = torch.zeros(())
    for mask, item in zip(wanted, results, strict=True):
        if mask is None or item is None:
            continue
        for data in _arrays(item, mask):
            if any(m > 1 and n == 1 for m, n in zip(mask.shape, data.shape, strict=True)):
                return None
            total = total + data[mask.expand(data.shape)].sum()
    return total


def _arrays(labels: Labels, mask: Tensor) -> Iterator[Tensor]:
    """The arrays that a mask selects from: the parts of a concatenation where it takes all of them alike."""
    if isinstance(labels, Concatenation) and mask.shape[labels.dim] == 1:
        for part in labels.different:
            yield from _arrays(part, mask)
    else:
        yield labels.data[0]


def _lengths(runs: dict[Axis, Grown], axes: Sequence[Axis], value: int) -> list[int]:
    """1 along the dimensions of a value where its labels do not vary with the place."""
    shape = runs[axes[0]].graph.shapes[value]
    lengths = [1] * len(shape)
    for axis in axes:
        if runs[axis].has(value):
            labels = runs[axis].labels(value)
            for dim, length in enumerate(labels.lengths):
                if length > 1 and not (isinstance(labels, Concatenation) and labels.dim == dim):
                    lengths[dim] = shape[dim]
    return lengths


def _pooled(runs: dict[Axis, Grown], axes: Sequence[Axis], value: int) -> bool:
    found = [runs[axis].labels(value) for axis in axes if runs[axis].has(value)]
    return all(labels.pooled for labels in found)
