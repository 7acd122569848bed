"""Depthwise convolutions and whole blocks, ours beside PyTorch's: `python -m benchmarks.kernels`.

Every result is checked against float64 before anything is timed. "share" is the least bytes that the call must move
(each input read once, each output written once) over its time and over the bandwidth of a copy in the same run.
Modes: "eager" is calls from Python in a row, the host's time included; "cold" is single calls, none of whose data is in
the L2 cache; "graph" the same by replays of a CUDA graph; "stream" one of many calls in one graph, each on tensors of
its own: what the GPU takes, without the start of a measurement. The path "copy" is one of the input, for comparison. A
block is depthwise, ReLU, pointwise, ReLU.

`--decide` writes the table that the "auto" and "graph" backends go by; `--tune` looks for better tilings of kernels.
Each writes down what it has after every case, and with `--resume` keeps what the file holds and goes on.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.cases import CASES, QUICK, Case, data
from benchmarks.decide import KINDS, LAYOUTS, QUICK_KINDS, SIZES, decide, questions, warm
from benchmarks.record import write
from benchmarks.timing import back_to_back, captured, copy_bandwidth, environment, in_a_row, measure
from benchmarks.tune import tune
from convblocks.ops import _choice

RESULTS = Path(__file__).parent / "results"
PATHS = ("torch contiguous", "torch channels_last", "convblocks", "copy")
# Exit statuses, as those of benchmarks.gpu.
FAILED, TIME_IS_UP = 1, 3


def compare(
    cases: Iterable[Case], device: str, milliseconds: float, known: Iterable[dict[str, Any]] = ()
) -> Iterator[dict[str, Any]]:
    """Time every case on every path; after each case, all that there is so far, what is known first."""
    bandwidth, rows = copy_bandwidth(device, milliseconds), list(known)
    old = {case_of(row) for row in rows}
    for case in cases:
        if case in old:
            continue
        sets = {name: [data(case, device, layout)] for name, layout in LAYOUTS.items()}
        errors = sets["channels_last"][0].check()
        for direction, path in itertools.product(("forward",) if case.out else ("forward", "backward"), PATHS):
            if path == "copy" and (case.out or case.stride > 1 or direction == "backward"):
                continue
            layout = "contiguous" if path == "torch contiguous" else "channels_last"
            some = sets[layout]
            timings = {"eager": back_to_back(some[0].call(path, direction), device, milliseconds)}
            if device == "cuda":
                timings["cold"] = measure(some[0].call(path, direction), device, milliseconds)
                timings["graph"] = measure(captured(some[0].call(path, direction)), device, milliseconds)
                # Half a millisecond at a time, beside which what a measurement itself takes is nothing.
                many = math.ceil(min(32.0, max(2.0, 500 / timings["cold"].median)))
                some += [data(case, device, LAYOUTS[layout]) for _ in range(many - len(some))]
                timings["stream"] = in_a_row([one.call(path, direction) for one in some[:many]], milliseconds)
            for mode, timing in timings.items():
                share = some[0].bytes_moved(direction) / (1e-6 * timing.median) / bandwidth
                row = case._asdict() | {"pass": direction, "path": path, "mode": mode, "share": share}
                rows.append(row | timing._asdict() | ({"errors": errors} if path == "convblocks" else {}))
        print(f"{case}: checked and timed", flush=True)
        yield {"environment": environment(device), "copy bytes per second": bandwidth, "rows": rows}


def table(result: dict[str, Any]) -> str:
    """Return the rows as Markdown: one line a case and pass, the least of PyTorch's times beside ours."""
    lines = [
        "| case | pass | mode | contiguous, us | channels_last, us | convblocks, us (20 %, 80 %) | share | speedup |",
        "|---|---|---|---|---|---|---|---|",
    ]

    def key(row: dict[str, Any]) -> tuple[Any, ...]:
        return case_of(row), row["pass"], row["mode"]

    for (case, direction, mode), group in itertools.groupby(sorted(result["rows"], key=key), key):
        by = {row["path"]: row for row in group}
        ours, theirs = by["convblocks"], [by["torch contiguous"]["median"], by["torch channels_last"]["median"]]
        lines.append(
            f"| {case} | {direction} | {mode} | {theirs[0]:.1f} | {theirs[1]:.1f} | {ours['median']:.1f} "
            f"({ours['low']:.1f}, {ours['high']:.1f}) | {ours['share']:.0%} | {min(theirs) / ours['median']:.2f} |"
        )
    return "\n".join(lines) + "\n"


def case_of(row: dict[str, Any]) -> Case:
    values: dict[str, Any] = {field: row[field] for field in Case._fields}
    # JSON knows no tuples.
    values["shape"] = tuple(row["shape"])
    return Case(**values)


def before(path: Path, where: dict[str, Any], resume: bool) -> dict[str, Any]:
    """Return what a file holds that was measured in the same surroundings, if it is to be gone on with."""
    found = json.loads(path.read_text()) if resume and path.exists() else {}
    return found if found.get("environment") == where else {}


def write_decisions(given: argparse.Namespace, where: dict[str, Any], until: float) -> int:
    """Write the table of the backends. Returns the exit status."""
    path: Path = given.output or _choice.DECISIONS
    capability = where.get("capability", "cpu")
    old = before(path, where, given.resume)
    decisions: dict[str, dict[str, int | None]] = old.get("decisions", {}).get(capability, {})
    failed: dict[str, str] = old.get("failed", {})
    sizes, kinds = ((1, 2), QUICK_KINDS) if given.quick else (SIZES, KINDS)
    kinds = [kind for kind in kinds if given.dtype in (None, kind.dtype)]
    every = [question for question in questions(kinds) if any(words in question.name for words in given.cases)]
    todo = [question for question in every if question.name not in decisions.keys() - failed.keys()]
    # What has gone wrong once may have taken the whole process with it.
    todo.sort(key=lambda question: question.name in failed)
    if given.device == "cuda" and not given.quick:
        for words in warm(todo, given.device, max(1.0, (until - time.monotonic()) / 3)):
            print(f"not compiled beforehand: {words}", flush=True)
    for name, least, why in decide(given.device, given.milliseconds or (2 if given.quick else 20), sizes, todo):
        print(f"{name}: {why or least}", flush=True)
        failed.pop(name, None)
        decisions[name] = least
        if why:
            failed[name] = why
        # What was measured stays, whatever comes after.
        tables = _choice.read_table(path) | {capability: decisions}
        text = {"environment": where, "decisions": tables, "failed": failed}
        write(path, json.dumps(text, indent=1, sort_keys=True) + "\n")
        if why and given.device == "cuda":
            # After an illegal access every later call fails as well, and says nothing about its case.
            torch.cuda.synchronize()
        if time.monotonic() > until:
            print("time is up: --resume goes on", flush=True)
            break
    print(f"wrote {path}: {len(decisions)} cases, {len(failed)} of which failed")
    return FAILED if failed else TIME_IS_UP if any(question.name not in decisions for question in every) else 0


def write_tilings(given: argparse.Namespace, where: dict[str, Any], stem: str, until: float) -> int:
    """Write the time of every other tiling. Returns the exit status."""
    path: Path = given.output or RESULTS / f"tilings-{stem}.json"
    rows: list[dict[str, Any]] = before(path, where, given.resume).get("rows", [])
    for row in tune(given.device, 20, rows.copy(), until):
        rows.append(row)
        result = {"environment": where, "rows": sorted(rows, key=lambda row: row["median"])}
        write(path, json.dumps(result, indent=1))
        if time.monotonic() > until:
            return TIME_IS_UP
    print(f"wrote {path}: {len(rows)} tilings")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kernels", description=__doc__)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--quick", action="store_true", help="two small cases and short timings")
    parser.add_argument("--decide", action="store_true", help="measure and write the table of the backends")
    parser.add_argument("--tune", action="store_true", help="time other tilings of the rolling kernels (CUDA only)")
    parser.add_argument("--milliseconds", type=float, help="how long each call is timed (default: 50; to decide: 20)")
    parser.add_argument("--dtype", choices=["bfloat16", "float16", "float32"], help="decide of this alone")
    parser.add_argument(
        "--cases",
        metavar="WORDS",
        nargs="+",
        default=[""],
        help="decide of those alone whose names contain one of these",
    )
    parser.add_argument("--output", type=Path, help="where the JSON goes; for --decide, the table itself")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop then, with what there is")
    parser.add_argument("--resume", action="store_true", help="keep what the output file has, measure the rest")
    given = parser.parse_args(arguments)
    until = time.monotonic() + 60 * given.minutes
    torch.backends.cudnn.benchmark = True
    where = environment(given.device)
    stem = where["device"].lower().replace(" ", "-")
    if given.tune:
        if given.device != "cuda":
            parser.error("--tune needs a CUDA device")
        return write_tilings(given, where, stem, until)
    if given.decide:
        if given.device != "cuda" and given.output is None:
            parser.error("a table measured on the CPU decides nothing: name another file by --output")
        return write_decisions(given, where, until)
    path, shown = given.output or RESULTS / f"kernels-{stem}.json", ""
    rows = before(path, where, given.resume).get("rows", [])
    cases, milliseconds = (QUICK, 2) if given.quick else (CASES, 50)
    for result in compare(cases, given.device, given.milliseconds or milliseconds, rows):
        shown = table(result)
        write(path, json.dumps(result, indent=1))
        write(path.with_suffix(".md"), shown)
        if time.monotonic() > until:
            return TIME_IS_UP
    print(shown)
    return 0


if __name__ == "__main__":
    sys.exit(main())
