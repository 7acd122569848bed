"""Hold receptive fields to the gradient on all of timm, and time the introspection against other tools.

    python benchmarks/introspection.py sweep --minutes 60 --strides 8,16   # goes on where it stopped; see --help
    python benchmarks/introspection.py times   # of every network of timm, one call each
    python benchmarks/introspection.py speed   # beside other tools
    python benchmarks/introspection.py table   # the times in Markdown

Results go to introspection_sweep.json, introspection_times.json and introspection_speed.json in benchmarks/results.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import functools
import json
import os
import resource
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "introspect")]

from timm_oracle import answer, build, gradient, is_convolutional, judge  # noqa: E402  # pyright: ignore[reportMissingImports]  (found by the line above)

from benchmarks.introspection_speed import RESULTS, machine, speed, table, times  # noqa: E402  (after the path)
from benchmarks.record import write  # noqa: E402  (after the path)
from convblocks.introspect.receptive_field import receptive_field  # noqa: E402  (after the path)
from convblocks.introspect.summary import summary  # noqa: E402  (after the path)
from convblocks.introspect.tracing import trace  # noqa: E402  (after the path)

SHOWN = ("status", "size", "why", "error", "macs_equal", "field_seconds", "summary_seconds", "gradient_seconds")


@functools.cache
def commit() -> str:
    """The last commit that changed what answers or judges."""
    words = ["git", "log", "-1", "--format=%h", "--", "convblocks/introspect", "tests/introspect/*oracle.py"]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def names() -> list[str]:
    """Every model name, one of each source file in turn."""
    files: dict[str, list[str]] = {}
    for name in sorted(timm.list_models(), key=lambda name: (len(name), name)):
        files.setdefault(file_of(name), []).append(name)
    depth = max(len(models) for models in files.values())
    return [models[i] for i in range(depth) for models in files.values() if i < len(models)]


def file_of(name: str) -> str:
    return timm.model_entrypoint(name).__module__.rpartition(".")[2]


def costs(name: str) -> dict[str, Any]:
    """MACs and parameters against torch's counter and the sum over the parameters, and the time of both answers."""
    model = build(name)
    size = tuple(model.default_cfg.get("input_size", (3, 224, 224)))
    start = time.process_time()
    repr(receptive_field(model, size))
    middle = time.process_time()
    table = summary(model, size)
    table.text(120)
    end = time.process_time()
    with FlopCounterMode(display=False) as counter, torch.no_grad(), torch.device("meta"):
        model(torch.empty(1, *size))
    return {
        "macs": table.macs,
        "macs_equal": table.macs * 2 == counter.get_total_flops(),
        "parameters": table.parameters,
        "parameters_equal": table.parameters == sum(p.numel() for p in model.parameters()),
        "field_seconds": round(middle - start, 3),
        "summary_seconds": round(end - middle, 3),
    }


def measure(name: str, option: dict[str, int], known: dict[str, Any]) -> dict[str, Any]:
    """One record; what the gradient said in an earlier run holds whatever we answer now."""
    record = answer(name, **option)
    if not option:
        record |= costs(name)
    if record["convolutional"] and known.get("gradient") is not None:
        record |= {key: known[key] for key in ("gradient", "gradient_seconds")}
    elif record["convolutional"] and known.get("status") == "not compared":
        # What did not fit the limits does not fit them now; `--retry` tries.
        record["why"] = known["why"]
    elif record["convolutional"]:
        start = time.process_time()
        try:
            record["gradient"] = gradient(record, **option)
        except ValueError as error:
            record["why"] = str(error)
        record["gradient_seconds"] = round(time.process_time() - start, 2)
    judge(record)
    return record


def sort_out(name: str, option: dict[str, int], known: dict[str, Any]) -> dict[str, Any]:
    """The record of a convolutional network; of another one only that it is not, which is soon seen."""
    model = build(name, **option)
    size = tuple(model.default_cfg.get("input_size", (3, 224, 224)))
    graph = trace(model.forward_features, [(1, *size)], [torch.float32])
    if is_convolutional(graph) or graph.error is not None:
        return measure(name, option, known)
    return {"model": name, **option, "convolutional": False, "status": "not convolutional"}


@dataclass(frozen=True)
class Limits:
    """What one model may take: minutes of processor time, and 2^30 bytes of memory."""

    minutes: int
    gigabytes: int

    def __str__(self) -> str:
        return f"{self.minutes} min of processor time or {self.gigabytes} GB"


def limited(
    function: Callable[..., dict[str, Any]], name: str, option: dict[str, int], known: Any, limits: Limits
) -> dict[str, Any]:
    """What the function makes of the model in a process of its own."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        data = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        most = data + limits.gigabytes * 2**30
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))
        resource.setrlimit(resource.RLIMIT_CPU, (60 * limits.minutes, 60 * limits.minutes + 5))
        try:
            record = function(name, option, known)
        except Exception as error:
            if "allocate memory" in str(error):
                os._exit(1)
            record = {"model": name, **option, "error": f"{type(error).__name__}: {error}"[:300], "status": "error"}
        with os.fdopen(writer, "w") as stream:
            json.dump(record, stream)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as stream:
        text = stream.read()
    os.waitpid(child, 0)
    if text:
        return json.loads(text)
    return {"model": name, **option, "status": "not compared", "why": f"the process ended: more than {limits}"}


def sweep(
    minutes: float, strides: list[int], limits: Limits, share: tuple[int, int], *, again: bool, retry: bool
) -> None:
    """Compare as many models as fit the time; the file holds those of earlier runs, and of others that are under way.

    `share` (1, 2) takes the first of every two models, convolutional ones before the others. `again` asks anew for the
    answers of another commit, and compares them to what the gradient said before; `retry` takes up those that could not
    be compared.
    """
    path = RESULTS / "introspection_sweep.json"
    before = json.loads(path.read_text())["records"] if path.exists() else {}
    done, code = dict(before), commit()
    due = {key for key, row in done.items() if again and row.get("commit") != code}
    if retry:
        done = {key: row for key, row in done.items() if row["status"] not in ("not compared", "error")}
    until = time.monotonic() + 60 * minutes
    command = shlex.join(["python", "benchmarks/introspection.py", *sys.argv[1:]])

    def turn(name: str, stride: int | None, function: Callable[..., dict[str, Any]]) -> None:
        option = {} if stride is None else {"output_stride": stride}
        key = name if stride is None else f"{name}@{stride}"
        if time.monotonic() < until:
            about = {"file": file_of(name), "commit": code}
            known = before.get(key, {})
            if retry and known.get("status") in ("not compared", "error"):
                known = {}
            done[key] = limited(function, name, option, known, limits) | about
            with alone():
                records = json.loads(path.read_text())["records"] if path.exists() else {}
                records[key] = done[key]
                content = {"command": command, "machine": machine(), "totals": totals(records), "records": records}
                write(path, json.dumps(content, indent=1) + "\n")
            print(key, {k: done[key].get(k) for k in SHOWN}, flush=True)

    # Shared out before they are sorted: the other run may have begun with another file.
    mine = sorted(names()[share[0] - 1 :: share[1]], key=lambda name: not done.get(name, {}).get("convolutional"))
    for name in mine:
        for stride in (None, *strides):
            key = name if stride is None else f"{name}@{stride}"
            if (key not in done or key in due) and (stride is None or takes_stride(name, stride, done)):
                turn(name, stride, sort_out)
    # The others have no gradient to be held to, but they cost time, and their operations have MACs.
    for name in mine:
        if done.get(name, {}).get("status") == "not convolutional" and "macs" not in done[name]:
            turn(name, None, measure)


@contextlib.contextmanager
def alone() -> Generator[None, None, None]:
    """No other run of this script is in here."""
    with Path(__file__).open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield


def takes_stride(name: str, stride: int, records: dict[str, dict[str, Any]]) -> bool:
    """Whether a convolutional model can be built with this output stride."""
    if not records.get(name, {}).get("convolutional"):
        return False
    try:
        build(name, output_stride=stride)
    except Exception:
        # Each file of timm refuses in its own way.
        return False
    return True


def totals(records: dict[str, dict[str, Any]]) -> dict[str, Any]:
    rows = {key: row for key, row in records.items() if row.get("convolutional") or row["status"] == "not compared"}
    code = commit()
    # Of whatever commit and machine: `times` and `speed` are what compares.
    measured = [row for row in records.values() if "field_seconds" in row]
    default = [row for row in measured if row.get("convolutional")]

    def having(status: str) -> list[str]:
        return [key for key, row in rows.items() if row["status"] == status]

    return {
        "models": sum("@" not in key for key in records),
        "files": len({row["file"] for row in records.values()}),
        "convolutional": sum("@" not in key for key in rows),
        "files of convolutional ones": len({row["file"] for row in rows.values()}),
        "variants by output stride": sum("@" in key for key in rows),
        "answered by another commit": sum(row.get("commit") != code for row in records.values()),
        "equal to the gradient": len(having("equal")),
        "different": having("different"),
        "unknown": having("unknown"),
        "not compared": {key: rows[key].get("why") for key in having("not compared")},
        "errors": {key: row["error"] for key, row in records.items() if "error" in row},
        "MACs different": [key for key, row in records.items() if row.get("macs_equal") is False],
        "parameters different": [key for key, row in records.items() if row.get("parameters_equal") is False],
        "median field seconds": statistics.median(row["field_seconds"] for row in default) if default else None,
        "slowest summaries": {
            row["model"]: row["summary_seconds"]
            for row in sorted(measured, key=lambda row: -row["summary_seconds"])[:5]
        },
    }


def share_of(text: str) -> tuple[int, int]:
    """Which share of how many, written as 1/2."""
    first, _, count = text.partition("/")
    if not (first.isdecimal() and count.isdecimal() and 1 <= int(first) <= int(count)):
        raise argparse.ArgumentTypeError(f"must be a share of so many, as 1/2 or 2/2, got {text!r}")
    return int(first), int(count)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=["sweep", "times", "speed", "table"])
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--strides", default="", help="output strides to build variants of, as 8,16")
    parser.add_argument("--share", type=share_of, default=(1, 1), help="of two runs side by side, 1/2 and 2/2")
    parser.add_argument("--again", action="store_true", help="answer or time anew what another commit did")
    parser.add_argument("--retry", action="store_true", help="take up what could not be compared within its limits")
    parser.add_argument("--minutes-each", type=int, default=1, help="processor time of one model")
    parser.add_argument("--gigabytes", type=int, default=8, help="memory of one model")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.task == "sweep":
        strides = [int(part) for part in options.strides.split(",") if part]
        limits = Limits(options.minutes_each, options.gigabytes)
        sweep(options.minutes, strides, limits, options.share, again=options.again, retry=options.retry)
    elif options.task == "times":
        times(build, names(), commit(), again=options.again)
    elif options.task == "speed":
        speed()
    else:
        print(table())


if __name__ == "__main__":
    main()
