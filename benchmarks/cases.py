"""What `benchmarks.kernels` times: the shapes, and the calls on them, of single convolutions and of whole blocks."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.ways import autocast
from convblocks import DepthwiseSeparableConv, ops
from convblocks.layers import _fusion

Pair = tuple[int, int]
Calls = dict[str, Callable[[], Any]]
TOLERANCE = {torch.float32: 1e-4, torch.float16: 2e-3, torch.bfloat16: 1e-2}
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class Case(NamedTuple):
    shape: tuple[int, int, int, int]
    kernel: int = 3
    stride: int = 1
    dilation: int = 1
    dtype: str = "bfloat16"
    out: int = 0
    """Channels of the pointwise convolution of a whole block; 0: the depthwise convolution alone."""

    def __str__(self) -> str:
        size = "x".join(map(str, self.shape))
        block = f" to {self.out}" if self.out else ""
        return f"{size}{block} k{self.kernel} s{self.stride} d{self.dilation} {self.dtype}"


class NormCase(NamedTuple):
    """A batch norm in training, and a ReLU behind it or nothing."""

    shape: tuple[int, int, int, int]
    dtype: str = "bfloat16"
    act: bool = True


# At least 64 MB of bfloat16, so that no L2 cache holds one; then the sizes of CIFAR networks, which it does hold.
LARGE = [(512, 64, 32, 32), (512, 128, 32, 32), (128, 32, 112, 112), (128, 128, 56, 56), (128, 256, 28, 28)]
SMALL = [(128, 32, 32, 32), (128, 64, 16, 16), (128, 128, 8, 8)]
DEPTHWISE = [
    *(Case(shape, dilation=d) for shape in LARGE for d in (1, 2, 4, 8)),
    *(Case(LARGE[0], dilation=d, dtype="float32") for d in (1, 8)),
    Case(LARGE[3], stride=2),
    Case(LARGE[3], stride=2, dilation=2),
    Case(LARGE[3], kernel=5),
    Case(LARGE[3], kernel=7),
    *(Case(shape, dilation=d) for shape in SMALL for d in (1, 2)),
]
BLOCKS = [
    *(Case(shape, out=shape[1], dilation=d) for shape in LARGE[:4] for d in (1, 2)),
    Case(LARGE[0], out=128),
    Case(LARGE[0], out=64, dtype="float32"),
    Case(LARGE[3], out=128, stride=2),
    Case(LARGE[0], out=64, kernel=5),
    *(Case(shape, out=shape[1]) for shape in SMALL),
]
CASES = [*DEPTHWISE, *BLOCKS]
QUICK = [
    Case((2, 16, 16, 16)),
    Case((2, 8, 12, 12), stride=2, dilation=2, dtype="float32"),
    Case((2, 16, 8, 8), out=24),
]


class Data:
    """Random tensors of a depthwise convolution, and the calls to time on them."""

    def __init__(self, case: Case, device: str, layout: torch.memory_format) -> None:
        n, c, h, w = case.shape
        dtype = DTYPES[case.dtype]
        self.case, self.dtype, self.layout = case, dtype, layout
        padding = case.dilation * (case.kernel - 1) // 2
        self.where: tuple[Pair, Pair, Pair] = (
            (case.stride, case.stride),
            (padding, padding),
            (case.dilation, case.dilation),
        )
        self.x = torch.randn(n, c, h, w, device=device).to(dtype, memory_format=layout)
        self.weight = torch.randn(c, 1, case.kernel, case.kernel, device=device).to(dtype)
        self.dy = torch.randn_like(F.conv2d(self.x, self.weight, None, *self.where, c)).contiguous(memory_format=layout)

    def bytes_moved(self, direction: str) -> int:
        times = {"forward": (1, 1), "backward": (2, 1)}[direction]
        return times[0] * self.x.nbytes + times[1] * self.dy.nbytes

    def calls(self, ours: bool) -> Calls:
        s, p, d = self.where
        if ours:
            operators = torch.ops.convblocks
            return {
                "forward": lambda: operators.depthwise_conv2d(self.x, self.weight, None, s, p, d),
                "backward": lambda: operators.depthwise_conv2d_backward(self.dy, self.x, self.weight, s, p, d, False),
            }
        c = self.x.shape[1]
        rest = (None, s, p, d, False, [0, 0], c, [True, True, False])
        return {
            "forward": lambda: F.conv2d(self.x, self.weight, None, s, p, d, c),
            "backward": lambda: torch.ops.aten.convolution_backward(self.dy, self.x, self.weight, *rest),
        }

    def call(self, path: str, direction: str) -> Callable[[], Any]:
        """The call of a path: "copy", "convblocks" or PyTorch's."""
        return self.x.clone if path == "copy" else self.calls(path == "convblocks")[direction]

    def step(self, training: bool) -> Callable[[], Any]:
        """The call that the blocks make, by the backend in force."""
        x, weight = (t.detach().clone().requires_grad_(training) for t in (self.x, self.weight))
        s, p, d = self.where

        def run() -> Any:
            y = ops.depthwise_conv2d(x, weight, None, s, p, d)
            return torch.autograd.grad(y, (x, weight), self.dy) if training else y

        return run

    def check(self) -> dict[str, float]:
        """Return our errors against float64, on memory that reads NaN until it is written; raise if one is large."""
        calls = self.calls(ours=True)
        with _poisoned_memory():
            found = [calls["forward"](), *calls["backward"]()[:2]]
        x, weight = (t.double().requires_grad_() for t in (self.x, self.weight))
        y = F.conv2d(x, weight, None, *self.where, x.shape[1])
        exact = [y.detach(), *torch.autograd.grad(y, (x, weight), self.dy.double())]
        pairs = zip(found, exact, strict=True)
        return _errors(self.case, TOLERANCE[self.dtype], dict(zip(("y", "dx", "dw"), pairs, strict=True)))


class BlockData:
    """Random tensors of a folded block, which is PyTorch at its best, and the calls on them."""

    def __init__(self, case: Case, device: str, layout: torch.memory_format) -> None:
        single = Data(case._replace(out=0), device, layout)
        self.case, self.dtype, self.where, self.x, self.weight = (
            case,
            single.dtype,
            single.where,
            single.x,
            single.weight,
        )
        c = case.shape[1]
        self.point = (torch.randn(case.out, c, 1, 1, device=device) / c**0.5).to(self.dtype)
        biases = (torch.randn(size, device=device).to(self.dtype) for size in (c, case.out))
        self.first, self.second = (ops.Stage(bias=bias, act="relu") for bias in biases)
        self.out_bytes = single.dy.nbytes // c * case.out

    def bytes_moved(self, direction: str) -> int:
        return self.x.nbytes + self.out_bytes

    def calls(self, ours: bool) -> Calls:
        return {"forward": self.fused if ours else self.one_by_one}

    def call(self, path: str, direction: str) -> Callable[[], Any]:
        """The call of a path: "convblocks" or PyTorch's."""
        return self.calls(path == "convblocks")[direction]

    def fused(self) -> Tensor:
        stages = self.first.tensors(), self.second.tensors(), [1e-5, 1e-5], "relu,relu"
        return torch.ops.convblocks.depthwise_separable_conv2d(self.x, self.weight, self.point, *stages, *self.where)

    def one_by_one(self) -> Tensor:
        y = F.conv2d(self.x, self.weight, self.first.bias, *self.where, self.x.shape[1]).relu_()
        return F.conv2d(y, self.point, self.second.bias).relu_()

    def alone(self) -> Tensor:
        """The depthwise convolution by its own kernel, the rest by PyTorch."""
        y = ops.depthwise_conv2d(self.x, self.weight, self.first.bias, *self.where).relu_()
        return F.conv2d(y, self.point, self.second.bias).relu_()

    def step(self, training: bool) -> Callable[[], Any]:
        """The call that the blocks make, by the backend in force."""
        stages = self.first, self.second
        return lambda: ops.depthwise_separable_conv2d(self.x, self.weight, self.point, *stages, *self.where)

    def check(self) -> dict[str, float]:
        """Return our error against float64, as `Data.check` does."""
        with _poisoned_memory():
            found = self.fused()
        first, second = (
            stage._replace(bias=stage.bias.double()) for stage in (self.first, self.second) if stage.bias is not None
        )
        exact = ops.depthwise_separable_conv2d(
            self.x.double(), self.weight.double(), self.point.double(), first, second, *self.where
        )
        # The product of float32 is TF32.
        limit = max(TOLERANCE[self.dtype], 2e-3)
        return _errors(self.case, limit, {"y": (found, exact)})


class StepData:
    """A block in training, with norms over the batch: a forward and a backward pass, by the backend in force."""

    def __init__(self, case: Case, device: str, layout: torch.memory_format) -> None:
        torch.backends.cudnn.allow_tf32 = True
        block = BlockData(case, device, layout)
        self.case, self.dtype, self.where, self.x = case, block.dtype, block.where, block.x.requires_grad_()
        self.weight, self.point = block.weight, block.point
        stride, padding, dilation = (pair[0] for pair in self.where)
        self.block = DepthwiseSeparableConv(
            case.shape[1], case.out, case.kernel, stride, padding, dilation, device=device
        ).to(memory_format=layout)
        self.dy = torch.randn_like(self.forward())

    def forward(self) -> Tensor:
        """As networks are trained: float32 weights, and in low precision autocast over them."""
        with autocast(self.x):
            return self.block(self.x)

    def step(self, training: bool) -> Callable[[], Any]:
        leaves = [self.x, *self.block.parameters()]
        return lambda: torch.autograd.grad(self.forward(), leaves, self.dy)

    def check(self) -> dict[str, float]:
        """Return the errors of our gradients of the input and the first weight against float64."""
        x = self.x.detach().double().requires_grad_()
        block = copy.deepcopy(self.block).double()
        exact = torch.autograd.grad(block(x), [x, block.conv_dw.weight], self.dy.double())
        with _poisoned_memory(), ops.backend("triton"):
            found = self.step(training=True)()
        pairs = {"dx": (found[0], exact[0]), "d_depthwise": (found[1], exact[1])}
        # Where a rounded value crosses the bend of the ReLU, its gradient is another one.
        return _errors(self.case, 0.1, pairs)


class NormData:
    """A norm in training as the blocks call it, forward and backward, by the backend in force."""

    def __init__(self, case: NormCase, device: str, layout: torch.memory_format) -> None:
        self.case, self.dtype = case, DTYPES[case.dtype]
        x = torch.randn(case.shape, device=device).to(self.dtype, memory_format=layout)
        self.x, self.dy = x.requires_grad_(), torch.randn_like(x)
        self.norm = nn.BatchNorm2d(case.shape[1], device=device)
        self.parts = [self.norm, *([nn.ReLU()] if case.act else [])]

    def step(self, training: bool) -> Callable[[], Any]:
        leaves = [self.x, *self.norm.parameters()]
        return lambda: torch.autograd.grad(_fusion.chained(self.parts, self.x), leaves, self.dy)

    def check(self) -> dict[str, float]:
        """Return the errors of our gradients against float64."""
        x = self.x.detach().double().requires_grad_()
        parts = copy.deepcopy(nn.Sequential(*self.parts)).double()
        exact = torch.autograd.grad(parts(x), [x, *parts.parameters()], self.dy.double())
        with _poisoned_memory(), ops.backend("triton"):
            if self.x.is_cuda and ops.norm_choice(self.x, ops.Stage()).path != "fused":
                raise AssertionError(f"{self.case}: {ops.norm_choice(self.x, ops.Stage()).reason}")
            found = self.step(training=True)()
        # Where a rounded value crosses the bend of the ReLU, its gradient is another one.
        pairs: dict[str, tuple[Tensor, Tensor]] = {}
        for name, *pair in zip(("dx", "d_weight", "d_shift"), found, exact, strict=True):
            pairs[name] = (pair[0], pair[1])
        return _errors(self.case, 0.1, pairs)


def data(case: Case, device: str, layout: torch.memory_format) -> Data | BlockData:
    # Float32 is meant, but the product of a whole block, which both sides may round to TF32 as PyTorch does by default.
    torch.backends.cudnn.allow_tf32 = bool(case.out)
    return (BlockData if case.out else Data)(case, device, layout)


class _poisoned_memory:
    """Memory that nobody wrote to reads as NaN."""

    def __enter__(self) -> None:
        torch.use_deterministic_algorithms(True)

    def __exit__(self, *_: object) -> None:
        torch.use_deterministic_algorithms(False)


def _errors(case: Case | NormCase, limit: float, pairs: dict[str, tuple[Tensor, Tensor]]) -> dict[str, float]:
    errors = {name: _relative(*pair) for name, pair in pairs.items()}
    for name, error in errors.items():
        if not error <= limit:
            raise AssertionError(f"{case}: {name} is off by {error:.1e}")
    return errors


def _relative(value: Tensor, true: Tensor) -> float:
    return ((value.double() - true).norm() / true.norm()).item()
