"""One forward pass on meta tensors, recorded as a graph of ATen operations.

Every operation passes a ``TorchDispatchMode``, whatever Python control flow led to it. Tensors on the meta device have
shapes and no data, so a network of any size costs no memory, and neither its parameters nor its buffers are touched.
"""

# What torch leaves without types.
# pyright: reportUnknownMemberType=false
# torch gives its operators, and what a module keeps of its own, no public names.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from convblocks.introspect import masks, meta
from convblocks.introspect.aliasing import Alias, AliasTable, Ref, Root, Step
from convblocks.introspect.constants import known
from convblocks.introspect.graph import Graph, ModuleCall, Node, collect, leaves, map_tensors, refs
from convblocks.introspect.operations import (
    COSTED,
    FACTORIES,
    RECURRENT,
    is_composite,
    is_inplace_view,
    is_view,
    name_of,
    targets,
    written_arguments,
)
from convblocks.introspect.state import evaluating, held, no_collection, reachable, restored


class ValueNeeded(RuntimeError):
    """Python asked for the value of a tensor that depends on the input."""


class _Tracer(TorchDispatchMode):
    def __init__(self, parameters: dict[int, Tensor], buffers: dict[int, Tensor]) -> None:
        super().__init__()
        self.graph = Graph()
        self.aliases = AliasTable(self._emit, self.graph.shapes)
        self.parameters, self.buffers = parameters, buffers
        self.twins: dict[int, Tensor] = {}
        # A tensor object must outlive the trace, or its id would be given to another.
        self.alive: list[Tensor] = []
        # The first value of a piece of memory that the trace found filled.
        self.found: dict[Root, int] = {}
        self.stack: list[int] = []

    def new_value(self, shape: Sequence[int], dtype: torch.dtype, depends: bool) -> int:
        graph = self.graph
        graph.shapes.append(tuple(shape))
        graph.dtypes.append(dtype)
        graph.depends.append(depends)
        return len(graph.shapes) - 1

    def read(self, tensor: Tensor) -> int:
        """The value `tensor` holds now."""
        alias = self.aliases.get(tensor)
        if alias is None:
            value = self.new_value(tensor.shape, tensor.dtype, depends=False)
            if id(tensor) in self.parameters:
                self.graph.parameters[value] = tensor
            elif id(tensor) in self.buffers:
                self.graph.buffers[value] = tensor
            if tensor.device.type == "cpu" and id(tensor) not in self.parameters:
                self.graph.constants[value] = tensor
                if masks.hides(tensor):
                    self.graph.masks.add(value)
            alias = Alias.fresh(value, meta=tensor.is_meta)
            self.found[alias.root] = value
            self.bind(tensor, alias)
        return self.aliases.value(alias)

    def reached(self, tensors: Iterable[Tensor]) -> tuple[int, ...]:
        """The values of those tensors that the trace has seen and that depend on the input."""
        seen = [self.read(tensor) for tensor in tensors if self.aliases.get(tensor) is not None]
        return tuple(value for value in seen if self.graph.depends[value])

    def depends(self, tensor: Tensor) -> bool:
        """Whether what a tensor holds now depends on the input."""
        return self.graph.depends[self.read(tensor)]

    def bind(self, tensor: Tensor, alias: Alias) -> None:
        self.alive.append(tensor)
        self.aliases.set(tensor, alias)

    def _emit(
        self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], shapes: Sequence[tuple[int, ...]]
    ) -> list[int]:
        depends = any(self.graph.depends[ref.value] for ref in refs((args, kwargs)))
        first: Ref = args[0]
        dtype = self.graph.dtypes[first.value]
        return self._record(func, args, kwargs, [self.new_value(shape, dtype, depends) for shape in shapes])

    def _record(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: list[int]) -> list[int]:
        op, graph = name_of(func), self.graph
        depends = any(graph.depends[value] for value in outputs)
        plain = op.rstrip("_")
        masked = bool(graph.masks) and any(ref.value in graph.masks for ref in refs((args, kwargs)))
        masked = masks.makes_mask(plain, (*args, *kwargs.values()), masked, depends)
        if masked and not depends:
            graph.masks.update(value for value in outputs if graph.dtypes[value].is_floating_point)
        hides = depends and masked and (plain in masks.MEETS or "attention" in op)
        node = Node(op, func, args, kwargs, tuple(outputs), self.stack[-1] if self.stack else -1, hides)
        if depends or op in COSTED:
            graph.nodes.append(node)
        if not depends:
            graph.made.update(dict.fromkeys(outputs, node))
        return outputs

    def _twin(self, tensor: Tensor) -> Tensor:
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
        alias = self.aliases.get(tensor)
        return tensor.is_meta or id(tensor) in self.parameters or (alias is not None and alias.root.meta)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if is_composite(func):
            # Under `torch.inference_mode` these arrive whole: taken apart, a network reads the same in every mode.
            with self:
                return func._op_dk(torch._C.DispatchKey.CompositeImplicitAutograd, *args, **kwargs)
        if name_of(func) in ("index", "_unsafe_index"):
            args = (args[0], self._without_masks(args[1]), *args[2:])
        tensors: list[Tensor] = []
        collect(args, tensors)
        collect(kwargs.values(), tensors)
        if name_of(func) == "_local_scalar_dense":
            return self._scalar(func, tensors[0])
        values = [self.read(tensor) for tensor in tensors]
        numbers = {id(tensor): Ref(value) for tensor, value in zip(tensors, values, strict=True)}
        writes = written_arguments(func, args, kwargs)
        on_meta = any(self._stands_on_meta(t) for t in tensors) or any(id(t) in self.buffers for t in writes)
        if writes and not on_meta:
            self._save(writes)
        result = self._run(func, args, kwargs, on_meta)

        def numbered_ref(tensor: Tensor) -> Ref:
            return numbers[id(tensor)]

        node_args = map_tensors(args, numbered_ref)
        node_kwargs = {key: map_tensors(item, numbered_ref) for key, item in kwargs.items()}
        depends = any(self.graph.depends[value] for value in values) and name_of(func) not in FACTORIES
        returned: object = result
        results = cast("Sequence[Any]", returned) if isinstance(returned, (list, tuple)) else (returned,)
        outputs = [t for t in results if isinstance(t, Tensor)]
        if is_inplace_view(func):
            self._restride(func, node_args, node_kwargs, tensors[0], outputs[0])
            return result
        into, besides = targets(func, args, kwargs) if writes else ([], [])
        into, outputs = [*into[: len(outputs)], *besides], [*outputs, *besides]
        numbered = [self.new_value(t.shape, t.dtype, depends) for t in outputs]
        self._record(func, node_args, node_kwargs, numbered)
        if writes:
            self._write(into, outputs, numbered, on_meta)
        elif tensors and is_view(func):
            source = self.aliases.get(tensors[0])
            assert source is not None
            step = Step(func, node_args, node_kwargs, tuple(tuple(t.shape) for t in outputs), 0)
            for position, (tensor, value) in enumerate(zip(outputs, numbered, strict=True)):
                self.bind(tensor, source.view(step.at(position), value))
        else:
            for tensor, value in zip(outputs, numbered, strict=True):
                self.bind(tensor, Alias.fresh(value, meta=tensor.is_meta))
        if not on_meta:
            self._look_for_masks(outputs, numbered)
        return result

    def _run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], on_meta: bool) -> Any:
        if not on_meta:
            return func(*args, **kwargs)
        run_kwargs = {key: map_tensors(item, self._twin) for key, item in kwargs.items()}
        if run_kwargs.get("device") is not None:
            run_kwargs["device"] = torch.device("meta")
        try:
            return meta.run(func, map_tensors(args, self._twin), run_kwargs)
        except NotImplementedError as error:
            raise ValueNeeded(f"aten.{name_of(func)} gives no answer without the values of its operands") from error

    def _look_for_masks(self, outputs: list[Tensor], numbered: list[int]) -> None:
        """Where there are values they tell, and not where they come from."""
        for tensor, value in zip(outputs, numbered, strict=True):
            if tensor.device.type == "cpu" and tensor.is_floating_point():
                self.graph.masks -= {value}
                self.graph.masks |= {value} if masks.hides(tensor) else set()

    def keep(self, func: Any, args: tuple[Any, ...], shapes: Sequence[Sequence[int]]) -> tuple[Tensor, ...]:
        """Record an operation that is not run, with results of the given shapes."""
        node_args = map_tensors(args, lambda tensor: Ref(self.read(tensor)))
        dtype = args[0].dtype
        with _disable_current_modes():
            outputs = tuple(torch.empty(shape, dtype=dtype, device="meta") for shape in shapes)
        numbered = [self.new_value(shape, dtype, depends=True) for shape in shapes]
        self._record(func, node_args, {}, numbered)
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
            self.aliases.write(alias, value)
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


class _Functions(TorchFunctionMode):
    """Keeps `nn.LSTM` and its like as one operation, of which torch makes a dozen for every step of the sequence.

    They compare devices before any operation is dispatched, as `take_along_dim` does: they are shown parameters and
    indices on the meta device.
    """

    def __init__(self, tracer: _Tracer) -> None:
        super().__init__()
        self.tracer = tracer

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if torch.is_autocast_enabled("cpu"):
            # It casts weights on the CPU, and not what stands on meta. The answer is of the types without it.
            with torch.autocast("cpu", enabled=False):
                return self.__torch_function__(func, types, args, kwargs)
        name = getattr(func, "__name__", "")
        if name in RECURRENT or name == "take_along_dim":
            args = map_tensors(args, self._shown)
        if name in RECURRENT:
            shapes = None if kwargs else meta.recurrent_shapes(name, args)
            if shapes is not None and any(self.tracer.depends(tensor) for tensor in leaves(args)):
                return self.tracer.keep(getattr(torch.ops.aten, name).input, args, shapes)
        return func(*args, **(kwargs or {}))

    def _shown(self, tensor: Tensor) -> Tensor:
        if tensor.is_meta:
            return tensor
        value = self.tracer.read(tensor)
        with _disable_current_modes():
            twin = self.tracer._twin(tensor)
        if self.tracer.aliases.get(twin) is None:
            self.tracer.bind(twin, Alias.fresh(value, meta=True))
        return twin


@contextlib.contextmanager
def _watch_modules(tracer: _Tracer, names: dict[int, str]) -> Generator[None, None, None]:
    """Note which module every operation runs in, by hooks that belong to no module."""
    thread = threading.get_ident()
    graph, stack = tracer.graph, tracer.stack

    def enter(module: nn.Module, args: Any) -> None:
        if id(module) in names and threading.get_ident() == thread:
            inputs = tuple(tracer.read(tensor) for tensor in leaves(args))
            parent = stack[-1] if stack else -1
            start = len(graph.nodes)
            graph.calls.append(ModuleCall(names[id(module)], module, parent, len(stack), (start, start), inputs))
            stack.append(len(graph.calls) - 1)

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        if id(module) in names and threading.get_ident() == thread and stack:
            call = graph.calls[stack.pop()]
            call.outputs = tuple(tracer.read(tensor) for tensor in leaves(output))
            call.nodes = (call.nodes[0], len(graph.nodes))

    handles = [
        nn.modules.module.register_module_forward_pre_hook(enter),
        nn.modules.module.register_module_forward_hook(leave),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def module_of(model: Callable[..., Any]) -> nn.Module | None:
    """The module behind a network: itself, or the owner of a bound method such as `model.forward_features`."""
    if isinstance(model, nn.Module):
        return model
    owner = getattr(model, "__self__", None)
    return owner if isinstance(owner, nn.Module) else None


def trace(
    model: Callable[..., Any],
    shapes: Sequence[Sequence[int]],
    dtypes: Sequence[torch.dtype],
    *,
    watch_modules: bool = True,
    watch_held: bool = False,
) -> Graph:
    """Run `model` once on meta tensors of the given shapes (batch dimension included) and record what it does.

    `watch_modules` records the calls of modules, and in which of them every operation runs; `watch_held` looks for what
    can be read besides the outputs, wherever a module keeps it.

    An exception of the model does not leave here: the graph up to it is returned with `error` and `error_at` set.
    """
    module = module_of(model)
    names: dict[int, str] = {}
    parameters: dict[int, Tensor] = {}
    buffers: dict[int, Tensor] = {}
    if module is not None:
        modules = cast("Iterator[tuple[str, nn.Module]]", module.named_modules())
        for name, child in modules:
            names[id(child)] = name
            parameters.update((id(p), p) for p in child._parameters.values() if p is not None)
            buffers.update((id(b), b) for b in child._buffers.values() if b is not None)
    tracer = _Tracer(parameters, buffers)
    inputs = [
        torch.empty(tuple(shape), dtype=dtype, device="meta") for shape, dtype in zip(shapes, dtypes, strict=True)
    ]
    for tensor in inputs:
        tracer.bind(tensor, Alias.fresh(tracer.new_value(tensor.shape, tensor.dtype, depends=True), meta=True))
    graph = tracer.graph
    graph.inputs = tuple(tracer.read(tensor) for tensor in inputs)
    watching = _watch_modules(tracer, names) if watch_modules else contextlib.nullcontext()
    with torch.no_grad(), no_collection(), restored(module), evaluating(module), watching:
        try:
            with _Functions(tracer), tracer:
                result = model(*inputs)
            graph.outputs = tuple(tracer.read(tensor) for tensor in leaves(result))
            if watch_held:
                graph.held = (*map(tracer.read, reachable(result)), *tracer.reached(held(module)))
        except Exception as error:
            graph.error = error
            graph.error_at = graph.calls[tracer.stack[-1]].name if tracer.stack else ""
    return graph
