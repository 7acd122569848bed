"""All that wants a CUDA GPU, in stages: `python -m benchmarks.gpu check kernels blocks networks train --out OUT`.

    check      the tests that only a GPU can run, and the kernels under compute-sanitizer where that is installed
    kernels    the kernels beside PyTorch's, other tilings of them, and the table that the backends go by
    blocks     the blocks beside what a user would take instead
    networks   the networks of examples/cifar10, inference and training steps
    train      how busy training keeps the GPU, one run for speed, then the networks, as many runs as the time allows

A stage writes its figures and a log of each part into OUT, goes on after a part that fails, and leaves what it has when
its time is up; the same command again goes on where it stopped. summary.json says how each part ended, and so does the
exit status: 0 where all is done, 1 where a part failed, 3 where time was all that was missing.
`--device cpu --quick` goes through the same motions anywhere, in a few minutes.

The table for "auto" and "graph" comes out as OUT/decisions.json: copied to convblocks/ops/decisions.json, the blocks go
by it.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks.record import write

ROOT = Path(__file__).resolve().parents[1]
STAGES = {"check": 1, "kernels": 2, "blocks": 2, "networks": 1, "train": 2}
"""A stage's share of the time, beside those that run in the same call."""
FAILED, TIME_IS_UP = 1, 3
SAVING = 75
"""Seconds before its end in which the training is told to save what it has."""


class Part(NamedTuple):
    """One command; `share` of the stage's time is its own, and what earlier parts have left over."""

    name: str
    command: list[str]
    share: float = 1.0


def parts(stage: str, out: Path, device: str, quick: bool, minutes: float, data: Path) -> list[Part]:
    """Return what a stage runs, in its order."""
    python, small = [sys.executable], ["--quick"] if quick else []
    suite = ["--device", device, *small]
    if stage == "check":
        marked = ["-m", "gpu"] if device == "cuda" else []
        test = [*python, "-m", "pytest", *marked, "-q", "-p", "no:cacheprovider", "-p", "no:benchmark"]
        # Most of the time goes to compiling kernels, on the CPU.
        many = ["-n", "8"] if device == "cuda" and importlib.util.find_spec("xdist") else []
        found = [Part("tests", [*test, *many, "tests/ops/test_gpu.py" if quick else "tests/ops"], 0.6)]
        found.append(Part("training", [*test, *many, "tests/examples/test_train_gpu.py"], 0.15))
        sanitizer = shutil.which("compute-sanitizer")
        if device == "cuda" and sanitizer:
            # With its own allocator, PyTorch hands out memory that a kernel may overrun unseen.
            memcheck = [
                "env",
                "PYTORCH_NO_CUDA_MEMORY_CACHING=1",
                sanitizer,
                "--tool",
                "memcheck",
                "--error-exitcode",
                "1",
                "--target-processes",
                "all",
            ]
            watched = ["tests/ops/test_gpu.py", "tests/ops/test_gpu_fused.py", "-k", "sanitizer"]
            found.append(Part("memcheck", [*memcheck, *test, *watched], 0.25))
        return found
    if stage == "kernels":
        # What matters most first: without decisions the blocks take none of the kernels.
        found = [("decide", ["--decide", "--output", str(out / "decisions.json")], 0.6)]
        found.append(("compare", ["--output", str(out / "kernels.json")], 0.25))
        if device == "cuda":
            found.append(("tune", ["--tune", "--output", str(out / "tilings.json")], 0.15))
        run = [*python, "-m", "benchmarks.kernels", *suite, "--resume", "--minutes"]
        return [Part(name, [*run, f"{0.85 * share * minutes:.2f}", *rest], share) for name, rest, share in found]
    if stage in ("blocks", "networks"):
        path = str(out / f"{stage}.json")
        # Compiling takes longer than all else together.
        suite += ["--ways", "eager", "folded"] if quick else []
        run = [*python, "-m", f"benchmarks.{stage}", *suite, "--minutes", f"{0.8 * minutes:.2f}", "--resume"]
        return [
            Part("run", [*run, "--output", path], 0.9),
            Part("tables", [*python, "-m", "benchmarks.roofline", path], 0.1),
        ]
    return _training(out, device, quick, minutes, data)


def _training(out: Path, device: str, quick: bool, minutes: float, data: Path) -> list[Part]:
    """Return what the training stage runs: the two measurements first, which take a minute or two each."""

    def script(name: str, *words: str) -> list[str]:
        return [sys.executable, f"examples/cifar10/{name}.py", *words]

    where = ["--data-dir", str(data), "--run-dir", str(out / "runs")]
    digits = ["--dataset", "digits", "--epochs", "1"] if quick else []
    graph = ["--graph"] if device == "cuda" else []
    busy = ["--images", "128", "--steps", "2", "--batch-size", "16"] if quick else []
    busy += ["--model", "frontier_100k", "--recipe", "long", "--device", device, *graph]
    # Nothing runs beside it: its time is what it is for.
    fast = ["--model", "net4", "--recipe", "fast", "--name", "net4-fast-0", "--no-report", "--no-deterministic"]
    fast += ["--resume" if (out / "runs" / "net4-fast-0" / "last.pt").exists() else "--overwrite"]
    words = [*where, "--results", str(out / "results")]
    words += ["--minutes", f"{max(0.1, 0.7 * minutes - SAVING / 60):.2f}", *(["--models", "net4"] if quick else [])]
    words += ["--seeds", "0"] if quick else []
    return [
        Part("throughput", script("throughput", *busy, "--json", str(out / "throughput.json")), 0.1),
        Part("speed", script("train", *where, *fast, "--device", device, *graph, *digits), 0.2),
        Part("table", script("experiments", *words, "--", "--device", device, *digits), 0.7),
    ]


def run(part: Part, log: Path, seconds: float) -> int:
    """Run a command with its output in a file, and end it with all it has started when the time is up."""
    # From a checkout that nobody installed, a script of the examples would not find the library.
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONUNBUFFERED": "1", "PYTHONPATH": os.pathsep.join(paths)}
    with log.open("wb") as file:
        process = subprocess.Popen(
            part.command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            return TIME_IS_UP
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    # As by Ctrl-C first: pytest then says what has failed so far.
    for word in (signal.SIGINT, signal.SIGTERM):
        os.killpg(process.pid, word)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
            break
    # And what the leader left behind.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stages", nargs="+", choices=list(STAGES), metavar="STAGE", help=", ".join(STAGES))
    parser.add_argument("--out", type=Path, required=True, help="folder of the figures and logs")
    parser.add_argument("--minutes", type=float, default=9.5, help="for all stages together (default: 9.5)")
    parser.add_argument("--data-dir", type=Path, default=ROOT / "data", help="what train.py takes (default: data)")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--quick", action="store_true", help="tiny inputs and short timings, to see that it runs")
    given = parser.parse_args(arguments)
    if given.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no GPU here; --device cpu --quick shows that the stages run")
    out: Path = given.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    summary = out / "summary.json"
    ended: list[dict[str, object]] = json.loads(summary.read_text()) if summary.exists() else []
    until = time.monotonic() + 60 * given.minutes
    codes: list[int] = []
    for i, stage in enumerate(given.stages):
        share = STAGES[stage] / sum(STAGES[later] for later in given.stages[i:])
        length = share * max(0.0, until - time.monotonic())
        close = time.monotonic() + length
        todo = parts(stage, out, given.device, given.quick, length / 60, given.data_dir.resolve())
        for j, part in enumerate(todo):
            left = max(1.0, close - time.monotonic())
            seconds = left * part.share / sum(later.share for later in todo[j:])
            start = time.monotonic()
            log = out / f"{stage}-{part.name}.log"
            code = run(part, log, seconds)
            took = time.monotonic() - start
            codes.append(code)
            ended.append({"stage": stage, "part": part.name, "status": code, "seconds": round(took, 1)})
            ended[-1] |= {"command": part.command, "log": log.name}
            write(summary, json.dumps(ended, indent=1) + "\n")
            word = "done" if code == 0 else "time is up" if code == TIME_IS_UP else f"FAILED with status {code}"
            print(f"{stage}, {part.name}: {word} after {took:.0f} s; {log}", flush=True)
            if code:
                print("".join(f"    {line}\n" for line in _tail(log)), end="", flush=True)
    return FAILED if set(codes) - {0, TIME_IS_UP} else max(codes)


def _tail(log: Path) -> list[str]:
    return log.read_text(errors="replace").splitlines()[-15:]


if __name__ == "__main__":
    sys.exit(main())
