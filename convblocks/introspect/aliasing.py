"""Which tensors share memory, so that a write into a view is seen through every other view.

A root stands for one piece of memory; an alias for a tensor object that shows all or a part of it through a chain of
view operations. Each write raises the root's version; an alias read at an older version replays its chain on the
root's new value.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Ref:
    """A tensor among the arguments of an operation: the number of a value of the graph."""

    value: int


@cache
def ref(value: int) -> Ref:
    """The one `Ref` of a number: to compare the arguments of two traces is to compare whether they are the same."""
    return Ref(value)


class Step(NamedTuple):
    """One view operation of a chain; the tensor it views is its first argument."""

    func: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    shapes: tuple[tuple[int, ...], ...]
    output: int

    def at(self, output: int) -> Step:
        """The same step, for another of its outputs."""
        return Step(self.func, self.args, self.kwargs, self.shapes, output)


@dataclass(slots=True, eq=False)
class Root:
    """One piece of memory: the value it holds, and whether the data is gone to the meta device."""

    value: int
    version: int = 0
    meta: bool = False


@dataclass(slots=True, eq=False)
class Alias:
    """A tensor object: the memory behind it and the way it looks at it."""

    root: Root
    chain: tuple[Step, ...]
    version: int
    value: int

    @classmethod
    def fresh(cls, value: int, meta: bool) -> Alias:
        """A tensor with memory of its own."""
        return cls(Root(value, 0, meta), (), 0, value)

    def view(self, step: Step, value: int) -> Alias:
        """A tensor that shows a part of this one."""
        return Alias(self.root, (*self.chain, step), self.root.version, value)


class Scatter:
    """Stands where an operator stands in a node: the base with one view of it overwritten."""

    def __init__(self, step: Step) -> None:
        self.step = step

    def __eq__(self, other: object) -> bool:
        # What a cache keeps of an operator is the same for all of these, and it keeps one.
        return isinstance(other, Scatter)

    def __hash__(self) -> int:
        return hash(Scatter)

    class _Schema:
        name = "aten::scatter_into_view"
        arguments = ()

    _schema = _Schema()
    tags: tuple[Any, ...] = ()


Emit = Callable[[Any, tuple[Any, ...], dict[str, Any], Sequence[tuple[int, ...]]], list[int]]


class AliasTable:
    """The aliases of the tensor objects of one trace; `shapes` are the shapes of the values, by number.

    `emit` records an operation and numbers its results. It is not kept: it belongs to the trace, which would hold
    itself, and all its tensors until a search for garbage.
    """

    def __init__(self, shapes: list[tuple[int, ...]]) -> None:
        self._shapes = shapes
        self._table: dict[int, Alias] = {}

    def get(self, tensor: Tensor) -> Alias | None:
        """The alias of a tensor object, None for one not seen."""
        return self._table.get(id(tensor))

    def set(self, tensor: Tensor, alias: Alias) -> None:
        """Note what a tensor object shows."""
        self._table[id(tensor)] = alias

    def value(self, alias: Alias, emit: Emit) -> int:
        """What the tensor holds now."""
        if alias.version != alias.root.version:
            value = alias.root.value
            for step in alias.chain:
                value = self._replay(step, value, emit)
            alias.value, alias.version = value, alias.root.version
        return alias.value

    def write(self, alias: Alias, value: int, emit: Emit) -> None:
        """The tensor holds `value` from now on, and so does what it shows of its memory."""
        root = alias.root
        bases = [root.value]
        for step in alias.chain[:-1]:
            bases.append(self._replay(step, bases[-1], emit))
        written = value
        for step, base in zip(reversed(alias.chain), reversed(bases), strict=False):
            written = self._scatter(step, base, written, emit)
        root.value = written
        root.version += 1
        alias.value, alias.version = value, root.version

    def _replay(self, step: Step, value: int, emit: Emit) -> int:
        return emit(step.func, (ref(value), *step.args[1:]), step.kwargs, step.shapes)[step.output]

    def _scatter(self, step: Step, base: int, piece: int, emit: Emit) -> int:
        return emit(Scatter(step), (ref(base), ref(piece)), {}, [self._shapes[base]])[0]
