"""Operations that gather whole rows: sums, orders, softmax, running sums, spectra."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from convblocks.introspect.registry import Call, Result, rule


def _dims(call: Call) -> list[int]:
    dims = call.get("dim")
    if dims is None or dims == []:
        return list(range(call.ndim))
    listed = cast("Sequence[int]", dims if isinstance(dims, (list, tuple)) else [dims])
    return [dim % max(call.ndim, 1) for dim in listed]


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
@rule(
    "norm",
    "linalg_vector_norm",
    "argmax",
    "argmin",
    "max",
    "min",
    "aminmax",
    "mode",
    "nanmedian",
    "count_nonzero",
    "kthvalue",
)
def reduction(call: Call) -> Result:
    """Every result gathers its rows."""
    labels = call.input
    outputs = call.node.outputs
    if labels is None:
        return None
    dims = _dims(call)
    if any(call.shape[dim] == 0 for dim in dims):
        return [None] * len(outputs)
    gathered = call.reduce(labels, dims)
    keep = len(call.out_shape()) == call.ndim
    return [gathered if keep else gathered.without(dims)] * len(outputs)


@rule("_softmax", "_log_softmax", "_safe_softmax", "sort", "cumsum", "cumprod", "cummax", "cummin", "logcumsumexp")
def row(call: Call) -> Result:
    """Every element depends on its whole row at most; a running sum on a part of it."""
    labels = call.input
    if labels is None:
        return None
    dim = call["dim"] % max(call.ndim, 1)
    if call.node.op.startswith(("cum", "logcum")):
        return [call.scan(labels, dim)] * len(call.node.outputs)
    return [call.mix(labels, [dim])] * len(call.node.outputs)


@rule("topk")
def topk(call: Call) -> Result:
    """Every result may be any of its row."""
    labels = call.input
    return labels and [call.reduce(labels, [call["dim"] % call.ndim])] * len(call.node.outputs)


@rule("_fft_r2c", "_fft_c2r", "_fft_c2c")
def fourier(call: Call) -> Result:
    """Every coefficient reads all samples along the transformed dimensions."""
    return call.input and call.reduce(call.input, [dim % call.ndim for dim in call["dim"]])
