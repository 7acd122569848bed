"""Parameters, multiply-accumulates and activation bytes, from the recorded operations."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from torch import Tensor, nn

from convblocks.introspect.aliasing import Ref
from convblocks.introspect.graph import Graph, Node
from convblocks.introspect.operations import COSTED, RECURRENT


def macs(graph: Graph, node: Node) -> int:
    """Multiply-accumulates of one operation: of convolutions, matrix products and attention; 0 for every other."""
    if node.op not in COSTED and not node.op.startswith("_scaled_dot_product"):
        return 0
    arguments = node.arguments
    shape = graph.shapes

    def of(name: str) -> tuple[int, ...]:
        value: int = arguments[name].value
        return shape[value]

    out = shape[node.outputs[0]] if node.outputs else ()
    if node.op in ("convolution", "_convolution"):
        places = of("input") if arguments["transposed"] else out
        weight = of("weight")
        return math.prod(places) * math.prod(weight[1:])
    if node.op in ("mm", "bmm", "linear", "mv", "dot"):
        first: Ref = node.args[0]
        return math.prod(out) * shape[first.value][-1]
    if node.op == "addmm":
        return math.prod(out) * of("mat1")[-1]
    if node.op in ("baddbmm", "addbmm"):
        batch1 = of("batch1")
        return math.prod(batch1) * of("batch2")[-1]
    if node.op == "addmv":
        return math.prod(of("mat"))
    if node.op in RECURRENT:
        weights: Sequence[Ref] = arguments["params"]
        matrices = [shape[ref.value] for ref in weights if len(shape[ref.value]) == 2]
        return math.prod(of("input")[:2]) * sum(map(math.prod, matrices))
    if node.op.startswith("_scaled_dot_product"):
        query, key, value = of("query"), of("key"), of("value")
        return math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])
    return 0


def total_macs(graph: Graph, nodes: Iterable[Node] | None = None) -> int:
    """Multiply-accumulates of some operations, of all by default."""
    return sum(macs(graph, node) for node in (graph.nodes if nodes is None else nodes))


def parameter_count(module: nn.Module) -> int:
    """Number of parameters; one that is shared counts once."""
    return sum(parameter.numel() for parameter in module.parameters())


def tensor_bytes(tensors: Iterable[Tensor]) -> int:
    """Memory of tensors of their own element types; one that is shared counts once."""
    seen = {id(tensor): tensor for tensor in tensors}
    return sum(tensor.numel() * tensor.element_size() for tensor in seen.values())


VIEWS = frozenset(
    [
        "view",
        "_unsafe_view",
        "reshape",
        "_reshape_alias",
        "t",
        "transpose",
        "permute",
        "expand",
        "slice",
        "select",
        "split",
        "split_with_sizes",
        "chunk",
        "unbind",
        "unsqueeze",
        "squeeze",
        "alias",
        "detach",
        "narrow",
        "diagonal",
        "unfold",
        "scatter_into_view",
    ]
)


def activation_bytes(graph: Graph, nodes: Iterable[Node] | None = None) -> int:
    """Memory of what the operations produce, views and in-place writes excepted: what training keeps, at most.

    Of the whole pass, copies included, if no nodes are given.
    """
    total = sum(graph.copies.values()) if nodes is None else 0
    for node in graph.nodes if nodes is None else nodes:
        if node.op in VIEWS or (node.op.endswith("_") and not node.op.startswith("_")):
            continue
        for value in node.outputs:
            if graph.depends[value]:
                total += math.prod(graph.shapes[value]) * graph.dtypes[value].itemsize
    return total


def reads_parameters(node: Node, parameters: dict[int, Tensor]) -> list[Tensor]:
    """The parameters among the operands of an operation."""
    return [parameters[value] for value in node.operands if value in parameters]
