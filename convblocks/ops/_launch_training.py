"""How the kernels of `_kernels_training` are cut and started: of whole blocks, and of a norm alone."""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from convblocks.ops import _kernels_training, _launch, _launch_sums
from convblocks.ops._launch import Pair, blocks
from convblocks.ops._launch_separable import has, power_of_two
from convblocks.ops._stage import Stage
from convblocks.ops._start import Kernels, Options, options

kernels = Kernels(_kernels_training)

Which = tuple[bool, bool]
# Programs that leave the GPU busy; those of the pointwise convolution's backward pass have a whole weight's gradient to
# write.
PROGRAMS, PROGRAMS_BACKWARD = 1024, 792
STAGES = 3


class Cut(NamedTuple):
    """How the positions are cut into blocks, and those into programs."""

    block: int
    warps: int
    tiles: int
    programs: int


@functools.lru_cache(4096)
def cut(positions: int, channels: int, programs: int, widest: int = 128) -> Cut:
    """Return blocks of 16 elements a thread or more, and as many of them a program as leave that many programs.

    Two warps a program wait for each other less than more would; past `widest` channels they have too few registers.
    """
    width = power_of_two(channels)
    warps = 2 if width <= widest else 8
    block = max(16, 16 * 32 * warps // width)
    tiles = max(1, blocks(positions, block) // programs)
    return Cut(block, warps, tiles, blocks(blocks(positions, block), tiles))


def widest_backward(itemsize: int) -> int:
    """Return the channels up to which two warps do for the pointwise convolution's backward pass."""
    return 64 if itemsize == 2 else 32


def forward(
    x: Tensor,
    depthwise: Tensor,
    pointwise: Tensor,
    first: Stage,
    second: Stage,
    batch: Which,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    skip: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the output, both convolutions' results, and both norms' statistics.

    `batch` tells which norm takes the statistics of the batch; the other one takes those it has. With `skip` x is added
    to the output.
    """
    pointwise = pointwise.contiguous()
    if skip:
        x = x.contiguous(memory_format=torch.channels_last)
    (c, o), near = (pointwise.shape[1], pointwise.shape[0]), _around(first, x, x.shape[1])
    y1, sums = _launch.forward(x, depthwise, None, stride, padding, dilation, around=near if batch[0] else None)
    n, _, h, w = y1.shape
    m = n * h * w
    y2, out = (_empty(x, (n, o, h, w)) for _ in range(2))
    plan = cut(m, max(c, o), PROGRAMS)
    part = x.new_empty((plan.programs, 2, o), dtype=torch.float32)
    with torch.cuda.device_of(x):
        stats1 = _known(first) if sums is None else _launch_sums.statistics(sums, near, m)
        near = _around(second, x, o)
        kernels.pointwise_forward.start(
            plan.programs,
            (y1, pointwise, *_norm(stats1, first), near, y2, part, m, *_units(c, o), plan.tiles),
            _options(plan, c, o, None, _constants(first), STATISTICS=batch[1], STAGES=STAGES),
        )
        stats2 = _launch_sums.statistics(part, near, m) if batch[1] else _known(second)
        _normalise(y2, stats2, second, x if skip else None, out)
    return out, y1, y2, stats1, stats2


def norm_forward(y: Tensor, stage: Stage, batch: bool) -> tuple[Tensor, Tensor]:
    """Return the activation of the norm of y, and the norm's statistics."""
    y = y.contiguous(memory_format=torch.channels_last)
    n, c, h, w = y.shape
    m = n * h * w
    out = _empty(y, y.shape)
    with torch.cuda.device_of(y):
        if batch:
            plan = cut(m, c, PROGRAMS)
            part = y.new_empty((plan.programs, 2, c), dtype=torch.float32)
            # Squares are summed about the first position, whose channels lie where y begins.
            kernels.channel_sums.start(
                plan.programs,
                (y, y, part, m, *_units(c), plan.tiles),
                _options(plan, c, None, None, None, STAGES=STAGES),
            )
            stats = _launch_sums.statistics(part, y, m)
        else:
            stats = _known(stage)
        _normalise(y, stats, stage, None, out)
    return out, stats


def norm_backward(dout: Tensor, y: Tensor, stats: Tensor, stage: Stage, batch: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of y, and of the norm's weight and shift."""
    dout, y = (t.contiguous(memory_format=torch.channels_last) for t in (dout, y))
    n, c, h, w = y.shape
    m, dy = n * h * w, _empty(y, y.shape)
    with torch.cuda.device_of(y):
        of = _launch_sums.gradients(_norm_sums(dout, y, stats, stage), stats, stage, batch, m)
        plan = cut(m, c, m)
        kernels.norm_backward.start(
            plan.programs,
            (y, dout, *_norm(stats, stage), of.table, dy, m, *_units(c)),
            _options(plan, c, None, None, _constants(stage)),
        )
    return dy, of.weight, of.shift


def _normalise(y: Tensor, stats: Tensor, stage: Stage, skip: Tensor | None, out: Tensor) -> None:
    (n, c, h, w), of = y.shape, _norm(stats, stage)
    m = n * h * w
    plan = cut(m, c, m)
    kernels.normalise.start(
        plan.programs,
        (y, *of, y if skip is None else skip, out, m, *_units(c)),
        _options(plan, c, None, None, _constants(stage), HAS_SKIP=skip is not None),
    )


def _norm_sums(dout: Tensor, y: Tensor, stats: Tensor, stage: Stage) -> Tensor:
    """Return rows of sums of du and of du * (y - mean)."""
    n, c, h, w = y.shape
    m = n * h * w
    plan = cut(m, c, PROGRAMS)
    part = y.new_empty((plan.programs, 2, c), dtype=torch.float32)
    kernels.norm_sums.start(
        plan.programs,
        (y, dout, *_norm(stats, stage), part, m, *_units(c), plan.tiles),
        _options(plan, c, None, None, _constants(stage), STAGES=STAGES),
    )
    return part


def backward(
    dout: Tensor,
    x: Tensor,
    depthwise: Tensor,
    pointwise: Tensor,
    y1: Tensor,
    y2: Tensor,
    stats1: Tensor,
    stats2: Tensor,
    first: Stage,
    second: Stage,
    batch: Which,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    skip: bool = False,
) -> tuple[Tensor, ...]:
    """Return the gradients of x, of both convolutions' weights, and of both norms' weights and shifts."""
    dout, pointwise = dout.contiguous(memory_format=torch.channels_last), pointwise.contiguous()
    n, c, h, w = y1.shape
    m, o = n * h * w, pointwise.shape[0]
    norm1, norm2 = _norm(stats1, first), _norm(stats2, second)
    with torch.cuda.device_of(x):
        of2 = _launch_sums.gradients(_norm_sums(dout, y2, stats2, second), stats2, second, batch[1], m)
        plan = cut(m, max(c, o), PROGRAMS_BACKWARD, widest_backward(x.element_size()))
        part = x.new_empty((plan.programs, 2, c), dtype=torch.float32)
        part_point = x.new_empty((plan.programs, o, c), dtype=torch.float32)
        du1 = _empty(x, y1.shape)
        kernels.pointwise_backward.start(
            plan.programs,
            (
                *(y1, y2, dout, pointwise, *norm1, *norm2, of2.table, du1, part_point, part),
                *(m, *_units(c, o), plan.tiles),
            ),
            _options(plan, c, o, _constants(first), _constants(second), STAGES=STAGES),
        )
        d_pointwise = _launch_sums.total(part_point, pointwise.dtype, pointwise.shape)
        of1 = _launch_sums.gradients(part, stats1, first, batch[0], m)
        plan = cut(m, c, m)
        # In its place: every element is read and written by one program.
        kernels.norm_backward.start(
            plan.programs,
            (y1, du1, *norm1, of1.table, du1, m, *_units(c)),
            _options(plan, c, None, None, _constants(first._replace(act=""))),
        )
    by_skip = dout if skip else None
    dx, d_depthwise, _ = _launch.backward(du1, x, depthwise, stride, padding, dilation, False, skip=by_skip)
    return dx, d_depthwise, d_pointwise, of1.weight, of1.shift, of2.weight, of2.shift


def _around(stage: Stage, like: Tensor, channels: int) -> Tensor:
    # A norm in training does not care what became of its running statistics: the kernels read what is no number as 0.
    return like.new_zeros(channels, dtype=torch.float32) if stage.mean is None else stage.mean.contiguous()


def _known(stage: Stage) -> Tensor:
    assert stage.mean is not None
    assert stage.variance is not None
    return torch.stack((stage.mean, stage.variance, stage.variance)).float()


def _empty(like: Tensor, shape: tuple[int, ...]) -> Tensor:
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)


def _norm(stats: Tensor, stage: Stage) -> tuple[Tensor, ...]:
    # What is absent is not read: any tensor stands for it.
    absent = stats if stage.weight is None else stage.weight
    shift = stats if stage.shift is None else stage.shift
    # The mean is the first row, and a kernel is told where it begins.
    return stats, stats[1], absent.contiguous(), shift.contiguous()


Constants = tuple[int, float, str]


def _constants(stage: Stage) -> Constants:
    """What a kernel is compiled for of a norm: the parts that it has, what it adds to the variance, what follows it."""
    # A norm there is, whether or not it keeps running statistics, and no bias.
    return has(stage) & ~1 | 2, stage.eps, stage.act


def _units(*channels: int) -> list[int]:
    return [size // math.gcd(size, 16) for size in channels]


@functools.lru_cache(4096)
def _options(plan: Cut, c: int, o: int | None, one: Constants | None, other: Constants | None, **more: int) -> Options:
    """The options of a kernel for these channels, and for the norm or the two that it computes."""
    named: dict[str, Any] = {"UNIT": math.gcd(c, 16), "BC": power_of_two(c)}
    if o is not None:
        named |= {"UNIT_O": math.gcd(o, 16), "BO": power_of_two(o)}
    for end, norm in (("", other),) if one is None else (("_1", one), ("_2", other)):
        if norm is not None:
            named |= dict(zip((f"HAS{end}", f"EPS{end}", f"ACT{end}"), norm, strict=True))
    # Said aloud, since Triton is changing its default; the kernels ask for every fused multiply-add by name.
    return options(BP=plan.block, num_warps=plan.warps, enable_fp_fusion=False, **named, **more)
