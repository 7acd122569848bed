"""Depthwise convolutions and whole blocks, ours beside PyTorch's: `python -m benchmarks.kernels`.

Every result is checked against float64 before anything is timed. "share" is the least bytes that the call must move
(each input read once, each output written once) over its time and over the bandwidth of a copy in the same run.
Modes: "eager" is calls from Python in a row, the host's time included; "cold" is single calls, none of whose data is in
the L2 cache; "graph" the same by replays of a CUDA graph. A block is depthwise, ReLU, pointwise, ReLU.

`--decide` writes the table that the "auto" backend goes by; `--tune` looks for better tilings of the kernels.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.cases import CASES, QUICK, Case, data
from benchmarks.decide import KINDS, SIZES, decide, tune
from benchmarks.timing import back_to_back, captured, copy_bandwidth, environment, measure
from convblocks.ops import _choice

RESULTS = Path(__file__).parent / "results"


def compare(cases: Iterable[Case], device: str, milliseconds: float) -> Iterator[dict[str, Any]]:
    """Time every case on every path; after each case, all that there is so far."""
    bandwidth = copy_bandwidth(device, milliseconds)
    rows: list[dict[str, Any]] = []
    for case in cases:
        made = {
            name: data(case, device, layout)
            for name, layout in (("contiguous", torch.contiguous_format), ("channels_last", torch.channels_last))
        }
        errors = made["channels_last"].check()
        paths = {f"torch {name}": data.calls(ours=False) for name, data in made.items()}
        paths["convblocks"] = made["channels_last"].calls(ours=True)
        for direction, (path, calls) in itertools.product(paths["convblocks"], paths.items()):
            call = calls[direction]
            timings = {"eager": back_to_back(call, device, milliseconds)}
            if device == "cuda":
                timings["cold"] = measure(call, device, milliseconds)
                timings["graph"] = measure(captured(call), device, milliseconds)
            for mode, timing in timings.items():
                share = made["channels_last"].bytes_moved(direction) / (1e-6 * timing.median) / bandwidth
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
        return Case(*(_frozen(row[field]) for field in Case._fields)), row["pass"], row["mode"]

    for (case, direction, mode), group in itertools.groupby(sorted(result["rows"], key=key), key):
        by = {row["path"]: row for row in group}
        ours, theirs = by["convblocks"], [by["torch contiguous"]["median"], by["torch channels_last"]["median"]]
        lines.append(
            f"| {case} | {direction} | {mode} | {theirs[0]:.1f} | {theirs[1]:.1f} | {ours['median']:.1f} "
            f"({ours['low']:.1f}, {ours['high']:.1f}) | {ours['share']:.0%} | {min(theirs) / ours['median']:.2f} |"
        )
    return "\n".join(lines) + "\n"


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    part.replace(path)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kernels", description=__doc__)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--quick", action="store_true", help="two small cases and short timings")
    parser.add_argument("--decide", action="store_true", help="measure and write the table of the auto backend")
    parser.add_argument("--tune", action="store_true", help="time other tilings of the rolling kernels (CUDA only)")
    parser.add_argument("--output", type=Path, help="where the JSON goes; for --decide, the table itself")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop then, with what there is")
    given = parser.parse_args(arguments)
    until = time.monotonic() + 60 * given.minutes
    milliseconds = 2 if given.quick else 40 if given.decide or given.tune else 100
    torch.backends.cudnn.benchmark = True
    stem = environment(given.device)["device"].lower().replace(" ", "-")
    if given.tune:
        if given.device != "cuda":
            parser.error("--tune needs a CUDA device")
        path, rows = given.output or RESULTS / f"tilings-{stem}.json", []
        for row in tune(given.device, milliseconds):
            rows.append(row)
            result = {"environment": environment(given.device), "rows": sorted(rows, key=lambda row: row["median"])}
            write(path, json.dumps(result, indent=1))
            if time.monotonic() > until:
                break
        print(f"wrote {path}: {len(rows)} tilings")
        return
    if given.decide:
        sizes, kinds = ((1, 2), [KINDS[0], KINDS[-1]]) if given.quick else (SIZES, KINDS)
        where = environment(given.device)
        path = given.output or _choice.DECISIONS
        if given.device != "cuda" and given.output is None:
            parser.error("a table measured on the CPU decides nothing: name another file by --output")
        decisions: dict[str, int | None] = {}
        for name, least in decide(given.device, milliseconds, sizes, kinds):
            print(f"{name}: {least}", flush=True)
            decisions[name] = least
            # What was measured stays, whatever comes after.
            known = _choice.read_table(path) | {where.get("capability", "cpu"): decisions}
            text = {"environment": where, "decisions": known}
            write(path, json.dumps(text, indent=1, sort_keys=True) + "\n")
            if time.monotonic() > until:
                break
        print(f"wrote {path}")
        return
    path, shown = given.output or RESULTS / f"kernels-{stem}.json", ""
    for result in compare(QUICK if given.quick else CASES, given.device, milliseconds):
        shown = table(result)
        write(path, json.dumps(result, indent=1))
        write(path.with_suffix(".md"), shown)
        if time.monotonic() > until:
            break
    print(shown)


if __name__ == "__main__":
    main()
