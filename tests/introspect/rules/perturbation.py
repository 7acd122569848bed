"""What one operation depends on, by trying: knows no rule of `convblocks.introspect`.

One row of the input at a time is drawn anew, along every dimension; an element of the result depends on the rows that
change it. That also tells of integers, of booleans and of what has no gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from convblocks.introspect.graph import Graph, leaves
from convblocks.introspect.propagation import Axis, Whole, propagate
from convblocks.introspect.tracing import trace

NEW = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 15)
"""Older versions do not run every operation on meta tensors."""


@dataclass(frozen=True)
class Case:
    """A use of an operation on a tensor of a given shape.

    `twin` is a function with the same result that runs with values, where `function` runs on meta tensors alone.
    """

    text: str
    function: Callable[[Tensor], Any]
    shape: tuple[int, ...]
    draws: int = 8
    twin: Callable[[Tensor], Any] | None = None

    def graph(self) -> Graph:
        graph = trace(self.function, [self.shape], [torch.float64])
        assert graph.error is None, graph.error
        return graph


def cases(*rows: Any) -> Any:
    """Parametrise a test by the cases, each under its text."""
    return pytest.mark.parametrize("case", rows, ids=lambda case: case.text)


def weight(*shape: int) -> Tensor:
    """A constant without a zero in it."""
    count = int(torch.Size(shape).numel())
    return torch.linspace(0.5, 1.5, count, dtype=torch.float64).reshape(shape)


def _differ(before: Tensor, after: Tensor) -> Tensor:
    if not before.is_floating_point():
        return before != after
    # What interpolation weighs by 1e-17 has no weight.
    return ~torch.isclose(before, after, rtol=1e-12, atol=1e-12, equal_nan=True)


def by_perturbation(case: Case, dim: int) -> list[Tensor]:
    """For every result a tensor of the shape (rows of the input along `dim`, *result): whether the row is read."""
    function = case.twin or case.function
    generator = torch.Generator().manual_seed(0)
    reads: list[Tensor] = []
    with torch.no_grad():
        for _ in range(case.draws):
            x = 2 * torch.randn(case.shape, generator=generator, dtype=torch.float64)
            plain = list(leaves(function(x.clone())))
            reads = reads or [torch.zeros(case.shape[dim], *out.shape, dtype=torch.bool) for out in plain]
            for row in range(case.shape[dim]):
                other = x.clone()
                place = other.select(dim, row)
                place.copy_(2 * torch.randn(place.shape, generator=generator, dtype=torch.float64))
                for read, before, after in zip(reads, plain, leaves(function(other)), strict=True):
                    read[row] |= _differ(before, after)
    return reads


def _span(read: Tensor) -> tuple[Tensor, Tensor]:
    """First and last row read by every element; (1, 0) where there is none."""
    if read.shape[0] == 0:
        return torch.ones(read.shape[1:]), torch.zeros(read.shape[1:])
    rows = torch.arange(read.shape[0]).reshape(-1, *[1] * (read.ndim - 1))
    low = torch.where(read, rows, read.shape[0]).amin(0)
    high = torch.where(read, rows, -1).amax(0)
    empty = ~read.any(0)
    return low.masked_fill(empty, 1), high.masked_fill(empty, 0)


def check(case: Case, dims: Sequence[int] | None = None) -> None:
    """The labels of every element of every result, along every dimension of the input, are what perturbation gives."""
    graph = case.graph()
    for dim in range(len(case.shape)) if dims is None else dims:
        found = propagate(graph, Axis(0, dim), Whole())
        for position, (value, read) in enumerate(zip(graph.outputs, by_perturbation(case, dim), strict=True)):
            assert value not in found.unknown, f"dimension {dim}, result {position}: {found.unknown[value]}"
            assert graph.shapes[value] == tuple(read.shape[1:])
            labels = found.labels.get(value)
            low, high = torch.ones(read.shape[1:]).long(), torch.zeros(read.shape[1:]).long()
            if labels is not None:
                data = labels.data.expand(2, *read.shape[1:])
                filled = data[0] <= -data[1]
                low, high = torch.where(filled, data[0], 1), torch.where(filled, -data[1], 0)
            expected = _span(read)
            message = f"dimension {dim}, result {position}: {low}..{high}, by perturbation {expected}"
            assert torch.equal(low, expected[0]), message
            assert torch.equal(high, expected[1]), message


def refused(function: Callable[[Tensor], Any], shape: tuple[int, ...], dim: int = 2) -> str:
    """The reason why a use of an operation is unknown."""
    graph = trace(function, [shape], [torch.float64])
    assert graph.error is None, graph.error
    found = propagate(graph, Axis(0, dim), Whole())
    assert graph.outputs[0] in found.unknown
    return ", ".join(sorted(found.unknown[graph.outputs[0]]))
