"""The data flow of one forward pass, as folding asks it: who made a value, who reads it, which module ran it."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from typing import Any, cast

import torch
from torch import nn
from torch.nn.utils import parametrize

from convblocks.deploy import own
from convblocks.deploy.fold import Norm
from convblocks.deploy.reads import Reads
from convblocks.introspect.aliasing import Ref
from convblocks.introspect.graph import Node
from convblocks.introspect.operations import bind, operator
from convblocks.introspect.tracing import trace

BATCH_NORMS = ("native_batch_norm", "_native_batch_norm_legit_no_training", "cudnn_batch_norm", "batch_norm")
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
CONVOLUTIONS = ("convolution", "_convolution")
LINEAR = ("addmm", "mm", "linear")
COPIES = ("view", "_unsafe_view", "_reshape_alias", "clone", "contiguous")


class Flow:
    """What one forward pass of `model` on an image of `input_size` (without the batch) did.

    Raises:
        ValueError: the model does not run on that input.
    """

    def __init__(self, model: nn.Module, input_size: Sequence[int]) -> None:
        parameter = next((p for p in model.parameters() if p.is_floating_point()), None)
        with Reads() as reads, own.probed(model):
            graph = trace(
                model, [(1, *input_size)], [torch.float32 if parameter is None else parameter.dtype], watch_held=True
            )
            # As the pass saw them: folding gives a layer new ones.
            self._tensors = {id(m): own.weights(m) for _, m in named_modules(model)}
        if graph.error is not None:
            at = f" in {graph.error_at}" if graph.error_at else ""
            raise ValueError(
                f"the model does not run on input_size={tuple(input_size)}: {graph.error}{at}"
            ) from graph.error
        self.graph = graph
        self.names = {id(module): name for name, module in reversed(named_modules(model))}
        self.uses = Counter(id(call.module) for call in graph.calls)
        self._aliases = Counter(id(module) for _, module in named_modules(model))
        owners = Counter(id(p) for module in model.modules() for p in module.parameters(recurse=False))
        self._shared = {identity for identity, count in owners.items() if count > 1}
        self._readers: defaultdict[int, list[Node]] = defaultdict(list)
        self._makers: dict[int, Node] = {}
        for node in graph.nodes:
            for value in set(self.refs(node)):
                self._readers[value].append(node)
            self._makers |= dict.fromkeys(node.outputs, node)
        self._order = {id(node): at for at, node in enumerate(graph.nodes)}
        self.seen = {*graph.held, *own.hooked(graph)}
        owned = graph.parameters | graph.buffers
        outputs = {id(owned[value]) for value in graph.held if value in owned}
        tensors = {id(m): (*m.parameters(recurse=False), *m.buffers(recurse=False)) for m in model.modules()}
        self._reads = {id(t): reads.counts[id(t)] for mine in tensors.values() for t in mine}
        self._read_elsewhere = {
            module
            for module, mine in tensors.items()
            if any(reads.counts[id(t)] + (id(t) in outputs) > 1 for t in mine)
        }

    def module(self, node: Node) -> nn.Module | None:
        """The module whose forward ran the operation itself."""
        return self.graph.calls[node.call].module if node.call >= 0 else None

    def refs(self, node: Node) -> list[int]:
        """All values that an operation reads, in the order of its arguments."""
        return list(node.operands)

    def input(self, node: Node) -> int:
        """The value that a layer, a norm or a pool works on."""
        return node.args[1 if node.op == "addmm" else 0].value

    def maker(self, value: int) -> Node | None:
        """The operation that made a value; None for an input of the network."""
        return self._makers.get(value)

    def readers(self, value: int) -> list[Node]:
        """The operations that read a value."""
        return self._readers[value]

    def only_reader(self, value: int) -> Node | str:
        """The one operation that reads a value, or the reason why there is none such."""
        readers = self._readers[value]
        if value in self.seen:
            return f"its input is also {self.seen_as(value)}"
        return readers[0] if len(readers) == 1 else f"its input is read by {len(readers)} operations"

    def seen_as(self, value: int) -> str:
        """What a value is besides what operations read."""
        return "an output of the network" if value in self.graph.held else "what a module that has hooks takes or gives"

    def written_between(self, first: Node, value: int, module: nn.Module) -> bool:
        """Whether the memory of `value` is written after `first` read it and before the layer `module` ran.

        Where a layer is left out, the next one reads the memory itself, and no copy from before the write.
        """
        last = max(at for at, node in enumerate(self.graph.nodes) if self.module(node) is module)
        memory = self._memory(value)
        between = self.graph.nodes[self._order[id(first)] + 1 : last]
        return any(_writes(node) and self._memory(self.refs(node)[0]) == memory for node in between if self.refs(node))

    def _memory(self, value: int) -> int:
        """The first value that stood in the memory of this one."""
        node = self.maker(value)
        while node is not None and (_writes(node) or operator(node.func).view):
            value = self.input(node)
            node = self.maker(value)
        return value

    def altered(self, node: Node, layer: nn.Module) -> str:
        """What a convolution does to the weight and the bias of `layer` before it reads them; "" for nothing.

        Where the layer has no bias it must read one as soon as it has one.
        """
        weight, bias = self._tensors[id(layer)]
        if weight is None or not self._is(node.args[1], weight):
            return "makes its weight anew in every forward pass"
        return "" if self._is(node.args[2], bias) else "does not take its bias as it is"

    def own_norm(self, node: Node, norm: Norm) -> bool:
        """Whether an operation norms as `norm` says: by its statistics, weight, bias and eps, and not by the batch."""
        arguments = self.arguments(node)
        names = {"weight": "weight", "bias": "bias", "running_mean": "running_mean", "running_var": "running_var"}
        same = all(self._is(arguments.get(name), getattr(norm, mine)) for name, mine in names.items())
        eps = arguments.get("eps", arguments.get("epsilon"))
        return same and eps == norm.eps and not arguments.get("training", False)

    def _is(self, argument: object, tensor: torch.Tensor | None) -> bool:
        if not isinstance(argument, Ref):
            return argument is None and tensor is None
        found = self.graph.parameters.get(argument.value, self.graph.buffers.get(argument.value))
        return found is not None and found is tensor

    def steps(self, known: Collection[int]) -> list[object]:
        """What is computed, without tensors: by the modules known by `id`, and outside of all modules.

        Left out are linear layers, which are another operation with a bias, copies, which follow the layout, and
        numbers that are added to a sum: added to the zeros of a branch that is gone, they depend on no input.
        """
        found: list[object] = []
        for node in self.graph.nodes:
            module = self.module(node)
            other = type(module) is nn.Linear or node.op in COPIES or self._adds_to_branch(node)
            if (module is None or id(module) in known) and not other:
                shapes = [self.graph.shapes[value] for value in node.outputs]
                found.append((node.op, _plain((node.args, tuple(sorted(node.kwargs.items())))), shapes))
        return found

    def _adds_to_branch(self, node: Node) -> bool:
        readers = [reader.op for reader in self._readers[node.outputs[0]]]
        return node.op == "add" and len(self.refs(node)) == 1 and readers in (["add"], ["add_"])

    def weights(self) -> object:
        """The parameters that operations read, one after the other, and how often functions read each."""
        parameters = self.graph.parameters
        order = [id(parameters[v]) for node in self.graph.nodes for v in self.refs(node) if v in parameters]
        return order, self._reads

    def obstacle(self, module: nn.Module) -> str:
        """Why the weights of a module may not be changed or moved; "" where they may."""
        if self.uses[id(module)] != 1:
            return f"is used {self.uses[id(module)]} times in one forward pass"
        if self._aliases[id(module)] > 1:
            return "stands in the network under several names"
        if any(id(p) in self._shared for p in module.parameters(recurse=False)):
            return "shares a parameter with another module"
        if id(module) in self._read_elsewhere:
            return "has a parameter or buffer that another operation reads too"
        if parametrize.is_parametrized(module):
            return "is parametrised"
        if own.has_hooks(module):
            return "has hooks"
        return ""

    def arguments(self, node: Node) -> dict[str, object]:
        """The arguments of an operation by name."""
        return bind(node.func, node.args, node.kwargs)


def named_modules(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Every name of every module, also where one module has several."""
    found = cast("Iterator[tuple[str, nn.Module]]", model.named_modules(remove_duplicate=False))
    return list(found)


def replace(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put another module in the place of the one of that name."""
    above, _, place = name.rpartition(".")
    setattr(model.get_submodule(above), place, module.eval())


def _writes(node: Node) -> bool:
    """Whether an operation writes into its first argument."""
    return node.op.endswith("_") or node.op == "scatter_into_view"


def _plain(tree: Any) -> Any:
    if type(tree) in (list, tuple):
        return [_plain(item) for item in tree]
    # A number that is none is not equal to itself.
    return "nan" if isinstance(tree, float) and math.isnan(tree) else None if isinstance(tree, Ref) else tree
