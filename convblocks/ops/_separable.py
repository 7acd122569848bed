"""depthwise_separable_conv2d: a whole block in one kernel, for inference."""

# What torch leaves without types.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, library

from convblocks.ops._choice import (
    Choice,
    IntPair,
    Pair,
    case,
    choose,
    computed_in,
    decide,
    pair,
    unfit,
    unfit_shape,
)
from convblocks.ops._depthwise import channels_last, depthwise_conv2d, empty, pairs, sizes
from convblocks.ops._direct import plain, traced
from convblocks.ops._stage import ACTIVATIONS, Stage

# Up to here the registers and the shared memory of one program suffice.
_WIDEST = 128
_WIDEST_OUT = 256
_WEIGHT_BYTES = 2**15
GRADIENTS = "gradients are asked for"


def depthwise_separable_conv2d(
    x: Tensor,
    depthwise: Tensor,
    pointwise: Tensor,
    first: Stage | None = None,
    second: Stage | None = None,
    stride: IntPair = 1,
    padding: IntPair = 0,
    dilation: IntPair = 1,
    residual: bool = False,
) -> Tensor:
    """Compute a depthwise separable block: depthwise -> `first` -> pointwise -> `second` (+ x).

    On a CUDA device, where no gradient is asked for and `backend` and the case allow it, one Triton kernel computes it
    all: x is read once, the result written once, and nothing in between leaves the chip. Sums are in float32, what goes
    into the pointwise convolution is rounded to the dtype of x, and the result is channels_last. In all other cases it
    is `depthwise_conv2d` and PyTorch's operations, with gradients; `separable_choice` tells which, and why.

    Args:
        x: (N, C, H, W).
        depthwise: (C, 1, kernel height, kernel width).
        pointwise: (O, C, 1, 1).
        first: what follows the depthwise convolution; None for nothing.
        second: what follows the pointwise convolution; None for nothing.
        stride: of the depthwise convolution: one integer or (height, width).
        padding: zeros on both sides of an axis: one integer or (height, width).
        dilation: distance between the taps of the kernel: one integer or (height, width).
        residual: add x to the result, which must have its shape.

    Shape:
        - Input: (N, C, H, W)
        - Output: (N, O, H', W') with H' = floor((H + 2 * padding - dilation * (kernel height - 1) - 1) / stride) + 1

    Raises:
        ValueError: `stride`, `padding` or `dilation` is neither an integer in its range nor a pair of them; an
            activation that `Stage` does not name; a norm of which mean or variance is missing; `residual` where the
            result has another shape than x.

    Examples:
        >>> x, depthwise, pointwise = torch.ones(1, 2, 5, 5), torch.ones(2, 1, 3, 3), torch.ones(1, 2, 1, 1)
        >>> depthwise_separable_conv2d(x, depthwise, pointwise, second=Stage(bias=torch.tensor([-12.0]), act="relu"))
        tensor([[[[6., 6., 6.],
                  [6., 6., 6.],
                  [6., 6., 6.]]]])
    """
    first, second = _checked("first", first), _checked("second", second)
    s, p, d = pair("stride", stride, 1), pair("padding", padding, 0), pair("dilation", dilation, 1)
    if choose_separable(x, depthwise, pointwise, first, second, s, p, d).path == "fused":
        if residual:
            require_residual(x, depthwise, pointwise, s, p, d)
        return fused_separable(x, depthwise, pointwise, first, second, s, p, d, residual)
    y = first.rest(depthwise_conv2d(x, depthwise, first.bias, s, p, d))
    y = second.rest(F.conv2d(y, pointwise, second.bias))
    if residual and not traced():
        _require_same(x, y.shape)
    return x + y if residual else y


def shape_of(
    x: Tensor, depthwise: Tensor, pointwise: Tensor, stride: Pair, padding: Pair, dilation: Pair
) -> tuple[int, ...]:
    """Return the shape of a block's result."""
    return x.shape[0], pointwise.shape[0], *sizes(x, depthwise, stride, padding, dilation)


def require_residual(
    x: Tensor, depthwise: Tensor, pointwise: Tensor, stride: Pair, padding: Pair, dilation: Pair
) -> None:
    """Raise ValueError where a block's result has not the shape of its input."""
    _require_same(x, shape_of(x, depthwise, pointwise, stride, padding, dilation))


def _require_same(x: Tensor, shape: tuple[int, ...]) -> None:
    if x.shape != shape:
        raise ValueError(f"residual=True needs a result of the shape of x, {tuple(x.shape)}, and it is {tuple(shape)}")


def fused_separable(
    x: Tensor,
    depthwise: Tensor,
    pointwise: Tensor,
    first: Stage,
    second: Stage,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    residual: bool = False,
) -> Tensor:
    """Compute the block by its one kernel, which is known to take these arguments."""
    stages = first.tensors(), second.tensors(), [first.eps, second.eps], f"{first.act},{second.act}"
    low = x.to(computed_in(x))
    # Under autocast x may have more digits than the block, and the sum keeps them.
    inside = residual and low.dtype == x.dtype
    # No gradient is asked for.
    compute = _compute if plain(low, depthwise, pointwise, *stages[0], *stages[1]) else _separable
    out = compute(low, depthwise, pointwise, *stages, stride, padding, dilation, inside)
    # In this order, of which the first decides how the sum lies.
    return out + x if residual and not inside else out


def separable_choice(
    x: Tensor,
    depthwise: Tensor,
    pointwise: Tensor,
    first: Stage | None = None,
    second: Stage | None = None,
    stride: IntPair = 1,
    padding: IntPair = 0,
    dilation: IntPair = 1,
) -> Choice:
    """Tell whether `depthwise_separable_conv2d` takes its one kernel with these arguments, and why.

    Where it does not, the path is that of `depthwise_conv2d`, and the reason that of this function.

    Args:
        x: as there, and so are the others; only shapes, dtypes, devices and layouts are looked at.
        depthwise: (C, 1, kernel height, kernel width).
        pointwise: (O, C, 1, 1).
        first: what follows the depthwise convolution.
        second: what follows the pointwise convolution.
        stride: one integer or (height, width).
        padding: likewise.
        dilation: likewise.

    Examples:
        >>> separable_choice(torch.zeros(1, 8, 4, 4), torch.zeros(8, 1, 3, 3), torch.zeros(16, 8, 1, 1))
        Choice(path='torch', reason='the input is not on a CUDA device')
    """
    first, second = first or Stage(), second or Stage()
    steps = pair("stride", stride, 1), pair("padding", padding, 0), pair("dilation", dilation, 1)
    return choose_separable(x, depthwise, pointwise, first, second, *steps)


def choose_separable(
    x: Tensor,
    depthwise: Tensor,
    pointwise: Tensor,
    first: Stage,
    second: Stage,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
) -> Choice:
    """Return what `separable_choice` does, for pairs that were checked."""
    steps = stride, padding, dilation
    obstacle = unfit_block(x, depthwise, pointwise, first, second, *steps)
    if not obstacle and torch.is_grad_enabled():
        tensors = [x, depthwise, pointwise, *first.tensors(), *second.tensors()]
        if any(t is not None and t.requires_grad for t in tensors):
            obstacle = GRADIENTS
    if obstacle:
        found = Choice("torch", obstacle)
    else:
        found = decide(x, "fused", lambda: separable_case(x, depthwise, pointwise, stride, dilation))
    return found if found.path == "fused" else found._replace(path=choose(x, depthwise, first.bias, *steps).path)


def unfit_block(
    x: Tensor,
    depthwise: Tensor,
    pointwise: Tensor,
    first: Stage,
    second: Stage,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
) -> str:
    obstacle = unfit(x, (depthwise, pointwise, first.bias, second.bias)) or unfit_shape(
        x, depthwise, first.bias, stride, padding, dilation
    )
    if obstacle:
        return obstacle
    o, c = pointwise.shape[0], x.shape[1]
    if pointwise.shape[1:] != (c, 1, 1) or o == 0:
        return "the pointwise weight is not (O, C, 1, 1)"
    if not keeps(c, o, computed_in(x).itemsize):
        return "the pointwise weight is too large to be kept on the chip"
    if computed_in(x) is torch.float32 and not torch.compiler.is_compiling() and not tensor_float():
        return "the product of float32 in tensor cores is TF32, which torch.backends.cudnn.allow_tf32 forbids"
    for stage, size in ((first, c), (second, o)):
        for i, t in enumerate(stage.tensors()):
            if t is None:
                continue
            # The first is the convolution's bias, which was looked at above.
            if i and (t.device != x.device or not t.is_floating_point()):
                return "the norm is on another device than the input, or no floating-point one"
            if t.shape != (size,):
                return "a bias or norm has not one number a channel"
    return ""


def keeps(channels: int, out: int, itemsize: int) -> bool:
    """Tell whether one program has room for all channels of a block and for the pointwise weight."""
    weight = _width(channels) * _width(out) * itemsize
    return channels <= _WIDEST and out <= _WIDEST_OUT and weight <= _WEIGHT_BYTES


def separable_case(
    x: Tensor, depthwise: Tensor, pointwise: Tensor, stride: Pair, dilation: Pair, training: bool = False
) -> str:
    """Return the key of the decision table: that of the depthwise convolution, and the channels that blocks reach."""
    channels = f"{_width(pointwise.shape[1])} to {_width(pointwise.shape[0])}"
    return f"separable {channels} {case(x, depthwise.shape[2:], stride, dilation, training)}"


def tensor_float() -> bool:
    """Whether PyTorch's convolutions may round float32 to TF32."""
    cudnn: Any = torch.backends.cudnn
    try:
        return cudnn.allow_tf32
    except RuntimeError:
        # Set by the newer of torch's two interfaces.
        return cudnn.conv.fp32_precision == "tf32"


def _width(channels: int) -> int:
    return max(16, 1 << (channels - 1).bit_length())


def _checked(name: str, stage: Stage | None) -> Stage:
    if stage is None:
        return Stage()
    if stage.act not in ACTIVATIONS:
        known = ", ".join(map(repr, ACTIVATIONS))
        raise ValueError(f"{name}.act must be one of {known}, got {stage.act!r}")
    if (stage.mean is None) != (stage.variance is None):
        raise ValueError(f"{name} has a mean or a variance but not both: a norm needs the two")
    if stage.mean is None and not (stage.weight is None and stage.shift is None):
        raise ValueError(f"{name} has the weight or shift of a norm, but no mean and variance")
    return stage


def _compute(
    x: Tensor,
    depthwise: Tensor,
    pointwise: Tensor,
    first: Sequence[Tensor | None],
    second: Sequence[Tensor | None],
    eps: Sequence[float],
    acts: str,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    residual: bool = False,
) -> Tensor:
    s, p, d = pairs(stride, padding, dilation)
    act_1, act_2 = acts.split(",")
    one, two = Stage.of(first, eps[0], act_1), Stage.of(second, eps[1], act_2)
    if x.is_cuda and (x.dtype is not torch.float32 or tensor_float()):
        from convblocks.ops import _launch_separable

        return _launch_separable.forward(x, depthwise, pointwise, one, two, s, p, d, residual)
    # Under autocast the weights are float32 still.
    depthwise, pointwise = depthwise.to(x.dtype), pointwise.to(x.dtype)
    y = one.rest(F.conv2d(x, depthwise, _cast(one.bias, x), s, p, d, x.shape[1]))
    y = two.rest(F.conv2d(y, pointwise, _cast(two.bias, x)))
    return channels_last(x + y if residual else y)


_separable = library.custom_op("convblocks::depthwise_separable_conv2d", _compute, mutates_args=())


@_separable.register_fake
def _(
    x: Tensor,
    depthwise: Tensor,
    pointwise: Tensor,
    first: Sequence[Tensor | None],
    second: Sequence[Tensor | None],
    eps: Sequence[float],
    acts: str,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    residual: bool = False,
) -> Tensor:
    return empty(x, (x.shape[0], pointwise.shape[0], *sizes(x, depthwise, stride, padding, dilation)))


def _cast(bias: Tensor | None, x: Tensor) -> Tensor | None:
    return None if bias is None else bias.to(x.dtype)
