"""A batch norm in training and the activation behind it: y is read twice forward and twice backward, kept once."""

# What torch leaves without types.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, library

from convblocks.ops._choice import POSITIONS, Choice, decide, unfit
from convblocks.ops._depthwise import channels_last, empty
from convblocks.ops._direct import call, plain
from convblocks.ops._norm import activated, norm_backward, statistics, wide
from convblocks.ops._stage import ACTIVATIONS, Stage

# Of the channels of one position: past these a program has too few registers, or too little shared memory for float32.
_WIDEST_BYTES = 1024


def norm_choice(y: Tensor, stage: Stage) -> Choice:
    """Tell whether the blocks take `norm_training` for a norm in training, and why.

    Args:
        y: (N, C, H, W); only its shape, dtype, device and layout are looked at.
        stage: the norm and the activation behind it.

    Examples:
        >>> norm_choice(torch.zeros(2, 8, 4, 4), Stage(act="relu"))
        Choice(path='torch', reason='the input is not on a CUDA device')
    """
    obstacle = unfit(y, ()) or _unfit(y, stage)
    return Choice("torch", obstacle) if obstacle else decide(y, "fused", lambda: norm_case(y, stage.act))


def _unfit(y: Tensor, stage: Stage) -> str:
    if torch.compiler.is_compiling():
        return "torch.compile makes kernels of norms itself"
    if y.dim() != 4 or not y.is_contiguous(memory_format=torch.channels_last):
        return "the input is not in channels_last"
    return _unfit_kernels(y, stage)


def _unfit_kernels(y: Tensor, stage: Stage) -> str:
    if y.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        return "the dtype is none of float32, float16 and bfloat16"
    n, c, h, w = y.shape
    if c * y.element_size() > _WIDEST_BYTES:
        return f"there are more than {_WIDEST_BYTES // y.element_size()} channels"
    if y.numel() == 0:
        return "the input is empty"
    if n * h * w == 1:
        return "there is one value a channel, of which PyTorch takes no variance"
    if n * h * w >= POSITIONS:
        return "the batch has about 2^31 positions or more"
    for t in stage.tensors()[1:]:
        if t is not None and (t.device != y.device or not t.is_floating_point() or t.shape != (c,)):
            return "the norm is on another device than the input, or not of its channels"
    return ""


def norm_case(y: Tensor, act: str) -> str:
    """Return the key of the decision table: any activation stands for all; with none PyTorch has a pass less."""
    c = y.shape[1]
    narrow = " narrow" if c * y.element_size() % 16 != 0 else ""
    what = f"{max(16, 1 << (c - 1).bit_length())} {str(y.dtype).removeprefix('torch.')} {'act' if act else 'alone'}"
    return f"norm {what} channels_last{narrow} training"


def norm_training(y: Tensor, stage: Stage, batch: bool = True) -> tuple[Tensor, Tensor]:
    """Compute norm -> activation in training, with gradients.

    On a CUDA device by Triton kernels, and without atomics: the same call gives the same bits. The result is
    channels_last. What they do not take, such as float64, and everything on the CPU PyTorch's operations compute.

    Args:
        y: (N, C, H, W), in channels_last.
        stage: the norm and the activation; its running statistics are not looked at where `batch`.
        batch: take the statistics of the batch, and not the running ones.

    Returns:
        The output, and (3, C): mean, variance over the number of positions, and variance over one less, which is what
        running statistics are made of; without `batch`, the running mean and twice the running variance.

    Shape:
        - Input: (N, C, H, W)
        - Output: (N, C, H, W)

    Examples:
        >>> out, stats = norm_training(torch.randn(2, 3, 5, 5), Stage(act="relu"))
        >>> out.shape, stats.shape
        (torch.Size([2, 3, 5, 5]), torch.Size([3, 3]))
    """
    given = y, stage.weight, stage.shift, stage.mean, stage.variance
    rest = batch, stage.eps, stage.act
    if plain(*given):
        return call(_compute, _keep, _gradients, *given, *rest)
    return _norm(*given, *rest)


def _compute(
    y: Tensor,
    weight: Tensor | None,
    shift: Tensor | None,
    mean: Tensor | None,
    variance: Tensor | None,
    batch: bool,
    eps: float,
    act: str,
) -> tuple[Tensor, Tensor]:
    stage = Stage(None, mean, variance, weight, shift, eps, act)
    if y.is_cuda and not _unfit_kernels(y, stage):
        from convblocks.ops import _launch_training

        return _launch_training.norm_forward(y, stage, batch)
    stats = statistics(y, stage, batch)
    return channels_last(activated(y, stats, stage)), stats


_norm = library.custom_op("convblocks::norm_training", _compute, mutates_args=())


@_norm.register_fake
def _(
    y: Tensor,
    weight: Tensor | None,
    shift: Tensor | None,
    mean: Tensor | None,
    variance: Tensor | None,
    batch: bool,
    eps: float,
    act: str,
) -> tuple[Tensor, Tensor]:
    return empty(y, y.shape), y.new_empty((3, y.shape[1]), dtype=wide(y))


def _compute_gradients(
    dout: Tensor,
    y: Tensor,
    stats: Tensor,
    weight: Tensor | None,
    shift: Tensor | None,
    batch: bool,
    eps: float,
    act: str,
) -> tuple[Tensor, Tensor, Tensor]:
    stage = Stage(None, None, None, weight, shift, eps, act)
    if y.is_cuda and not _unfit_kernels(y, stage):
        from convblocks.ops import _launch_training

        dy, *found = _launch_training.norm_backward(dout, y, stats, stage, batch)
    else:
        dy, *found = norm_backward(dout, y, stats, stage, batch)
        dy = channels_last(dy)
    one, two = (
        g.to((stats if t is None else t).dtype).contiguous() for g, t in zip(found, (weight, shift), strict=True)
    )
    return dy, one, two


_backward = library.custom_op("convblocks::norm_training_backward", _compute_gradients, mutates_args=())


@_backward.register_fake
def _(
    dout: Tensor,
    y: Tensor,
    stats: Tensor,
    weight: Tensor | None,
    shift: Tensor | None,
    batch: bool,
    eps: float,
    act: str,
) -> tuple[Tensor, Tensor, Tensor]:
    one, two = (stats.new_empty(stats.shape[1], dtype=(stats if t is None else t).dtype) for t in (weight, shift))
    return empty(y, y.shape), one, two


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Sequence[Tensor]) -> None:
    # As in `_training`: a norm over the batch changes its running statistics before the backward pass.
    ctx.set_materialize_grads(False)
    known = [None, None] if inputs[5] else inputs[3:5]
    ctx.rest = inputs[5:]
    ctx.save_for_backward(*inputs[:3], *known, output[1])


def _gradients(ctx: Any, dout: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    if dout is None:
        return (None,) * 8
    y, weight, shift, *known, stats = ctx.saved_tensors
    if torch.is_grad_enabled():
        # Gradients of gradients: by PyTorch's operations, which know their own, on views, so that a tensor given twice
        # is two.
        views: list[Any] = [None if t is None else t.view_as(t) for t in (y, weight, shift)]
        leaves = [t for t in views if t is not None and t.requires_grad]
        out = _composed(*views, *known, *ctx.rest)
        found = iter(torch.autograd.grad(out, leaves, dout, create_graph=True, allow_unused=True))
        ordered = [next(found) if t is not None and t.requires_grad else None for t in (y, weight, shift)]
    else:
        given = dout, y, stats, weight, shift
        found = (_compute_gradients if plain(*given) else _backward)(*given, *ctx.rest)
        ordered = [None if t is None else g for t, g in zip((y, weight, shift), found, strict=True)]
    return *ordered, *(None,) * 5


_norm.register_autograd(_gradients, setup_context=_keep)


def _composed(
    y: Tensor,
    weight: Tensor | None,
    shift: Tensor | None,
    mean: Tensor | None,
    variance: Tensor | None,
    batch: bool,
    eps: float,
    act: str,
) -> Tensor:
    known = (None, None) if batch else (mean, variance)
    return ACTIVATIONS[act](F.batch_norm(y, *known, weight, shift, batch, 0.0, eps))
