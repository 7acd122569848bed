"""What the compiler makes of the kernels, on any machine: `python -m benchmarks.machine_code`.

Every kernel is compiled for GPUs that need not be there, at the widest blocks that `convblocks.ops` starts and at
common ones, and disassembled. For each: registers of a thread, accesses to spilled ones, shared memory of a program,
the warps that one multiprocessor holds at a time by these two, and for the rolling kernels the instructions for an
element: of the output, with a stride of 2 of the smaller map, or of the mean of input and output where a block changes
the number of channels.
"""

from __future__ import annotations

import argparse
import functools
import json
import platform
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from benchmarks.record import write
from convblocks.ops import _separable

# The tables are made without Triton too.
if TYPE_CHECKING:
    from benchmarks.builds import Build

PATH = Path(__file__).parent / "results" / "machine_code.json"
ARCHITECTURES = (80, 90)
MAIN = ("bfloat16", 90)
KINDS = [MAIN, ("bfloat16", 80), ("float32", 90)]
DTYPES = {"bfloat16": 2, "float32": 4}
WIDTHS = (16, 32, 64, 128, 256)
FEW = 12
"""Warps of a multiprocessor below which they do not hide the time that memory takes by themselves."""

Job: TypeAlias = "tuple[dict[str, Any], Callable[[], Build]]"


def jobs(quick: bool) -> Iterator[Job]:
    """Yield what describes a kernel, and the call that compiles it."""
    from benchmarks import builds

    for dtype, arch in [MAIN] if quick else KINDS:
        kind, every = {"dtype": dtype, "arch": arch}, (dtype, arch) == MAIN and not quick
        single = {
            "rows_forward": _later(builds.rows, dtype, arch, channels=64),
            "rows_forward, statistics": _later(builds.rows, dtype, arch, statistics=True, channels=64),
            "rows_backward": _later(builds.rows, dtype, arch, backward=True, channels=64),
            "rows_backward, bias": _later(builds.rows, dtype, arch, backward=True, bias=True, channels=64),
            "rows_backward, skip": _later(builds.rows, dtype, arch, backward=True, skip=True, channels=64),
            "rows_forward_5": _later(builds.five, dtype, arch, channels=64),
            "rows_forward_5, statistics": _later(builds.five, dtype, arch, statistics=True, channels=64),
            "rows_forward_5, skip": _later(builds.five, dtype, arch, skip=True, channels=64),
            "rows_weight_5": _later(builds.five, dtype, arch, weight=True, channels=64),
            "rows_forward_stride_2": _later(builds.stride_2, dtype, arch, channels=64),
            "rows_forward_stride_2, statistics": _later(builds.stride_2, dtype, arch, statistics=True, channels=64),
            "rows_backward_stride_2": _later(builds.stride_2, dtype, arch, backward=True, channels=64),
            "maps_backward": _later(builds.maps, dtype, arch, channels=64),
            "maps_backward, bias": _later(builds.maps, dtype, arch, bias=True, channels=64),
            "maps_backward, skip": _later(builds.maps, dtype, arch, skip=True, channels=64),
            "gather_forward": _later(builds.gather, dtype, arch, channels=64),
            "gather_backward": _later(builds.gather, dtype, arch, backward=True, channels=64),
        }
        for name, call in single.items():
            yield kind | {"channels": 64, "kernel": name}, call
        for channels, out in [(64, 64)] if quick else widths(dtype, every):
            row = kind | {"channels": channels, "out": out}
            yield row | {"kernel": "rows_separable"}, _later(builds.separable, dtype, arch, channels, out)
            if channels == out:
                call = _later(builds.separable, dtype, arch, channels, out, skip=True)
                yield row | {"kernel": "rows_separable, skip"}, call
            call = _later(builds.separable, dtype, arch, channels, out, rolling=False)
            yield row | {"kernel": "gather_separable"}, call
            for name in ("pointwise_forward", "pointwise_backward"):
                yield row | {"kernel": name}, _later(builds.training, name, dtype, arch, channels, out)
        for channels in (64, 256) if every or quick else ():
            for name in ("normalise", "channel_sums", "norm_sums", "norm_backward"):
                call = _later(builds.training, name, dtype, arch, channels, channels)
                yield kind | {"channels": channels, "kernel": name}, call


def widths(dtype: str, every: bool) -> list[tuple[int, int]]:
    """Return widths of blocks, of what comes in and what goes out: those that none is wider than, and common ones."""
    size, common = DTYPES[dtype], [(16, 16), (32, 32), (64, 64)] if every else [(64, 64)]
    fit: list[tuple[int, int]] = [(c, o) for c in WIDTHS for o in WIDTHS if _separable.keeps(c, o, size)]
    widest = [(c, o) for c, o in fit if not (_separable.keeps(2 * c, o, size) or (c, 2 * o) in fit)]
    return common + widest


def row_of(build: Build) -> dict[str, Any]:
    assembly = build.assembly
    return {
        "registers": assembly.registers,
        "spills": assembly.spills(),
        "shared": assembly.shared,
        "warps": assembly.warps,
        "warps at work": assembly.warps_at_work(),
        "fits": assembly.fits(),
        "instructions": len(assembly.instructions),
        "instructions an element": round(build.an_element(), 1) if build.rounds or build.at_once else None,
    }


def table(result: dict[str, Any], dtype: str = "bfloat16", arch: str = "90") -> str:
    """Return the rows of one dtype and architecture as Markdown."""
    lines = [
        "| kernel | channels | registers | spills | shared memory, kB | warps at a time | instructions an element |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for row in result["rows"]:
        if (row["dtype"], str(row["arch"])) != (dtype, arch):
            continue
        channels = f"{row['channels']} to {row['out']}" if "out" in row else f"{row['channels']}"
        each = row["instructions an element"]
        cells = [row["kernel"], channels, row["registers"], row["spills"], f"{row['shared'] / 1024:.1f}"]
        cells += [row["warps at work"], "" if each is None else f"{each:.1f}"]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


def worst(result: dict[str, Any]) -> str:
    """Return what holds of all rows, in a few lines."""
    rows = result["rows"]
    where = result["environment"]
    few = [row for row in rows if row["warps at work"] < FEW]
    lines = [f"- {len(rows)} kernels, compiled by triton {where['triton']} (torch {where['torch']})."]
    lines += [f"- Spilled registers: in {sum(row['spills'] > 0 for row in rows)}."]
    for arch in ARCHITECTURES:
        most = max((row["shared"] for row in rows if row["arch"] == arch), default=0)
        lines.append(f"- The most shared memory of a program, compute capability {arch / 10}: {most / 1024:.1f} kB.")
    lines += [f"- Too large to be started: {sum(not row['fits'] for row in rows)}."]
    lines += [f"- Fewer than {FEW} warps a multiprocessor: {len(few)}."]
    return "\n".join(lines) + "\n"


def _later(call: Callable[..., Build], *arguments: Any, **options: Any) -> Callable[[], Build]:
    return functools.partial(call, *arguments, **options)


def _counts(compiled: Callable[[], Build]) -> dict[str, Any]:
    return row_of(compiled())


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.machine_code",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="one dtype, architecture and width")
    parser.add_argument("--output", type=Path, default=PATH, help="where the JSON goes")
    parser.add_argument("--processes", type=int, default=1, help="that compile at a time")
    given = parser.parse_args(arguments)
    import triton

    versions = {"torch": torch.__version__, "triton": triton.__version__, "python": platform.python_version()}
    todo = list(jobs(given.quick))
    with ProcessPoolExecutor(given.processes, get_context("spawn")) as pool:
        rows: list[dict[str, Any]] = []
        for (row, _), counts in zip(todo, pool.map(_counts, (call for _, call in todo)), strict=True):
            rows.append(row | counts)
            print(rows[-1], flush=True)
    write(given.output, json.dumps({"environment": versions, "rows": rows}, indent=1) + "\n")
    print(f"wrote {given.output}\n{worst({'environment': versions, 'rows': rows})}")


if __name__ == "__main__":
    main()
