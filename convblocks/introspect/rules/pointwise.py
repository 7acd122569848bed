"""Operations that go element by element, and those that only look at shapes."""

from __future__ import annotations

from convblocks.introspect.aliasing import Ref
from convblocks.introspect.labels import union
from convblocks.introspect.registry import Call, Result, rule


def pointwise(call: Call) -> Result:
    """Element i of the result depends on element i of the (broadcast) operands."""
    ndim = len(call.out_shape())
    operands = (*call.node.args, *call.node.kwargs.values())
    merged = union([call.of(item) for item in operands if isinstance(item, Ref)], ndim)
    return [merged] * len(call.node.outputs)


@rule("_prelu_kernel", "where", "masked_fill", "native_dropout")
@rule("leaky_relu", "hardswish")
@rule("log_sigmoid_forward", "rrelu_with_noise")
def elementwise(call: Call) -> Result:
    """Not tagged pointwise in every version of torch."""
    return pointwise(call)


@rule(
    "empty_like",
    "zeros_like",
    "ones_like",
    "full_like",
    "rand_like",
    "randn_like",
    "new_zeros",
    "new_empty",
    "new_ones",
    "new_full",
)
@rule(
    "zero",
    "fill",
    "bernoulli",
    "uniform",
    "normal",
    "new_empty_strided",
    "zeros",
    "ones",
    "empty",
    "arange",
    "full",
    "randint_like",
)
def shape_only(call: Call) -> Result:
    """The result takes a shape from its argument, no value; `fill` takes its value from the second."""
    if call.node.op.rstrip("_") == "fill" and isinstance(call["value"], Ref):
        value = call.of(call["value"])
        return value and value.with_ndim(len(call.out_shape()))
    return [None] * len(call.node.outputs)
