"""The file of figures of `deploy.py`: what was measured, on which machine, of which weights; and its table.

`runs` holds one entry a command and machine; every figure names the one that it came from by its place there, and the
weights that it is of by their place in `weights`. Accuracy and latency are measured apart, so each has its own.
"""

import json
import re
from pathlib import Path
from typing import Any

from checkpoint import write_atomic

RANDOM = "random"
"""What figures of an untrained network say of their weights."""
START, END = "<!-- table: python examples/cifar10/deploy.py --write -->\n", "<!-- end of table -->"


def keep(
    path: Path,
    about: dict[str, Any],
    weights: dict[str, Any],
    name: str,
    way: str,
    *,
    accuracy: dict[str, Any] | None = None,
    latency: dict[str, dict[str, Any]] | None = None,
) -> None:
    """Add the figures of one way to the file: those of the same kind are replaced, the others stay."""
    result = json.loads(path.read_text()) if path.exists() else {"runs": [], "weights": {}, "networks": {}}
    row = result["networks"].setdefault(name, {}).setdefault(way, {})
    result["weights"].setdefault(name, {})[weights["from"]] = weights
    if about not in result["runs"]:
        result["runs"].append(about)
    origin = {"run": result["runs"].index(about), "weights": weights["from"]}
    if accuracy is not None:
        row["accuracy"] = origin | accuracy
    for column, figures in (latency or {}).items():
        row.setdefault("latency", {})[column] = origin | figures
    write_atomic(path, json.dumps(result, indent=1) + "\n")


def table(result: dict[str, Any]) -> str:
    """The figures as Markdown, and below them where those of each network come from."""
    measured = {column for _, _, row in _rows(result) for column in row.get("latency", {})}
    columns = sorted(measured, key=lambda column: [int(number) for number in re.findall(r"\d+", column)])
    lines = [
        f"| network | way | kB | accuracy | same class | {' | '.join(columns)} |",
        f"|---|---|{'---:|' * (3 + len(columns))}",
    ]
    for name, way, row in _rows(result):
        accuracy, latency = row.get("accuracy", {}), row.get("latency", {})
        size = accuracy.get("bytes") or next(iter(latency.values()))["bytes"]
        cells = [f"`{name}`", way, f"{size / 1000:,.0f}"]
        cells += [f"{accuracy[key]:.2f}" if key in accuracy else "" for key in ("accuracy", "agree")]
        cells += [f"{latency[column]['ms']:.2f}" if column in latency else "" for column in columns]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", *_origins(result), "", *_machines(result)])


def replaced(page: str, result: dict[str, Any]) -> str:
    """The page with the table of these results between its marks."""
    before, _, rest = page.partition(START)
    _, found, after = rest.partition(END)
    if not found:
        raise ValueError(f"the page has no marks for the table: {START.strip()} and {END}")
    return before + START + table(result) + "\n" + END + after


def _rows(result: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [(name, way, row) for name, ways in result["networks"].items() for way, row in ways.items()]


def _origins(result: dict[str, Any]) -> list[str]:
    lines = [
        "| network | weights of its accuracy | accuracy by | weights of its times | times by |",
        "|---|---|---|---|---|",
    ]
    for name, ways in result["networks"].items():
        accuracies = [row["accuracy"] for row in ways.values() if "accuracy" in row]
        times = [figure for row in ways.values() for figure in row.get("latency", {}).values()]
        cells = [f"`{name}`"]
        for figures in (accuracies, times):
            weights = sorted({figure["weights"] for figure in figures})
            cells += [", ".join(_words(result["weights"][name][one]) for one in weights)]
            cells += [", ".join(f"run {at + 1}" for at in sorted({figure["run"] for figure in figures}))]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _words(weights: dict[str, Any]) -> str:
    if weights["from"] == RANDOM:
        return "random"
    plural = "s" if weights["epochs"] > 1 else ""
    schedule = f"{weights['epochs']} epoch{plural} of `{weights['recipe']}`"
    return f"{weights['from']}: {schedule} on a {weights['device'].upper()}"


def _machines(result: dict[str, Any]) -> list[str]:
    lines = ["| run | command | machine | torch |", "|---|---|---|---|"]
    for at, run in enumerate(result["runs"], 1):
        machine = run["hardware"]
        words = f"{machine['cpu']} with {machine['instructions']}, {machine['cpus']} CPUs"
        lines.append(f"| {at} | `{run['command']}` | {words} | {run['versions']['torch']} |")
    return lines
