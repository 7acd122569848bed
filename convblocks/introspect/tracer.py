"""Records the operations of a forward pass, as they are dispatched, as a graph."""

# What torch leaves without types.
# pyright: reportUnknownMemberType=false
# torch gives its operators no public names.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from convblocks.introspect import masks, meta
from convblocks.introspect.aliasing import Alias, AliasTable, Ref, Root, Step, ref
from convblocks.introspect.constants import known
from convblocks.introspect.graph import PLAIN, Graph, Node, map_tensors, refs
from convblocks.introspect.operations import COSTED, FACTORIES, STEPS, Operator, name_of, operator

_is_meta = attrgetter("is_meta")


class ValueNeeded(RuntimeError):
    """Python asked for the value of a tensor that depends on the input."""


class Stop(BaseException):
    """The rest of the pass is of no use; no network catches it."""


SAME = frozenset({"clone", "alias", "detach"})
"""Operations that give what they are given."""


class Tracer(TorchDispatchMode):
    """Runs every operation on meta tensors, and notes it as a node of `graph`.

    `parameters` and `buffers` are those of the network, by the identity of the tensor object. `goes_on` is asked at
    every node, that being the last of the graph: the pass ends before the first of which it says no.

    What a tensor is copied to holds the same value: whether a reshape has to copy depends on the size of the input.
    """

    def __init__(
        self,
        parameters: dict[int, Tensor],
        buffers: dict[int, Tensor],
        goes_on: Callable[[Graph], bool] | None = None,
    ) -> None:
        super().__init__()
        self.graph = Graph()
        self.goes_on = goes_on
        self.aliases = AliasTable(self.graph.shapes)
        self.parameters, self.buffers = parameters, buffers
        self.twins: dict[int, Tensor] = {}
        # A tensor object must outlive the trace, or its id would be given to another.
        self.alive: list[Tensor] = []
        # The first value of a piece of memory that the trace found filled.
        self.found: dict[Root, int] = {}
        self.stack: list[int] = []
        # Whether the pass came by what only `FunctionMode` sees whole.
        self.missed = False

    def new_value(self, shape: Sequence[int], dtype: torch.dtype, depends: bool) -> int:
        """The number of a tensor that the graph has not held yet."""
        graph = self.graph
        graph.shapes.append(tuple(shape))
        graph.dtypes.append(dtype)
        graph.depends.append(depends)
        return len(graph.shapes) - 1

    def read(self, tensor: Tensor) -> int:
        """The value `tensor` holds now."""
        alias = self.aliases.get(tensor)
        return self._find(tensor) if alias is None else self.aliases.value(alias, self._emit)

    def _find(self, tensor: Tensor) -> int:
        """The value of a tensor that was there before the pass, or that came from somewhere else."""
        value = self.new_value(tensor.shape, tensor.dtype, depends=False)
        on_meta = tensor.is_meta
        if id(tensor) in self.parameters:
            self.graph.parameters[value] = tensor
        else:
            if id(tensor) in self.buffers:
                self.graph.buffers[value] = tensor
            if not on_meta and tensor.device.type == "cpu":
                self.graph.constants[value] = tensor
                if masks.hides(tensor):
                    self.graph.masks.add(value)
        alias = Alias.fresh(value, on_meta or id(tensor) in self.parameters)
        self.found[alias.root] = value
        self.bind(tensor, alias)
        return value

    def reached(self, tensors: Iterable[Tensor]) -> tuple[int, ...]:
        """The values of those tensors that the trace has seen and that depend on the input."""
        seen = [self.read(tensor) for tensor in tensors if self.aliases.get(tensor) is not None]
        return tuple(value for value in seen if self.graph.depends[value])

    def depends(self, tensor: Tensor) -> bool:
        """Whether what a tensor holds now depends on the input."""
        return self.graph.depends[self.read(tensor)]

    def bind(self, tensor: Tensor, alias: Alias) -> None:
        """Note what a tensor object shows, and keep the object."""
        self.alive.append(tensor)
        self.aliases.set(tensor, alias)

    def _emit(
        self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], shapes: Sequence[tuple[int, ...]]
    ) -> list[int]:
        depends = any(self.graph.depends[ref.value] for ref in refs((args, kwargs)))
        first: Ref = args[0]
        dtype = self.graph.dtypes[first.value]
        op = name_of(func)
        return self._record(op, func, args, kwargs, [self.new_value(shape, dtype, depends) for shape in shapes])

    def _record(
        self,
        op: str,
        func: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        outputs: list[int],
        operands: tuple[int, ...] | None = None,
    ) -> list[int]:
        graph = self.graph
        # All results of an operation depend on the input, or none does.
        depends = bool(outputs) and graph.depends[outputs[0]]
        plain = op.rstrip("_")
        hides = False
        masked = bool(graph.masks) and any(ref.value in graph.masks for ref in refs((args, kwargs)))
        if masked or plain in masks.MAKES:
            masked = masks.makes_mask(plain, (*args, *kwargs.values()), masked, depends)
            if masked and not depends:
                graph.masks.update(value for value in outputs if graph.dtypes[value].is_floating_point)
            hides = depends and masked and (plain in masks.MEETS or "attention" in op)
        stack = self.stack
        node = Node(op, func, args, kwargs, tuple(outputs), stack[-1] if stack else -1, hides, None, operands)
        if depends or op in COSTED:
            graph.nodes.append(node)
            if self.goes_on is not None and not self.goes_on(graph):
                graph.nodes.pop()
                raise Stop
        if not depends:
            graph.made.update(dict.fromkeys(outputs, node))
        return outputs

    def twin(self, tensor: Tensor) -> Tensor:
        """A tensor on the meta device that stands for `tensor`."""
        if tensor.is_meta:
            return tensor
        twin = self.twins.get(id(tensor))
        if twin is None:
            twin = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
            self.twins[id(tensor)] = twin
            self.alive.append(tensor)
        return twin

    def _stands_on_meta(self, tensor: Tensor) -> bool:
        """Whether nobody knows the values of a tensor that has been read, as of parameters and all made from them."""
        alias = self.aliases.get(tensor)
        return alias is not None and alias.root.meta

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Nothing of what follows is compiled: torch need not say so to its compiler at every operation."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        about = operator(func)
        if about.composite:
            # Under `torch.inference_mode` these arrive whole: taken apart, a network reads the same in every mode.
            with self:
                return func._op_dk(torch._C.DispatchKey.CompositeImplicitAutograd, *args, **kwargs)
        name = about.name
        if name in ("index", "_unsafe_index"):
            args = (args[0], self._without_masks(args[1]), *args[2:])
        if name in STEPS or (name == "_to_copy" and torch.is_autocast_enabled("cpu")):
            self.missed = True
        tensors: list[Tensor] = []
        values: list[int] = []
        node_args = tuple(self._numbered(args, tensors, values))
        node_kwargs = dict(zip(kwargs, self._numbered(kwargs.values(), tensors, values), strict=True)) if kwargs else {}
        if name == "_local_scalar_dense":
            return self._scalar(func, tensors[0])
        graph = self.graph
        depends = any(map(graph.depends.__getitem__, values)) and name not in FACTORIES
        writes = about.written_arguments(args, kwargs) if about.writes else []
        on_meta = any(map(self._stands_on_meta, tensors))
        if writes:
            on_meta = on_meta or any(id(tensor) in self.buffers for tensor in writes)
            if not on_meta:
                self._save(writes)
        if on_meta:
            result = self._run(about, args, kwargs, tensors)
        else:
            result = func(*args, **kwargs) if tensors else meta.make(func, args, kwargs)
        returned: object = result
        if isinstance(returned, Tensor):
            outputs = [returned]
        else:
            several = cast("Sequence[Any]", returned) if isinstance(returned, (list, tuple)) else ()
            outputs = [t for t in several if isinstance(t, Tensor)]
        if depends and name in SAME:
            self._same(about, tensors[0], outputs[0], values[0])
            return result
        if about.inplace_view:
            self._restride(func, node_args, node_kwargs, tensors[0], outputs[0])
            return result
        into: list[Tensor | None] = []
        if writes:
            into, besides = about.targets(args, kwargs)
            into, outputs = [*into[: len(outputs)], *besides], [*outputs, *besides]
        numbered = [self.new_value(t.shape, t.dtype, depends) for t in outputs]
        if depends and name == "_unsafe_view":
            # A reshape that has had to copy.
            self._record("view", torch.ops.aten.view.default, node_args, node_kwargs, numbered, tuple(values))
        else:
            self._record(name, func, node_args, node_kwargs, numbered, tuple(values))
        if writes:
            self._write(into, outputs, numbered, on_meta)
        elif tensors and about.view:
            source = self.aliases.get(tensors[0])
            assert source is not None
            step = Step(func, node_args, node_kwargs, tuple([graph.shapes[value] for value in numbered]), 0)
            for position, (tensor, value) in enumerate(zip(outputs, numbered, strict=True)):
                self.bind(tensor, source.view(step.at(position) if position else step, value))
        else:
            for tensor, value in zip(outputs, numbered, strict=True):
                self.bind(tensor, Alias.fresh(value, on_meta or tensor.is_meta))
        if not on_meta:
            self._look_for_masks(outputs, numbered)
        return result

    def _same(self, about: Operator, tensor: Tensor, output: Tensor, value: int) -> None:
        """The same value, in memory of its own or not."""
        if about.view:
            alias = self.aliases.get(tensor)
            assert alias is not None
            self.bind(output, alias)
        else:
            call = self.stack[-1] if self.stack else -1
            size = math.prod(output.shape) * output.dtype.itemsize
            self.graph.copies[call] = self.graph.copies.get(call, 0) + size
            self.bind(output, Alias.fresh(value, meta=output.is_meta))

    def _numbered(self, tree: Iterable[Any], tensors: list[Tensor], values: list[int]) -> list[Any]:
        """Arguments with what a tensor holds now in its place; the tensors and their values are appended."""
        found: list[Any] = []
        for item in tree:
            kind = type(item)  # pyright: ignore[reportUnknownVariableType] - a cast would be paid for every argument
            if kind in PLAIN:
                found.append(item)
            elif kind is list or kind is tuple:
                # Most lists are strides and paddings: ATen does not mix those with tensors.
                plain = not item or type(item[0]) is int
                found.append(item if plain else kind(self._numbered(item, tensors, values)))
            elif isinstance(item, Tensor):
                value = self.read(item)
                tensors.append(item)
                values.append(value)
                found.append(ref(value))
            else:
                found.append(item)
        return found

    def _run(self, about: Operator, args: tuple[Any, ...], kwargs: dict[str, Any], tensors: list[Tensor]) -> Any:
        if not all(map(_is_meta, tensors)):
            args = map_tensors(args, self.twin)
            kwargs = {key: map_tensors(item, self.twin) for key, item in kwargs.items()}
        if kwargs.get("device") is not None:
            kwargs = {**kwargs, "device": torch.device("meta")}
        try:
            return meta.run(about.func, args, kwargs)
        except NotImplementedError as error:
            raise ValueNeeded(f"aten.{about.name} gives no answer without the values of its operands") from error

    def _look_for_masks(self, outputs: list[Tensor], numbered: list[int]) -> None:
        """Where there are values they tell, and not where they come from."""
        for tensor, value in zip(outputs, numbered, strict=True):
            if tensor.device.type == "cpu" and tensor.is_floating_point():
                self.graph.masks -= {value}
                self.graph.masks |= {value} if masks.hides(tensor) else set()

    def keep(self, func: Any, args: tuple[Any, ...], shapes: Sequence[Sequence[int]]) -> tuple[Tensor, ...]:
        """Record an operation that is not run, with results of the given shapes."""
        node_args = map_tensors(args, lambda tensor: ref(self.read(tensor)))
        dtype = args[0].dtype
        with _disable_current_modes():
            outputs = tuple(torch.empty(shape, dtype=dtype, device="meta") for shape in shapes)
        numbered = [self.new_value(shape, dtype, depends=True) for shape in shapes]
        self._record(name_of(func), func, node_args, {}, numbered)
        for tensor, value in zip(outputs, numbered, strict=True):
            self.bind(tensor, Alias.fresh(value, meta=True))
        return outputs

    def _save(self, written: list[Tensor]) -> None:
        """Keep what a tensor of the network's own held before the network writes into it."""
        for tensor in written:
            alias = self.aliases.get(tensor)
            value = self.found.pop(alias.root, None) if alias is not None else None
            before = self.graph.constants.get(value) if value is not None else None
            if value is not None and before is not None:
                self.graph.constants[value] = before.clone()

    def _write(self, into: list[Tensor | None], outputs: list[Tensor], numbered: list[int], on_meta: bool) -> None:
        for target, tensor, value in zip(into, outputs, numbered, strict=True):
            if target is None:
                self.bind(tensor, Alias.fresh(value, meta=tensor.is_meta))
                continue
            alias = self.aliases.get(target)
            assert alias is not None
            alias.root.meta = alias.root.meta or on_meta
            self.aliases.write(alias, value, self._emit)
            if tensor is not target:
                self.bind(tensor, alias)

    def _restride(
        self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], before: Tensor, after: Tensor
    ) -> None:
        """An operation such as `t_` or `as_strided_` gives the same tensor another shape."""
        alias = self.aliases.get(before)
        assert alias is not None
        shape = tuple(after.shape)
        old = self.graph.shapes[alias.value]
        if name_of(func) == "as_strided_" and shape == old and sum(length > 1 for length in shape) <= 1:
            # One dimension at most is longer than 1: the elements stay where they are.
            self.bind(after, alias)
            return
        step = Step(func, args, kwargs, (shape,), 0)
        [value] = self._emit(func, args, kwargs, [shape])
        moved = alias.view(step, value)
        self.bind(before, moved)
        self.bind(after, moved)

    def _without_masks(self, indices: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Masks of known values become the lists of their places, which meta tensors can take."""
        found: list[Tensor | None] = []
        for item in indices:
            mask = item
            if mask is not None and mask.dtype in (torch.bool, torch.uint8) and mask.is_meta:
                mask = known(self.graph, self.read(mask))
            if mask is not None and mask.dtype in (torch.bool, torch.uint8):
                found += mask.nonzero().unbind(1)
            else:
                found.append(item)
        return found

    def _scalar(self, func: Any, tensor: Tensor) -> Any:
        value = self.read(tensor)
        if self.graph.depends[value]:
            raise ValueNeeded(
                "the network asks for the value of a tensor that depends on its input (aten._local_scalar_dense)"
            )
        if tensor.is_meta:
            made = known(self.graph, value)
            if made is None:
                raise ValueNeeded(
                    "the network asks for the value of a tensor on the meta device (aten._local_scalar_dense)"
                )
            tensor = made
        return func(tensor)
