"""A forward pass as data: values, the operations that made them, and the modules that these ran in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from convblocks.introspect.aliasing import Ref
from convblocks.introspect.operations import ATTENTION, bind


@dataclass(slots=True)
class Node:
    """One recorded operation; tensors among its arguments are `Ref`, its outputs are value numbers."""

    op: str
    func: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: tuple[int, ...]
    call: int
    hides: bool = False
    """A mask hides a part of what it depends on."""
    _arguments: dict[str, Any] | None = None
    _operands: tuple[int, ...] | None = None

    @property
    def operands(self) -> tuple[int, ...]:
        """The values among the arguments; asked for again and again, by every axis."""
        if self._operands is None:
            found: list[int] = []
            for item in (*self.args, *self.kwargs.values()):
                if isinstance(item, Ref):
                    found.append(item.value)
                elif isinstance(item, (list, tuple)):
                    found += [ref.value for ref in cast("Sequence[Any]", item) if isinstance(ref, Ref)]
            self._operands = tuple(found)
        return self._operands

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments by name, defaults filled in."""
        if self._arguments is None:
            self._arguments = bind(self.func, self.args, self.kwargs)
        return self._arguments


@dataclass(slots=True)
class ModuleCall:
    """One call of one module; `nodes` is the half-open range of the operations recorded inside it."""

    name: str
    module: nn.Module
    parent: int
    depth: int
    nodes: tuple[int, int]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...] = ()


@dataclass(slots=True)
class Graph:
    """What one forward pass did. A value is a tensor at one moment: an in-place write makes a new value."""

    nodes: list[Node] = field(default_factory=list[Node])
    shapes: list[tuple[int, ...]] = field(default_factory=list[tuple[int, ...]])
    dtypes: list[torch.dtype] = field(default_factory=list[torch.dtype])
    depends: list[bool] = field(default_factory=list[bool])
    made: dict[int, Node] = field(default_factory=dict[int, Node])
    """How the values that do not depend on the input were made; `constants.known` makes them again."""
    constants: dict[int, Tensor | None] = field(default_factory=dict[int, "Tensor | None"])
    patterns: dict[int, Tensor | None] = field(default_factory=dict[int, "Tensor | None"])
    masks: set[int] = field(default_factory=set[int])
    parameters: dict[int, Tensor] = field(default_factory=dict[int, Tensor])
    buffers: dict[int, Tensor] = field(default_factory=dict[int, Tensor])
    calls: list[ModuleCall] = field(default_factory=list[ModuleCall])
    inputs: tuple[int, ...] = ()
    outputs: tuple[int, ...] = ()
    held: tuple[int, ...] = ()
    """Values that a caller can read: the outputs, what else a returned object holds, and what a module has kept."""
    copies: dict[int, int] = field(default_factory=dict[int, int])
    """Bytes of copies, which are no values of their own, by the call they were made in."""
    functions: bool = False
    """Whether functions of torch were watched too."""
    error: Exception | None = None
    error_at: str = ""

    def attends(self) -> bool:
        """Whether places read one another by an attention."""
        return any(node.op in ATTENTION for node in self.nodes)

    def where(self, node: Node) -> str:
        """The dotted name of the module the node ran in, "" for the network itself."""
        return self.calls[node.call].name if node.call >= 0 else ""


PLAIN = frozenset({int, float, bool, str, type(None), torch.dtype, torch.device, torch.layout, torch.memory_format})
"""Types of arguments that hold no tensor; most arguments are of one of them."""


def map_tensors(tree: Any, function: Callable[[Tensor], Any]) -> Any:
    """Replace every tensor in nested lists and tuples by `function` of it."""
    if isinstance(tree, Tensor):
        return function(tree)
    kind = type(tree)  # pyright: ignore[reportUnknownVariableType] - a cast would be paid for every argument
    if kind is list:
        # Most lists are strides and paddings, and ATen does not mix those with tensors.
        if tree and type(tree[0]) is int:
            return tree
        return [map_tensors(item, function) for item in tree]
    if kind is tuple:
        return tuple([item if type(item) in PLAIN else map_tensors(item, function) for item in tree])
    return tree


def leaves(tree: Any) -> Iterator[Tensor]:
    """The tensors of nested lists, tuples and mappings, in order."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, (list, tuple)):
        for item in cast("Sequence[Any]", tree):
            yield from leaves(item)
    elif isinstance(tree, dict):
        for item in cast("dict[Any, Any]", tree).values():
            yield from leaves(item)


def refs(tree: Any) -> Iterator[Ref]:
    """The references in nested lists, tuples and mappings, in order."""
    if isinstance(tree, Ref):
        yield tree
    elif isinstance(tree, (list, tuple)):
        for item in cast("Sequence[Any]", tree):
            yield from refs(item)
    elif isinstance(tree, dict):
        for item in cast("dict[Any, Any]", tree).values():
            yield from refs(item)
