"""The rules, one an operation: from the labels of the operands to the labels of the results."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any, Protocol

from torch import Tensor

from convblocks.introspect.aliasing import Ref
from convblocks.introspect.arrays import NOTHING, affordable
from convblocks.introspect.constants import known
from convblocks.introspect.graph import Graph, Node
from convblocks.introspect.labels import Concatenation, Flattened, Labels, least, union
from convblocks.introspect.sliding import all_read, gather, slide, window_taps
from convblocks.introspect.zeros import zeros

Result = Labels | None | Sequence[Labels | None]
Rule = Callable[["Call"], Result]
RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a function as the rule of the ATen operations `names` (their in-place forms are found by themselves)."""

    def register(function: Rule) -> Rule:
        for name in names:
            RULES[name] = function
        return function

    return register


class NoRule(Exception):
    """The rule cannot prove what this use of the operation does."""


class Policy(Protocol):
    """What to make of an operation that may gather a whole axis."""

    exact_borders: bool

    def crossed(self, call: Call, dim: int) -> None:
        """A window has slid along `dim`, over places that go row by row, from the end of one to the next."""
        ...

    def is_gate(self, call: Call, before: Labels, after: Labels) -> bool:
        """Whether what has been gathered is left out where it meets what has a position."""
        ...

    def gathered(self, call: Call, before: Labels, after: Labels, dims: Sequence[int]) -> Labels:
        """Labels after the dimensions `dims` have been gathered into one element."""
        ...

    def scanned(self, call: Call, before: Labels, after: Labels, dim: int) -> Labels:
        """Labels after every element has gathered those before it along `dim`."""
        ...


class Call:
    """One node as its rule sees it: arguments by name, labels and shapes of its tensors."""

    def __init__(self, graph: Graph, node: Node, number: int, labels: dict[int, Labels], policy: Policy) -> None:
        self.graph, self.node, self.number, self.policy = graph, node, number, policy
        self._labels = labels
        self._read: set[int] = set()

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments by name, defaults filled in."""
        return self.node.arguments

    def __getitem__(self, name: str) -> Any:
        return self.node.arguments[name]

    def get(self, name: str) -> Any:
        """The argument, None where the operation has none of that name."""
        return self.node.arguments.get(name)

    def of(self, ref: Any) -> Labels | None:
        """Labels of a tensor argument, with as many dimensions as the tensor."""
        if not isinstance(ref, Ref):
            return None
        self._read.add(ref.value)
        return self._labels.get(ref.value)

    def ignore(self, *refs: Any) -> None:
        """Say that the values of these arguments do not matter."""
        self._read.update(ref.value for ref in refs if isinstance(ref, Ref))

    def unread(self, operands: Iterable[int]) -> bool:
        """Whether one of `operands` has labels that the rule has not looked at: its answer may leave something out."""
        for value in operands:  # noqa: SIM110 - of every node: half the time
            if value in self._labels and value not in self._read:
                return True
        return False

    def shape_of(self, ref: Ref) -> tuple[int, ...]:
        """Shape of a tensor argument."""
        return self.graph.shapes[ref.value]

    @property
    def source(self) -> Ref:
        """The first tensor of the operation."""
        return self.node.args[0]

    @property
    def input(self) -> Labels | None:
        """Labels of the first tensor of the operation."""
        return self.of(self.source)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the first tensor of the operation."""
        return self.shape_of(self.source)

    @property
    def ndim(self) -> int:
        """Dimensions of the first tensor of the operation."""
        return len(self.shape)

    def out_shape(self, position: int = 0) -> tuple[int, ...]:
        """Shape of a result."""
        return self.graph.shapes[self.node.outputs[position]]

    def constant(self, ref: Ref) -> Tensor:
        """The elements of an operand that does not depend on the input."""
        value = known(self.graph, ref.value)
        if value is None:
            raise NoRule("indices of unknown value")
        return value

    def zeros(self, ref: Ref) -> Tensor | None:
        """Where an operand that does not depend on the input is zero for sure; None where it nowhere is."""
        return None if self.graph.depends[ref.value] else zeros(self.graph, ref.value)

    def reduce(self, labels: Labels, dims: Sequence[int], *, beside: bool = False) -> Labels:
        """Gather the dimensions `dims` of a tensor; they stay, with length 1.

        `beside` says that the result meets the labels again, so that a gate has only to be known as one.
        """
        dims = [dim % labels.ndim for dim in dims]
        if isinstance(labels, Concatenation) and labels.dim not in dims:
            return labels.per_part(lambda part: self.reduce(part, dims, beside=beside))
        if any(labels.length(dim) == 0 for dim in dims):
            # A sum over nothing; other dimensions may be empty still.
            lengths = [1 if dim in dims else n for dim, n in enumerate(labels.lengths)]
            return labels.map(lambda data: data.new_full((data.shape[0], *lengths), NOTHING))
        varying = [dim for dim in dims if labels.length(dim) > 1]
        if not varying:
            return labels
        after = least(labels, varying)
        if beside and self.policy.is_gate(self, labels, after):
            return after.as_pooled()
        return self.policy.gathered(self, labels, after, varying)

    def mix(self, labels: Labels, dims: Sequence[int]) -> Labels:
        """Every element keeps its own labels and takes those of its whole row along `dims`: a softmax, a norm."""
        if isinstance(labels, Concatenation) and labels.dim not in dims:
            return labels.per_part(lambda part: self.mix(part, dims))
        return union((labels, self.reduce(labels, dims, beside=True)), labels.ndim) or labels

    def scan(self, labels: Labels, dim: int, *, backwards: bool = False) -> Labels:
        """Every element takes the labels of those before it along `dim`, or of those after it: a running sum."""
        if labels.length(dim) == 1:
            return labels
        if isinstance(labels, Concatenation) and labels.dim != dim:
            return labels.per_part(lambda part: self.scan(part, dim, backwards=backwards))

        def running(data: Tensor, axis: int) -> Tensor:
            return data.flip(axis).cummin(axis).values.flip(axis) if backwards else data.cummin(axis).values

        return self.policy.scanned(self, labels, labels.along(dim, running), dim)

    def slide(
        self, labels: Labels, dim: int, length: int, out: int, kernel: int, stride: int, padding: int, dilation: int
    ) -> Labels:
        """Slide the window of a convolution or a pooling along dimension `dim` of true length `length`."""
        if kernel == stride == 1 and not padding and out == length:
            return labels
        shape = out, kernel, stride, padding, dilation
        if isinstance(labels, Concatenation) and labels.dim != dim:
            return labels.per_part(lambda part: self.slide(part, dim, length, *shape))
        if labels.length(dim) == 1:
            # What is the same everywhere stays so.
            alike = all_read(length, *shape)
            return labels if alike else self.window(labels, dim, length, window_taps(length, *shape))
        self.cross(labels, dim)
        after = labels.along(dim, lambda data, axis: slide(data, axis - 1, *shape))
        return after if out > 1 else self.policy.gathered(self, labels, after, [dim])

    def window(self, labels: Labels, dim: int, length: int, taps: Tensor) -> Labels:
        """Slide a window, given by its table of taps, along dimension `dim` of true length `length`."""
        if isinstance(labels, Concatenation) and labels.dim != dim:
            return labels.per_part(lambda part: self.window(part, dim, length, taps))
        if labels.length(dim) == 1:
            if length == 1 or not self.leaves_gaps(taps, length):
                return (
                    labels
                    if length > 1 or not bool((taps >= length).all(1).any())
                    else self._gather(labels, dim, length, taps)
                )
            affordable([length if d == dim else n for d, n in enumerate(labels.lengths)])
            labels = labels.along(
                dim, lambda data, axis: data.expand([length if d == axis else -1 for d in range(data.ndim)])
            )
        return self._gather(labels, dim, length, taps)

    def cross(self, labels: Labels, dim: int) -> None:
        """Say that what is done along a dimension goes by the length of rows, if it is one of flattened places."""
        if isinstance(labels, Flattened) and len(labels.groups[dim]) > 1:
            self.policy.crossed(self, dim)

    def _gather(self, labels: Labels, dim: int, length: int, taps: Tensor) -> Labels:
        if taps.shape[1] > 1:
            self.cross(labels, dim)
        after = labels.along(dim, lambda data, axis: gather(data, axis - 1, taps))
        if taps.shape[0] > 1:
            return after
        return self.policy.gathered(self, labels, after, [dim])

    def leaves_gaps(self, taps: Tensor, length: int) -> bool:
        """Whether some window reads padding alone, so that labels that did not vary along the dimension now do.

        At the border that matters for border units alone; a gap between others (a transposed convolution) matters
        anywhere.
        """
        anywhere, between = _gaps(taps, length)
        return anywhere if self.policy.exact_borders else between


@lru_cache(maxsize=1024)
def _gaps(taps: Tensor, length: int) -> tuple[bool, bool]:
    """Whether some window reads padding alone, and whether one does so between others that do not.

    Tables of taps are kept and found again by their identity, as tensors are.
    """
    empty = (taps >= length).all(1)
    filled = (~empty).nonzero().flatten()
    between = len(filled) > 0 and bool(empty[int(filled[0]) : int(filled[-1])].any())
    return bool(empty.any()), between


def spread(values: Any, count: int) -> list[Any]:
    """`[2]` stands for `[2, 2]` in the arguments of poolings."""
    listed: list[Any] = [*values] if isinstance(values, (list, tuple)) else [values]
    return listed * count if len(listed) == 1 else listed
