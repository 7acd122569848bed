"""Matrix products and attention."""

from __future__ import annotations

from convblocks.introspect.aliasing import Ref
from convblocks.introspect.labels import Labels, union
from convblocks.introspect.registry import Call, NoRule, Result, rule
from convblocks.introspect.rules import sparse


def product(call: Call, matrices: tuple[Ref, Ref]) -> Labels | None:
    """Matrix product: row i of the left with column j of the right."""
    left, right = (call.of(matrix) for matrix in matrices)
    for labels, other, dim in ((left, matrices[1], -1), (right, matrices[0], -2)):
        if labels is not None and (right is None or left is None):
            masked = sparse.product(call, labels, labels.ndim + dim, other, rows=dim == -2)
            if masked is not None:
                return masked
    rows = left and call.reduce(left, [left.ndim - 1])
    columns = right and call.reduce(right, [right.ndim - 2])
    return union((rows, columns), len(call.out_shape()))


@rule("mm", "bmm")
def matrix_product(call: Call) -> Result:
    """Rows with columns."""
    return product(call, (call.source, call["mat2"]))


@rule("addmm", "baddbmm")
def add_product(call: Call) -> Result:
    """Rows with columns, and the addend."""
    first, second = ("mat1", "mat2") if call.node.op == "addmm" else ("batch1", "batch2")
    return union((product(call, (call[first], call[second])), call.input), len(call.out_shape()))


@rule("mv", "addmv")
def matrix_vector(call: Call) -> Result:
    """Rows with the vector, and the addend."""
    matrix, vector = call.of(call["mat"] if call.node.op == "addmv" else call.source), call.of(call["vec"])
    rows = matrix and call.reduce(matrix, [1]).without([1])
    addend = call.input if call.node.op == "addmv" else None
    return union((rows, vector and call.reduce(vector, [0]), addend), 1)


@rule("dot", "vdot")
def dot(call: Call) -> Result:
    """All with all."""
    parts = [labels and call.reduce(labels, [0]).without([0]) for labels in (call.input, call.of(call.node.args[1]))]
    return union(parts, 0)


@rule(
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
)
@rule("_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_fused_attention_overrideable")
def attention(call: Call) -> Result:
    """Every query reads all keys and all values of its head."""
    query, key, value = (call.of(call[name]) for name in ("query", "key", "value"))
    ndim = len(call.out_shape())
    if call.get("is_causal"):
        raise NoRule("a mask that hides places")
    for mask in ("attn_mask", "attn_bias"):
        if call.of(call.get(mask)) is not None:
            raise NoRule("an attention mask that depends on the input")
    parts = [query and call.reduce(query, [ndim - 1])]
    parts += [key and call.reduce(key, [ndim - 2, ndim - 1]), value and call.reduce(value, [ndim - 2])]
    merged = union(parts, ndim)
    return [merged, *[None] * (len(call.node.outputs) - 1)]
