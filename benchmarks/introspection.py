"""Hold receptive fields to the gradient on all of timm, and time the introspection against other tools.

    python benchmarks/introspection.py sweep [--minutes 60] [--strides 8,16]   # resumable: goes on where it stopped
    python benchmarks/introspection.py speed

Results go to benchmarks/results/introspection_sweep.json and introspection_speed.json.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "introspect")]

from timm_oracle import build, compare  # noqa: E402  # pyright: ignore[reportMissingImports]  (found by the line above)

from convblocks.introspect.receptive_field import receptive_field  # noqa: E402  (after the path)
from convblocks.introspect.summary import summary  # noqa: E402  (after the path)

RESULTS = Path(__file__).resolve().parent / "results"
LARGEST = 6e8
"""Pixels of the oracle's strip times the square root of the parameters: above it the oracle is too slow here."""


def machine() -> dict[str, str]:
    return {
        "torch": torch.__version__,
        "timm": timm.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
    }


def names() -> list[str]:
    """Every model name, one of each source file in turn."""
    files: dict[str, list[str]] = {}
    for name in sorted(timm.list_models(), key=lambda name: (len(name), name)):
        files.setdefault(timm.model_entrypoint(name).__module__, []).append(name)
    depth = max(len(models) for models in files.values())
    return [models[i] for i in range(depth) for models in files.values() if i < len(models)]


def costs_agree(name: str) -> dict[str, Any]:
    """MACs and parameters against torch's counter and the sum over the parameters, and the time of both answers."""
    model = build(name)
    size = tuple(model.default_cfg.get("input_size", (3, 224, 224)))
    start = time.perf_counter()
    repr(receptive_field(model, size))
    middle = time.perf_counter()
    table = summary(model, size)
    table.text(120)
    end = time.perf_counter()
    with FlopCounterMode(display=False) as counter, torch.no_grad(), torch.device("meta"):
        model(torch.empty(1, *size))
    return {
        "macs": table.macs,
        "macs_equal": table.macs * 2 == counter.get_total_flops(),
        "parameters_equal": table.parameters == sum(p.numel() for p in model.parameters()),
        "field_seconds": round(middle - start, 3),
        "summary_seconds": round(end - middle, 3),
    }


def sweep(minutes: float, strides: list[int]) -> None:
    """Compare as many models as fit the time; the file holds those of earlier runs."""
    path = RESULTS / "introspection_sweep.json"
    done = json.loads(path.read_text())["records"] if path.exists() else {}
    options: list[dict[str, Any]] = [{}, *({"output_stride": stride} for stride in strides)]
    until = time.monotonic() + 60 * minutes
    for name in names():
        for option in options:
            key = name + "".join(f"@{value}" for value in option.values())
            if key in done:
                continue
            if time.monotonic() > until:
                return
            try:
                record = compare(name, largest=LARGEST, **option)
                if not option:
                    record |= costs_agree(name)
            except Exception as error:
                record = {"model": name, **option, "error": f"{type(error).__name__}: {error}"[:300]}
            record["file"] = timm.model_entrypoint(name).__module__.rpartition(".")[2]
            done[key] = record
            write(path, {"machine": machine(), "totals": totals(done), "records": done})
            print(
                key, {k: record.get(k) for k in ("equal", "size", "error", "macs_equal", "field_seconds")}, flush=True
            )


def totals(records: dict[str, dict[str, Any]]) -> dict[str, Any]:
    rows = list(records.values())
    times = [row["field_seconds"] for row in rows if "field_seconds" in row]
    return {
        "models": len(rows),
        "files": len({row.get("file") for row in rows}),
        "convolutional": sum(bool(row.get("convolutional")) for row in rows),
        "equal to the gradient": sum(row.get("equal") is True for row in rows),
        "different": [key for key, row in records.items() if row.get("equal") is False],
        "gradient not run": sum(isinstance(row.get("oracle"), str) for row in rows),
        "reported unknown": sum(bool(row.get("unknown")) for row in rows),
        "errors": [key for key, row in records.items() if "error" in row],
        "MACs different": [key for key, row in records.items() if row.get("macs_equal") is False],
        "parameters different": [key for key, row in records.items() if row.get("parameters_equal") is False],
        "median field seconds": statistics.median(times) if times else None,
        "slowest summary seconds": max(
            (row["summary_seconds"] for row in rows if "summary_seconds" in row), default=None
        ),
    }


def write(path: Path, data: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_suffix(".part")
    temporary.write_text(json.dumps(data, indent=1) + "\n")
    temporary.replace(path)


def _calls(model: torch.nn.Module, size: tuple[int, ...], torchinfo: Any) -> dict[str, Callable[[], str]]:
    return {
        "receptive_field": lambda: repr(receptive_field(model, size)),
        "summary": lambda: summary(model, size).text(120),
        "torchinfo": lambda: str(torchinfo.summary(model, (1, *size), device="meta", verbose=0, depth=9)),
    }


def speed() -> None:
    """Medians of five calls on meta tensors, beside torchinfo."""
    import torchinfo

    records = []
    for name in (
        "resnet18",
        "resnet50",
        "efficientnet_b0",
        "mobilenetv3_large_100",
        "convnext_tiny",
        "densenet121",
        "regnety_016",
    ):
        calls = _calls(build(name), (3, 224, 224), torchinfo)
        record: dict[str, Any] = {"model": name}
        for label, call in calls.items():
            call()
            seconds = []
            for _ in range(5):
                start = time.perf_counter()
                call()
                seconds.append(time.perf_counter() - start)
            record[label] = round(statistics.median(seconds), 4)
            record[f"{label} spread"] = round(max(seconds) - min(seconds), 4)
        records.append(record)
        print(record, flush=True)
    write(
        RESULTS / "introspection_speed.json",
        {"machine": machine(), "command": "python benchmarks/introspection.py speed", "records": records},
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=["sweep", "speed"])
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--strides", default="", help="output strides to build variants of, as 8,16")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.task == "sweep":
        sweep(options.minutes, [int(part) for part in options.strides.split(",") if part])
    else:
        speed()


if __name__ == "__main__":
    main()
