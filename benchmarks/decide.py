"""What the "auto" backend goes by, and better tilings: `python -m benchmarks.kernels --decide` and `--tune`."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch

from benchmarks.cases import DTYPES, LARGE, BlockData, Case, Data, StepData, data
from benchmarks.timing import Timing, back_to_back, measure
from convblocks import ops
from convblocks.ops import _choice, _separable

WHERE = ((3, 1, 1), (3, 1, 2), (3, 2, 1), (3, 2, 2), (5, 1, 1), (5, 2, 1), (7, 1, 1))
CHANNELS = ((16, 16), (16, 32), (32, 32), (32, 64), (64, 64), (64, 128), (128, 128), (64, 256))
KINDS = [
    *(Case((1, 64, 32, 32), *where, dtype) for dtype in DTYPES for where in WHERE),
    *(Case((1, c, 32, 32), *where, dtype, o) for dtype in DTYPES for c, o in CHANNELS for where in WHERE[:3]),
]
SIZES = (1, 8, 64, 512)


def decide(
    device: str, milliseconds: float, sizes: Sequence[int], kinds: Iterable[Case]
) -> Iterator[tuple[str, int | None]]:
    """Yield case, and the least number of elements from which on our path is the faster one, eager and cold.

    Convolutions in both layouts, blocks in channels_last. The number of images is what varies.
    """
    layouts = (torch.channels_last, torch.contiguous_format)
    for kind, layout, training in itertools.product(kinds, layouts, (False, True)):
        if kind.out and layout is torch.contiguous_format:
            continue
        timings: list[tuple[int, Timing, Timing]] = []
        name = ""
        try:
            for images in sizes:
                case = kind._replace(shape=(images, *kind.shape[1:]))
                make = StepData if kind.out and training else data
                made = make(case, device, layout)
                made.check()
                name = _key(made, training)
                step = made.step(training)
                for clock in (back_to_back, measure):
                    others = [_by("torch", step)]
                    if isinstance(made, BlockData):
                        others.append(_by("triton", made.alone))
                    theirs = min(clock(other, device, milliseconds) for other in others)
                    timings.append((made.x.numel(), theirs, clock(_by("triton", step), device, milliseconds)))
        except (AssertionError, RuntimeError) as error:
            # Wrong numbers, or no memory: PyTorch keeps this case, and the others are measured all the same.
            print(f"{kind} {name}: {error}", flush=True)
            timings = []
        if name:
            yield name, _least(timings)


def _key(made: Data | BlockData | StepData, training: bool) -> str:
    s, _, d = made.where
    if not isinstance(made, Data):
        return _separable.separable_case(made.x, made.weight, made.point, s, d, training)
    return _choice.case(made.x, made.weight.shape[2:], s, d, training)


def _by(backend: Any, step: Callable[[], Any]) -> Callable[[], Any]:
    def run() -> Any:
        with ops.backend(backend):
            return step()

    return run


def _least(timings: Sequence[tuple[int, Timing, Timing]]) -> int | None:
    """Return the size from which on ours is faster by more than 2 %, at it and at every larger one, by every clock."""
    lost = [elements for elements, theirs, ours in timings if ours.median > 0.98 * theirs.median]
    return min((elements for elements, _, _ in timings if elements > max(lost, default=0)), default=None)


def tune(device: str, milliseconds: float) -> Iterator[dict[str, Any]]:
    """Time the kernels at other tilings than the ones they come with, one row each. CUDA only."""
    for case in (Case(LARGE[0]), Case(LARGE[0], dilation=8), Case(LARGE[2]), Case(LARGE[4])):
        yield from _tune_convolution(case, device, milliseconds)
    for case in (Case(LARGE[0], out=64), Case(LARGE[1], out=128), Case(LARGE[2], out=32), Case(LARGE[0], out=128)):
        yield from _tune_block(case, device, milliseconds)


def _tune_convolution(case: Case, device: str, milliseconds: float) -> Iterator[dict[str, Any]]:
    from convblocks.ops import _launch

    made = Data(case, device, torch.channels_last)
    s, p, d = made.where
    rows: list[dict[str, Any]] = []
    for block, channels, rows_, warps, prefetch in itertools.product(
        (8, 16, 32), (32, 64), (8, 16, 32), (2, 4, 8), (False, True)
    ):
        if not 2 <= block * channels // (32 * warps) <= 16:
            continue
        tiling = _launch.Tiling(block, channels, rows_, 0, warps, prefetch)
        calls = {
            "forward": functools.partial(_launch.forward, made.x, made.weight, None, s, p, d, tiling=tiling),
            "backward": functools.partial(
                _launch.backward, made.dy, made.x, made.weight, s, p, d, False, tiling=tiling
            ),
        }
        for direction, call in calls.items():
            timing = measure(call, device, milliseconds)
            rows.append({"case": str(case), "pass": direction, **timing._asdict(), "tiling": tiling._asdict()})
            yield rows[-1]
    for direction in ("forward", "backward"):
        _best(case, [row for row in rows if row["pass"] == direction])


def _tune_block(case: Case, device: str, milliseconds: float) -> Iterator[dict[str, Any]]:
    from convblocks.ops import _launch, _launch_separable

    made = BlockData(case, device, torch.channels_last)
    rows: list[dict[str, Any]] = []
    for block, rows_, warps, stages in itertools.product((16, 32, 64), (8, 16, 32), (4, 8), (1, 2, 3, 4)):
        tiling = _launch.Tiling(block=block, rows=rows_, warps=warps, stages=stages)
        call = functools.partial(
            _launch_separable.forward,
            *(made.x, made.weight, made.point, made.first, made.second, *made.where),
            tiling=tiling,
        )
        try:
            timing = measure(call, device, milliseconds)
        except Exception as error:
            # Triton's own error, of more shared memory than there is.
            print(f"{case} {tiling}: {error}", flush=True)
            continue
        rows.append({"case": str(case), "pass": "forward", **timing._asdict(), "tiling": tiling._asdict()})
        yield rows[-1]
    _best(case, rows)


def _best(case: Case, rows: list[dict[str, Any]]) -> None:
    for row in sorted(rows, key=_median)[:3]:
        print(f"{case} {row['pass']}: {row['median']:.1f} us {row['tiling']}", flush=True)


def _median(row: dict[str, Any]) -> float:
    return row["median"]
