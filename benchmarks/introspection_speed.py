"""How long the introspection takes beside other tools: the task `speed` of `benchmarks/introspection.py`."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import platform
import statistics
import time
from collections.abc import Callable
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

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


def _calls(name: str) -> dict[str, Callable[[], Any]]:
    """One answer of every tool; those that cannot run on meta tensors get a network with weights."""
    real, size = timm.create_model(name).eval(), (3, 224, 224)
    with torch.device("meta"):
        model = timm.create_model(name).eval()

    def torchinfo() -> str:
        return str(import_module("torchinfo").summary(model, (1, *size), device="meta", verbose=0, depth=9))

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

    return {
        "receptive_field": lambda: repr(receptive_field(model, size)),
        "summary": lambda: summary(model, size).text(120),
        "torchinfo": torchinfo,
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
