"""Operations that go element by element, and those that only look at shapes."""

from __future__ import annotations

from convblocks.introspect.aliasing import Ref
from convblocks.introspect.labels import union
from convblocks.introspect.operations import results_of
from convblocks.introspect.registry import Call, Result, rule
from convblocks.introspect.rules.parts import crop


def pointwise(call: Call) -> Result:
    """Element i of the result depends on element i of the (broadcast) operands."""
    ndim = len(call.out_shape())
    into = results_of(call.node.func)
    operands = (*call.node.args, *(item for name, item in call.node.kwargs.items() if name not in into))
    merged = union([call.of(item) for item in operands if isinstance(item, Ref)], ndim)
    return [merged] * len(call.node.outputs)


@rule(
    "native_dropout",
    "hardswish",
    "log_sigmoid_forward",
    "rrelu_with_noise",
    "_prelu_kernel",
    "leaky_relu",
    "complex",
    "polar",
)
def elementwise(call: Call) -> Result:
    """Not tagged pointwise in every version of torch."""
    return pointwise(call)


@rule("glu")
def glu(call: Call) -> Result:
    """One half gates the other."""
    labels = call.input
    dim: int = call["dim"] % call.ndim
    half = call.out_shape()[dim]
    return labels and union((crop(labels, dim, slice(0, half)), crop(labels, dim, slice(half, 2 * half))), call.ndim)


@rule("zero", "fill", "bernoulli", "uniform", "normal")
def shape_only(call: Call) -> Result:
    """The result takes a shape from its argument, no value; `fill` takes its value from the second."""
    call.ignore(*call.node.args)
    if call.node.op.rstrip("_") == "fill" and isinstance(call["value"], Ref):
        value = call.of(call["value"])
        return value and value.with_ndim(len(call.out_shape()))
    return [None] * len(call.node.outputs)
