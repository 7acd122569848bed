"""What the compiler makes of the kernels, on any machine: `python -m benchmarks.machine_code`.

Every kernel is compiled for GPUs that need not be there, at every width of channels that `convblocks.ops` starts it at,
and disassembled. For each: registers of a thread, accesses to spilled ones, shared memory of a program, the warps that
one multiprocessor holds at a time by these two, and for the rolling kernels the instructions for an element of output.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import time
from collections.abc import Callable, Iterator, Sequence
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
DTYPES = {"bfloat16": 2, "float16": 2, "float32": 4}
WIDTHS = (16, 32, 64, 128, 256)
FEW = 12
"""Warps of a multiprocessor below which they do not hide the time that memory takes by themselves."""

Job: TypeAlias = "tuple[dict[str, Any], Callable[[], Build]]"


def jobs(quick: bool) -> Iterator[Job]:
    """Yield what describes a kernel, and the call that compiles it."""
    from benchmarks import builds

    some = itertools.product(("bfloat16",), (90,)) if quick else itertools.product(DTYPES, ARCHITECTURES)
    for dtype, arch in some:
        kind = {"dtype": dtype, "arch": arch}
        for channels in (64,) if quick else (16, 32, 64):
            row = kind | {"channels": channels}
            yield row | {"kernel": "rows_forward"}, _later(builds.rows, dtype, arch, channels=channels)
            yield (
                row | {"kernel": "rows_forward, statistics"},
                _later(builds.rows, dtype, arch, statistics=True, channels=channels),
            )
            for bias in (False, True):
                name = "rows_backward, bias" if bias else "rows_backward"
                call = _later(builds.rows, dtype, arch, backward=True, bias=bias, channels=channels)
                yield row | {"kernel": name}, call
            yield row | {"kernel": "gather_forward"}, _later(builds.gather, dtype, arch, channels=channels)
            call = _later(builds.gather, dtype, arch, backward=True, channels=channels)
            yield row | {"kernel": "gather_backward"}, call
        for channels, out in [(64, 64)] if quick else widths(dtype, arch):
            row = kind | {"channels": channels, "out": out}
            yield row | {"kernel": "rows_separable"}, _later(builds.separable, dtype, arch, channels, out)
            call = _later(builds.separable, dtype, arch, channels, out, rolling=False)
            yield row | {"kernel": "gather_separable"}, call
            for name in ("pointwise_forward", "pointwise_backward"):
                yield row | {"kernel": name}, _later(builds.training, name, dtype, arch, channels, out)
        for channels, name in itertools.product(
            (64,) if quick else WIDTHS, ("normalise", "norm_sums", "norm_backward")
        ):
            call = _later(builds.training, name, dtype, arch, channels, channels)
            yield kind | {"channels": channels, "kernel": name}, call


def widths(dtype: str, arch: int) -> list[tuple[int, int]]:
    """Return widths of blocks, of what comes in and what goes out, that one program can keep on the chip.

    All of them; of the older architecture those that none is wider than, and the commonest. float16 is as wide as
    bfloat16, and compiled to the same but for the names of the instructions.
    """
    if dtype == "float16":
        return [(64, 64), (128, 128)]
    size = DTYPES[dtype]
    fit: list[tuple[int, int]] = [(c, o) for c in WIDTHS for o in WIDTHS if _separable.keeps(c, o, size)]
    if arch == max(ARCHITECTURES):
        return fit
    return [(c, o) for c, o in fit if c == o == 64 or not (_separable.keeps(2 * c, o, size) or (c, 2 * o) in fit)]


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
        "instructions an element": round(build.an_element(), 1) if build.rounds else None,
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
    return lambda: call(*arguments, **options)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.machine_code",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="one dtype, architecture and width")
    parser.add_argument("--output", type=Path, default=PATH, help="where the JSON goes")
    given = parser.parse_args(arguments)
    import triton

    versions = {"torch": torch.__version__, "triton": triton.__version__, "python": platform.python_version()}
    rows: list[dict[str, Any]] = []
    for row, compiled in jobs(given.quick):
        start = time.process_time()
        rows.append(row | row_of(compiled()))
        print(f"{rows[-1]}, {time.process_time() - start:.1f} s", flush=True)
    write(given.output, json.dumps({"environment": versions, "rows": rows}, indent=1) + "\n")
    print(f"wrote {given.output}\n{worst({'environment': versions, 'rows': rows})}")


if __name__ == "__main__":
    main()
