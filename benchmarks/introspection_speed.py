"""How long the introspection takes, on all of timm and beside other tools: tasks of `benchmarks/introspection.py`."""

from __future__ import annotations

import contextlib
import gc
import io
import json
import logging
import os
import platform
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from importlib import import_module, metadata
from pathlib import Path
from typing import Any, cast

import timm
import torch

from benchmarks.record import write
from benchmarks.timing import cpu_name
from convblocks.introspect.receptive_field import receptive_field
from convblocks.introspect.summary import summary

RESULTS = Path(__file__).resolve().parent / "results"


def machine() -> dict[str, str]:
    return {
        "torch": torch.__version__,
        "timm": timm.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "processor": cpu_name(),
    }


NETWORKS = (
    "resnet18",
    "resnet50",
    "efficientnet_b0",
    "mobilenetv3_large_100",
    "convnext_tiny",
    "densenet121",
    "regnety_016",
    "inception_v3",
    "hrnet_w18",
)


def _answers(model: torch.nn.Module, size: tuple[int, ...]) -> dict[str, Callable[[], Any]]:
    """What runs on meta tensors."""

    def torchinfo() -> str:
        return str(import_module("torchinfo").summary(model, (1, *size), device="meta", verbose=0, depth=9))

    return {
        "field": lambda: repr(receptive_field(model, size)),
        "summary": lambda: summary(model, size).text(120),
        "torchinfo": torchinfo,
    }


def _calls(name: str) -> dict[str, Callable[[], Any]]:
    """One answer of every tool; those that cannot run on meta tensors get a network with weights."""
    real, size = timm.create_model(name).eval(), (3, 224, 224)
    with torch.device("meta"):
        model = timm.create_model(name).eval()

    def torchsummary() -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            import_module("torchsummary").summary(real, size, device="cpu")

    def fvcore() -> float:
        logging.getLogger("fvcore").setLevel(logging.ERROR)
        return import_module("fvcore.nn").FlopCountAnalysis(real, torch.empty(1, *size)).total()

    def torchscan() -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            import_module("torchscan").summary(real, size, receptive_field=True)

    def rfa_toolbox() -> Any:
        rfa = import_module("rfa_toolbox")
        return rfa.input_resolution_range(rfa.create_graph_from_pytorch_model(real))

    ours = _answers(model, size)
    return {
        "receptive_field": ours["field"],
        "summary": ours["summary"],
        "torchinfo": ours["torchinfo"],
        "torchsummary": torchsummary,
        "fvcore": fvcore,
        "torchscan": torchscan,
        "rfa_toolbox": rfa_toolbox,
    }


def timed(calls: dict[str, Callable[[], Any]], rounds: int = 7) -> dict[str, dict[str, Any]]:
    """Median and spread of the rounds after a first one, by tool; of the first where that takes seconds.

    Every round calls every tool once, so that an hour in which the machine is slow is slow for all of them.
    """
    seconds: dict[str, list[float]] = {tool: [] for tool in calls}
    errors: dict[str, str] = {}
    for _ in range(rounds + 1):
        for tool, call in calls.items():
            if tool in errors or (len(seconds[tool]) == 1 and seconds[tool][0] > 10):
                continue
            start = time.perf_counter()
            try:
                call()
            except Exception as error:
                errors[tool] = f"{type(error).__name__}: {error}"[:200]
            seconds[tool].append(time.perf_counter() - start)
    found: dict[str, dict[str, Any]] = {}
    for tool, times in seconds.items():
        kept = times[1:] or times
        found[tool] = {
            "seconds": round(statistics.median(kept), 4),
            "spread": round(max(kept) - min(kept), 4),
            "calls": len(kept),
        }
    return found | {tool: {"error": error} for tool, error in errors.items()}


def version(tool: str) -> str:
    try:
        return metadata.version(tool)
    except metadata.PackageNotFoundError:
        return "not installed"


def speed() -> None:
    """How long an answer takes, beside the tools that give a table, a count or a field."""
    records: list[dict[str, Any]] = []
    tools = ("torchinfo", "torchsummary", "fvcore", "torchscan", "rfa_toolbox")
    about = {
        "command": "python benchmarks/introspection.py speed",
        "machine": machine() | {"threads": "1", "cores": str(os.cpu_count())},
        "tools": {tool: version(tool) for tool in tools},
    }
    for name in NETWORKS:
        records.append({"model": name, **timed(_calls(name))})
        print(name, {k: v.get("seconds", v.get("error")) for k, v in records[-1].items() if k != "model"}, flush=True)
        content = {**about, "records": records}
        write(RESULTS / "introspection_speed.json", json.dumps(content, indent=1) + "\n")


def once(calls: dict[str, Callable[[], Any]]) -> dict[str, Any]:
    """Processor time of one call of each."""
    record: dict[str, Any] = {}
    for label, call in calls.items():
        start = time.process_time()
        try:
            call()
        except Exception as error:
            # torchinfo does not take every network; what fails of ours is an error of the sweep.
            record |= {"error": f"{label}: {type(error).__name__}: {error}"[:200]}
        else:
            record[f"{label}_seconds"] = round(time.process_time() - start, 4)
    return record


def smallest(call: Callable[[], Any], rounds: int = 3) -> float:
    """Processor time of the shortest of several further calls: that with the least interference of the machine."""
    return min(once({"one": call})["one_seconds"] for _ in range(rounds))


def times(build: Callable[[str], torch.nn.Module], names: Sequence[str], commit: str, *, again: bool = False) -> None:
    """A first call of `summary` and of torchinfo on every network of timm, of `receptive_field` on convolutional ones.

    Convolutional networks come first, then the others in the order of `names`.

    Of `receptive_field` the shortest of three further calls too. What the file holds is left out: it goes on where it
    stopped, and a file that is gone is made anew. `again` times anew what was timed at another commit than `commit`.
    """
    path = RESULTS / "introspection_times.json"
    sweep: dict[str, dict[str, Any]] = json.loads((RESULTS / "introspection_sweep.json").read_text())["records"]
    about = {
        "command": "python benchmarks/introspection.py times",
        "machine": machine() | {"threads": "1", "cores": str(os.cpu_count())},
        "tools": {"torchinfo": version("torchinfo")},
    }
    records: dict[str, dict[str, Any]] = json.loads(path.read_text())["records"] if path.exists() else {}
    # What Python and torch set up at a first call is no time of the first network.
    once(_answers(build("resnet18"), (3, 224, 224)))
    others = [name for name in names if not sweep.get(name, {}).get("convolutional")]
    for name in (*sorted(set(names) - set(others)), *others):
        record = {} if again and records.get(name, {}).get("commit") != commit else records.get(name, {})
        if record and (name in others or "field_best_seconds" in record or "field_seconds" not in record):
            continue
        model = build(name)
        # What earlier networks have left is no time of this one.
        gc.collect()
        size = tuple(cast("dict[str, Any]", model.default_cfg).get("input_size", (3, 224, 224)))
        calls = _answers(model, size)
        if name in others:
            del calls["field"]
        about_one = {"convolutional": name not in others, "commit": commit}
        record = records[name] = record or about_one | once(calls)
        if "field_seconds" in record:
            record["field_best_seconds"] = smallest(calls["field"])
        print(name, records[name], flush=True)
        content = {**about, "totals": spread_of(records), "records": records}
        write(path, json.dumps(content, indent=1) + "\n")


def spread_of(records: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Median, nine tenths and the slowest, and how many times as long as torchinfo `summary` took."""
    convolutional = [row for row in records.values() if row["convolutional"]]
    totals: dict[str, Any] = {
        "networks": len(records),
        "convolutional": len(convolutional),
        "by commit": dict(Counter(row.get("commit", "earlier") for row in records.values())),
    }
    rows = {
        "receptive_field": (convolutional, "field_seconds"),
        "receptive_field, shortest of three": (convolutional, "field_best_seconds"),
        "summary": (records.values(), "summary_seconds"),
    }
    for label, (chosen, key) in rows.items():
        found = sorted(row[key] for row in chosen if key in row)
        if found:
            totals[label] = {
                "median": round(statistics.median(found), 4),
                "nine tenths": found[(9 * len(found)) // 10],
                "slowest": found[-1],
            }
    beside = [row for row in records.values() if "summary_seconds" in row and row.get("torchinfo_seconds")]
    ratios = sorted(row["summary_seconds"] / row["torchinfo_seconds"] for row in beside)
    if ratios:
        totals["summary beside torchinfo"] = {
            "networks": len(ratios),
            "median": round(statistics.median(ratios), 2),
            "nine tenths": round(ratios[(9 * len(ratios)) // 10], 2),
            "largest": round(ratios[-1], 2),
            "over 2": sum(ratio > 2 for ratio in ratios),
        }
    totals["errors"] = {name: row["error"] for name, row in records.items() if "error" in row}
    return totals


def table(path: Path = RESULTS / "introspection_speed.json") -> str:
    """The times as the documentation shows them: milliseconds, and what a tool answers with where it fails."""
    data = json.loads(path.read_text())
    tools = [key for key in data["records"][0] if key != "model"]
    lines = ["| network | " + " | ".join(tools) + " |", "|---" * (len(tools) + 1) + "|"]
    for record in data["records"]:
        cells = [
            record[tool]["error"].partition(":")[0]
            if "error" in record[tool]
            else f"{1000 * record[tool]['seconds']:.0f}"
            for tool in tools
        ]
        lines.append(f"| {record['model']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
