"""The receptive field by gradient: knows no rule of `convblocks.introspect`.

Nonlinear and normalising functions become the identity, maximum pooling becomes average pooling, weights are positive
and scaled by their fan-in, all in float64; a unit depends on exactly the input elements where its gradient is not
zero.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

IDENTITY = frozenset(
    [
        "relu",
        "relu6",
        "silu",
        "gelu",
        "hardswish",
        "hardtanh",
        "leaky_relu",
        "elu",
        "selu",
        "celu",
        "mish",
        "softplus",
        "prelu",
        "dropout",
        "dropout2d",
        "clamp",
        "clamp_min",
        "clamp_max",
        "tanh",
        "log_softmax",
        "hardsigmoid",
        "sigmoid",
        "normalize",
        "batch_norm",
        "abs",
        "sqrt",
        "rsqrt",
        "exp",
        "square",
        "pow",
        "__pow__",
        "local_response_norm",
        "logsigmoid",
    ]
)
NORMS = frozenset(["softmax", "layer_norm", "group_norm", "instance_norm", "rms_norm"])
PRODUCTS = frozenset(
    ["mul", "__mul__", "__imul__", "__rmul__", "div", "__truediv__", "__itruediv__", "multiply", "maximum", "max"]
)
GATHERING = frozenset(
    ["mean", "sum", "norm", "amax", "vector_norm", "linalg_vector_norm", "var", "std", "var_mean", "logsumexp"]
)
LONG = 16
"""Fewer summands than these are no map."""
ADAPTIVE = frozenset(["adaptive_avg_pool2d", "adaptive_max_pool2d", "adaptive_avg_pool1d", "adaptive_avg_pool3d"])


class Linearised(TorchFunctionMode):
    """Replaces what has a vanishing or data-dependent gradient; with `local`, what gathers a whole map gives
    constants.

    `source` is the input, to find what gathers it through dimensions that tell nothing of themselves: tokens, patches.
    """

    def __init__(self, local: bool = False, source: Tensor | None = None) -> None:
        super().__init__()
        self.local = local
        self.source = source

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        plain = name if name.startswith("__") else name.rstrip("_")
        x = args[0] if args else kwargs.get("input")
        if plain == "batch_norm" and isinstance(x, Tensor):
            # Of weights too: standardised weights that are all equal would vanish.
            return x * 1.0
        if not isinstance(x, Tensor) or not x.requires_grad:
            return func(*args, **kwargs)
        if plain in IDENTITY or (self.local and plain in NORMS):
            return self._identity(name, x)
        if plain in NORMS:
            return x + _statistics(plain, x, args, kwargs)
        if plain in PRODUCTS and len(args) > 1 and isinstance(args[1], Tensor) and args[1].requires_grad:
            return (x + args[1]) * 0.5
        if plain in PRODUCTS and len(args) > 1 and isinstance(args[1], Tensor) and plain != "max":
            return (x * torch.ones_like(args[1])).clone()
        if (
            plain in ("add", "__add__", "__iadd__")
            and len(args) > 1
            and isinstance(args[1], Tensor)
            and args[1].requires_grad
        ):
            return func(x, args[1]) if name.endswith("add_") or name == "__iadd__" else (x + args[1]) * 0.5
        if plain.startswith("max_pool") or (name in ("fn", "boolean_dispatch") and x.dim() > 2):
            return _average_pool(x, *args[1:], **{k: v for k, v in kwargs.items() if k != "input"})
        if self.local and (plain in ADAPTIVE or plain in GATHERING):
            out = func(*args, **kwargs)
            first = out[0] if isinstance(out, tuple) else out
            # A map of one place where there was more than one is a gate.
            lost = first.numel() * 16 < x.numel() or first.dim() < x.dim() or 1 in first.shape[2:]
            if x.dim() >= 3 and lost and (_gathers_map(x, first, args, kwargs, plain) or self._gathers_all(x, first)):
                return tuple(torch.ones_like(t) for t in out) if isinstance(out, tuple) else torch.ones_like(out)
            return out
        return func(*args, **kwargs)

    def _gathers_all(self, x: Tensor, out: Tensor) -> bool:
        """Whether an element of a sum depends on more than half of the input, where no summand does.

        As it is kept with length 1 it is met by what has a place.
        """
        if self.source is None or out.dim() < x.dim() or out.numel() * LONG > x.numel():
            return False
        return self._sees_most(out) and not self._sees_most(x)

    def _sees_most(self, tensor: Tensor) -> bool:
        assert self.source is not None
        one = tensor.flatten()[tensor.numel() // 2]
        (gradient,) = torch.autograd.grad(one, self.source, retain_graph=True)
        longest = max(range(2, gradient.dim()), key=lambda dim: gradient.shape[dim])
        seen = span(gradient != 0, longest)
        return seen is not None and 2 * (seen[1] - seen[0] + 1) > gradient.shape[longest]

    def _identity(self, name: str, x: Tensor) -> Tensor:
        return x if name.endswith("_") and not name.startswith("__") else x * 1.0


def _statistics(name: str, x: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """What a norm or softmax mixes into every element."""
    if name in ("layer_norm", "rms_norm"):
        shape = kwargs.get("normalized_shape", args[1] if len(args) > 1 else x.shape[-1:])
        return x.mean(tuple(range(x.dim() - len(shape), x.dim())), keepdim=True)
    if name == "softmax":
        return x.mean(kwargs.get("dim", args[1] if len(args) > 1 else -1), keepdim=True)
    spatial = tuple(range(2, x.dim()))
    if name == "instance_norm":
        return x.mean(spatial, keepdim=True)
    groups = kwargs.get("num_groups", args[1] if len(args) > 1 else 1)
    return (
        x.unflatten(1, (groups, -1))
        .mean((2, *(d + 1 for d in spatial)), keepdim=True)
        .expand(-1, -1, x.shape[1] // groups, *[1] * len(spatial))
        .flatten(1, 2)
    )


def _gathers_map(x: Tensor, out: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any], name: str) -> bool:
    if name in ADAPTIVE:
        return out.shape[-1] == 1
    position = 2 if name in ("norm", "vector_norm", "linalg_vector_norm") else 1
    dims = kwargs.get("dim", args[position] if len(args) > position else None)
    if not isinstance(dims, (tuple, list)):
        return False
    chosen = {dim % x.dim() for dim in dims}
    return x.dim() >= 4 and (chosen >= {x.dim() - 2, x.dim() - 1} or (x.dim() == 4 and chosen == {1, 2}))


def _average_pool(
    x: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    **_: Any,
) -> Tensor:
    assert dilation in (1, (1, 1), [1, 1]), "no average pooling with a dilation"
    pool = {3: F.avg_pool1d, 4: F.avg_pool2d, 5: F.avg_pool3d}[x.dim()]
    return pool(x, kernel_size, stride or kernel_size, padding, ceil_mode)


class EqualWeights(TorchFunctionMode):
    """Sums the channels before a convolution or a linear layer whose weights are all equal: the same numbers, in a
    hundredth of the time."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        if name in ("conv1d", "conv2d", "conv3d") and not kwargs and len(args) > 2:
            return _convolution(func, *args)
        if name == "linear" and not kwargs:
            return _linear(func, *args)
        return func(*args, **(kwargs or {}))


def _all_equal(weight: Tensor) -> bool:
    low, high = torch.aminmax(weight)
    return bool(low == high)


def _linear(linear: Any, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    if not _all_equal(weight):
        return linear(x, weight, bias)
    y = (x.sum(-1, keepdim=True) * weight[0, 0]).expand(*x.shape[:-1], weight.shape[0])
    return y.clone() if bias is None else y + bias


def _convolution(
    conv: Any,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    if not _all_equal(weight):
        return conv(x, weight, bias, stride, padding, dilation, groups)
    channel = x.unflatten(1, (groups, -1)).sum(2).flatten(0, 1).unsqueeze(1)
    y = conv(channel, weight[:1, :1], None, stride, padding, dilation)
    y = y.squeeze(1).unflatten(0, (-1, groups)).repeat_interleave(weight.shape[0] // groups, 1)
    return y if bias is None else y + bias.reshape(-1, *[1] * (y.dim() - 2))


def positive(model: nn.Module) -> nn.Module:
    """Positive weights scaled by their fan-in, so that no contribution cancels another and none overflows."""
    model = model.double().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.fill_(0.0)
            else:
                parameter.fill_(1.0 / max(1, parameter[0].numel()) if parameter.dim() >= 2 else 1.0)
            parameter.requires_grad_(False)
        for buffer in model.buffers():
            if buffer.is_floating_point():
                buffer.abs_()
    return model


def reached(
    function: Callable[[Tensor], Tensor], shape: tuple[int, ...], *, local: bool = False, rounding: float = 0.0
) -> tuple[Tensor, Callable[..., Tensor]]:
    """The output, and a function from a selection of it to the mask of input elements that it depends on.

    `rounding` is the share of the largest gradient below which one is taken for none: linear interpolation at a pixel's
    own place weighs its neighbour by 1e-17 where exact arithmetic has zero. Deep networks have true gradients as small.
    """
    x = torch.ones(shape, dtype=torch.float64, requires_grad=True)
    with EqualWeights(), Linearised(local, x):
        y = function(x)

    def mask(selected: Tensor) -> Tensor:
        total = selected.sum()
        if not total.requires_grad:
            return torch.zeros(shape, dtype=torch.bool)
        (gradient,) = torch.autograd.grad(total, x, retain_graph=True, allow_unused=True)
        return (
            torch.zeros(shape, dtype=torch.bool)
            if gradient is None
            else gradient.abs() > rounding * gradient.abs().max()
        )

    return y, mask


def span(mask: Tensor, dim: int) -> tuple[int, int] | None:
    """First and last index along `dim` where the mask holds."""
    places = mask.movedim(dim, 0).flatten(1).any(1).nonzero().flatten()
    return (int(places[0]), int(places[-1])) if len(places) else None


def middle_unit(
    model: Callable[[Tensor], Tensor], shape: tuple[int, ...], axis: int, period: int = 1
) -> tuple[tuple[int, int], tuple[int, int], int, int]:
    """Spans of the unit in the middle of the map along `axis` and of the next one that is like it, the unit's index,
    and the map's length.

    Every unit whose index is a multiple of `period` is like it.
    """
    y, mask = reached(model, shape, local=True)
    found = None
    # Channels may come last: a channel, taken for a place along the axis, sees all of it.
    for dim in range(2 + axis, 0, -1):
        length = y.shape[dim]
        unit = length // 2 // period * period
        if unit + period >= length:
            continue
        first, second = (span(mask(y.select(dim, place)), 2 + axis) for place in (unit, unit + period))
        assert first is not None
        assert second is not None
        found = found or (first, second, unit, length)
        if first[0] > 0 or second[1] < shape[2 + axis] - 1:
            return first, second, unit, length
    assert found is not None, "a map of a single place"
    return found
