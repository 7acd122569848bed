"""Markdown tables of what benchmarks.blocks and benchmarks.networks measured."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import machine_code
from benchmarks.ways import PLAIN

Row = dict[str, Any]
RESULTS = Path(__file__).parent / "results"
OURS = "convblocks"
THEIRS = ("torch contiguous", "torch channels_last")
COLUMNS = ["case", "subject", "pass", "way", "dtype", "eager, us (20 %, 80 %)", "cold, us (20 %, 80 %)", "graph, us"]
COLUMNS += ["share", "x eager contiguous", "x eager channels_last", "peak MB", "error"]
MARK = re.compile(r"(<!-- begin (\w+) ([^>]*?) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
"""A table of a page: its kind, and the words that say which."""


def load(path: Path) -> dict[str, Any]:
    """Return a result file."""
    return json.loads(path.read_text())


def everything(result: dict[str, Any]) -> str:
    """Return every row: the three clocks beside each other, with what PyTorch's eager ways take for the same."""
    good = [row for row in result["rows"] if row["status"] == "ok"]
    lines = [_line(COLUMNS), "|---|---|---|---|---|---:|---:|---:|---:|---:|---:|---:|---:|"]
    index = {_key(row): row for row in good}
    for row in good:
        if row["mode"] != "eager":
            continue
        by = {mode: index.get(_key(row | {"mode": mode})) for mode in ("eager", "cold", "graph")}
        main = by["cold"] or row
        ratios = [_ratio(index, main, way) for way in (PLAIN.name, "eager channels_last")]
        peak = "" if row["peak_memory"] is None else f"{row['peak_memory'] / 2**20:.0f}"
        cells = [row["case"], row["subject"], row["pass"], row["way"], row["dtype"]]
        cells += [_spread(row), _spread(by["cold"]), "" if by["graph"] is None else f"{by['graph']['median']:.1f}"]
        cells += [f"{main['share']:.0%}", *ratios, peak, f"{max(row['errors'].values()):.1e}"]
        lines.append(_line(cells))
    bad = [row for row in result["rows"] if row["status"] != "ok"]
    if bad:
        lines += ["", "Not timed:", ""]
        lines += [f"- {r['case']}, {r['subject']}, {r['pass']}, {r['way']}: {r['status']}: {r['why']}" for r in bad]
    if result["left_out"]:
        lines += ["", "No time was left for:", "", *(f"- {job}" for job in result["left_out"])]
    return "\n".join(lines) + "\n"


def speedups(result: dict[str, Any], direction: str, dtype: str, base: str = "", mode: str = "", only: str = "") -> str:
    """Return how many times as fast every way of ours is as eager contiguous in the dtype `base`, and the means.

    `only` is what the name of a case must hold.

    "the roof" is a way that would reach the copy's or the matrix product's rate, whichever is the limit. The last line
    is the geometric mean over the cases that have all ways.
    """
    mode, base = mode or _mode(result), base or dtype
    ours = [r for r in _of(result, direction, mode) if r["subject"] == OURS and only in r["case"]]
    by = {(r["case"], r["way"], r["dtype"]): r for r in ours}
    names = list(dict.fromkeys(r["way"] for r in ours if r["dtype"] == dtype))
    names = [name for name in names if (name, dtype) != (PLAIN.name, base)]
    lines = [
        _line([f"{direction}, {dtype}", f"eager contiguous, {base}, us", *names, "the roof"]),
        "|---|---:|" + "---:|" * (len(names) + 1),
    ]
    found: list[list[float]] = []
    for case in dict.fromkeys(r["case"] for r in ours):
        first = by.get((case, PLAIN.name, base))
        same = next((row for (of, _, kind), row in by.items() if (of, kind) == (case, dtype)), None)
        if first is None or same is None:
            continue
        rows = [by.get((case, name, dtype)) for name in names]
        ratios = [math.nan if row is None else first["median"] / row["median"] for row in rows]
        ratios.append(first["median"] / roof(result, same, dtype))
        if not any(map(math.isnan, ratios)):
            found.append(ratios)
        lines.append(_line([case, f"{first['median']:.1f}", *("" if math.isnan(r) else f"{r:.2f}" for r in ratios)]))
    if found:
        means = [f"**{geometric_mean(column):.2f}**" for column in zip(*found, strict=True)]
        lines.append(_line([f"geometric mean of {len(found)}", "", *means]))
    return "\n".join(lines) + "\n"


def roof(result: dict[str, Any], row: Row, dtype: str) -> float:
    """Return the microseconds that no way can go below: of the bytes by a copy, of the arithmetic by a product."""
    copies = [run["copy bytes per second"] for run in result["runs"]]
    products = [run["product operations per second"] for run in result["runs"] if run.get("dtype", dtype) == dtype]
    return 1e6 * max(row["bytes"] / max(copies), 2 * row["macs"] / max(products))


def rivals(result: dict[str, Any], direction: str, dtype: str, way: str, mode: str = "") -> str:
    """Return the time of our blocks in one way, and how many times that what stands beside them takes."""
    rows = [r for r in _of(result, direction, mode or _mode(result)) if (r["way"], r["dtype"]) == (way, dtype)]
    ours = {r["case"]: r["median"] for r in rows if r["subject"] == OURS}
    lines = [f"| {direction}, {dtype}, {way} | convblocks, us | others, as a multiple of it |", "|---|---:|---|"]
    for case, time in ours.items():
        others = [r for r in rows if r["case"] == case and r["subject"] != OURS]
        shown = ", ".join(f"{r['subject']} {r['median'] / time:.2f}" for r in others)
        lines.append(_line([case, f"{time:.1f}", shown]))
    return "\n".join(lines) + "\n"


def depthwise(result: dict[str, Any], mode: str) -> str:
    """Return the single convolutions of benchmarks.kernels: PyTorch's two layouts and ours, and where that was."""
    known = [f"{name} {result['environment'][name]}" for name in ("torch", "cuda", "cudnn", "triton")]
    bandwidth = f"a copy moves {result['copy bytes per second'] / 1e12:.2f} TB/s"
    lines = [
        f"{result['environment']['device']}; {', '.join(known)}; {bandwidth}.",
        "",
        f"| {mode}, us | pass | PyTorch contiguous | PyTorch channels_last | a copy | ours | share | speedup |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    rows = [row for row in result["rows"] if row["mode"] == mode and not row["out"]]
    index = {(_case(row), row["pass"], row["path"]): row for row in rows}
    for name, direction in dict.fromkeys((_case(row), row["pass"]) for row in rows):
        one, other, ours = (index[name, direction, path] for path in (*THEIRS, OURS))
        copy = index.get((name, direction, "copy"))
        theirs = [row["median"] for row in (one, other)]
        cells = [*(f"{time:.1f}" for time in theirs), "" if copy is None else f"{copy['median']:.1f}"]
        cells += [f"{ours['median']:.1f}", f"{ours['share']:.0%}", f"{min(theirs) / ours['median']:.2f}"]
        lines.append(_line([name, direction, *cells]))
    return "\n".join(lines) + "\n"


def _case(row: Row) -> str:
    size = "x".join(map(str, row["shape"]))
    return f"{size}, kernel {row['kernel']}, stride {row['stride']}, dilation {row['dilation']}, {row['dtype']}"


def source(result: dict[str, Any]) -> str:
    """Return by which commands, where and when it was measured, and what the machine reaches."""
    where, runs = result["environment"], result["runs"]
    known = [f"{name} {where[name]}" for name in ("torch", "python", "cuda", "cudnn", "triton") if name in where]
    threads = "" if "cuda" in where else f", {where['threads']} thread{'s' * (where['threads'] != 1)}"
    lines = [f"{where['device']}{threads}; {', '.join(known)}; {runs[-1]['date']}.", ""]
    lines += [f"- `{run['command']}`" for run in runs]
    copies = [run["copy bytes per second"] for run in runs]
    return "\n".join(lines) + f"\n\nA copy in these runs: {min(copies) / 1e9:.1f} to {max(copies) / 1e9:.1f} GB/s.\n"


def geometric_mean(values: Sequence[float]) -> float:
    """Return the mean of ratios."""
    return math.exp(sum(map(math.log, values)) / len(values))


def filled(page: str, results: Path = RESULTS) -> str:
    """Return a page with its tables made anew; each says what it is of: `<!-- begin speedups FILE, inference -->`."""
    kinds = {"speedups": speedups, "rivals": rivals, "source": source, "everything": everything}
    kinds |= {"depthwise": depthwise, "machine_code": machine_code.table, "machine_code_worst": machine_code.worst}

    def made(mark: re.Match[str]) -> str:
        start, kind, words, _, end = mark.groups()
        name, *options = words.split(",")
        return f"{start}{kinds[kind](load(results / name), *(word.strip() for word in options))}{end}"

    return MARK.sub(made, page)


def _of(result: dict[str, Any], direction: str, mode: str) -> list[Row]:
    return [r for r in result["rows"] if r["status"] == "ok" and (r["pass"], r["mode"]) == (direction, mode)]


def _mode(result: dict[str, Any]) -> str:
    return "cold" if "cuda" in result["environment"] else "eager"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _key(row: Row) -> tuple[str, ...]:
    return tuple(row[name] for name in ("case", "subject", "pass", "way", "dtype", "mode"))


def _ratio(index: dict[tuple[str, ...], Row], row: Row, way: str) -> str:
    # What stands beside our blocks is held to our own eager ways.
    other = index.get(_key(row | {"subject": OURS, "way": way}))
    return "" if other is None else f"{other['median'] / row['median']:.2f}"


def _spread(row: Row | None) -> str:
    return "" if row is None else f"{row['median']:.1f} ({row['low']:.1f}, {row['high']:.1f})"
