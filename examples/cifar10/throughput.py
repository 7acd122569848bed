"""Measure training: images/s, and the share of the time that the device computes.

Examples:
  python examples/cifar10/throughput.py --model net4 --graph
  python examples/cifar10/throughput.py --model net4 --compile --json throughput.json

The images are noise: how long a step takes does not depend on what they show. On a GPU the share is that of the time
in which at least one kernel or copy runs, by torch's profiler; on the CPU that which is not spent waiting for images.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import command
import recipes

if TYPE_CHECKING:
    from engine import Run
    from torch import Tensor
    from torch.autograd.profiler_util import FunctionEvent

PROG = "throughput.py"
ROUNDS = 5
PROFILED = 100
"""Steps under the profiler, which keeps every kernel in memory."""

Batches = Iterator[tuple["Tensor", "Tensor"]]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = command.parser(PROG, __doc__)
    made.add_argument("--model", default="twelve_layer", metavar="NAME", help="default: twelve_layer")
    made.add_argument("--recipe", choices=recipes.NAMES, default="modern", help="default: modern")
    made.add_argument("--batch-size", type=int, metavar="N", help="default: that of the recipe")
    made.add_argument("--images", type=int, default=45000, metavar="N", help="of the training set (default: 45000)")
    made.add_argument("--steps", type=int, default=200, metavar="N", help="timed at once (default: 200)")
    made.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: a GPU where there is one"
    )
    made.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto", help="as train.py")
    made.add_argument("--compile", action="store_true", help="use torch.compile")
    made.add_argument("--graph", action="store_true", help="forward and backward pass as one CUDA graph")
    made.add_argument("--deterministic", action=argparse.BooleanOptionalAction, default=True, help="as train.py")
    made.add_argument("--json", type=Path, metavar="FILE", help="write the figures here as well")
    return made


def covered(intervals: Sequence[tuple[float, float]]) -> float:
    """Length of the union of intervals."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(intervals):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Time the steps of a run on noise."""
    import devices
    import environment
    import models
    import numpy as np
    import torch
    from engine import Run
    from mixing import Mix
    from order import Order
    from resident import ResidentBatches

    from data import ImageSet

    options = {key: getattr(arguments, key) for key in ("compile", "graph", "deterministic")}
    device = devices.choose(arguments.device, arguments.precision, **options)
    recipe = recipes.choose(arguments.recipe, arguments.model)
    batch_size = arguments.batch_size or recipe.batch_size
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (arguments.images, 32, 32, 3), dtype=np.uint8)
    images = ImageSet(pixels, rng.integers(0, 10, arguments.images))
    torch.manual_seed(0)
    batches = ResidentBatches(
        images,
        Order(arguments.images, batch_size, 0),
        recipe.augment,
        (0.5, 0.5, 0.5),
        flip=recipe.flip,
        mix=Mix(recipe.mixup, recipe.cutmix, recipe.mix_share),
        device=device.name,
    )
    run = Run(
        models.build(arguments.model, 10, recipe.dropout),
        recipe,
        len(batches),
        ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)),
        device,
    )
    run.prepare(*batches[0, 0])
    run.model.train()
    steps = batches.stream(10**9)
    _train(run, steps, min(20, arguments.steps))
    seconds, waited = [], 0.0
    for _ in range(ROUNDS):
        start = time.perf_counter()
        waited += _train(run, steps, arguments.steps)
        seconds.append(time.perf_counter() - start)
    middle = statistics.median(seconds)
    busy, gpu_ms = _busy_on_gpu(run, steps) if device.name == "cuda" else (1 - waited / sum(seconds), None)
    return {
        "model": arguments.model,
        "recipe": recipe.name,
        "augment": recipe.augment,
        "batch_size": batch_size,
        **options,
        "precision": "bf16" if device.bf16 else "fp32",
        "prepare_seconds": round(run.progress.prepare_seconds, 2),
        "images_per_s": round(batch_size * arguments.steps / middle),
        "step_ms": round(1000 * middle / arguments.steps, 4),
        "step_ms_lowest_and_highest": [
            round(1000 * part / arguments.steps, 4) for part in (min(seconds), max(seconds))
        ],
        "busy": None if busy is None else round(busy, 4),
        "busy_is": "at least one kernel or copy runs" if device.name == "cuda" else "not waiting for images",
        # The profiler itself makes gaps between kernels; beside step_ms this says how many there are without it.
        **({} if gpu_ms is None else {"gpu_ms": round(gpu_ms, 4)}),
        "hardware": environment.hardware(device.name),
        "versions": environment.versions(),
        "git_commit": environment.git_commit(),
    }


def _train(run: "Run", steps: Batches, count: int) -> float:
    """Make steps and wait for their end; returns the seconds that were spent waiting for images."""
    import torch

    waited = 0.0
    for _ in range(count):
        start = time.perf_counter()
        images, labels = next(steps)
        waited += time.perf_counter() - start
        run.train_step(images, labels)
    if run.device.name == "cuda":
        torch.cuda.synchronize()
    return waited


def _busy_on_gpu(run: "Run", steps: Batches) -> tuple[float | None, float | None]:
    """Share of the time in which the GPU computes, and milliseconds of a step that it does."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        _train(run, steps, PROFILED)
    found = on_gpu(profiled.events() or ())
    torch.cuda.synchronize()
    if not found:
        print(f"{PROG}: the profiler saw no kernel: the driver may not let it", file=sys.stderr)
        return None, None
    busy = covered(found)
    return busy / (max(end for _, end in found) - min(start for start, _ in found)), busy / 1000 / PROFILED


def on_gpu(events: Iterable["FunctionEvent"]) -> list[tuple[float, float]]:
    """Start and end of each kernel and copy, in microseconds."""
    from torch.autograd import DeviceType

    # A range that somebody named, as optimizers do, is shown on the GPU too, with the gaps between its kernels.
    return [
        (event.time_range.start, event.time_range.end)
        for event in events
        if event.device_type == DeviceType.CUDA and not event.is_user_annotation
    ]


def run(arguments: argparse.Namespace) -> int:
    """Measure as the command line says."""
    from checkpoint import write_atomic

    found = measure(arguments)
    text = json.dumps(found, indent=2)
    print(text)
    if arguments.json:
        write_atomic(arguments.json, text + "\n")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    arguments = parser().parse_args(argv)
    return command.finish(PROG, lambda: run(arguments))


if __name__ == "__main__":
    sys.exit(main())
