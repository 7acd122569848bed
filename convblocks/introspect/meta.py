"""What common operations return on the meta device, without running them there.

torch answers many operations on meta tensors by a decomposition written in Python: a batch norm takes thirty times as
long as the convolution before it, and norms and activations together most of a trace. Their results have the shape of
an operand, which is all that a trace asks for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten

Shortcut = Callable[..., Any]
"""The result for the arguments of the operation; None where the operation has to be run to know (or to refuse)."""


def _empty(x: Tensor, shape: Sequence[int]) -> Tensor:
    """A contiguous result of the type of `x`; `new_empty` and `empty_like` are programs in Python on this device."""
    return torch.empty(shape, dtype=x.dtype, device="meta")


SINGLE = (torch.float32, torch.float64)
"""Types of which statistics are of the same type; those of shorter ones are in single precision."""

INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)

FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


def _plain(x: Tensor) -> bool:
    """Whether strides are those of a contiguous tensor alone: of one that has one channel, torch may go either way."""
    wide = FORMATS.get(x.dim())
    return x.is_floating_point() and x.is_contiguous() and (wide is None or not x.is_contiguous(memory_format=wide))


def _rows(x: Tensor) -> bool:
    """Whether strides are those of a contiguous tensor, those along dimensions of length 1 included."""
    return x.stride() == torch.empty(x.shape, device="meta").stride()


def _channels_first(x: Tensor) -> bool:
    """Whether strides are not those of any tensor with its channels last; one of these makes a concatenation such."""
    return x.dim() not in FORMATS or x.stride(-1) < x.stride(1) * x.shape[1]


def _like(x: Tensor, *_: Any, **__: Any) -> Tensor | None:
    return _of_type(x, x.dtype) if x.is_floating_point() else None


def _of_type(x: Tensor, dtype: torch.dtype) -> Tensor | None:
    """A result that lies in memory as `x` does, but for gaps."""
    if x.is_contiguous():
        return torch.empty(x.shape, dtype=dtype, device="meta")
    if _channels_last(x):
        return torch.empty(x.shape, dtype=dtype, device="meta", memory_format=torch.channels_last)
    strides = _dense(x)
    return None if strides is None else torch.empty_strided(x.shape, strides, dtype=dtype, device="meta")


def _dense(x: Tensor) -> list[int] | None:
    """Strides without gaps, in the order of those of `x`; None where that is no order."""
    shape, given = x.shape, x.stride()
    order = sorted((step, dim) for dim, step in enumerate(given) if shape[dim] > 1)
    steps = [step for step, _ in order]
    if 0 in steps or 0 in shape or len(set(steps)) < len(steps):
        return None
    strides, step = [1] * len(shape), 1
    for _, dim in order:
        strides[dim] = step
        step *= shape[dim]
    return strides


def _softmax(x: Tensor, dim: int, option: Any = None) -> Tensor | None:
    """The last argument asks for another type."""
    return _contiguous(x) if not option and -x.dim() <= dim < x.dim() else None


def _channels_last(x: Tensor) -> bool:
    return x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)


def _itself(x: Tensor, *_: Any, **__: Any) -> Tensor | None:
    return x if x.is_floating_point() else None


def _alike(x: Tensor, y: Tensor) -> bool:
    return x.shape == y.shape and x.dtype == y.dtype and x.stride() == y.stride() and x.is_floating_point()


def _within(small: Tensor, full: Tensor) -> bool:
    """Whether `small` is broadcast to `full`, both are of one type, and the strides are those of `full`."""
    vector = sum(n > 1 for n in small.shape) <= 1
    return (
        small.dtype == full.dtype
        and full.is_floating_point()
        and small.is_contiguous()
        and (full.is_contiguous() or (vector and _channels_last(full)))
        and small.dim() <= full.dim()
        and all(n in (1, m) for n, m in zip(reversed(small.shape), reversed(full.shape), strict=False))
    )


def _covers(x: Tensor, y: Tensor) -> bool:
    """Whether `y` is broadcast to `x`, both are of one type, and `x`, as the first operand, decides the strides."""
    return (
        x.dtype == y.dtype
        and x.is_floating_point()
        and x.dim() >= y.dim()
        and all(n in (1, m) for n, m in zip(reversed(y.shape), reversed(x.shape), strict=False))
        and _dense(x) is not None
    )


def _both(x: Tensor, y: Any, **_: Any) -> Tensor | None:
    if not isinstance(y, Tensor):
        if type(y) is float and x.dtype in INTEGERS:
            return _of_type(x, torch.get_default_dtype())
        return _like(x) if type(y) in (int, float) else None
    if _alike(x, y) or _within(y, x) or _covers(x, y):
        return _like(x)
    return _like(y) if _within(x, y) else _broadcast(x, y)


def _broadcast(x: Tensor, y: Tensor) -> Tensor | None:
    """Operands of one type that are broadcast to one another, or that lie in memory each in its way."""
    rank = max(x.dim(), y.dim())
    (one, ones), (other, others) = _in_front(x, rank), _in_front(y, rank)
    fits = x.dtype == y.dtype and x.is_floating_point() and x.numel() and y.numel()
    if not fits or any(n != m and 1 not in (n, m) for n, m in zip(one, other, strict=True)):
        return None
    shape = [max(n, m) for n, m in zip(one, other, strict=True)]
    if 1 in shape:
        # Where such a dimension is sorted to, and what it moves, goes by a stride that says nothing.
        return None
    steps = [
        [step if n == m else 0 for n, m, step in zip(lengths, shape, given, strict=True)]
        for lengths, given in ((one, ones), (other, others))
    ]
    strides, step = [1] * rank, 1
    for dim in _innermost_first(shape, steps):
        strides[dim] = step
        step *= shape[dim]
    return torch.empty_strided(shape, strides, dtype=x.dtype, device="meta")


def _in_front(x: Tensor, rank: int) -> tuple[list[int], list[int]]:
    """Shape and strides with new dimensions in front."""
    new = rank - x.dim()
    return [1] * new + list(x.shape), [0] * new + list(x.stride())


def _innermost_first(shape: Sequence[int], steps: Sequence[Sequence[int]]) -> list[int]:
    """The dimensions by the strides of the first operand that tells two apart, as torch sorts them."""

    def after(a: int, b: int) -> int:
        for step in steps:
            if step[a] and step[b] and (step[a] != step[b] or shape[a] > shape[b]):
                return step[a] - step[b] or 1
        return 0

    order = list(reversed(range(len(shape))))
    # What is told apart from neither neighbour stays where it is, so that the way of sorting decides.
    for place in range(1, len(order)):
        for other in reversed(range(place)):
            found = after(order[other], order[place])
            if found > 0:
                order[other], order[place] = order[place], order[other]
                place = other
            elif found < 0:
                break
    return order


def _added(x: Tensor, y: Tensor, z: Tensor, *, value: Any = 1) -> Tensor | None:
    """A sum with a product of two."""
    fits = type(value) in (int, float) and all(_alike(item, z) or _within(item, z) for item in (x, y))
    return _like(z) if fits and z.is_contiguous() else None


def _indexed(x: Tensor, indices: Sequence[Tensor | None]) -> Tensor | None:
    """Rows picked by one tensor of their numbers."""
    if len(indices) != 1 or indices[0] is None or indices[0].dtype not in (torch.int32, torch.int64):
        return None
    places = indices[0]
    fits = places.is_meta and places.is_contiguous() and _rows(x) and x.dim() > 0 and x.numel() and places.numel()
    return _empty(x, (*places.shape, *x.shape[1:])) if fits else None


def _first(x: Tensor, y: Any, **_: Any) -> Tensor | None:
    if not isinstance(y, Tensor):
        return _itself(x) if type(y) in (int, float) else None
    return x if _alike(x, y) or _within(y, x) or _covers(x, y) else None


def _between(x: Tensor, *bounds: Any) -> Tensor | None:
    """Bounds that are one number each say nothing of shape and type, if they are of its kind."""
    given = [bound for bound in bounds if bound is not None]
    tensors = [bound for bound in given if isinstance(bound, Tensor)]
    numbers = all(bound.dim() == 0 and bound.is_floating_point() for bound in tensors)
    plain = numbers and all(type(bound) in (int, float) for bound in given if not isinstance(bound, Tensor))
    return _like(x) if given and plain and (x.dim() or not tensors) else None


def _divided(x: Tensor, y: Any, **_: Any) -> Tensor | None:
    """Rounded down, it is another format than that of its operands that torch may give."""
    return _both(x, y) if x.is_contiguous() else None


def _clone(x: Tensor, *, memory_format: torch.memory_format | None = None) -> Tensor | None:
    if memory_format is torch.contiguous_format:
        return _empty(x, x.shape)
    return _like(x) if memory_format in (None, torch.preserve_format) else None


def _contiguous(x: Tensor, *_: Any) -> Tensor | None:
    return _empty(x, x.shape) if x.is_floating_point() else None


def _rolled(x: Tensor, shifts: Sequence[int], dims: Sequence[int] = ()) -> Tensor | None:
    fits = 0 < len(dims) == len(shifts) and all(-x.dim() <= dim < x.dim() for dim in dims)
    return _contiguous(x) if fits else None


def _running(x: Tensor, dim: int, *, dtype: Any = None) -> Tensor | None:
    return _contiguous(x) if dtype is None and -x.dim() <= dim < x.dim() else None


def _reshaped(x: Tensor, shape: Sequence[int]) -> Tensor | None:
    fits = x.is_contiguous() and min(shape, default=1) >= 0 and math.prod(shape) == x.numel()
    return _empty(x, shape) if fits else None


def _stacked(tensors: Sequence[Tensor], dim: int = 0) -> Tensor | None:
    first = tensors[0]
    rank = first.dim()
    if not -rank - 1 <= dim <= rank or not all(_plain(x) and x.dtype == first.dtype for x in tensors):
        return None
    if any(x.shape != first.shape for x in tensors):
        return None
    shape = list(first.shape)
    shape.insert(dim % (rank + 1), len(tensors))
    return _empty(first, shape)


def _resized(count: int, x: Tensor, size: Sequence[int], *_: Any) -> Tensor | None:
    fits = x.dim() == count + 2 and len(size) == count and min(size) > 0 and 0 not in x.shape
    if not fits or not x.is_floating_point():
        return None
    shape = (*x.shape[:2], *size)
    if _plain(x) or _rows(x):
        return _empty(x, shape)
    if count == 2 and 1 not in x.shape[1:] and _channels_last(x):
        return torch.empty(shape, dtype=x.dtype, device="meta", memory_format=torch.channels_last)
    return None


def _padded(x: Tensor, pads: Sequence[int], value: Any = 0) -> Tensor | None:
    """`pads` are those before and behind the last dimension, then those of the one before it."""
    before, behind = pads[::2], pads[1::2]
    shape = list(x.shape)
    if len(before) != len(behind) or len(before) > len(shape) or min(pads, default=0) < 0:
        return None
    if not _plain(x) or 0 in shape:
        return None
    for dim, (first, last) in enumerate(zip(before, behind, strict=True), 1):
        shape[-dim] += first + last
    return _empty(x, shape)


def _vector_norm(
    x: Tensor, order: Any = 2, dims: Sequence[int] | None = None, keepdim: bool = False, *, dtype: Any = None
) -> Tensor | None:
    return _reduced(x, dims, keepdim, dtype=dtype) if type(order) in (int, float) and abs(order) in (1, 2) else None


def _places(
    lengths: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> list[int] | None:
    """How many places a window has along every dimension; None where it does not fit."""
    rooms = [n + 2 * p - d * (k - 1) - 1 for n, k, p, d in zip(lengths, kernel, padding, dilation, strict=True)]
    return None if min(rooms, default=0) < 0 else [room // s + 1 for room, s in zip(rooms, stride, strict=True)]


@cache
def _convolution_keeps_format() -> bool:
    """Whether this version of torch gives the result the format of an operand; later ones are contiguous on meta."""
    plain = torch.empty(2, 4, 3, 3, device="meta")
    last = plain.to(memory_format=torch.channels_last)
    ones = [1, 1]
    results = [
        aten.convolution(x, w, None, ones, ones, ones, False, [0, 0], 1) for x, w in ((last, plain), (plain, last))
    ]
    return not all(result.is_contiguous() for result in results)


def _convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Tensor | None:
    shape, kernel = x.shape, weight.shape
    count = len(shape) - 2
    if (
        transposed
        or len(kernel) != len(shape)
        or not len(stride) == len(padding) == len(dilation) == count
        or x.dtype != weight.dtype
        or shape[1] == 0
        or shape[1] != kernel[1] * groups
    ):
        return None
    places = _places(shape[2:], kernel[2:], stride, padding, dilation)
    if places is None:
        return None
    out = [shape[0], kernel[0], *places]
    if x.is_floating_point() and not _convolution_keeps_format():
        return _empty(x, out)
    # Of one place, strides do not matter; older versions of torch go by those of the weight too.
    one = x.is_contiguous() and x.is_floating_point() and all(n == 1 for n in (*shape[2:], *out[2:]))
    usual = weight.is_contiguous() and weight.stride(1) == math.prod(kernel[2:]) and weight.stride(-1) == 1
    return _empty(x, out) if one or (usual and _plain(x)) else None


def _batch_norm(
    x: Tensor, weight: Any, bias: Any, mean: Tensor | None, variance: Tensor | None, training: bool, *_: Any
) -> tuple[Tensor, Tensor, Tensor] | None:
    # With statistics of its own it is how networks standardise their weights; torch takes milliseconds for it.
    given = mean is not None and variance is not None
    fits = x.dim() > 1 and all(item is None or item.shape == x.shape[1:2] for item in (weight, bias, mean, variance))
    out = _like(x) if fits and training is not given and (given or x.dtype in SINGLE) else None
    if out is None:
        return None
    statistics = _empty(x if mean is None else mean, x.shape[1:2])
    return out, statistics, statistics


def _group_norm(
    x: Tensor, weight: Any, bias: Any, count: int, channels: int, places: int, groups: int, *_: Any
) -> tuple[Tensor, Tensor, Tensor] | None:
    fits = all(item is None or item.shape == x.shape[1:2] for item in (weight, bias))
    if not fits or x.dtype not in SINGLE or not _plain(x) or x.numel() == 0 or groups < 1 or channels % groups:
        return None
    if x.shape[:2] != (count, channels) or x.numel() != count * channels * places:
        return None
    statistics = _empty(x, (count, groups))
    return _empty(x, x.shape), statistics, statistics


def _layer_norm(x: Tensor, shape: list[int], *_: Any) -> tuple[Tensor, Tensor, Tensor] | None:
    count = len(shape)
    if not x.is_floating_point() or tuple(x.shape[-count:]) != tuple(shape):
        return None
    kind = torch.promote_types(x.dtype, torch.float32)
    statistics = torch.empty((*x.shape[:-count], *[1] * count), dtype=kind, device="meta")
    return _empty(x, x.shape), statistics, statistics


def _reduced(
    x: Tensor, dims: Sequence[int] | None = None, keepdim: bool = False, *, dtype: Any = None
) -> Tensor | None:
    if not dims or dtype is not None or not x.is_floating_point() or 0 in x.shape:
        return None
    gone = {dim % x.dim() for dim in dims}
    if len(gone) != len(dims) or not all(-x.dim() <= dim < x.dim() for dim in dims):
        return None
    kept = [1 if dim in gone else n for dim, n in enumerate(x.shape) if keepdim or dim not in gone]
    return _empty(x, kept)


def _variance(
    x: Tensor, dims: Sequence[int] | None = None, *, correction: Any = None, keepdim: bool = False
) -> Tensor | None:
    return _reduced(x, dims, keepdim)


def _pooled(
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    ceil_mode: bool = False,
) -> Tensor | None:
    stride = stride or kernel
    if ceil_mode or x.dim() != 4 or not _plain(x) or 0 in x.shape:
        return None
    if not len(kernel) == len(stride) == len(padding) == len(dilation) == 2:
        return None
    if min(*stride, *dilation) < 1 or not all(0 <= 2 * p <= k for p, k in zip(padding, kernel, strict=True)):
        return None
    places = _places(x.shape[2:], kernel, stride, padding, dilation)
    return None if places is None else _empty(x, (*x.shape[:2], *places))


def _average(
    x: Tensor,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0, 0),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor | None:
    return _pooled(x, kernel, stride, padding, (1, 1), ceil_mode) if divisor_override is None else None


def _maximum(*args: Any) -> tuple[Tensor, Tensor] | None:
    out = _pooled(*args)
    return None if out is None else (out, torch.empty(out.shape, dtype=torch.int64, device="meta"))


def _adaptive(x: Tensor, size: Sequence[int], dtype: torch.dtype | None = None) -> Tensor | None:
    """As the operand, the result has its channels last or not: it must be told by the strides which of both it is."""
    if x.dim() != 4 or len(size) != 2 or min(size) < 1 or 0 in x.shape or not x.is_floating_point():
        return None
    form = torch.contiguous_format
    if not _plain(x):
        form = torch.channels_last
        if min(x.shape[1:]) == 1 or not _channels_last(x):
            return None
    return torch.empty((*x.shape[:2], *size), dtype=dtype or x.dtype, device="meta", memory_format=form)


def _adaptive_maximum(x: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor] | None:
    out, places = _adaptive(x, size), _adaptive(x, size, torch.int64)
    return None if out is None or places is None else (out, places)


def _windows(
    lengths: Sequence[int],
    kernel: Sequence[int],
    dilation: Sequence[int],
    padding: Sequence[int],
    stride: Sequence[int],
) -> int | None:
    """How many windows of a map are cut."""
    if not len(lengths) == len(kernel) == len(dilation) == len(padding) == len(stride) == 2:
        return None
    if min(*lengths, *kernel, *dilation, *stride) < 1 or min(padding) < 0:
        return None
    places = _places(lengths, kernel, stride, padding, dilation)
    return None if places is None else math.prod(places)


def _cut(x: Tensor, kernel: Sequence[int], *how: Sequence[int]) -> Tensor | None:
    """Of one channel, torch may give the windows as a view that is not contiguous."""
    count = _windows(x.shape[2:], kernel, *how) if x.is_floating_point() and x.dim() == 4 else None
    if count is None or x.shape[0] == 0 or x.shape[1] < 2:
        return None
    return _empty(x, (x.shape[0], x.shape[1] * math.prod(kernel), count))


def _put_back(x: Tensor, size: Sequence[int], kernel: Sequence[int], *how: Sequence[int]) -> Tensor | None:
    """The sum of windows of a map of this size, which `_cut` gives."""
    count = _windows(size, kernel, *how) if x.is_floating_point() and x.dim() == 3 else None
    if count is None or 0 in x.shape or x.shape[2] != count or x.shape[1] % math.prod(kernel):
        return None
    return _empty(x, (x.shape[0], x.shape[1] // math.prod(kernel), *size))


def _concatenated(tensors: Sequence[Tensor], dim: int = 0) -> Tensor | None:
    first = tensors[0]
    rank = first.dim()
    if not -rank <= dim < rank or not first.is_floating_point() or not any(map(_channels_first, tensors)):
        return None
    dim %= rank
    around = first.shape[:dim], first.shape[dim + 1 :]
    for x in tensors:
        if x.dtype != first.dtype or (x.shape[:dim], x.shape[dim + 1 :]) != around:
            return None
    return _empty(first, (*around[0], sum(x.shape[dim] for x in tensors), *around[1]))


def _product(rank: int, left: Tensor, right: Tensor) -> Tensor | None:
    fits = left.dim() == right.dim() == rank and left.shape[:-2] == right.shape[:-2]
    if not fits or left.shape[-1] != right.shape[-2] or left.dtype != right.dtype or not left.is_floating_point():
        return None
    return _empty(left, (*left.shape[:-1], right.shape[-1]))


def _addmm(bias: Tensor, left: Tensor, right: Tensor, **_: Any) -> Tensor | None:
    if not left.dim() == right.dim() == 2 or left.shape[1] != right.shape[0]:
        return None
    if tuple(bias.shape) != (right.shape[1],) or not bias.dtype == left.dtype == right.dtype:
        return None
    return _empty(left, (left.shape[0], right.shape[1]))


def recurrent_shapes(name: str, args: tuple[Any, ...]) -> list[tuple[int, ...]] | None:
    """Shapes of the sequence and of the last states of `torch.lstm` and its like; None for packed sequences."""
    x, state = args[:2]
    if isinstance(args[2], Tensor) or isinstance(state, Tensor) == (name == "lstm") or x.dim() != 3:
        return None
    states: list[Tensor] = [state] if isinstance(state, Tensor) else list(state)
    weights: Sequence[Tensor] = args[2]
    first = weights[0]
    if first.dim() != 2 or first.shape[1] != x.shape[2]:
        return None
    bidirectional: bool = args[7]
    return [(*x.shape[:2], states[0].shape[2] * (1 + bidirectional)), *(tuple(t.shape) for t in states)]


ELEMENTWISE = (
    *("relu", "silu", "gelu", "sigmoid", "hardswish", "hardsigmoid"),
    *("hardtanh", "leaky_relu", "elu", "tanh", "mish", "sqrt", "rsqrt", "exp"),
)
ARITHMETIC = ("add", "sub", "mul", "div")
SHORTCUTS: dict[Any, Shortcut] = {
    **{getattr(aten, name).default: _like for name in ELEMENTWISE},
    **{getattr(aten, f"{name}_").default: _itself for name in ELEMENTWISE},
    **{getattr(aten, name).Tensor: _both for name in ARITHMETIC},
    **{getattr(aten, f"{name}_").Tensor: _first for name in ARITHMETIC},
    aten.div.Tensor_mode: _divided,
    aten.pow.Tensor_Scalar: _both,
    aten.mul.Scalar: _both,
    aten.addcmul.default: _added,
    aten.index.Tensor: _indexed,
    aten.maximum.default: _both,
    aten.minimum.default: _both,
    aten._softmax.default: _softmax,
    aten._safe_softmax.default: _softmax,
    aten.convolution.default: _convolution,
    aten.native_batch_norm.default: _batch_norm,
    aten.native_layer_norm.default: _layer_norm,
    aten.native_group_norm.default: _group_norm,
    aten.mean.dim: _reduced,
    aten.sum.dim_IntList: _reduced,
    aten.amax.default: _reduced,
    aten.var.correction: _variance,
    aten.linalg_vector_norm.default: _vector_norm,
    aten.cumsum.default: _running,
    aten.roll.default: _rolled,
    aten.clone.default: _clone,
    aten._unsafe_view.default: _reshaped,
    aten.stack.default: _stacked,
    aten.upsample_linear1d.default: partial(_resized, 1),
    aten.upsample_nearest2d.default: partial(_resized, 2),
    aten.upsample_bilinear2d.default: partial(_resized, 2),
    aten.upsample_bicubic2d.default: partial(_resized, 2),
    aten.upsample_trilinear3d.default: partial(_resized, 3),
    aten.clamp_min.default: _like,
    aten.clamp.default: _between,
    aten.clamp.Tensor: _between,
    aten.neg.default: _like,
    aten.avg_pool2d.default: _average,
    aten.max_pool2d_with_indices.default: _maximum,
    aten._adaptive_avg_pool2d.default: _adaptive,
    aten.adaptive_max_pool2d.default: _adaptive_maximum,
    aten.constant_pad_nd.default: _padded,
    aten.im2col.default: _cut,
    aten.col2im.default: _put_back,
    aten.cat.default: _concatenated,
    aten.mm.default: partial(_product, 2),
    aten.bmm.default: partial(_product, 3),
    aten.addmm.default: _addmm,
}


def run(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What `func` returns for tensors on the meta device."""
    shortcut = SHORTCUTS.get(func)
    result = shortcut(*args, **kwargs) if shortcut is not None else None
    return func(*args, **kwargs) if result is None else result
