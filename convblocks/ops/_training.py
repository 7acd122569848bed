"""A whole depthwise separable block in training: what its convolutions give is written once, before its norms."""

# What torch leaves without types.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, library

from convblocks.ops._choice import Choice, Pair, computed_in, decide
from convblocks.ops._depthwise import channels_last, empty, pairs, sizes
from convblocks.ops._direct import call, plain
from convblocks.ops._norm import activated, norm_backward, statistics, wide
from convblocks.ops._separable import require_residual, separable_case, tensor_float, unfit_block
from convblocks.ops._stage import ACTIVATIONS, Stage

Which = tuple[bool, bool]


def training_choice(
    x: Tensor,
    depthwise: Tensor,
    pointwise: Tensor,
    first: Stage,
    second: Stage,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
) -> Choice:
    """Tell whether the blocks take `separable_training` for these arguments, and why.

    Args:
        x: as there, and so are the others; only shapes, dtypes, devices and layouts are looked at.
        depthwise: (C, 1, kernel height, kernel width).
        pointwise: (O, C, 1, 1).
        first: the first norm and activation.
        second: likewise.
        stride: of the depthwise convolution.
        padding: likewise.
        dilation: likewise.
    """
    obstacle = unfit_block(x, depthwise, pointwise, first, second, stride, padding, dilation)
    if not obstacle and not (first.bias is None and second.bias is None):
        obstacle = "a convolution before a norm has a bias"
    if not obstacle and x.shape[0] * math.prod(sizes(x, depthwise, stride, padding, dilation)) == 1:
        obstacle = "there is one value a channel, of which PyTorch takes no variance"
    if obstacle:
        return Choice("torch", obstacle)
    return decide(x, "fused", lambda: separable_case(x, depthwise, pointwise, stride, dilation, training=True))


def separable_training(
    x: Tensor,
    depthwise: Tensor,
    pointwise: Tensor,
    first: Stage,
    second: Stage,
    batch: Which,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    residual: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute depthwise -> norm -> activation -> pointwise -> norm -> activation (+ x), with gradients.

    On a CUDA device by Triton kernels, and without atomics: the same call gives the same bits. Float32 is multiplied in
    TF32 where `torch.backends.cudnn.allow_tf32` lets PyTorch's convolutions do that; where not, and on the CPU,
    PyTorch's operations compute it. What each convolution gives is kept for the backward pass, and nothing else of the
    same size.

    Args:
        x: (N, C, H, W).
        depthwise: (C, 1, kernel height, kernel width).
        pointwise: (O, C, 1, 1).
        first: the first norm and activation; where `batch[0]`, squares are summed about its running mean, in float32:
            one that is a thousand standard deviations off costs the variance some percent.
        second: likewise.
        batch: which norm takes the statistics of the batch; the other one takes its running statistics.
        stride: of the depthwise convolution.
        padding: likewise.
        dilation: likewise.
        residual: add x to the output, which must have its shape.

    Raises:
        ValueError: `residual` where the output has another shape than x.

    Returns:
        The output, and of each norm, (3, C) and (3, O), mean, variance over the number of positions, and variance over
        one less, which is what running statistics are made of; of a norm that takes its running statistics, their mean
        and twice their variance.

    Shape:
        - Input: (N, C, H, W)
        - Output: (N, O, H', W'), as of `depthwise_separable_conv2d`

    Examples:
        >>> x, depthwise, pointwise = torch.randn(2, 3, 5, 5), torch.ones(3, 1, 3, 3), torch.ones(4, 3, 1, 1)
        >>> where = (1, 1), (1, 1), (1, 1)
        >>> stages = Stage(act="relu"), Stage(act="relu")
        >>> out, one, two = separable_training(x, depthwise, pointwise, *stages, (True, True), *where)
        >>> out.shape, one.shape, two.shape
        (torch.Size([2, 4, 5, 5]), torch.Size([3, 3]), torch.Size([3, 4]))
    """
    if residual:
        require_residual(x, depthwise, pointwise, stride, padding, dilation)
    # Under autocast the weights are float32 still, and so are then their gradients: the kernels take them as they are,
    # where a cast and its gradient would be four launches a block.
    low = x.to(computed_in(x))
    # Where x has more digits than the block, the sum keeps them; with a stride no kernel of gradients adds anything.
    inside = residual and low.dtype == x.dtype and stride == (1, 1)
    affine = first.weight, first.shift, second.weight, second.shift
    known = first.mean, first.variance, second.mean, second.variance
    rest = batch, [first.eps, second.eps], f"{first.act},{second.act}", stride, padding, dilation, inside
    given = low, depthwise, pointwise, *affine, *known
    if plain(*given):
        out, _, _, stats1, stats2 = call(_compute, _keep, _gradients, *given, *rest)
    else:
        out, _, _, stats1, stats2 = _training(*given, *rest)
    return out + x if residual and not inside else out, stats1, stats2


def _compute(
    x: Tensor,
    depthwise: Tensor,
    pointwise: Tensor,
    weight1: Tensor | None,
    shift1: Tensor | None,
    weight2: Tensor | None,
    shift2: Tensor | None,
    mean1: Tensor | None,
    variance1: Tensor | None,
    mean2: Tensor | None,
    variance2: Tensor | None,
    batch: Sequence[bool],
    eps: Sequence[float],
    acts: str,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    residual: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    s, p, d = pairs(stride, padding, dilation)
    act1, act2 = acts.split(",")
    first = Stage(None, mean1, variance1, weight1, shift1, eps[0], act1)
    second = Stage(None, mean2, variance2, weight2, shift2, eps[1], act2)
    which = batch[0], batch[1]
    if x.is_cuda and (x.dtype is not torch.float32 or tensor_float()):
        from convblocks.ops import _launch_training

        return _launch_training.forward(x, depthwise, pointwise, first, second, which, s, p, d, residual)
    depthwise, pointwise = depthwise.to(x.dtype), pointwise.to(x.dtype)
    y1 = channels_last(F.conv2d(x, depthwise, None, s, p, d, x.shape[1]))
    stats1 = statistics(y1, first, which[0])
    y2 = channels_last(F.conv2d(activated(y1, stats1, first), pointwise))
    stats2 = statistics(y2, second, which[1])
    out = activated(y2, stats2, second)
    return channels_last(x + out if residual else out), y1, y2, stats1, stats2


_training = library.custom_op("convblocks::separable_training", _compute, mutates_args=())


@_training.register_fake
def _(
    x: Tensor,
    depthwise: Tensor,
    pointwise: Tensor,
    weight1: Tensor | None,
    shift1: Tensor | None,
    weight2: Tensor | None,
    shift2: Tensor | None,
    mean1: Tensor | None,
    variance1: Tensor | None,
    mean2: Tensor | None,
    variance2: Tensor | None,
    batch: Sequence[bool],
    eps: Sequence[float],
    acts: str,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    residual: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    (n, c), o = x.shape[:2], pointwise.shape[0]
    size = sizes(x, depthwise, stride, padding, dilation)
    stats1, stats2 = (x.new_empty((3, width), dtype=wide(x)) for width in (c, o))
    return empty(x, (n, o, *size)), empty(x, (n, c, *size)), empty(x, (n, o, *size)), stats1, stats2


def _compute_gradients(
    dout: Tensor,
    x: Tensor,
    depthwise: Tensor,
    pointwise: Tensor,
    y1: Tensor,
    y2: Tensor,
    stats1: Tensor,
    stats2: Tensor,
    weight1: Tensor | None,
    shift1: Tensor | None,
    weight2: Tensor | None,
    shift2: Tensor | None,
    batch: Sequence[bool],
    eps: Sequence[float],
    acts: str,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    residual: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    s, p, d = pairs(stride, padding, dilation)
    act1, act2 = acts.split(",")
    first = Stage(None, None, None, weight1, shift1, eps[0], act1)
    second = Stage(None, None, None, weight2, shift2, eps[1], act2)
    which = batch[0], batch[1]
    if x.is_cuda and (x.dtype is not torch.float32 or tensor_float()):
        from convblocks.ops import _launch_training

        found = _launch_training.backward(
            dout, x, depthwise, pointwise, y1, y2, stats1, stats2, first, second, which, s, p, d, residual
        )
    else:
        of_weights = depthwise.dtype, pointwise.dtype
        depthwise, pointwise = depthwise.to(x.dtype), pointwise.to(x.dtype)
        d_y2, d_weight2, d_shift2 = norm_backward(dout, y2, stats2, second, which[1])
        z = activated(y1, stats1, first)
        dz, d_pointwise, _ = torch.ops.aten.convolution_backward(
            d_y2, z, pointwise, None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1, [True, True, False]
        )
        d_y1, d_weight1, d_shift1 = norm_backward(dz, y1, stats1, first, which[0])
        dx, d_depthwise, _ = torch.ops.aten.convolution_backward(
            d_y1, x, depthwise, None, s, p, d, False, [0, 0], x.shape[1], [True, True, False]
        )
        weights = d_depthwise.to(of_weights[0]), d_pointwise.to(of_weights[1])
        dx = dx + dout if residual else dx
        found = channels_last(dx), *weights, d_weight1, d_shift1, d_weight2, d_shift2
    kinds = [(weight1, stats1), (shift1, stats1), (weight2, stats2), (shift2, stats2)]
    a, b, c, d_ = (
        g.to((stats if t is None else t).dtype).contiguous() for g, (t, stats) in zip(found[3:], kinds, strict=True)
    )
    return found[0], found[1].contiguous(), found[2].contiguous(), a, b, c, d_


_backward = library.custom_op("convblocks::separable_training_backward", _compute_gradients, mutates_args=())


@_backward.register_fake
def _(
    dout: Tensor,
    x: Tensor,
    depthwise: Tensor,
    pointwise: Tensor,
    y1: Tensor,
    y2: Tensor,
    stats1: Tensor,
    stats2: Tensor,
    weight1: Tensor | None,
    shift1: Tensor | None,
    weight2: Tensor | None,
    shift2: Tensor | None,
    batch: Sequence[bool],
    eps: Sequence[float],
    acts: str,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    residual: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    kinds = [(weight1, stats1), (shift1, stats1), (weight2, stats2), (shift2, stats2)]
    a, b, c, d = (stats.new_empty(stats.shape[1], dtype=(stats if t is None else t).dtype) for t, stats in kinds)
    return empty(x, x.shape), depthwise.new_empty(depthwise.shape), pointwise.new_empty(pointwise.shape), a, b, c, d


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    # Nothing asks for gradients of what is kept: zeros in their place would be two tensors to write.
    ctx.set_materialize_grads(False)
    _, y1, y2, stats1, stats2 = output
    # A norm over the batch changes its running statistics before the backward pass, which does not need them.
    batch1, batch2 = inputs[11]
    known = [None if batch else t for batch, t in zip((batch1, batch1, batch2, batch2), inputs[7:11], strict=True)]
    ctx.rest = inputs[11:]
    ctx.save_for_backward(*inputs[:7], *known, y1, y2, stats1, stats2)


def _gradients(ctx: Any, dout: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    if dout is None:
        return (None,) * 18
    saved = ctx.saved_tensors
    x, depthwise, pointwise, *affine = saved[:7]
    if torch.is_grad_enabled():
        # Gradients of gradients: by PyTorch's operations, which know their own. By views, so that a tensor given twice,
        # or one made of another, is two.
        views: list[Any] = [None if t is None else t.view_as(t) for t in saved[:7]]
        leaves = [t for t in views if t is not None and t.requires_grad]
        out = _composed(*views, *saved[7:11], *ctx.rest)
        found = iter(torch.autograd.grad(out, leaves, dout, create_graph=True, allow_unused=True))
        ordered = [next(found) if t is not None and t.requires_grad else None for t in saved[:7]]
    else:
        given = dout, x, depthwise, pointwise, *saved[11:], *affine
        found = (_compute_gradients if plain(*given) else _backward)(*given, *ctx.rest)
        ordered = [None if t is None else g for t, g in zip(saved[:7], found, strict=True)]
    return *ordered, *(None,) * 11


_training.register_autograd(_gradients, setup_context=_keep)


def _composed(
    x: Tensor,
    depthwise: Tensor,
    pointwise: Tensor,
    weight1: Tensor | None,
    shift1: Tensor | None,
    weight2: Tensor | None,
    shift2: Tensor | None,
    mean1: Tensor | None,
    variance1: Tensor | None,
    mean2: Tensor | None,
    variance2: Tensor | None,
    batch: Sequence[bool],
    eps: Sequence[float],
    acts: str,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    residual: bool = False,
) -> Tensor:
    s, p, d = pairs(stride, padding, dilation)
    act1, act2 = acts.split(",")
    depthwise, pointwise = depthwise.to(x.dtype), pointwise.to(x.dtype)
    y = F.conv2d(x, depthwise, None, s, p, d, x.shape[1])
    known = (None, None) if batch[0] else (mean1, variance1)
    y = ACTIVATIONS[act1](F.batch_norm(y, *known, weight1, shift1, batch[0], 0.0, eps[0]))
    known = (None, None) if batch[1] else (mean2, variance2)
    y = ACTIVATIONS[act2](F.batch_norm(F.conv2d(y, pointwise), *known, weight2, shift2, batch[1], 0.0, eps[1]))
    return x + y if residual else y
