"""What a run is, as its checkpoint and its config.json say it."""

import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import environment
from batches import Batches
from devices import Device
from engine import Run

from data import Channels, Dataset, ImageSet


def identity(
    model: str,
    seed: int,
    dataset: Dataset,
    run: Run,
    teacher: str | None,
    sync_batch_norm: bool = False,
    *,
    validation: bool = True,
) -> dict[str, Any]:
    """What a checkpoint must share with a run that resumes from it: all that its figures depend on.

    Args:
        model: Name of the network.
        seed: Of weights, split and order.
        dataset: The data.
        run: The run.
        teacher: Hash of the teacher's weights.
        sync_batch_norm: Batch norms see the batches of all processes.
        validation: Training images are held out.
    """
    recipe = run.recipe
    return {
        "network": model,
        "data": dataset.name,
        "data_sha256": dataset.sha256(),
        "recipe": recipe.name,
        **{key: value for key, value in asdict(recipe).items() if key not in ("name", "source")},
        "seed": seed,
        "validation": validation,
        "teacher": teacher,
        "device": run.device.name,
        "precision": _precision(run.device),
        "processes": run.parallel.processes,
        # Alone a process sees the whole batch either way.
        **({"sync_batch_norm": sync_batch_norm} if run.parallel.several else {}),
    }


def config(
    identity: dict[str, Any],
    words: Sequence[str],
    folder: Path,
    dataset: Dataset,
    parts: tuple[ImageSet, ImageSet | None],
    statistics: tuple[Channels, Channels],
    run: Run,
    batches: Batches,
    *,
    workers: int,
    teacher: Path | None,
    sync_batch_norm: bool,
) -> dict[str, Any]:
    """What config.json says.

    Args:
        identity: As above.
        words: The command line.
        folder: The run folder.
        dataset: The data.
        parts: What is trained on, and what is validated with, where something is.
        statistics: Mean and standard deviation of the training images.
        run: The run.
        batches: What it is trained with.
        workers: Processes that augment.
        teacher: Run folder of the teacher.
        sync_batch_norm: Batch norms see the batches of all processes.
    """
    device, recipe = run.device, run.recipe
    (train, validation), (mean, std) = parts, statistics
    return {
        "command": shlex.join(["python", "examples/cifar10/train.py", *words]),
        "name": folder.name,
        "model": identity["network"],
        "parameters": sum(parameter.numel() for parameter in run.model.parameters()),
        "seed": identity["seed"],
        "dataset": dataset.name,
        "dataset_sha256": identity["data_sha256"],
        "classes": list(dataset.classes),
        "images": {"train": len(train), "validation": len(validation or ()), "test": len(dataset.test)},
        "mean": list(mean),
        "std": list(std),
        "mirrored": dataset.mirrored,
        "horizontal_flip": dataset.mirrored and recipe.augment != "none",
        "recipe": asdict(recipe),
        "teacher": None if teacher is None else teacher.resolve().name,
        "steps_per_epoch": len(batches),
        "evaluated_weights": "trained" if run.average is None else "exponential moving average",
        "precision": _precision(device),
        "memory_format": "channels_last",
        "compile": device.compile,
        "graph": device.graph,
        "deterministic": device.deterministic,
        "processes": run.parallel.processes,
        "sync_batch_norm": sync_batch_norm,
        "workers": workers,
        "hardware": environment.hardware(device.name),
        "versions": environment.versions(),
        "git_commit": environment.git_commit(),
    }


def _precision(device: Device) -> str:
    return "bf16" if device.bf16 else "fp32"
