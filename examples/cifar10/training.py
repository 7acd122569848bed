"""From a command line to a finished run folder."""

import argparse
import os
import random
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import environment
import models
import numpy as np
import recipes
import sources
import torch
from batches import Batches, TrainBatches
from checkpoint import require_same
from engine import Device, Run
from errors import UsageError
from loop import Loop
from mixing import Mix
from order import Order
from recipes import Recipe
from resident import ResidentBatches
from rundir import LAST, RunDir

from data import channel_statistics, split

CHANGES = (
    *("epochs", "batch_size", "lr", "weight_decay", "label_smoothing", "augment", "augment_with", "flip"),
    *("mixup", "cutmix", "mix_share", "mix_rising", "ema_decay"),
)
"""Options that change the recipe."""


def train(arguments: argparse.Namespace, words: Sequence[str]) -> int:
    """Train as the command line says.

    Args:
        arguments: The parsed command line.
        words: The command line itself, for the record.

    Returns:
        The exit status: 0, or 130 where a signal stopped the run.

    Raises:
        UsageError: The command line, the data or a checkpoint does not fit.
        RunError: The run fails.
    """
    models.require_known(arguments.model)
    folder = RunDir(_folder(arguments), resume=arguments.resume, overwrite=arguments.overwrite)
    device = _device(arguments)
    dataset, warning = sources.load(arguments.dataset, arguments.data_dir)
    if warning:
        print(f"train.py: {warning}", file=sys.stderr, flush=True)
    recipe = _recipe(arguments, digits=dataset.name == sources.DIGITS)
    train_set, val_set = split(dataset.train, arguments.seed)
    mean, std = channel_statistics(train_set.images)
    order = Order(len(train_set), recipe.batch_size, arguments.seed)
    mix = Mix(recipe.mixup, recipe.cutmix, recipe.mix_share, recipe.epochs if recipe.mix_rising else 0)
    options: dict[str, Any] = {"flip": recipe.flip, "mix": mix, "classes": len(dataset.classes)}
    common = train_set, order, recipe.augment, mean, dataset.mirrored
    if recipe.augment_with == "torch":
        batches: Batches = ResidentBatches(*common, **options, device=device.name)
        workers = 0
    else:
        batches = TrainBatches(*common, **options, workers=_workers(arguments.workers), pin=device.name == "cuda")
        workers = batches.workers

    random.seed(arguments.seed)
    np.random.seed(arguments.seed)
    torch.manual_seed(arguments.seed)
    model = models.build(arguments.model, len(dataset.classes), recipe.dropout)
    run = Run(model, recipe, len(batches), (mean, std), device)

    identity = {
        "network": arguments.model,
        "data": dataset.name,
        "data_sha256": dataset.sha256(),
        "recipe": recipe.name,
        **{key: value for key, value in asdict(recipe).items() if key not in ("name", "source")},
        "seed": arguments.seed,
        "device": device.name,
        "precision": "bf16" if device.bf16 else "fp32",
    }
    config: dict[str, Any] = {
        "command": shlex.join(["python", "examples/cifar10/train.py", *words]),
        "name": folder.path.name,
        "model": arguments.model,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "seed": arguments.seed,
        "dataset": dataset.name,
        "dataset_sha256": identity["data_sha256"],
        "classes": list(dataset.classes),
        "images": {"train": len(train_set), "validation": len(val_set), "test": len(dataset.test)},
        "mean": list(mean),
        "std": list(std),
        "horizontal_flip": dataset.mirrored and recipe.augment != "none",
        "recipe": asdict(recipe),
        "steps_per_epoch": len(batches),
        "evaluated_weights": "trained" if run.average is None else "exponential moving average",
        "precision": identity["precision"],
        "memory_format": "channels_last",
        "compile": device.compile,
        "workers": workers,
        "hardware": environment.hardware(device.name),
        "versions": environment.versions(),
        "git_commit": environment.git_commit(),
    }
    if arguments.resume:
        state = folder.load(LAST)
        require_same(folder.path / LAST, state.get("identity", {}), identity)
        run.load_state(state)
    loop = Loop(run, folder, identity, config)
    loop.start(dataset.classes, batches, resumed=arguments.resume)
    return loop.go(batches, val_set, dataset.test)


def _folder(arguments: argparse.Namespace) -> Path:
    if arguments.resume and arguments.overwrite:
        raise UsageError("--resume and --overwrite exclude each other")
    name = arguments.name
    if name is None:
        name = f"{arguments.model}-{arguments.recipe}-{arguments.seed}"
    if name in ("", "..") or name != Path(name).name:
        raise UsageError(f"--name {name!r} is not the name of a folder; the folder above it is --run-dir")
    return arguments.run_dir / name


def _recipe(arguments: argparse.Namespace, *, digits: bool) -> Recipe:
    recipe = recipes.choose(arguments.recipe, arguments.model, digits=digits)
    return replace(recipe, **{key: getattr(arguments, key) for key in CHANGES if getattr(arguments, key) is not None})


def _device(arguments: argparse.Namespace) -> Device:
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    name = arguments.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    elif name == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: torch sees no GPU here")
    if name == "cuda":
        # What a resumed run needs to be the run that was interrupted; tiny networks lose little by it.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
    bf16 = arguments.precision == "bf16" or (arguments.precision == "auto" and environment.bf16_is_fast(name))
    return Device(name, bf16, arguments.compile)


def _workers(asked: int | None) -> int:
    return min(8, environment.cpus() // 2) if asked is None else asked
