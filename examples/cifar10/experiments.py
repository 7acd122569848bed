"""Train every network with every seed, several at a time, and make the table of all results.

Examples:
  python examples/cifar10/experiments.py --data-dir data/cifar10-jpeg --minutes 9
  python examples/cifar10/experiments.py --data-dir data/cifar10-jpeg --models net4 --seeds 0 -- --epochs 20

What is finished is skipped and what was interrupted goes on, so the same command again and again, for as many minutes
as there are, ends with the whole table. What matters most comes first: one seed of each network, then the next seed.
Words after -- go to train.py. Each finished run is one file in --results, and experiments.json in --run-dir says how
each went.
"""

import argparse
import json
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import command
import recipes
import table
from checkpoint import write_atomic
from errors import UsageError
from rundir import LAST, METRICS, run_name

PROG = "experiments.py"
TRAIN = Path(__file__).with_name("train.py")
MODELS = ("frontier_100k", "frontier_200k", "era_s9", "net4", "twelve_layer", "late_100k", "eva8_s6")
NOTES = "experiments.json"
STARTING = 20.0
"""Seconds before the end in which no run is started: reading the data would take most of them."""
SAVING = 60.0
"""Seconds that an interrupted run gets to save."""
TIME_IS_UP, FAILED = 3, 1


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = command.parser(PROG, __doc__)
    made.add_argument("--data-dir", type=Path, default=Path("data"), metavar="DIR", help="as train.py (default: data)")
    made.add_argument("--models", nargs="+", metavar="NAME", help="default: all that there are, the frontier first")
    made.add_argument("--recipes", nargs="+", choices=recipes.NAMES, help="default: long for the frontier, else modern")
    made.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], metavar="N", help="default: 0 1 2")
    made.add_argument(
        "--validation",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="as train.py; runs by --no-validation are called <model>-<recipe>-all-<seed> (default: hold out)",
    )
    made.add_argument("--minutes", type=float, default=float("inf"), metavar="X", help="then save, and leave the rest")
    made.add_argument("--jobs", type=int, metavar="N", help="runs at once (default: 3 on a GPU, 1 without)")
    made.add_argument("--run-dir", type=Path, default=Path("runs"), metavar="DIR", help="default: runs")
    made.add_argument("--results", type=Path, default=table.RESULTS, metavar="DIR", help="default: the example's own")
    made.add_argument("words", nargs="*", metavar="-- OPTION", help="options of train.py")
    return made


@dataclass
class Job:
    """A run: what is asked for, and how it goes.

    Args:
        model: The network.
        recipe: Name of the recipe.
        seed: The seed.
        graph: By CUDA graph; given up where a run fails with it.
        validation: Training images are held out.
        variant: What the folder of a run calls the changes to its recipe, where there are any.
        words: Options of train.py that are this run's alone.
        status: ``"waiting"``, ``"running"``, ``"finished"``, ``"interrupted"`` or ``"failed"``.
        seconds: Of all its processes, those of earlier calls too.
    """

    model: str
    recipe: str
    seed: int
    graph: bool
    validation: bool = True
    variant: str = ""
    words: Sequence[str] = ()
    status: str = "waiting"
    seconds: float = 0.0
    process: "subprocess.Popen[bytes] | None" = field(default=None, repr=False)
    started: float = 0.0

    @property
    def name(self) -> str:
        return run_name(self.model, self.recipe, self.seed, variant=self.variant, validation=self.validation)


class Experiments:
    """All runs of a command.

    Args:
        jobs: The runs, in their order.
        at_once: How many run at a time.
        arguments: The command line.
    """

    prog = PROG
    counts = "test", "test"
    """The images whose accuracy after the last epoch is told, and what a run calls them."""

    def __init__(self, jobs: list[Job], at_once: int, arguments: argparse.Namespace) -> None:
        self.jobs = jobs
        self.at_once = at_once
        self.arguments = arguments
        self.end = time.monotonic() + 60 * arguments.minutes
        before = self._seconds_before()
        for job in jobs:
            job.seconds = before.get(job.name, 0.0)
            if self._is_finished(job):
                self._finish(job)

    def run(self) -> int:
        """Run until all is done, the time is up or a signal comes; returns the exit status."""
        # What ends this process otherwise would leave its runs behind.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            while waiting := [job for job in self.jobs if job.status in ("waiting", "running")]:
                left = self.end - time.monotonic()
                running = [job for job in waiting if job.status == "running"]
                if left <= 0 or (left < STARTING and not running):
                    break
                for job in running:
                    self._look_after(job)
                for job in [job for job in waiting if job.status == "waiting"][: self.at_once - len(running)]:
                    if left >= STARTING:
                        self._start(job)
                time.sleep(0.1)
        finally:
            self._stop()
        if any(job.status == "failed" for job in self.jobs):
            return FAILED
        return 0 if all(job.status == "finished" for job in self.jobs) else TIME_IS_UP

    def _start(self, job: Job) -> None:
        folder = self.arguments.run_dir / job.name
        words = ["--data-dir", str(self.arguments.data_dir), "--run-dir", str(self.arguments.run_dir)]
        words += ["--model", job.model, "--recipe", job.recipe, "--seed", str(job.seed), "--name", job.name]
        words += ["--no-report", *([] if job.validation else ["--no-validation"])]
        words += [*(["--graph"] if job.graph else []), *job.words, *self.arguments.words]
        # Without a checkpoint what lies there is the beginning of a run that ended before its first one.
        words.append("--resume" if (folder / LAST).exists() else "--overwrite")
        self.arguments.run_dir.mkdir(parents=True, exist_ok=True)
        with open(self._log(job), "ab") as log:
            log.write(f"$ train.py {shlex.join(words)}\n".encode())
            log.flush()
            # A group of its own: Ctrl-C comes to this process, which then asks all of them once.
            job.process = subprocess.Popen(
                [sys.executable, str(TRAIN), *words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        job.status, job.started = "running", time.monotonic()
        self._note(f"{job.name}: started{' with --graph' if job.graph else ''}")

    def _look_after(self, job: Job, *, stopping: bool = False) -> None:
        assert job.process is not None
        status = job.process.poll()
        if status is None:
            return
        job.seconds += time.monotonic() - job.started
        job.process = None
        folder = self.arguments.run_dir / job.name
        if status == 0 and finished(folder):
            # How many ran beside it belongs to its figures of time.
            self._finish(job, runs_at_once=self.at_once)
            last = json.loads((folder / METRICS).read_text())["last_epoch"]
            part, key = self.counts
            self._note(f"{job.name}: finished in {job.seconds:.0f} s, {part} accuracy {last[f'{key}_acc']:.2f} %")
        elif status == command.INTERRUPTED or stopping:
            job.status = "interrupted"
            self._note(f"{job.name}: interrupted, goes on with the next call")
        elif job.graph:
            job.graph, job.status = False, "waiting"
            self._note(f"{job.name}: failed with --graph ({self._last_line(job)}); once more without")
        else:
            job.status = "failed"
            self._note(f"{job.name}: failed with exit status {status} ({self._last_line(job)}); see {self._log(job)}")

    def _is_finished(self, job: Job) -> bool:
        return finished(self.arguments.run_dir / job.name)

    def _finish(self, job: Job, **beside: int) -> None:
        job.status = "finished"
        self._keep(job, beside)

    def _keep(self, job: Job, beside: dict[str, int]) -> None:
        """Put the results of a finished run where the table finds them, with what else is known of it."""
        made = self.arguments.results / f"{job.name}.json"
        if beside or not made.exists():
            self.arguments.results.mkdir(parents=True, exist_ok=True)
            table.add(self.arguments.run_dir / job.name, self.arguments.results, **beside)

    def _stop(self) -> None:
        running = [job for job in self.jobs if job.process is not None]
        for job in running:
            assert job.process is not None
            if job.process.poll() is None:
                # Where this one runs in the background of a shell, SIGINT is ignored by whoever has no handler yet.
                job.process.terminate()
        limit = time.monotonic() + SAVING
        for job in running:
            assert job.process is not None
            try:
                job.process.wait(max(0.1, limit - time.monotonic()))
            except subprocess.TimeoutExpired:
                job.process.kill()
                job.process.wait()
            self._look_after(job, stopping=True)
        self._note()

    def _log(self, job: Job) -> Path:
        return self.arguments.run_dir / f"{job.name}.log"

    def _last_line(self, job: Job) -> str:
        lines = self._log(job).read_text(errors="replace").strip().splitlines()
        return lines[-1][-200:] if lines else "no word"

    def _note(self, line: str | None = None) -> None:
        if line:
            print(line, flush=True)
        kept = ("name", "model", "recipe", "seed", "validation", "graph", "status", "seconds")
        said: dict[str, Any] = {
            "command": shlex.join(["python", f"examples/cifar10/{self.prog}", *sys.argv[1:]]),
            "runs_at_once": self.at_once,
            "runs": [{key: getattr(job, key) for key in kept} for job in self.jobs],
        }
        self.arguments.run_dir.mkdir(parents=True, exist_ok=True)
        write_atomic(self.arguments.run_dir / NOTES, json.dumps(said, indent=2) + "\n")

    def _seconds_before(self) -> dict[str, float]:
        try:
            runs = json.loads((self.arguments.run_dir / NOTES).read_text())["runs"]
            return {run["name"]: float(run["seconds"]) for run in runs}
        except (OSError, ValueError, KeyError):
            return {}


def finished(folder: Path) -> bool:
    """Whether a run folder holds a finished run."""
    try:
        return bool(json.loads((folder / METRICS).read_text())["finished"])
    except (OSError, ValueError, KeyError):
        return False


def plan(
    models: Sequence[str], chosen: Sequence[str] | None, seeds: Sequence[int], *, graph: bool, validation: bool = True
) -> list[Job]:
    """All runs: one seed of each network and recipe, then the next seed."""

    def of(model: str) -> Sequence[str]:
        return chosen or (["long"] if model.startswith("frontier") else ["modern"])

    return [Job(model, recipe, seed, graph, validation) for seed in seeds for model in models for recipe in of(model)]


def runs_at_once(asked: int | None, *, gpu: bool) -> int:
    """How many runs there are at a time."""
    if asked is not None and asked < 1:
        raise UsageError(f"--jobs {asked} is not at least 1")
    return asked or (3 if gpu else 1)


def summary(jobs: Sequence[Job]) -> str:
    """How many runs are finished, and which are not."""
    left = [job.name for job in jobs if job.status != "finished"]
    return f"{len(jobs) - len(left)} of {len(jobs)} runs are finished" + (f"; left: {', '.join(left)}" if left else "")


def run(arguments: argparse.Namespace) -> int:
    """Run as the command line says."""
    # These import torch, which --help need not wait for.
    import models
    import timm
    import torch

    for name in arguments.models or ():
        models.require_known(name)
    chosen = arguments.models or [name for name in MODELS if name in timm.list_models()]
    gpu = torch.cuda.is_available()
    at_once = runs_at_once(arguments.jobs, gpu=gpu)
    jobs = plan(chosen, arguments.recipes, arguments.seeds, graph=gpu, validation=arguments.validation)
    status = Experiments(jobs, at_once, arguments).run()
    print(summary(jobs))
    print(table.table(arguments.results, chosen))
    return status


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    arguments = parser().parse_args(argv)
    return command.finish(PROG, lambda: run(arguments))


if __name__ == "__main__":
    sys.exit(main())
