"""The ways in which one module can be run: what a user would try, in the order of effort."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
import torch._inductor.config as inductor
from torch import Tensor, nn

from convblocks import ops
from convblocks.deploy import fuse

Call: TypeAlias = Callable[[], tuple[Tensor, ...]]
LAYOUTS: dict[str, torch.memory_format] = {
    "contiguous": torch.contiguous_format,
    "channels_last": torch.channels_last,
}


class Way(NamedTuple):
    """A way to run a module.

    `compiled` is a mode of torch.compile, or "frozen": weights as constants, which lets it fold and pack them.
    "max-autotune" is without CUDA graphs of its own, since graphs are timed beside every way.
    `rank` says what is timed first, `rivals` whether it is tried on what stands beside our blocks too, and `cuda`
    whether it is a way of its own on CUDA only.
    """

    name: str
    layout: str = "channels_last"
    backend: Literal["auto", "torch", "triton"] = "torch"
    folded: bool = False
    compiled: Literal["default", "frozen", "max-autotune"] | None = None
    rank: int = 0
    rivals: bool = False
    cuda: bool = False


PLAIN = Way("eager contiguous", "contiguous")
WAYS: dict[str, tuple[Way, ...]] = {
    "inference": (
        PLAIN,
        Way("eager channels_last", rivals=True),
        Way("folded contiguous", "contiguous", folded=True),
        Way("folded channels_last", folded=True, rivals=True),
        Way("auto folded channels_last", backend="auto", folded=True, cuda=True),
        Way("triton channels_last", backend="triton", cuda=True),
        Way("triton folded channels_last", backend="triton", folded=True, cuda=True),
        Way("compiled channels_last", compiled="default", rank=1),
        Way("compiled folded channels_last", folded=True, compiled="default", rank=1),
        Way("frozen folded channels_last", folded=True, compiled="frozen", rank=1),
        Way(
            "compiled triton folded channels_last",
            backend="triton",
            folded=True,
            compiled="default",
            rank=2,
            cuda=True,
        ),
        Way("max-autotune folded channels_last", folded=True, compiled="max-autotune", rank=3),
    ),
    "training": (
        PLAIN,
        Way("eager channels_last", rivals=True),
        Way("auto channels_last", backend="auto", cuda=True),
        Way("triton channels_last", backend="triton", cuda=True),
        Way("compiled channels_last", compiled="default", rank=1),
        Way("compiled triton channels_last", backend="triton", compiled="default", rank=2, cuda=True),
        Way("max-autotune channels_last", compiled="max-autotune", rank=3),
    ),
}
WAYS["step"] = WAYS["training"]


def ready(module: nn.Module, way: Way, shape: tuple[int, ...]) -> nn.Module:
    """Return a copy of a module as the way runs it; `shape` is of one batch."""
    made = copy.deepcopy(module)
    if way.folded:
        made = fuse(made, shape[1:])[0]
    made = made.to(memory_format=LAYOUTS[way.layout])
    if way.compiled is None:
        return made
    # Dynamo counts what it compiled of one class, and past a limit leaves the rest uncompiled without an error.
    torch.compiler.reset()
    options: dict[str, Any] = {
        "default": {},
        "frozen": {},
        "max-autotune": {"mode": "max-autotune-no-cudagraphs"},
    }[way.compiled]
    compiled: Any = torch.compile(made, dynamic=False, fullgraph=True, **options)
    return compiled


@contextmanager
def setting(way: Way, gradients: bool) -> Iterator[None]:
    """What holds around the calls of a way: entering it anew in each call would be timed with them."""
    # As an option of torch.compile, freezing comes too late: the parameters are inputs of the graph by then.
    frozen: Any = inductor.patch(freezing=way.compiled == "frozen")
    with ops.backend(way.backend), torch.set_grad_enabled(gradients), frozen:
        yield


def inference(module: nn.Module, way: Way, x: Tensor) -> Call:
    """Return a forward pass; module and input are of one dtype."""
    made, given = ready(module.eval(), way, tuple(x.shape)), laid_out(x, way)
    return lambda: (made(given),)


def training(module: nn.Module, way: Way, x: Tensor, dy: Tensor) -> Call:
    """Return a forward and backward pass: the output, the gradient of the input, the gradients of the parameters.

    An input of float16 or bfloat16 is computed by autocast, with parameters that stay in float32.
    """
    made, given = ready(module.train(), way, tuple(x.shape)), laid_out(x, way).requires_grad_()
    leaves, after = [given, *made.parameters()], laid_out(dy, way)

    def run() -> tuple[Tensor, ...]:
        with autocast(x):
            y = made(given)
        return (y.detach(), *torch.autograd.grad(y, leaves, after.to(y.dtype)))

    return run


def step(module: nn.Module, way: Way, x: Tensor, labels: Tensor) -> Call:
    """Return a training step: forward, cross entropy, backward, SGD with momentum. It gives what `training` does."""
    made, given = ready(module.train(), way, tuple(x.shape)), laid_out(x, way)
    parameters = list(made.parameters())
    # At such a rate the weights stay what they are, however often the step is timed.
    optimizer = torch.optim.SGD(parameters, lr=1e-12, momentum=0.9, nesterov=True)

    def run() -> tuple[Tensor, ...]:
        optimizer.zero_grad(set_to_none=True)
        with autocast(x):
            y = made(given)
            loss = nn.functional.cross_entropy(y, labels)
        loss.backward()
        optimizer.step()
        return (y.detach(), y.new_zeros(0), *(p.grad for p in parameters if p.grad is not None))

    return run


def autocast(x: Tensor) -> torch.autocast:
    """Return autocast to the dtype of `x`, off for float32 and float64."""
    low = x.dtype in (torch.float16, torch.bfloat16)
    return torch.autocast(x.device.type, x.dtype if low else torch.bfloat16, enabled=low)


def laid_out(x: Tensor, way: Way) -> Tensor:
    """Return a copy of a tensor in the layout of the way; one that has no height and width has but one layout."""
    return x.detach().clone(memory_format=LAYOUTS[way.layout] if x.dim() == 4 else torch.contiguous_format)


@contextmanager
def poisoned(way: Way, device: str, nbytes: int) -> Iterator[None]:
    """Let fresh memory read as NaN, so that what a way forgets to write shows.

    On CUDA by NaN in the blocks that the allocator hands out next; on the CPU by PyTorch's own switch, for which
    compiled code would be compiled anew, and which it does without.
    """
    if device == "cuda":
        # Many sizes: the allocator looks for a block of about the size that is asked for.
        kept = [torch.full((max(1, nbytes // 2**k),), 255, dtype=torch.uint8, device=device) for k in range(12)]
        del kept
        yield
    elif way.compiled is None:
        torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(False)
    else:
        yield


def choices(module: nn.Module, way: Way, x: Tensor) -> dict[str, int]:
    """Return who computes the depthwise convolutions, by the library's own word, and how many of them."""
    if not x.is_cuda:
        return {}
    plain = ready(module.eval(), way._replace(compiled=None), tuple(x.shape))
    with ops.backend(way.backend):
        found = ops.explain(plain, laid_out(x, way))
    words = [f"{choice.path}: {choice.reason}" for choice in found.values()]
    return {word: words.count(word) for word in words}
