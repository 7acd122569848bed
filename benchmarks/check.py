"""Whether a way of running a module gives the right numbers: against float64, beside what plain PyTorch gives."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from benchmarks import ways
from benchmarks.ways import PLAIN, Way

FLOOR = {torch.float32: 1e-3, torch.float16: 5e-3, torch.bfloat16: 3e-2}
"""Error relative to float64 that is rounding, whatever PyTorch's plain way has of it."""
WORST = 0.3
"""Error of the plain way beyond which nothing can be compared with it."""
IMAGES = 64
"""Images of a training step that is compared: of a thousand, float64 takes a GPU minutes, and more of the gradient at
first weights cancels out."""


class Subject(NamedTuple):
    """What is timed: `name` beside others of the same `case`, made anew by `make` for inputs of `shape`."""

    case: str
    name: str
    make: Callable[[], nn.Module]
    shape: tuple[int, int, int, int]
    rank: int = 0


class Data:
    """A module and random tensors, the same for every way of a subject.

    `direction` is "inference", "training" (forward and backward) or "step" (with a loss and an optimizer).
    """

    def __init__(self, subject: Subject, direction: str, dtype: torch.dtype, device: str) -> None:
        torch.manual_seed(0)
        self.subject, self.direction, self.dtype, self.device = subject, direction, dtype, device
        module = shaken(subject.make()).to(device)
        self.module = module.to(dtype) if direction == "inference" else module
        self.x = torch.randn(subject.shape, device=device).to(dtype)
        with torch.no_grad():
            y = module.eval()(self.x.to(parameter_dtype(module, dtype)))
        self.dy = torch.randn(y.shape, device=device).to(dtype)
        self.labels = torch.randint(y.shape[-1], (y.shape[0],), device=device)

    @property
    def gradients(self) -> bool:
        return self.direction != "inference"

    def call(self, way: Way) -> ways.Call:
        """Return the call of a way."""
        return self._call(way, self.module, self.x, self.dy)

    def exact(self) -> tuple[Tensor, ...]:
        """Return what the call gives in float64."""
        with ways.setting(PLAIN, self.gradients):
            return self._call(PLAIN, copy.deepcopy(self.module).double(), self.x.double(), self.dy.double())()

    def errors(self, way: Way, exact: Sequence[Tensor], call: ways.Call | None = None) -> dict[str, float]:
        """Return the errors of a way relative to float64, on memory that reads NaN until it is written."""
        with ways.setting(way, self.gradients):
            call = call or self.call(way)
            # A first call compiles, and fills memory by that.
            call()
            with ways.poisoned(way, self.device, 2 * sum(t.nbytes for t in exact)):
                return relative(call(), exact)

    def _call(self, way: Way, module: nn.Module, x: Tensor, dy: Tensor) -> ways.Call:
        if self.direction == "inference":
            return ways.inference(module, way, x)
        if self.direction == "training":
            return ways.training(module, way, x, dy)
        return ways.step(module, way, x, self.labels)


class Checked(NamedTuple):
    """The errors of a way and of the plain one, the dtype they were found at, and in words what is wrong with them."""

    errors: dict[str, float]
    plain: dict[str, float]
    dtype: torch.dtype
    why: str


def check(data: Data, way: Way) -> tuple[ways.Call, Checked]:
    """Return the call of a way, and whether it may be timed.

    The gradients of a deep network at its first weights can be so badly conditioned that rounding to bfloat16 alone
    turns them over; then the way is compared at float32, and at its own dtype must only give numbers.
    """
    subject, direction = data.subject, data.direction
    if direction == "step" and subject.shape[0] > IMAGES:
        subject = subject._replace(shape=(IMAGES, *subject.shape[1:]))
    same = subject == data.subject
    compared = data if same else Data(subject, direction, data.dtype, data.device)
    exact, plain = _reference(subject, direction, data.dtype, data.device)
    other = None
    if not _comparable(plain) and data.dtype != torch.float32:
        true, plain_single = _reference(subject, direction, torch.float32, data.device)
        other = Data(subject, direction, torch.float32, data.device).errors(way, true), plain_single
    found = None if same else compared.errors(way, exact)
    # Made last: making another compiled one throws away what was compiled before.
    with ways.setting(way, data.gradients):
        call = data.call(way)
        if found is not None and not all(bool(t.isfinite().all()) for t in call()):
            found = dict.fromkeys(found, math.inf)
    if found is None:
        found = data.errors(way, exact, call)
    if other is None:
        return call, Checked(found, plain, data.dtype, wrong(found, plain, data.dtype))
    numbers = all(error < math.inf for error in found.values())
    why = wrong(*other, torch.float32) if numbers else "not all numbers are finite"
    return call, Checked(*other, torch.float32, why)


@functools.lru_cache(2)
def _reference(
    subject: Subject, direction: str, dtype: torch.dtype, device: str
) -> tuple[tuple[Tensor, ...], dict[str, float]]:
    """Return what a subject gives in float64 and the errors of its plain way: once for all the ways that follow."""
    data = Data(subject, direction, dtype, device)
    exact = data.exact()
    return exact, data.errors(PLAIN, exact)


def wrong(found: dict[str, float], plain: dict[str, float], dtype: torch.dtype) -> str:
    """Return in words what is wrong with a way's numbers, or ""."""
    if not _comparable(plain):
        return f"the plain way itself is off by {max(plain.values()):.1e}: there is nothing to compare with"
    for name, error in found.items():
        limit = max(FLOOR[dtype], 2 * plain[name])
        if not error <= limit:
            return f"{name} is off by {error:.1e}, more than {limit:.1e}"
    return ""


def relative(found: Sequence[Tensor], exact: Sequence[Tensor]) -> dict[str, float]:
    """Return the relative errors of the output, of the input's gradient and of all parameters' gradients as one."""
    made: dict[str, float] = {}
    for name, which in {"y": slice(0, 1), "dx": slice(1, 2), "dw": slice(2, None)}.items():
        pairs = [(f.double() - e, e) for f, e in zip(found[which], exact[which], strict=True) if e.numel()]
        if pairs:
            off, size = (torch.stack([p[i].norm() for p in pairs]).norm().item() for i in (0, 1))
            made[name] = off / max(size, 1e-30)
    return made


def shaken(module: nn.Module) -> nn.Module:
    """Give norms statistics and weights that do something, and take dropout's chance out."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d) and part.running_mean is not None and part.running_var is not None:
            nn.init.uniform_(part.running_mean, -0.5, 0.5)
            nn.init.uniform_(part.running_var, 0.5, 2)
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.uniform_(part.bias, -0.5, 0.5)
        elif isinstance(part, nn.Dropout):
            part.p = 0.0
    return module


def parameter_dtype(module: nn.Module, otherwise: torch.dtype) -> torch.dtype:
    """Return the dtype of a module's parameters, another where it has none."""
    return next((p.dtype for p in module.parameters()), otherwise)


def _comparable(plain: dict[str, float]) -> bool:
    return all(error <= WORST for error in plain.values())
