"""Other tilings of the kernels than the ones they come with: `python -m benchmarks.kernels --tune`."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.cases import LARGE, BlockData, Case, Data
from benchmarks.timing import measure
from benchmarks.warm import compile_all

# Where there is no Triton, the rest of benchmarks.kernels is of use.
if TYPE_CHECKING:
    from convblocks.ops._launch import Tiling

LAST = torch.channels_last

CASES = [Case(LARGE[0]), Case(LARGE[0], out=64), Case(LARGE[1], out=128), Case(LARGE[0], dilation=8)]
CASES += [Case(LARGE[2]), Case(LARGE[2], out=32), Case(LARGE[0], out=128), Case(LARGE[4])]
CASES += [Case(LARGE[3], kernel=5), Case(LARGE[3], stride=2)]


def tilings(case: Case) -> list[Tiling]:
    """Return the tilings to try; how many rows and tiles a program has, `plan_rows` finds for each."""
    from convblocks.ops._launch import Tiling

    if case.out:
        grid = itertools.product((16, 32), (64,), (4, 8), (2, 3, 4))
    elif case.kernel == 5:
        grid = itertools.product((1, 2, 4, 8), (32, 64, 128), (1, 2, 4), (3, 4, 5))
    else:
        grid = itertools.product((2, 4, 8, 16), (32, 64), (1, 2, 4, 8), (1, 3, 4, 5))
    # A far dilation leaves few rows in a strip: it is the way from tile to tile that takes the time.
    ways_on = (False, True) if case.dilation > 1 and case.kernel == 3 and not case.out else (False,)
    # Elements that a thread has: of 5 x 5, the taps of eight channels do not fit into its registers.
    least, most = (2, 4) if case.kernel == 5 else (4, 8)
    found = [
        Tiling(block, channels, 64, 0, warps, stages, run_on, start=2)
        for run_on, (block, channels, warps, stages) in itertools.product(ways_on, grid)
        if case.out or least <= block * channels // (32 * warps) <= most
    ]
    if case.kernel == 3 and not case.out and all(-(-size // case.dilation) in (3, 4) for size in case.shape[2:]):
        # The gradients of small maps, each a unit.
        found += [
            Tiling(block, 64, 1, 0, 1, stages, start=1, beyond=0, columns=1)
            for block, stages in itertools.product((1, 2, 4), (1, 2, 3, 4))
        ]
    return found


def tune(device: str, milliseconds: float, known: Sequence[dict[str, Any]], until: float) -> Iterator[dict[str, Any]]:
    """Yield one row for each case, pass and tiling that is not known; `until` is on the monotonic clock. CUDA only."""
    from convblocks.ops._launch import Tiling

    old = {(row["case"], row["pass"], Tiling(**row["tiling"])) for row in known}
    for case in CASES:
        rows = [row for row in known if row["case"] == str(case)]
        every = [(tiling, way) for tiling in tilings(case) for way in ways(case, tiling)]
        todo = [(tiling, way) for tiling, way in every if (str(case), way, tiling) not in old]
        if not todo:
            continue
        kinds = dict.fromkeys(tiling for tiling, _ in todo)
        compile_all(_once, [(case, tiling) for tiling in kinds], max(1.0, (until - time.monotonic()) / 3))
        made = BlockData(case, device, LAST) if case.out else Data(case, device, LAST)
        for tiling, way in todo:
            try:
                timing = measure(call(made, way, tiling), device, milliseconds)
            except Exception as error:
                # Triton's own error, of more shared memory than there is.
                print(f"{case} {tiling}: {error}", flush=True)
                continue
            rows.append({"case": str(case), "pass": way, **timing._asdict(), "tiling": tiling._asdict()})
            yield rows[-1]
        for way in dict.fromkeys(way for _, way in every):
            for row in sorted((row for row in rows if row["pass"] == way), key=_median)[:3]:
                print(f"{case} {way}: {row['median']:.1f} us {row['tiling']}", flush=True)


def ways(case: Case, tiling: Tiling) -> tuple[str, ...]:
    if case.out:
        return ("forward",)
    return ("backward",) if tiling.columns == 1 else ("forward", "backward")


def call(made: Data | BlockData, way: str, tiling: Tiling) -> Callable[[], Any]:
    """Return the call of a kernel at a tiling."""
    from convblocks.ops import _launch, _launch_separable

    s, p, d = made.where
    if isinstance(made, BlockData):
        block = made.x, made.weight, made.point, made.first, made.second
        return lambda: _launch_separable.forward(*block, s, p, d, tiling=tiling)
    if way == "forward":
        return lambda: _launch.forward(made.x, made.weight, None, s, p, d, tiling=tiling)
    return lambda: _launch.backward(made.dy, made.x, made.weight, s, p, d, False, tiling=tiling)


def _once(case: Case, tiling: Tiling) -> None:
    small = case._replace(shape=(1, *case.shape[1:]))
    made = BlockData(small, "cuda", LAST) if case.out else Data(small, "cuda", LAST)
    for way in ways(case, tiling):
        call(made, way, tiling)()


def _median(row: dict[str, Any]) -> float:
    return row["median"]
