"""depthwise_conv2d, and the two operators that stand behind it in torch.library."""

# What torch.library leaves without types.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from convblocks.ops._choice import IntPair, case, choose, computed_in, pair
from convblocks.ops._direct import call, plain
from convblocks.ops._quick import pays


def depthwise_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: IntPair = 1,
    padding: IntPair = 0,
    dilation: IntPair = 1,
) -> Tensor:
    """Convolve every channel with its own kernel: `F.conv2d(x, weight, bias, ..., groups=C)`.

    On a CUDA device, where `backend` and the case allow it, a Triton kernel computes it, and both gradients in one pass
    over the data. These kernels accumulate in float32, use no atomics (the same call gives the same bits), and work on
    channels_last: an input in another layout is copied to it once, and the result is channels_last. In all other cases
    it is PyTorch's own convolution, with PyTorch's own errors; `choice` tells which, and why.

    Args:
        x: (N, C, H, W).
        weight: (C, 1, kernel height, kernel width); (C * m, 1, ...) is computed by PyTorch.
        bias: (C), or None.
        stride: one integer or (height, width).
        padding: zeros on both sides of an axis: one integer or (height, width).
        dilation: distance between the taps of the kernel: one integer or (height, width).

    Shape:
        - Input: (N, C, H, W)
        - Output: (N, C, H', W') with H' = floor((H + 2 * padding - dilation * (kernel height - 1) - 1) / stride) + 1

    Raises:
        ValueError: `stride`, `padding` or `dilation` is neither an integer in its range nor a pair of them.

    Examples:
        >>> x, weight = torch.ones(1, 2, 5, 5), torch.ones(2, 1, 3, 3)
        >>> depthwise_conv2d(x, weight, padding=2, dilation=2)[0, 0, 2]
        tensor([6., 6., 9., 6., 6.])
    """
    s, p, d = pair("stride", stride, 1), pair("padding", padding, 0), pair("dilation", dilation, 1)
    if x.is_cuda and x.dim() == weight.dim() == 4:
        kernel = weight.shape[2:]
        if not pays(x, (kernel, s, d), lambda: [case(x, kernel, s, d, training) for training in (False, True)]):
            return F.conv2d(x, weight, bias, s, p, d, x.shape[1])
    x, weight = x.to(computed_in(x)), weight.to(computed_in(weight))
    bias = None if bias is None else bias.to(computed_in(bias))
    if choose(x, weight, bias, s, p, d).path == "torch":
        return F.conv2d(x, weight, bias, s, p, d, x.shape[1] if x.dim() == 4 else x.shape[0])
    if plain(x, weight, bias):
        return call(_compute, _keep, _gradients, x, weight, bias, s, p, d)
    return _forward(x, weight, bias, s, p, d)


def _compute(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    s, p, d = pairs(stride, padding, dilation)
    if x.is_cuda:
        from convblocks.ops import _launch

        return _launch.forward(x, weight, bias, s, p, d)[0]
    return channels_last(F.conv2d(x, weight, bias, s, p, d, x.shape[1]))


_forward = torch.library.custom_op("convblocks::depthwise_conv2d", _compute, mutates_args=())


@_forward.register_fake
def _(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    return empty(x, (x.shape[0], x.shape[1], *sizes(x, weight, stride, padding, dilation)))


def _compute_gradients(
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    has_bias: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    s, p, d = pairs(stride, padding, dilation)
    if x.is_cuda:
        from convblocks.ops import _launch

        dx, dw, db = _launch.backward(dy, x, weight, s, p, d, has_bias)
    else:
        shape = [x.shape[1]] if has_bias else None
        dx, dw, db = torch.ops.aten.convolution_backward(
            dy, x, weight, shape, s, p, d, False, [0, 0], x.shape[1], [True, True, has_bias]
        )
        dx, dw = channels_last(dx), dw.contiguous()
    return dx, dw, dy.new_empty(0) if db is None else db


_backward = torch.library.custom_op("convblocks::depthwise_conv2d_backward", _compute_gradients, mutates_args=())


@_backward.register_fake
def _(
    dy: Tensor,
    x: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    has_bias: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    return empty(x, x.shape), weight.new_empty(weight.shape), dy.new_empty(weight.shape[0] if has_bias else 0)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, bias, *ctx.rest = inputs
    ctx.has_bias = bias is not None
    ctx.save_for_backward(x, weight)


def _gradients(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    x, weight = ctx.saved_tensors
    direct = not torch.is_grad_enabled() and plain(dy, x, weight)
    compute: Any = _compute_gradients if direct else _backward
    dx, dw, db = compute(dy, x, weight, *ctx.rest, ctx.has_bias)
    return dx, dw, db if ctx.has_bias else None, None, None, None


_forward.register_autograd(_gradients, setup_context=_keep)


def _keep_twice(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    dy, x, weight, *ctx.rest, ctx.has_bias = inputs
    ctx.save_for_backward(dy, x, weight)


def _second_gradients(ctx: Any, ddx: Tensor, ddw: Tensor, ddb: Tensor) -> tuple[Tensor | None, ...]:
    # Both gradients are linear in dy: what they pass back to it are convolutions again, and so on without end.
    dy, x, weight = ctx.saved_tensors
    ddy = _forward(ddx, weight, ddb if ctx.has_bias else None, *ctx.rest) + _forward(x, ddw, None, *ctx.rest)
    dx, _, _ = _backward(dy, x, ddw, *ctx.rest, False)
    _, dw, _ = _backward(dy, ddx, weight, *ctx.rest, False)
    return ddy, dx, dw, None, None, None, None


_backward.register_autograd(_second_gradients, setup_context=_keep_twice)


def pairs(*values: Sequence[int]) -> tuple[tuple[int, int], ...]:
    return tuple((value[0], value[1]) for value in values)


def sizes(
    x: Tensor, weight: Tensor, stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
) -> list[int]:
    """Return the height and width of a convolution's output."""
    return [
        (x.shape[axis] + 2 * p - d * (weight.shape[axis] - 1) - 1) // s + 1
        for axis, s, p, d in zip((2, 3), stride, padding, dilation, strict=True)
    ]


def channels_last(x: Tensor) -> Tensor:
    return empty(x, x.shape).copy_(x)


def empty(like: Tensor, shape: Sequence[int]) -> Tensor:
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)
