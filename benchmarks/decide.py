"""What the "auto" and "graph" backends go by: `python -m benchmarks.kernels --decide`."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch

from benchmarks.cases import DTYPES, BlockData, Case, Data, NormCase, NormData, StepData, data
from benchmarks.timing import Timing, back_to_back, captured, measure
from benchmarks.warm import compile_all
from convblocks import ops
from convblocks.ops import _choice, _norm_training, _separable

WHERE = ((3, 1, 1), (3, 1, 2), (3, 2, 1), (3, 2, 2), (5, 1, 1), (5, 2, 1), (7, 1, 1))
CHANNELS = ((64, 64), (64, 128), (128, 128), (32, 64), (32, 32), (16, 32), (16, 16), (64, 256))
# Maps of so few rows that the rolling kernels do not roll.
SHORT = ((4, 1), (8, 2))
# What fewer blocks are made of, and how many channels those have.
RARE, RARE_CHANNELS = ((5, 1, 1), (3, 2, 2)), CHANNELS[:5]
KINDS: list[Case | NormCase] = [
    kind
    # What networks are trained and used in comes first: the time may end.
    for dtype in sorted(DTYPES, key=("bfloat16", "float16", "float32").index)
    for kind in (
        *(Case((1, 64, 32, 32), *where, dtype) for where in WHERE[:3]),
        *(Case((1, c, 32, 32), *where, dtype, o) for c, o in CHANNELS for where in WHERE[:3]),
        *(Case((1, c, 32, 32), *where, dtype, o) for c, o in RARE_CHANNELS for where in RARE),
        *(Case((1, c, size, size), 3, 1, dilation, dtype, c) for c in (64, 128) for size, dilation in SHORT),
        *(NormCase((1, c, 32, 32), dtype, act) for c in (16, 32, 64, 128, 256) for act in (True, False)),
        *(Case((1, 64, 32, 32), *where, dtype) for where in WHERE[3:]),
        *(Case((1, 64, size, size), 3, 1, dilation, dtype) for size, dilation in SHORT),
    )
]
QUICK_KINDS: list[Case | NormCase] = [Case((1, 64, 32, 32), dtype="float32"), Case((1, 64, 32, 32), 3, 2, 1, out=256)]
SIZES = (16, 64, 256)
LAYOUTS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}


class Decision(NamedTuple):
    """A case of the table, and by backend the least number of elements from which on ours is the faster path, or None.

    `why` says what went wrong, where something did: PyTorch keeps such a case.
    """

    name: str
    least: dict[str, int | None]
    why: str = ""


class Question(NamedTuple):
    """A kind of convolution, block or norm, in one layout, with or without gradients."""

    kind: Case | NormCase
    layout: str
    training: bool

    @property
    def name(self) -> str:
        """The key of the table."""
        kind = self.kind
        x = torch.empty(kind.shape, dtype=DTYPES[kind.dtype]).to(memory_format=LAYOUTS[self.layout])
        if isinstance(kind, NormCase):
            return _norm_training.norm_case(x, "relu" if kind.act else "")
        c, kernel = kind.shape[1], (kind.kernel, kind.kernel)
        where = (kind.stride, kind.stride), (kind.dilation, kind.dilation)
        if not kind.out:
            return _choice.case(x, kernel, *where, self.training)
        return _separable.separable_case(
            x, torch.empty(c, 1, *kernel), torch.empty(kind.out, c, 1, 1), *where, self.training
        )

    def asked(self) -> bool:
        """Tell whether some kernel could answer: of blocks and norms there are none in another layout."""
        if isinstance(self.kind, NormCase):
            return self.training and self.layout == "channels_last"
        return not self.kind.out or self.layout == "channels_last"

    def data(self, images: int, device: str) -> Data | BlockData | StepData | NormData:
        """Return the tensors of one size."""
        shape, layout = (images, *self.kind.shape[1:]), LAYOUTS[self.layout]
        if isinstance(self.kind, NormCase):
            return NormData(self.kind._replace(shape=shape), device, layout)
        make = StepData if self.kind.out and self.training else data
        return make(self.kind._replace(shape=shape), device, layout)


def questions(kinds: Iterable[Case | NormCase]) -> list[Question]:
    """Return what there is to decide: convolutions in both layouts, blocks and norms in channels_last.

    Of each dtype, what the blocks were made for comes first: the time may end.
    """
    every = [Question(*rest) for rest in itertools.product(kinds, LAYOUTS, (False, True))]
    dtypes = list(dict.fromkeys(q.kind.dtype for q in every))
    every.sort(key=lambda q: (dtypes.index(q.kind.dtype), q.layout == "contiguous"))
    return [q for q in every if q.asked()]


def warm(todo: Sequence[Question], device: str, seconds: float, processes: int | None = None) -> list[str]:
    """Compile the kernels that the questions want, all at once; the number of images makes no other kernel."""
    return compile_all(_once, [(question, device) for question in todo], seconds, processes)


def _once(question: Question, device: str) -> None:
    step = question.data(1, device).step(question.training)
    _by("triton", step)()
    if device == "cuda":
        torch.cuda.synchronize()


def decide(device: str, milliseconds: float, sizes: Sequence[int], todo: Iterable[Question]) -> Iterator[Decision]:
    """Answer each question: for "auto" eager and cold, for "graph" by a CUDA graph. The number of images varies."""

    def graph(call: Callable[[], Any], *rest: Any) -> Timing:
        return measure(captured(call) if device == "cuda" else call, *rest)

    for question in todo:
        clocks = {"auto": (back_to_back, measure), "graph": (graph,)}
        timings: dict[str, list[tuple[int, Timing, Timing]]] = {backend: [] for backend in clocks}
        why = ""
        try:
            for images in sizes:
                made = question.data(images, device)
                made.check()
                step = made.step(question.training)
                others = [_by("torch", step)]
                if isinstance(made, BlockData):
                    others.append(_by("triton", made.alone))
                for backend, clock in ((name, clock) for name, some in clocks.items() for clock in some):
                    theirs = min(clock(other, device, milliseconds) for other in others)
                    timings[backend].append((made.x.numel(), theirs, clock(_by("triton", step), device, milliseconds)))
        except Exception as error:
            # Wrong numbers, no memory, or a kernel that cannot be started: PyTorch keeps this case, and the others are
            # measured all the same.
            why = f"{type(error).__name__}: {(str(error).strip() or '?').splitlines()[0]}"
            timings = {backend: [] for backend in clocks}
        yield Decision(question.name, {backend: _least(found) for backend, found in timings.items()}, why)


def _by(backend: Any, step: Callable[[], Any]) -> Callable[[], Any]:
    def run() -> Any:
        with ops.backend(backend):
            return step()

    return run


def _least(timings: Sequence[tuple[int, Timing, Timing]]) -> int | None:
    """Return the size from which on ours is faster by more than 2 %, at it and at every larger one, by every clock."""
    lost = [elements for elements, theirs, ours in timings if ours.median > 0.98 * theirs.median]
    return min((elements for elements, _, _ in timings if elements > max(lost, default=0)), default=None)
