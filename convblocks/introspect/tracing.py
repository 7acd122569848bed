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
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes

from convblocks.introspect import meta
from convblocks.introspect.aliasing import Alias
from convblocks.introspect.graph import Graph, ModuleCall, leaves, map_tensors
from convblocks.introspect.operations import RECURRENT
from convblocks.introspect.state import evaluating, held, no_collection, reachable, restored
from convblocks.introspect.tracer import Stop, Tracer


class _Functions(TorchFunctionMode):
    """Keeps `nn.LSTM` and its like as one operation, of which torch makes a dozen for every step of the sequence.

    They compare devices before any operation is dispatched, as `take_along_dim` does: they are shown parameters and
    indices on the meta device. Every function of torch takes longer under such a mode.
    """

    def __init__(self, tracer: Tracer) -> None:
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
        return func(*args, **kwargs) if kwargs else func(*args)

    def _shown(self, tensor: Tensor) -> Tensor:
        if tensor.is_meta:
            return tensor
        value = self.tracer.read(tensor)
        with _disable_current_modes():
            twin = self.tracer.twin(tensor)
        if self.tracer.aliases.get(twin) is None:
            self.tracer.bind(twin, Alias.fresh(value, meta=True))
        return twin


@contextlib.contextmanager
def _watch_modules(tracer: Tracer, names: dict[int, str]) -> Generator[None, None, None]:
    """Note which module every operation runs in, by hooks that belong to no module."""
    thread = threading.get_ident()
    graph, stack = tracer.graph, tracer.stack

    def values_of(tree: Any) -> tuple[int, ...]:
        # Most modules return one tensor.
        return (tracer.read(tree),) if isinstance(tree, Tensor) else tuple(map(tracer.read, leaves(tree)))

    def enter(module: nn.Module, args: tuple[Any, ...]) -> None:
        if id(module) in names and threading.get_ident() == thread:
            inputs = values_of(args[0] if len(args) == 1 else args)
            parent = stack[-1] if stack else -1
            start = len(graph.nodes)
            graph.calls.append(ModuleCall(names[id(module)], module, parent, len(stack), (start, start), inputs))
            stack.append(len(graph.calls) - 1)

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        if id(module) in names and threading.get_ident() == thread and stack:
            call = graph.calls[stack.pop()]
            call.outputs = values_of(output)
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


def named_modules(model: Callable[..., Any]) -> dict[str, nn.Module]:
    """The modules of a network, itself and those within it, by their dotted names."""
    module = module_of(model)
    return dict(cast("Iterator[tuple[str, nn.Module]]", module.named_modules())) if module is not None else {}


def parameters_of(modules: Iterable[nn.Module]) -> dict[int, Tensor]:
    """The parameters of modules, each once, by the identity of the tensor object."""
    return {id(p): p for module in modules for p in module._parameters.values() if p is not None}


def buffers_of(modules: Iterable[nn.Module]) -> dict[int, Tensor]:
    """The buffers of modules, likewise."""
    return {id(b): b for module in modules for b in module._buffers.values() if b is not None}


def trace(
    model: Callable[..., Any],
    shapes: Sequence[Sequence[int]],
    dtypes: Sequence[torch.dtype],
    *,
    named: dict[str, nn.Module] | None = None,
    watch_modules: bool = True,
    watch_held: bool = False,
    functions: bool | None = None,
    goes_on: Callable[[Graph], bool] | None = None,
) -> Graph:
    """Run `model` once on meta tensors of the given shapes (batch dimension included) and record what it does.

    `named` are what `named_modules` gives, if that has been asked before; `watch_modules` records the calls of modules,
    and in which of them every operation runs; `watch_held` looks for what can be read besides the outputs, wherever a
    module keeps it; `functions` watches functions of torch, where that is needed by default; `goes_on` is asked of the
    graph at every node, and ends the pass before one of which it says no.

    An exception of the model does not leave here: the graph up to it is returned with `error` and `error_at` set.
    """
    module = module_of(model)
    named = named_modules(model) if named is None else named
    modules = named.values()
    names = {id(child): name for name, child in named.items()} if watch_modules else None

    def run(functions: bool) -> tuple[Graph, bool]:
        with torch.no_grad(), no_collection(), restored(modules), evaluating(module, modules):
            return _pass(model, modules, names, shapes, dtypes, goes_on, functions=functions, watch_held=watch_held)

    if functions is not None:
        return run(functions)[0]
    if not any(isinstance(child, nn.RNNBase) for child in modules):
        graph, missed = run(functions=False)
        if not missed and graph.error is None:
            return graph
    return run(functions=True)[0]


def _pass(
    model: Callable[..., Any],
    modules: Collection[nn.Module],
    names: dict[int, str] | None,
    shapes: Sequence[Sequence[int]],
    dtypes: Sequence[torch.dtype],
    goes_on: Callable[[Graph], bool] | None,
    *,
    functions: bool,
    watch_held: bool,
) -> tuple[Graph, bool]:
    """The graph, and whether it came by something that is one operation only if `functions` are watched."""
    tracer = Tracer(parameters_of(modules), buffers_of(modules), goes_on)
    graph = tracer.graph
    graph.functions = functions
    inputs = [
        torch.empty(tuple(shape), dtype=dtype, device="meta") for shape, dtype in zip(shapes, dtypes, strict=True)
    ]
    for tensor in inputs:
        tracer.bind(tensor, Alias.fresh(tracer.new_value(tensor.shape, tensor.dtype, depends=True), meta=True))
    graph.inputs = tuple(tracer.read(tensor) for tensor in inputs)
    watching = contextlib.nullcontext() if names is None else _watch_modules(tracer, names)
    with watching:
        try:
            with _Functions(tracer) if functions else contextlib.nullcontext(), tracer:
                result = model(*inputs)
            graph.outputs = tuple(tracer.read(tensor) for tensor in leaves(result))
            if watch_held:
                graph.held = (*map(tracer.read, reachable(result)), *tracer.reached(held(modules)))
        except Exception as error:
            graph.error = error
            graph.error_at = graph.calls[tracer.stack[-1]].name if tracer.stack else ""
        except Stop:
            pass
    return graph, tracer.missed
