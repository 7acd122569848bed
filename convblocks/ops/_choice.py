"""Which path a depthwise convolution takes, and why."""

# What torch leaves without types, and what of its transforms it keeps to itself.
# pyright: reportUnknownMemberType=false, reportUntypedFunctionDecorator=false, reportPrivateUsage=false

from __future__ import annotations

import functools
import importlib.util
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Literal, NamedTuple, TypeAlias, cast

import torch
from torch import Tensor

from convblocks import geometry
from convblocks.ops._direct import traced

PathName: TypeAlias = Literal["torch", "triton", "fused"]
Backend: TypeAlias = Literal["auto", "graph", "torch", "triton"]
Table: TypeAlias = "dict[str, dict[str, dict[str, int | None]]]"
Pair: TypeAlias = tuple[int, int]
IntPair: TypeAlias = "int | tuple[int, int]"

DECISIONS = Path(__file__).with_name("decisions.json")
DTYPES = {torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16"}
# The oldest of which tests see what its compiler makes of the kernels.
OLDEST_TRITON = (3, 3)
_OFFSETS = 2**31
# Blocks reach past the last position, by less than this.
POSITIONS = _OFFSETS - 2**24
_ROWS = 8
_EXPORTED = "an exported program is for every size, and for machines without these operators"
_current: Backend = "auto"


class Choice(NamedTuple):
    """The path of one call, and the reason in words.

    Attributes:
        path: `"torch"`; `"triton"`, a kernel for this convolution alone; `"fused"`, one for the whole block.
        reason: why.
    """

    path: PathName
    reason: str


class backend:
    """Choose who computes depthwise convolutions, at once or for the length of a `with` block.

    The setting holds for the whole process, as `torch.backends.cudnn.enabled` does. A backward pass keeps to the path
    of its forward pass.

    Args:
        name: `"auto"` takes the Triton kernels where a measurement on this kind of GPU showed them faster, and PyTorch
            everywhere else; `"graph"` does so by the time of a CUDA graph's replays, for calls that are captured into
            one: these do not wait for the host, which takes longer to start a kernel of Triton's than one of PyTorch's;
            `"triton"` takes the kernels wherever they can run; `"torch"` never does.

    Raises:
        ValueError: `name` is none of the four.

    Examples:
        >>> with backend("torch"):
        ...     choice(torch.zeros(1, 8, 4, 4), torch.zeros(8, 1, 3, 3)).reason
        'the backend is set to "torch"'
    """

    def __init__(self, name: Backend) -> None:
        global _current
        if name not in ("auto", "graph", "torch", "triton"):
            raise ValueError(f"name must be 'auto', 'graph', 'torch' or 'triton', got {name!r}")
        self._before: Backend = _current
        _current = name

    def __enter__(self) -> None:
        """Keep what the call has set."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Go back to what was set before."""
        global _current
        _current = self._before


def at_work() -> bool:
    """Whether any call could take a kernel: with nothing measured and nothing forced, none does."""
    return _current == "triton" or (_current != "torch" and bool(_TABLE))


def in_force() -> tuple[Backend, Table]:
    """Return the backend and the table, of this moment: another thread may set another."""
    return _current, _TABLE


def choice(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: IntPair = 1,
    padding: IntPair = 0,
    dilation: IntPair = 1,
) -> Choice:
    """Tell which path `depthwise_conv2d` takes with these arguments, and why. It computes nothing.

    Args:
        x: (N, C, H, W); only its shape, dtype, device and layout are looked at.
        weight: (C, 1, kernel height, kernel width).
        bias: (C), or None.
        stride: one integer or (height, width).
        padding: likewise.
        dilation: likewise.

    Examples:
        >>> choice(torch.zeros(1, 8, 4, 4), torch.zeros(8, 1, 3, 3))
        Choice(path='torch', reason='the input is not on a CUDA device')
    """
    steps = pair("stride", stride, 1), pair("padding", padding, 0), pair("dilation", dilation, 1)
    return choose(x, weight, bias, *steps)


def choose(x: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair, dilation: Pair) -> Choice:
    """Return what `choice` does, for pairs that were checked."""
    obstacle = unfit(x, (weight, bias)) or unfit_shape(x, weight, bias, stride, padding, dilation)
    if obstacle:
        return Choice("torch", obstacle)
    training = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, weight, bias))
    return decide(x, "triton", lambda: case(x, weight.shape[2:], stride, dilation, training))


def unfit(x: Tensor, others: Iterable[Tensor | None]) -> str:
    """Return why no kernel takes these tensors, whatever their shapes, or ""."""
    if _current == "torch":
        return 'the backend is set to "torch"'
    device = unfit_device(x.device)
    if device:
        return device
    if not torch.compiler.is_compiling():
        if transformed():
            return "torch.func or forward-mode differentiation is at work"
        # Before sizes are compared, which a trace takes down as if they could change.
        if _current != "triton" and traced():
            return _EXPORTED
    low = computed_in(x)
    if low not in DTYPES:
        return "the dtype is none of float32, float16 and bfloat16"
    for t in others:
        if t is None:
            continue
        if t.dtype != low and computed_in(t) != low:
            return "the weight or the bias is of another dtype than the input"
        if t.device != x.device:
            return "the weight or the bias is on another device than the input"
    return ""


def computed_in(x: Tensor) -> torch.dtype:
    """Return the dtype that a convolution works in: its input's, or autocast's."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if x.dtype in DTYPES and torch.is_autocast_enabled(kind) else x.dtype


@torch.compiler.assume_constant_result
def unfit_device(device: torch.device) -> str:
    """Return why the kernels cannot run on a device, or "" where they can."""
    return _unfit_device(device)


@functools.cache
def _unfit_device(device: torch.device) -> str:
    if device.type != "cuda":
        return "the input is not on a CUDA device"
    if torch.version.hip is not None:
        return "the kernels were never tried on a GPU of this make"
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    version = str(importlib.import_module("triton").__version__)
    if tuple(map(int, version.split(".")[:2])) < OLDEST_TRITON:
        return f"the kernels need Triton 3.3, which comes with torch 2.7, and this is {version}"
    if torch.cuda.get_device_capability(device) < (8, 0):
        return "the GPU is older than compute capability 8.0"
    return ""


def transformed() -> bool:
    # torch.library has no way to give an operator of Python to these transforms, all at once.
    # Nor has torch a public name, or a type, for whether one of them is under way.
    stack = cast("object", torch._C._functorch.peek_interpreter_stack())  # pyright: ignore[reportAttributeAccessIssue]
    level = cast("int", torch.autograd.forward_ad._current_level)
    return stack is not None or level >= 0


def _exporting() -> bool:
    # torch 2.6 cannot tell.
    return bool(getattr(torch.compiler, "is_exporting", bool)())


@torch.compiler.assume_constant_result
def capability(device: torch.device) -> str:
    return _capability_of(device)


@functools.cache
def _capability_of(device: torch.device) -> str:
    return ".".join(map(str, torch.cuda.get_device_capability(device)))


def unfit_shape(x: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair, dilation: Pair) -> str:
    """Return why no kernel takes tensors of such shapes, or ""."""
    if x.dim() != 4 or weight.dim() != 4 or weight.shape[0] != x.shape[1] or weight.shape[1] != 1:
        return "the weight is not (C, 1, height, width) for an input of (N, C, H, W)"
    if bias is not None and bias.shape != weight.shape[:1]:
        return "the bias has not one number a channel"
    n, c, h, w = x.shape
    spans = [d * (k - 1) + 1 for d, k in zip(dilation, weight.shape[2:], strict=True)]
    padded = [size + 2 * p for size, p in zip((h, w), padding, strict=True)]
    if n == 0 or c == 0 or h == 0 or w == 0 or padded[0] < spans[0] or padded[1] < spans[1]:
        return "the input or the output is empty"
    ho, wo = ((size - span) // s + 1 for size, span, s in zip(padded, spans, stride, strict=True))
    if c * padded[0] * padded[1] >= _OFFSETS or c * ho * wo >= _OFFSETS:
        return "one image has 2^31 elements or more"
    if n * padded[0] * padded[1] >= POSITIONS or n * ho * wo >= POSITIONS:
        return "the batch has about 2^31 positions or more"
    return ""


def decide(x: Tensor, path: PathName, find_key: Callable[[], str]) -> Choice:
    """Return `path`, which can be taken, or PyTorch's where it was not measured to be the slower one.

    The key is found only where it is looked up: to compare sizes that an export leaves open would close them.
    """
    # Once: another thread may set another.
    name = _current
    if name == "triton":
        return Choice(path, 'the backend is set to "triton"')
    measured = _TABLE.get(capability(x.device))
    if measured is None:
        return Choice("torch", "nothing was measured on this kind of GPU")
    if _exporting():
        return Choice("torch", _EXPORTED)
    key = find_key()
    if key not in measured:
        return Choice("torch", "no case like this was measured")
    least = measured[key].get(name)
    if least is None:
        return Choice("torch", "PyTorch was measured to be as fast or faster")
    if x.numel() < least:
        return Choice("torch", "PyTorch was measured to be as fast or faster at this size")
    return Choice(path, "the kernel was measured to be faster at this size")


def case(x: Tensor, kernel: tuple[int, ...], stride: Pair, dilation: Pair, training: bool) -> str:
    """Return the key of the decision table: what a measurement at some sizes stands for at others."""
    layout = "channels_last" if x.is_contiguous(memory_format=torch.channels_last) else "contiguous"
    rate = "undilated" if dilation == (1, 1) else "dilated"
    low = computed_in(x)
    # What a measurement of a common size says nothing about: channels that 128 bits do not divide, and so few rows that
    # a kernel which rolls down them hardly starts to roll.
    narrow = " narrow" if x.shape[1] * low.itemsize % 16 != 0 else ""
    short = " short" if x.shape[2] < _ROWS * dilation[0] else ""
    return (
        f"{DTYPES[low]} {kernel[0]}x{kernel[1]} stride {stride[0]}x{stride[1]} {rate} {layout}{narrow}{short} "
        f"{'training' if training else 'inference'}"
    )


def read_table(path: Path) -> Table:
    """Return compute capability -> case -> "auto" or "graph" -> elements from which on Triton is faster, or None."""
    return json.loads(path.read_text())["decisions"] if path.exists() else {}


def pair(name: str, value: IntPair, minimum: int) -> Pair:
    """Return (height, width) of an argument, checked."""
    if isinstance(value, (tuple, list)):
        if len(value) != 2:
            raise ValueError(f"{name} must be one integer or a pair (height, width), got {value!r}")
        return geometry.integer(name, value[0], minimum), geometry.integer(name, value[1], minimum)
    number = geometry.integer(name, value, minimum)
    return number, number


_TABLE = read_table(DECISIONS)
