"""Runs subjects in all their ways: checked against float64 first, then timed, written down after every one."""

from __future__ import annotations

import argparse
import copy
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import nn

from benchmarks import ways
from benchmarks.check import Data, Subject, check
from benchmarks.record import Record
from benchmarks.timing import (
    back_to_back,
    captured,
    copy_bandwidth,
    environment,
    measure,
    peak_memory,
    product_rate,
)
from benchmarks.warm import compile_all
from benchmarks.ways import WAYS, Way

Work: TypeAlias = "Callable[[Job, Data], dict[str, Any]]"

RESULTS = Path(__file__).parent / "results"
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class Job(NamedTuple):
    subject: Subject
    way: Way
    direction: str

    def __str__(self) -> str:
        return f"{self.subject.case}, {self.subject.name}, {self.direction}, {self.way.name}"

    @property
    def rank(self) -> int:
        return self.subject.rank + self.way.rank


IDENTITY = ("case", "subject", "pass", "way", "dtype")


def jobs(subjects: Iterable[Subject], directions: Sequence[str], device: str, ours: str) -> list[Job]:
    """Return every job, what matters first; of one rank, the order in which they are named."""
    found = [
        Job(subject, way, direction)
        for subject in subjects
        for direction in directions
        for way in WAYS[direction]
        if (subject.name == ours or way.rivals) and (device == "cuda" or not way.cuda)
    ]
    return sorted(found, key=lambda job: job.rank)


def meta(module: nn.Module) -> nn.Module:
    """Return a copy in evaluation mode that has shapes and no data."""
    return copy.deepcopy(module).to("meta").eval()


class Machine(NamedTuple):
    """Where it runs, and what it was measured to reach."""

    device: str
    dtype: torch.dtype
    milliseconds: float
    bandwidth: float


def rows_of(job: Job, machine: Machine, work: Work) -> list[dict[str, Any]]:
    """Check and time one job: one row for each mode, or one that says what went wrong."""
    device, dtype, milliseconds, bandwidth = machine
    start = time.perf_counter()
    row: dict[str, Any] = {
        "case": job.subject.case,
        "subject": job.subject.name,
        "shape": list(job.subject.shape),
        "pass": job.direction,
        "way": job.way.name,
        "dtype": _word(dtype),
    }
    try:
        data = Data(job.subject, job.direction, dtype, device)
        call, checked = check(data, job.way)
        row |= {
            "errors": checked.errors,
            "errors of eager contiguous": checked.plain,
            "checked at": _word(checked.dtype),
            "seconds to check": time.perf_counter() - start,
        }
        if checked.why:
            return [row | {"status": "wrong", "why": checked.why}]
        row |= work(job, data)
        with ways.setting(job.way, data.gradients):
            row["peak_memory"] = peak_memory(call, device)
            # The library tells who computes without gradients.
            row["choices"] = {} if data.gradients else ways.choices(data.module, job.way, data.x)
            timings = {"eager": back_to_back(call, device, milliseconds)}
            if device == "cuda":
                timings["cold"] = measure(call, device, milliseconds)
                timings["graph"] = measure(captured(call), device, milliseconds)
    except Exception as error:  # whatever a compiler or an allocator raises: the others go on
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        return [row | {"status": "failed", "why": f"{type(error).__name__}: {reason}"}]
    return [
        row
        | {"mode": mode, "status": "ok", "share": row["bytes"] / (1e-6 * timing.median) / bandwidth}
        | timing._asdict()
        for mode, timing in timings.items()
    ]


def warm(todo: Sequence[Job], machine: Machine, seconds: float, processes: int | None = None) -> list[str]:
    """Compile the Triton kernels of the library that the jobs want, all at once. Returns what went wrong."""
    return compile_all(_once, [(*job, machine.dtype, machine.device) for job in ours_alone(todo)], seconds, processes)


def ours_alone(todo: Sequence[Job]) -> list[Job]:
    """Return the jobs whose own kernels need no other compiler; those of the others are the same."""
    return [job for job in todo if job.way.backend == "triton" and job.way.compiled is None]


def _once(subject: Subject, way: Way, direction: str, dtype: torch.dtype, device: str) -> None:
    # The number of images makes no other kernel.
    data = Data(subject._replace(shape=(2, *subject.shape[1:])), direction, dtype, device)
    with ways.setting(way, data.gradients):
        data.call(way)()
    if device == "cuda":
        torch.cuda.synchronize()


def run(
    todo: Sequence[Job],
    machine: Machine,
    record: Record,
    work: Work,
    seconds: float,
) -> int:
    """Do the jobs in their order as far as the time goes. Returns how many went wrong."""
    until = time.monotonic() + seconds
    longest: dict[tuple[str, str], float] = {}
    bad = 0
    for job in todo:
        if record.has(_key(job, machine)):
            continue
        kind = job.way.name, job.direction
        if time.monotonic() + longest.get(kind, 0.0) > until:
            record.left_out.append(str(job))
            continue
        start = time.monotonic()
        rows = rows_of(job, machine, work)
        if machine.device == "cuda":
            torch.cuda.empty_cache()
        longest[kind] = max(longest.get(kind, 0.0), time.monotonic() - start)
        record.add(rows)
        bad += rows[0]["status"] != "ok"
        print(f"{job}: {_said(rows)}", flush=True)
    record.save()
    if record.left_out:
        print(f"no time was left for {len(record.left_out)} of {len(todo)}; --resume goes on with them", flush=True)
    return bad


def _key(job: Job, machine: Machine) -> dict[str, Any]:
    values = (job.subject.case, job.subject.name, job.direction, job.way.name, _word(machine.dtype))
    return dict(zip(IDENTITY, values, strict=True))


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _said(rows: list[dict[str, Any]]) -> str:
    if rows[0]["status"] != "ok":
        return f"{rows[0]['status']}: {rows[0]['why']}"
    return ", ".join(f"{row['mode']} {row['median']:.1f} us ({row['share']:.0%})" for row in rows)


def parser(name: str, description: str, passes: Sequence[str]) -> argparse.ArgumentParser:
    """Return the command line that the benchmarks share."""
    made = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--device", choices=["cuda", "cpu"], default="cuda" if torch.cuda.is_available() else "cpu")
    made.add_argument("--dtype", choices=list(DTYPES), default="bfloat16")
    made.add_argument("--minutes", type=float, default=float("inf"), help="what is left after them is left out")
    made.add_argument("--milliseconds", type=float, help="how long each mode of each row is timed")
    made.add_argument("--cases", metavar="WORDS", default="", help="only the cases whose names contain this")
    made.add_argument("--ways", metavar="WORD", nargs="+", help="only the ways whose names begin so")
    made.add_argument("--passes", choices=passes, nargs="+", default=list(passes))
    made.add_argument("--threads", type=int, help="CPU threads of torch")
    made.add_argument("--quick", action="store_true", help="tiny inputs and short timings, to see that it runs")
    made.add_argument("--resume", action="store_true", help="keep what the output file has, measure the rest")
    made.add_argument("--output", type=Path, help="where the JSON goes (default: benchmarks/results)")
    return made


def main(
    name: str,
    description: str,
    passes: Sequence[str],
    subjects: Callable[[str, bool], list[Subject]],
    work: Work,
    arguments: Sequence[str] | None,
) -> int:
    """Do what a command line asks for.

    Returns the exit status: 1 where a way was wrong or failed, 3 where time was all that was missing.
    """
    made = parser(name, description, passes)
    words = list(sys.argv[1:] if arguments is None else arguments)
    given = made.parse_args(words)
    if given.threads:
        torch.set_num_threads(given.threads)
    torch.backends.cudnn.benchmark = True
    # float32 is meant where it is said, not TF32.
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    dtype, milliseconds = DTYPES[given.dtype], given.milliseconds or (2 if given.quick else 60)
    found = [s for s in subjects(given.device, given.quick) if given.cases in s.case]
    todo = [
        job
        for job in jobs(found, given.passes, given.device, "convblocks")
        if given.ways is None or job.way.name.startswith(tuple(given.ways))
    ]
    if not todo:
        made.error("--cases, --ways and --passes leave nothing to do")
    where = environment(given.device)
    stem = where["device"].lower().replace(" ", "-")
    path = given.output or RESULTS / f"{name}-{stem}.json"
    begun = {
        "command": shlex.join(["python", "-m", f"benchmarks.{name}", *words]),
        "dtype": given.dtype,
        "date": datetime.now(timezone.utc).date().isoformat(),
        "copy bytes per second": copy_bandwidth(given.device, milliseconds),
        "product operations per second": product_rate(given.device, dtype, milliseconds),
    }
    try:
        record = Record(path, where, begun, IDENTITY, given.resume)
    except ValueError as error:
        made.error(str(error))
    machine = Machine(given.device, dtype, milliseconds, begun["copy bytes per second"])
    until = time.monotonic() + 60 * given.minutes
    if given.device == "cuda" and not given.quick:
        for words in warm([job for job in todo if not record.has(_key(job, machine))], machine, 15 * given.minutes):
            print(f"not compiled beforehand: {words}", flush=True)
    bad = run(todo, machine, record, work, until - time.monotonic())
    print(f"wrote {path}: {len(record.rows)} rows, {bad} wrong or failed")
    return 1 if bad else 3 if record.left_out else 0
