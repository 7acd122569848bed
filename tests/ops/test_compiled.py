"""The kernels as compiled for a GPU, run without one, against PyTorch in float64: as in test_kernels.py otherwise."""

# pyright: reportMissingImports=false, reportOptionalMemberAccess=false, reportIndexIssue=false

import pytest

pytest.importorskip("triton", reason="triton is not installed")

import triton
import triton.language as tl

if tuple(map(int, triton.__version__.split(".")[:2])) < (3, 3):
    pytest.skip("Triton's compiler has another interface before 3.3", allow_module_level=True)

import torch

from benchmarks import emulate
from benchmarks.ptx_numbers import Fault
from convblocks.ops import _start
from tests.ops.separable_worker import Block, Training, block_errors, norm_errors, training_errors
from tests.ops.test_kernels import CASES, check
from tests.ops.worker import errors

# A kernel takes seconds to compile: each one, and each way through it, in few sizes.
CHOSEN = [
    "one channel",
    "part of a larger tensor",
    "small maps",
    "small maps, tiles",
    "stride 2",
    "stride 2, strips and tiles, partly padded",
    "strides",
    "stride and dilation of 2",
    "large kernel",
    "strips and tiles run on",
    "tiles run on, partly padded",
    "strips from the top to the bottom",
    "strips at the top, in the middle and at the bottom",
    "sums for a norm, partly padded, strips and tiles",
    "5 x 5, dilated",
    "5 x 5, strips and tiles",
    "5 x 5, strips and tiles of 16 bits",
    "added to a gradient, strips and tiles",
    "added to a gradient, small maps",
    "added to a gradient, 5 x 5",
    "added to a gradient, gathered",
]


@pytest.fixture
def compiled(monkeypatch):
    """Kernels are compiled and run here; memory that nobody wrote to reads as NaN."""
    monkeypatch.setattr(_start._Kernel, "start", lambda self, *given: emulate.run(self._kernel, *given))
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(before)


@pytest.mark.parametrize("name", CHOSEN)
def test_compiled_kernels_agree_with_float64(compiled, name: str) -> None:
    check(errors(CASES[name]), CASES[name].dtype)


def test_a_row_that_is_not_there_is_noticed(monkeypatch) -> None:
    def start(self, programs, given, options):
        emulate.run(self._kernel, programs, (given[0][:, :, :-1], *given[1:]), options)

    monkeypatch.setattr(_start._Kernel, "start", start)
    with pytest.raises(Fault, match="outside, or not aligned, in rows_forward"):
        errors(CASES["one channel"])


@pytest.mark.parametrize("residual", [False, True])
def test_a_compiled_training_step_agrees_with_float64(compiled, residual: bool) -> None:
    case = Training((2, 16, 7, 6), 16 if residual else 24, dtype="bfloat16", residual=residual)
    for name, (ours, theirs) in training_errors(case).items():
        assert ours <= max(1.5 * theirs, 8e-3), f"{name} is off by {ours:.1e}, PyTorch by {theirs:.1e}"


def test_a_compiled_norm_in_training_agrees_with_float64(compiled) -> None:
    for name, (ours, theirs) in norm_errors((2, 24, 7, 6), "bfloat16", "silu", True, True).items():
        assert ours <= max(1.5 * theirs, 8e-3), f"{name} is off by {ours:.1e}, PyTorch by {theirs:.1e}"


@pytest.mark.parametrize("residual", [False, True])
def test_a_compiled_block_agrees_with_float64(compiled, residual: bool) -> None:
    cut = {"block": 8, "rows": 3, "tiles": 2}
    case = Block((2, 20, 9, 6), 20 if residual else 16, dtype="bfloat16", tiling=cut, residual=residual)
    ours, theirs = block_errors(case)
    assert ours <= 1.5 * theirs


@triton.jit
def _differences(X, Y, N, B: tl.constexpr):
    """Of each number from the one three rows before, which the loop hands on; a row has 100 numbers."""
    c = tl.arange(0, B)
    first = tl.zeros((B,), tl.float32)
    second = first + 1.0
    third = first + 2.0
    for row in range(N):
        now = tl.load(X + row * 100 + c, mask=c < 100, other=0.0)
        tl.store(Y + row * 100 + c, now - first, mask=c < 100)
        first = second + 0.0
        second = third + 0.0
        third = now


def test_a_kernel_of_a_known_result() -> None:
    x = torch.arange(700.0).view(7, 100).square()
    y = torch.full((8, 100), -1.0)
    emulate.run(_differences, 1, (x, y, 7), _start.options(B=128, num_warps=2))
    before = torch.cat((torch.arange(3.0)[:, None].expand(3, 100), x[:4]))
    assert torch.equal(y[:7], x - before)
    assert (y[7] == -1).all()
    with pytest.raises(Fault, match="outside"):
        emulate.run(_differences, 1, (x, y, 8), _start.options(B=128, num_warps=2))
