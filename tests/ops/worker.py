"""Runs kernels in Triton's interpreter, in a process of its own: it must be switched on before a kernel is defined."""

# Triton need not be there to check the types.
# pyright: reportMissingImports=false, reportIndexIssue=false, reportOptionalMemberAccess=false

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

import torch
import torch.nn.functional as F
from torch import Tensor

Pair = tuple[int, int]


@dataclass(frozen=True)
class Case:
    shape: tuple[int, int, int, int]
    kernel: Pair = (3, 3)
    stride: Pair = (1, 1)
    padding: Pair = (1, 1)
    dilation: Pair = (1, 1)
    dtype: str = "float32"
    bias: bool = True
    layout: str = "channels_last"
    tiling: dict[str, int] | None = None
    statistics: bool = False
    skip: bool = False


def pool() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, get_context("spawn"), _start)


def _start() -> None:
    os.environ["TRITON_INTERPRET"] = "1"
    torch.set_num_threads(1)
    # Memory that nobody wrote to reads as NaN.
    torch.use_deterministic_algorithms(True)
    _mend()


def _mend() -> None:
    """Correct what Triton's interpreter does otherwise than a GPU.

    It cuts float32 off where it should round to bfloat16, and multiplies the bits of bfloat16 matrices as integers.
    """
    import numpy as np
    import triton.language as tl
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    cast, dot = InterpreterBuilder.cast_impl, InterpreterBuilder.create_dot

    def rounding(self, src, dst_type):
        if (src.dtype.scalar, dst_type.scalar) != (tl.float32, tl.bfloat16):
            return cast(self, src, dst_type)
        rounded = torch.from_numpy(np.array(src.data, np.float32)).bfloat16().view(torch.int16)
        return TensorHandle(rounded.numpy().view(np.uint16), tl.bfloat16)

    def widening(self, a, b, *rest):
        a, b = (cast(self, t, tl.float32) if t.dtype.scalar == tl.bfloat16 else t for t in (a, b))
        return dot(self, a, b, *rest)

    InterpreterBuilder.cast_impl = rounding
    InterpreterBuilder.create_dot = widening


def refusal() -> str:
    """Why this interpreter cannot run the kernels, or ""."""
    import triton
    import triton.language as tl

    global _count

    @triton.jit
    def _count(OUT, n):
        for k in range(n):
            tl.store(OUT + k, k)

    try:
        _count[(1,)](torch.zeros(2), 2)
    except Exception as error:
        import numpy

        return f"triton {triton.__version__} does not interpret loops with numpy {numpy.__version__}: {error}"
    return ""


def errors(case: Case, seed: int = 0) -> dict[str, tuple[float, float]]:
    """Relative error against float64, of the kernel and of PyTorch at the same dtype, for every result."""
    from convblocks.ops import _launch

    torch.manual_seed(seed)
    dtype = getattr(torch, case.dtype)
    c = case.shape[1]
    x = laid_out(torch.randn(case.shape).to(dtype), case.layout)
    weight = torch.randn(c, 1, *case.kernel).to(dtype)
    # Every second number: a bias may lie as it likes.
    bias = torch.randn(2 * c).to(dtype)[::2] if case.bias else None
    where = (case.stride, case.padding, case.dilation)
    forward = backward = None
    if case.tiling:
        backward = _launch.Tiling(**case.tiling)
        # One column is for the gradients of small maps.
        forward = backward._replace(columns=4)
    exact, exact_gradients, dy = reference(x, weight, bias, where, torch.float64)
    theirs, their_gradients, _ = reference(x, weight, bias, where, dtype, dy)
    around = torch.randn(c) if case.statistics else None
    y, sums = _launch.forward(x, weight, bias, *where, around=around, tiling=forward)
    assert y.is_contiguous(memory_format=torch.channels_last)
    found = {"y": (relative(y, exact), relative(theirs, exact))}
    if around is not None and sums is not None:
        moved = exact - around.double().view(1, -1, 1, 1)
        true = torch.stack((moved.sum((0, 2, 3)), moved.square().sum((0, 2, 3))))
        found["sums"] = relative(sums.double().sum(0), true), 0.0
    # The gradient of x by another way.
    skip = laid_out(torch.randn(case.shape).to(dtype), "channels_last") if case.skip else None
    if skip is not None:
        for gradients in (exact_gradients, their_gradients):
            own = gradients[0]
            assert own is not None
            gradients[0] = own + skip
    ours = _launch.backward(
        laid_out(dy, "strided" if case.layout == "expanded" else case.layout),
        x,
        weight,
        *where,
        case.bias,
        skip=skip,
        tiling=backward,
    )
    for name, mine, true, other in zip(("dx", "dw", "db"), ours, exact_gradients, their_gradients, strict=True):
        if true is not None:
            assert mine.dtype == dtype
            assert mine.shape == true.shape
            found[name] = relative(mine, true), relative(other, true)
        else:
            assert mine is None
    return found


def laid_out(x: Tensor, layout: str) -> Tensor:
    if layout == "expanded":
        return x[:1].expand_as(x) if x.shape[0] else x
    if layout == "part":
        n, c, h, w = x.shape
        whole = torch.full((n, c + 16, 2 * h, 3 * w), float("nan"), dtype=x.dtype)
        part = whole.contiguous(memory_format=torch.channels_last)[:, 8 : 8 + c, ::2, 1::3]
        return part.copy_(x)
    if layout == "strided":
        return torch.stack((x, x), -1)[..., 0]
    return x.contiguous(memory_format=getattr(torch, layout))


def reference(x, weight, bias, where, dtype, dy=None):
    leaves = [None if t is None else t.detach().to(dtype).requires_grad_() for t in (x, weight, bias)]
    y = F.conv2d(*leaves, *where, x.shape[1])
    dy = torch.randn_like(y).to(x.dtype) if dy is None else dy
    y.backward(dy.to(dtype))
    return y.detach(), [None if t is None else t.grad for t in leaves], dy


def relative(value: Tensor, true: Tensor) -> float:
    return ((value.double() - true.double()).norm() / true.double().norm().clamp_min(1e-30)).item()
