"""Runs the kernels of whole blocks in Triton's interpreter; called in the processes of `worker.pool`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from convblocks.ops import Stage
from convblocks.ops._norm import factors
from tests.ops.worker import Pair, laid_out, relative


@dataclass(frozen=True)
class Block:
    shape: tuple[int, int, int, int]
    out: int
    kernel: Pair = (3, 3)
    stride: Pair = (1, 1)
    padding: Pair = (1, 1)
    dilation: Pair = (1, 1)
    dtype: str = "float32"
    acts: Pair | tuple[str, str] = ("relu", "relu")
    parts: tuple[str, str] = ("bias norm affine", "bias norm affine")
    layout: str = "channels_last"
    weights: str = ""
    tiling: dict[str, int] | None = None
    residual: bool = False


def block_errors(case: Block, seed: int = 0) -> tuple[float, float]:
    """Relative error against float64, of the kernel and of PyTorch at the same dtype."""
    from convblocks.ops import _launch, _launch_separable

    torch.manual_seed(seed)
    dtype = getattr(torch, case.dtype)
    weights = getattr(torch, case.weights or case.dtype)
    c = case.shape[1]
    x = laid_out(torch.randn(case.shape).to(dtype), case.layout)
    depthwise = torch.randn(c, 1, *case.kernel).to(weights) / 3
    pointwise = torch.randn(case.out, c, 1, 1).to(weights) / c**0.5
    first, second = (
        stage(size, parts, act, weights) for size, parts, act in zip((c, case.out), case.parts, case.acts, strict=True)
    )
    where = (case.stride, case.padding, case.dilation)
    exact = reference(x, depthwise, pointwise, first, second, where, torch.float64)
    theirs = reference(x, depthwise, pointwise, first, second, where, dtype)
    tiling = None if case.tiling is None else _launch.Tiling(**case.tiling)
    if case.residual:
        exact, theirs = exact + x, theirs + x
    y = _launch_separable.forward(x, depthwise, pointwise, first, second, *where, case.residual, tiling=tiling)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert y.dtype == dtype
    return relative(y, exact), relative(theirs, exact)


@dataclass(frozen=True)
class Training:
    shape: tuple[int, int, int, int]
    out: int
    kernel: Pair = (3, 3)
    stride: Pair = (1, 1)
    padding: Pair = (1, 1)
    dilation: Pair = (1, 1)
    dtype: str = "float32"
    act: str = "silu"
    batch: tuple[bool, bool] = (True, True)
    affine: bool = True
    offset: float = 0.0
    programs: int = 0
    weights: str = ""
    """As autocast leaves them; the same dtype as the input's otherwise."""
    residual: bool = False


def training_errors(case: Training, seed: int = 0) -> dict[str, tuple[float, float]]:
    """Relative error against float64, of the kernels and of PyTorch's modules, for every result of a training step."""
    from convblocks.ops import _launch_training, _training

    if case.programs:
        _launch_training.PROGRAMS = _launch_training.PROGRAMS_BACKWARD = case.programs
    torch.manual_seed(seed)
    dtype, (c, o) = getattr(torch, case.dtype), (case.shape[1], case.out)
    weights = getattr(torch, case.weights or case.dtype)
    x = laid_out((torch.randn(case.shape) + case.offset).to(dtype), "channels_last")
    depthwise = (torch.randn(c, 1, *case.kernel) / 3).to(weights)
    pointwise = (torch.randn(o, c, 1, 1) / c**0.5).to(weights)
    first, second = (stage(size, "norm affine" if case.affine else "norm", case.act, dtype) for size in (c, o))
    where = (case.stride, case.padding, case.dilation, case.residual)
    out, y1, y2, *stats = _launch_training.forward(x, depthwise, pointwise, first, second, case.batch, *where)
    dout = torch.randn(out.shape).to(dtype)
    given = (dout, x, depthwise, pointwise, y1, y2, *stats, first, second, case.batch, *where)
    gradients = _launch_training.backward(*given)
    again = _launch_training.backward(*given)
    assert [t.dtype for t in gradients[:3]] == [dtype, weights, weights]
    assert all(torch.equal(one, other) for one, other in zip(gradients, again, strict=True))

    def modules(wide: torch.dtype) -> list[Tensor]:
        narrow = torch.float64 if wide == torch.float64 else torch.float32
        leaves = [t.to(wide).requires_grad_() for t in (x, depthwise, pointwise)]
        affine = [
            None if t is None else t.to(narrow).requires_grad_() for s in (first, second) for t in s.tensors()[3:]
        ]
        known = [t.to(narrow) for s in (first, second) for t in s.tensors()[1:3] if t is not None]
        eps, acts = [first.eps, second.eps], f"{case.act},{case.act}"
        y = _training._composed(*leaves, *affine, *known, list(case.batch), eps, acts, *where)
        wanted = leaves + [t for t in affine if t is not None]
        return [y.detach(), *torch.autograd.grad(y, wanted, dout.to(wide))]

    names = ["out", "dx", "d_depthwise", "d_pointwise"]
    names += ["d_weight1", "d_shift1", "d_weight2", "d_shift2"] if case.affine else []
    ours = [out, *gradients][: len(names)]
    found = {
        name: (relative(mine, true), relative(other, true))
        for name, mine, true, other in zip(names, ours, modules(torch.float64), modules(dtype), strict=True)
    }
    for number, (batch, y, s) in enumerate(zip(case.batch, (y1, y2), stats, strict=True), 1):
        variance, mean = torch.var_mean(y.double(), (0, 2, 3), correction=0)
        known = (first, second)[number - 1].tensors()[1:3]
        count = y.numel() // y.shape[1]
        true_ones = (mean, variance, variance * count / (count - 1)) if batch else (*known, known[1])
        for name, mine, true in zip(("mean", "variance", "unbiased"), s, true_ones, strict=True):
            assert true is not None
            found[f"{name}{number}"] = relative(mine, true), 0.0
    return found


def norm_errors(
    shape: tuple[int, int, int, int],
    kind: str,
    act: str,
    batch: bool,
    affine: bool,
    offset: float = 1.5,
    known: float = 0,
) -> dict[str, tuple[float, float]]:
    """Relative errors against float64, of the kernels of a norm in training and of PyTorch's operations."""
    from convblocks.ops import _launch_training, _norm_training

    _launch_training.PROGRAMS = 7
    torch.manual_seed(0)
    dtype, c = getattr(torch, kind), shape[1]
    y = laid_out((torch.randn(shape) + offset).to(dtype), "channels_last")
    one = stage(c, "norm affine" if affine else "norm", act, torch.float32)
    assert one.mean is not None
    one = one._replace(mean=one.mean + known)
    dout = laid_out(torch.randn(shape).to(dtype), "channels_last")
    out, stats = _launch_training.norm_forward(y, one, batch)
    gradients = _launch_training.norm_backward(dout, y, stats, one, batch)
    again = _launch_training.norm_backward(dout, y, stats, one, batch)
    assert all(torch.equal(first, second) for first, second in zip(gradients, again, strict=True))

    def modules(wide: torch.dtype) -> list[Tensor]:
        narrow = torch.float64 if wide == torch.float64 else torch.float32
        leaves = [t if t is None else t.to(narrow).requires_grad_() for t in (one.weight, one.shift)]
        x = y.to(wide).requires_grad_()
        known = [None if t is None else t.to(narrow) for t in (one.mean, one.variance)]
        result = _norm_training._composed(x, *leaves, *known, batch, one.eps, act)
        wanted = [x, *(t for t in leaves if t is not None)]
        return [result.detach(), *torch.autograd.grad(result, wanted, dout.to(wide))]

    names = ["out", "dy", "d_weight", "d_shift"] if affine else ["out", "dy"]
    results = [out, *gradients][: len(names)]
    found = {
        name: (relative(mine, true), relative(other, true))
        for name, mine, true, other in zip(names, results, modules(torch.float64), modules(dtype), strict=True)
    }
    variance, mean = torch.var_mean(y.double(), (0, 2, 3), correction=0)
    true_ones = (mean, variance) if batch else (one.mean, one.variance)
    for name, mine, true in zip(("mean", "variance"), stats, true_ones, strict=False):
        assert true is not None
        found[name] = relative(mine, true), 0.0
    return found


def sums_of(rows: int, columns: int) -> dict[str, float]:
    """Relative errors against float64 of what is made of rows of sums."""
    from convblocks.ops import _launch_sums

    torch.manual_seed(0)
    part, around, count = torch.rand(rows, 2, columns), torch.randn(columns), 7 * rows
    part[:, 1] += 1.0
    plain, square = part.double().sum(0) / count
    variance = square - plain * plain
    stats = _launch_sums.statistics(part, around, count)
    first = stage(columns, "norm affine", "", torch.float32)
    found, exact = (
        _launch_sums.gradients(part, stats, first, True, count),
        factors(part.double().sum(0), stats, first, True, count),
    )
    total = _launch_sums.total(part, torch.float32, (2, columns))
    return {
        "total": relative(total, part.double().sum(0)),
        "mean": relative(stats[0], plain + around),
        "variance": relative(stats[1], variance),
        "unbiased": relative(stats[2], variance * count / (count - 1)),
        **{name: relative(one, true) for name, one, true in zip(found._fields, found, exact, strict=True)},
    }


def keeps_what_is_no_number(act: str) -> bool:
    """Whether a NaN in one pixel reaches the pixels, and those only, that it reaches in PyTorch."""
    from convblocks.ops import _launch_separable

    torch.manual_seed(0)
    x = torch.randn(1, 4, 5, 5)
    x[0, 1, 1, 1] = float("nan")
    depthwise, pointwise = torch.rand(4, 1, 3, 3), torch.rand(4, 4, 1, 1)
    where = ((1, 1), (1, 1), (1, 1))
    found = _launch_separable.forward(x, depthwise, pointwise, Stage(act=act), Stage(act=act), *where)
    exact = reference(x, depthwise, pointwise, Stage(act=act), Stage(act=act), where, torch.float64)
    return torch.equal(found.isnan(), exact.isnan()) and bool(exact.isnan().any()) and not bool(exact.isnan().all())


def stage(channels: int, parts: str, act: str, dtype: torch.dtype) -> Stage:
    norm, affine = "norm" in parts, "affine" in parts
    return Stage(
        bias=torch.randn(channels).to(dtype) if "bias" in parts else None,
        mean=torch.randn(channels) if norm else None,
        variance=torch.rand(channels) + 0.5 if norm else None,
        weight=torch.randn(channels) if affine else None,
        shift=torch.randn(channels) if affine else None,
        eps=1e-3,
        act=act,
    )


def reference(x, depthwise, pointwise, first, second, where, dtype):
    """PyTorch's operations; the product of float32 as TF32, whose operands keep 10 bits."""

    def cast(t: Tensor | None, to: torch.dtype = dtype) -> Tensor | None:
        return None if t is None else t.to(to)

    def stats(s: Stage) -> Stage:
        to = torch.float64 if dtype == torch.float64 else torch.float32
        return Stage.of([cast(s.bias), *(cast(t, to) for t in s.tensors()[1:])], s.eps, s.act)

    one, two = stats(first), stats(second)
    y = one.rest(F.conv2d(cast(x), cast(depthwise), one.bias, *where, x.shape[1]))
    point = cast(pointwise)
    if dtype == torch.float32:
        y, point = ten_bits(y), ten_bits(point)
    return two.rest(F.conv2d(y, point, two.bias))


def ten_bits(t: Tensor) -> Tensor:
    mantissa, exponent = torch.frexp(t)
    return torch.ldexp((mantissa * 2**11).round() / 2**11, exponent)
