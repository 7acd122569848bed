"""What of a block is one operation, as `convblocks.ops` computes it on CUDA: all of a separable one, norms of any."""

# What torch keeps to itself, hooks above all, and leaves without types.
# pyright: reportPrivateUsage=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from convblocks.layers._depthwise import DepthwiseConv2d

if TYPE_CHECKING:
    from convblocks.ops import Choice, Stage

_ACTIVATIONS: dict[type[nn.Module], str] = {
    nn.ReLU: "relu",
    nn.ReLU6: "relu6",
    nn.SiLU: "silu",
    nn.Hardswish: "hardswish",
}
_NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm)
_DROPOUTS = (nn.Dropout, nn.Dropout2d)


class Parts(NamedTuple):
    """The arguments of the operators of `convblocks.ops` that a block's modules stand for."""

    depthwise: Tensor
    pointwise: Tensor
    first: Stage
    second: Stage
    where: tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
    norms: tuple[nn.BatchNorm2d | None, nn.BatchNorm2d | None]

    def inference(self) -> tuple[Any, ...]:
        """Return the arguments of `ops.depthwise_separable_conv2d` after the input."""
        # Not as a slice, which torch 2.6 does not follow while it compiles.
        return (self.depthwise, self.pointwise, self.first, self.second, *self.where)

    def batch(self) -> tuple[bool, bool]:
        """Tell which norm takes the statistics of the batch."""
        one, two = (norm is not None and (norm.training or norm.running_mean is None) for norm in self.norms)
        return one, two


def fused(block: nn.Module, x: Tensor, residual: bool = False) -> Tensor | None:
    """Return the block's output from kernels of whole blocks, or None where its modules are to be called one by one.

    With `residual` x is added to it, where it has the shape of the output.
    """
    # What torch.fx hands over is no tensor: a symbolic trace holds the modules.
    if not isinstance(cast("object", x), Tensor) or not x.is_cuda:
        return None
    from convblocks import ops
    from convblocks.ops._separable import GRADIENTS, choose_separable, fused_separable

    if not ops.at_work() or not _could_pay(block, x):
        return None
    found = parts(block)
    # Whoever changed a stride since the block was made gets what its modules make of it.
    if isinstance(found, str) or (residual and not _keeps_shape(found, x)):
        return None
    if not any(found.batch()):
        whole = choose_separable(x, *found.inference())
        if whole.path == "fused":
            return fused_separable(x, *found.inference(), residual=residual)
        if whole.reason != GRADIENTS:
            return None
    return _train(found, x, residual) if _trained(found, x).path == "fused" else None


def _keeps_shape(found: Parts, x: Tensor) -> bool:
    from convblocks.ops._separable import shape_of

    return x.dim() == 4 and shape_of(x, found.depthwise, found.pointwise, *found.where) == tuple(x.shape)


def _could_pay(block: nn.Module, x: Tensor) -> bool:
    """Whether it is worth while to look at the modules: that takes longer than some of them."""
    dw, pw = block._modules.get("conv_dw"), block._modules.get("conv_pw")
    if type(dw) is not DepthwiseConv2d or type(pw) is not nn.Conv2d:
        return True
    from convblocks.ops import _quick

    def cases() -> list[str]:
        from convblocks.ops._separable import separable_case

        where = cast("tuple[int, int]", dw.stride), cast("tuple[int, int]", dw.dilation)
        return [separable_case(x, dw.weight, pw.weight, *where, training) for training in (False, True)]

    return _quick.pays(x, (dw.kernel_size, dw.stride, dw.dilation, pw.in_channels, pw.out_channels), cases)


def chained(parts: Iterable[nn.Module], x: Tensor) -> Tensor:
    """Apply modules in their order, a batch norm in training and the activation behind it as one where that pays."""
    if not _looks_for_norms(x):
        for part in parts:
            x = part(x)
        return x
    waiting = list(parts)
    while waiting:
        part = waiting.pop(0)
        found = _norm_and_act(part, waiting, x)
        x = part(x) if found is None else found
    return x


def _looks_for_norms(x: object) -> bool:
    # A symbolic trace hands over no tensor, and holds the modules; torch.compile makes kernels of norms itself.
    if torch.compiler.is_compiling() or not isinstance(x, Tensor) or not x.is_cuda:
        return False
    from convblocks.ops import _quick

    return _quick.norms_at_work() and not _watched_everywhere()


def _norm_and_act(part: nn.Module, waiting: list[nn.Module], x: Tensor) -> Tensor | None:
    """Return what a norm in training and the next activation give by one operation, and take that from the list."""
    if type(part) is not nn.BatchNorm2d or not (part.training or part.running_mean is None) or _watched(part):
        return None
    from convblocks import ops

    after = 0
    while after < len(waiting) and type(waiting[after]) is nn.Identity and not _watched(waiting[after]):
        after += 1
    act = _activation(waiting[after]) if after < len(waiting) and not _watched(waiting[after]) else None
    stage = ops.Stage(None, part.running_mean, part.running_var, part.weight, part.bias, part.eps, act or "")
    if ops.norm_choice(x, stage).path != "fused":
        return None
    out, stats = ops.norm_training(x, stage)
    if part.training and part.track_running_stats:
        _remember([(part, stats.detach())])
    if act is not None:
        del waiting[: after + 1]
    return out


def choice(block: nn.Module, x: Tensor) -> Choice:
    """Tell whether `fused` takes its kernels, and why."""
    from convblocks import ops
    from convblocks.ops._separable import GRADIENTS

    found = parts(block)
    if isinstance(found, str):
        return ops.Choice("torch", found)
    whole = _trained(found, x) if any(found.batch()) else ops.separable_choice(x, *found.inference())
    if whole.reason == GRADIENTS:
        return _trained(found, x)
    return whole


def _trained(found: Parts, x: Tensor) -> Choice:
    from convblocks.ops import Choice, training_choice

    if None in found.norms:
        return Choice("torch", "gradients are asked for, and a norm is missing")
    if any(batch and type(norm) is not nn.BatchNorm2d for batch, norm in zip(found.batch(), found.norms, strict=True)):
        return Choice("torch", "a norm takes its statistics from several processes")
    return training_choice(x, *found.inference())


def _train(found: Parts, x: Tensor, residual: bool = False) -> Tensor:
    from convblocks.ops import separable_training

    weights = found.depthwise, found.pointwise
    out, *stats = separable_training(x, *weights, found.first, found.second, found.batch(), *found.where, residual)
    known = [
        (norm, of.detach())
        for norm, of in zip(found.norms, stats, strict=True)
        if norm is not None and norm.training and norm.track_running_stats
    ]
    # One norm in both places remembers one after the other.
    for some in [known] if found.norms[0] is not found.norms[1] else [[one] for one in known]:
        _remember(some)
    return out


@torch.no_grad()
def _remember(norms: list[tuple[nn.BatchNorm2d, Tensor]]) -> None:
    """Update running statistics as `nn.BatchNorm2d` does, without waiting for the device, by two launches as a rule."""
    counts = [norm.num_batches_tracked for norm, _ in norms if norm.num_batches_tracked is not None]
    if counts:
        # As torch.optim calls it; the name has its underscores for want of another.
        torch._foreach_add_(counts, 1)  # pyright: ignore[reportPrivateImportUsage]
    alike: dict[tuple[float, torch.dtype], tuple[list[Tensor], list[Tensor]]] = {}
    for norm, stats in norms:
        for old, new in ((norm.running_mean, stats[0]), (norm.running_var, stats[2])):
            if old is None:
                continue
            if norm.momentum is None and norm.num_batches_tracked is not None:
                old.lerp_(new.to(old.dtype), norm.num_batches_tracked.to(old.dtype).reciprocal())
                continue
            olds, news = alike.setdefault((norm.momentum or 0.0, old.dtype), ([], []))
            olds.append(old)
            news.append(new.to(old.dtype))
    for (momentum, _), (olds, news) in alike.items():
        # As torch.optim calls it, likewise.
        torch._foreach_lerp_(olds, news, momentum)  # pyright: ignore[reportPrivateImportUsage]


def parts(block: nn.Module) -> Parts | str:
    """Read the operation off the modules: convolution, norm and activation, twice; or return why it is another."""
    from convblocks.ops import Stage

    if _watched_everywhere():
        return "global hooks watch the modules"
    convs: list[nn.Conv2d] = []
    stages: list[Stage] = []
    norms: list[nn.BatchNorm2d | None] = []
    last = ""
    for name, part in block._modules.items():
        if part is None or type(part) is nn.Identity or (type(part) in _DROPOUTS and not _drops(part)):
            continue
        if _watched(part):
            return f"{name} has hooks or a forward of its own"
        if isinstance(part, nn.Conv2d):
            convs.append(part)
            stages.append(Stage(bias=part.bias))
            norms.append(None)
            last = "conv"
            continue
        act = _activation(part)
        if act is None and type(part) not in _NORMS:
            return f"{name} is a {type(part).__name__}, which no kernel computes"
        if not convs or last == "act" or (last == "norm" and act is None):
            return f"{name} stands where no kernel has its place"
        last = "norm" if act is None else "act"
        if act is not None:
            # Not by _replace, which torch 2.6 does not follow while it compiles.
            was = stages[-1]
            stages[-1] = Stage(was.bias, was.mean, was.variance, was.weight, was.shift, was.eps, act)
            continue
        norm = cast("nn.BatchNorm2d", part)
        norms[-1] = norm
        was = stages[-1]
        stages[-1] = Stage(was.bias, norm.running_mean, norm.running_var, norm.weight, norm.bias, norm.eps, was.act)
    if len(convs) != 2 or type(convs[0]) is not DepthwiseConv2d or not _is_pointwise(convs[1]):
        return "it is not one depthwise and one plain pointwise convolution"
    dw, pw = convs
    if dw.padding_mode != "zeros":
        return f"padding_mode={dw.padding_mode!r}"
    where = ((dw.stride[0], dw.stride[1]), cast("tuple[int, int]", dw.padding), (dw.dilation[0], dw.dilation[1]))
    return Parts(dw.weight, pw.weight, stages[0], stages[1], where, (norms[0], norms[1]))


def _activation(part: nn.Module) -> str | None:
    if type(part) is nn.GELU:
        return "gelu" if part.approximate == "none" else "gelu_tanh"
    return _ACTIVATIONS.get(type(part))


def _is_pointwise(conv: nn.Conv2d) -> bool:
    plain = type(conv) is nn.Conv2d and conv.kernel_size == (1, 1) and conv.stride == (1, 1) and conv.groups == 1
    return plain and conv.padding == (0, 0)


def _drops(part: nn.Module) -> bool:
    return part.training and cast("nn.Dropout", part).p > 0


def _watched(part: nn.Module) -> bool:
    hooks = part._forward_hooks or part._forward_pre_hooks or part._backward_hooks or part._backward_pre_hooks
    return bool(hooks) or "forward" in part.__dict__


def _watched_everywhere() -> bool:
    module = torch.nn.modules.module
    forward = module._global_forward_hooks or module._global_forward_pre_hooks
    return bool(forward or module._global_backward_hooks or module._global_backward_pre_hooks)
