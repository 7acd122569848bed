"""Operations that gather whole rows: sums, norms, softmax, matrix products."""

from __future__ import annotations

from collections.abc import Sequence

from convblocks.introspect.labels import Labels, Reshaped, union
from convblocks.introspect.registry import Call, NoRule, Result, rule


def _dims(call: Call) -> list[int]:
    dims = call.get("dim")
    if dims is None or dims == []:
        return list(range(call.ndim))
    return [dim % max(call.ndim, 1) for dim in (dims if isinstance(dims, (list, tuple)) else [dims])]


def _without(labels: Labels, dims: Sequence[int]) -> Labels:
    """Take away dimensions, all of length 1."""
    kept = [n for d, n in enumerate(labels.data.shape) if d - 1 not in dims]
    return labels.map(lambda data: data.reshape(kept))


@rule(
    "mean",
    "sum",
    "amax",
    "amin",
    "var",
    "std",
    "var_mean",
    "std_mean",
    "prod",
    "any",
    "all",
    "logsumexp",
    "nansum",
    "median",
)
@rule("norm", "linalg_vector_norm", "argmax", "argmin", "max", "min", "aminmax", "mode", "nanmedian", "count_nonzero")
def reduction(call: Call) -> Result:
    """Every result gathers its rows."""
    labels = call.input
    outputs = call.node.outputs
    if labels is None:
        return None
    dims = _dims(call)
    gathered = call.reduce(labels, dims)
    keep = len(call.out_shape()) == call.ndim
    return [gathered if keep else _without(gathered, dims)] * len(outputs)


@rule("_softmax", "_log_softmax", "_safe_softmax", "sort", "cumsum", "cumprod", "logcumsumexp")
def row(call: Call) -> Result:
    """Every element depends on its whole row at most; a running sum on a part of it."""
    labels = call.input
    if labels is None:
        return None
    dim = call["dim"] % max(call.ndim, 1)
    if call.node.op.startswith(("cum", "logcum")) and labels.length(dim) > 1:
        return labels.map(lambda data: data.cummin(dim + 1).values)
    return [call.mix(labels, [dim])] * len(call.node.outputs)


@rule("topk")
def topk(call: Call) -> Result:
    """Every result may be any of its row."""
    labels = call.input
    return labels and [call.reduce(labels, [call["dim"] % call.ndim])] * len(call.node.outputs)


@rule("native_layer_norm")
def layer_norm(call: Call) -> Result:
    """Every element with the statistics of its last dimensions."""
    labels = call.input
    if labels is None:
        return None
    count = len(call["normalized_shape"])
    dims = range(call.ndim - count, call.ndim)
    statistics = call.reduce(labels, dims)
    return [union((labels, statistics), call.ndim), *[statistics] * (len(call.node.outputs) - 1)]


@rule("native_group_norm")
def group_norm(call: Call) -> Result:
    """Every element with the statistics of its group of channels."""
    labels = call.input
    if labels is None:
        return None
    groups = call["group"]
    channels = labels.length(1)
    statistics = call.reduce(labels, range(2, call.ndim))
    if channels > 1:
        size = channels // groups
        statistics = statistics.map(
            lambda data: (
                data.unflatten(2, (groups, size)).amin(3).repeat_interleave(size, 2) if data.shape[2] > 1 else data
            )
        )
    return [union((labels, statistics), call.ndim), *[None] * (len(call.node.outputs) - 1)]


@rule(
    "native_batch_norm",
    "_native_batch_norm_legit",
    "_native_batch_norm_legit_no_training",
    "cudnn_batch_norm",
    "miopen_batch_norm",
)
@rule("_batch_norm_no_update", "_batch_norm_with_update")
def batch_norm(call: Call) -> Result:
    """Elementwise, but for batch statistics."""
    labels = call.input
    if labels is None:
        return None
    training = call.node.op == "_batch_norm_with_update" or bool(call.get("training") or call.get("train"))
    if training:
        labels = call.mix(labels, [dim for dim in range(call.ndim) if dim != 1])
    return [labels, *[None] * (len(call.node.outputs) - 1)]


def product(call: Call, left: Labels | None, right: Labels | None, ndim: int) -> Labels | None:
    """Matrix product: row i of the left with column j of the right."""
    if left is not None and right is None and left.origin is not None and left.origin.old[-1] == left.origin.new[-1]:
        return _channel_last(call, left, left.origin)
    rows = left and call.reduce(left, [left.ndim - 1])
    columns = right and call.reduce(right, [right.ndim - 2])
    return union((rows, columns), ndim)


def _channel_last(call: Call, left: Labels, origin: Reshaped) -> Labels:
    """A linear layer on a map that a view has flattened: the rows need not be told apart."""
    rows = call.reduce(Labels(origin.data, left.pooled), [len(origin.old) - 1])
    out = call.out_shape()
    return Labels(rows.data, rows.pooled).reshaped((*origin.old[:-1], out[-1]), out)


@rule("mm", "bmm")
def matrix_product(call: Call) -> Result:
    """Rows with columns."""
    return product(call, call.input, call.of(call["mat2"]), len(call.out_shape()))


@rule("addmm", "baddbmm")
def add_product(call: Call) -> Result:
    """Rows with columns, and the addend."""
    names = ("mat1", "mat2") if call.node.op == "addmm" else ("batch1", "batch2")
    ndim = len(call.out_shape())
    return union((product(call, call.of(call[names[0]]), call.of(call[names[1]]), ndim), call.input), ndim)


@rule("mv")
def matrix_vector(call: Call) -> Result:
    """Rows with the vector."""
    matrix, vector = call.input, call.of(call["vec"])
    rows = matrix and _without(call.reduce(matrix, [1]), [1])
    return union((rows, vector and call.reduce(vector, [0])), 1)


@rule("dot", "vdot")
def dot(call: Call) -> Result:
    """All with all."""
    parts = [labels and _without(call.reduce(labels, [0]), [0]) for labels in (call.input, call.of(call.node.args[1]))]
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
    for mask in ("attn_mask", "attn_bias"):
        if call.of(call.get(mask)) is not None:
            raise NoRule("an attention mask that depends on the input")
    parts = [query and call.reduce(query, [ndim - 1])]
    parts += [key and call.reduce(key, [ndim - 2, ndim - 1]), value and call.reduce(value, [ndim - 2])]
    merged = union(parts, ndim)
    return [merged, *[None] * (len(call.node.outputs) - 1)]


@rule("_fft_r2c", "_fft_c2r", "_fft_c2c")
def fourier(call: Call) -> Result:
    """Every coefficient reads all samples along the transformed dimensions."""
    return call.input and call.reduce(call.input, [dim % call.ndim for dim in call["dim"]])
