"""From a command line to a finished run folder."""

import argparse
import os
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import devices
import environment
import models
import numpy as np
import parallel
import recipes
import report
import settings
import sources
import torch
import torch.distributed as dist
import trained
from batches import Batches, TrainBatches
from checkpoint import require_same
from devices import Device
from engine import Run
from errors import RunError, UsageError
from interrupt import StopRequest
from loop import Loop
from mixing import Mix
from order import Order
from parallel import Parallel
from recipes import Recipe
from resident import ResidentBatches
from rundir import LAST, RunDir, run_name
from timm.layers import convert_sync_batchnorm
from torch import Tensor

from data import Dataset, ImageSet, channel_statistics, split

CHANGES = (
    *("epochs", "batch_size", "optimizer", "lr", "weight_decay", "label_smoothing", "augment", "augment_with", "flip"),
    *("mixup", "cutmix", "mix_share", "mix_rising", "ema_decay", "temperature"),
)
"""Options that change the recipe."""

DISTILL = 0.5
"""Weight of a teacher where the command line says none."""


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
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    options = {key: getattr(arguments, key) for key in ("compile", "graph", "deterministic")}
    device = devices.choose(arguments.device, arguments.precision, **options)
    try:
        return _train(arguments, words, device, parallel.start(device.name))
    except RuntimeError as error:
        if not _lost_touch(error):
            raise
        rank, processes = (os.environ.get(name, "?") for name in ("RANK", "WORLD_SIZE"))
        reason = str(error).splitlines()[0].split(". ")[0]
        raise RunError(f"process {rank} of {processes} has lost another one: {reason}") from None
    finally:
        parallel.leave()


def _lost_touch(error: RuntimeError) -> bool:
    """Whether this is what a process that is no longer there does to the others: gloo has no exception for it."""
    several = "TORCHELASTIC_RUN_ID" in os.environ
    return several and (isinstance(error, dist.DistError) or "gloo" in str(error).lower())


def _train(arguments: argparse.Namespace, words: Sequence[str], device: Device, job: Parallel) -> int:
    _require_fit(arguments, device, job)
    path = _folder(arguments)
    resume, overwrite = arguments.resume, arguments.overwrite
    if job.restarts:
        # torchrun repeats the command line; what lies there by now is what this job wrote before it was restarted.
        resume, overwrite = (path / LAST).exists(), not (path / LAST).exists()
    folder = RunDir(path, resume=resume, overwrite=overwrite, ours=job.first)
    dataset, warning = job.first_then_all(lambda: sources.load(arguments.dataset, arguments.data_dir))
    if warning and job.first:
        print(f"train.py: {warning}", file=sys.stderr, flush=True)
    teacher = _teacher(arguments, dataset, device)
    recipe = asked_recipe(arguments, digits=dataset.name == sources.DIGITS)
    train_set, val_set = split(dataset.train, arguments.seed) if arguments.validation else (dataset.train, None)
    statistics = channel_statistics(train_set.images)
    workers = 0 if recipe.augment_with == "torch" else _workers(arguments.workers)
    order = Order(len(train_set), recipe.batch_size, arguments.seed, job.rank, job.processes)
    batches = _batches(train_set, order, recipe, dataset, statistics[0], device, workers)

    random.seed(arguments.seed)
    np.random.seed(arguments.seed)
    torch.manual_seed(arguments.seed)
    model = models.build(arguments.model, len(dataset.classes), recipe.dropout)
    if arguments.sync_batch_norm:
        # timm's, because torch's leaves out the activation of timm's norms that have one.
        model = convert_sync_batchnorm(model)
    run = Run(model, recipe, len(batches), statistics, device, job, _teach(teacher))

    taught_by = None if teacher is None else trained.weights_sha256(teacher)
    identity = settings.identity(
        arguments.model,
        arguments.seed,
        dataset,
        run,
        taught_by,
        arguments.sync_batch_norm,
        validation=arguments.validation,
    )
    config = settings.config(
        identity,
        words,
        path,
        dataset,
        (train_set, val_set),
        statistics,
        run,
        batches,
        workers=workers,
        teacher=arguments.teacher,
        sync_batch_norm=arguments.sync_batch_norm,
    )
    if resume:
        state = folder.load(LAST)
        # Checkpoints from before there was a choice say nothing of it: all runs held images out.
        require_same(path / LAST, {"validation": True, **state.get("identity", {})}, identity)
        run.load_state(state)
    loop = Loop(run, folder, identity, config, arguments.save_every)
    views = arguments.test_time_augmentation and dataset.mirrored
    # From before the run is announced: whoever reads that may ask it to stop.
    with StopRequest() as stop:
        loop.start(dataset.classes, batches, resumed=resume)
        status = loop.go(batches, val_set, dataset.test, stop, views=views)
    if status == 0 and arguments.report and job.first:
        _report(path, None if dataset.name == sources.DIGITS else arguments.data_dir, device)
    return status


def _require_fit(arguments: argparse.Namespace, device: Device, job: Parallel) -> None:
    if device.graph and job.several:
        raise UsageError("--graph is for one process; several exchange gradients in the middle of a step")
    if arguments.sync_batch_norm and device.name != "cuda":
        raise UsageError("--sync-batch-norm: torch's SyncBatchNorm needs GPUs, and this runs on the CPU")
    if arguments.distill is not None and arguments.teacher is None:
        raise UsageError("--distill needs a teacher: --teacher runs/<name>")


def _batches(
    images: ImageSet,
    order: Order,
    recipe: Recipe,
    dataset: Dataset,
    mean: tuple[float, float, float],
    device: Device,
    workers: int,
) -> Batches:
    mix = Mix(recipe.mixup, recipe.cutmix, recipe.mix_share, recipe.epochs if recipe.mix_rising else 0)
    options: dict[str, Any] = {"flip": recipe.flip, "mix": mix, "classes": len(dataset.classes)}
    common = images, order, recipe.augment, mean, dataset.mirrored
    if recipe.augment_with == "torch":
        return ResidentBatches(*common, **options, device=device.name)
    return TrainBatches(*common, **options, workers=workers, pin=device.name == "cuda")


def _teacher(arguments: argparse.Namespace, dataset: Dataset, device: Device) -> trained.Trained | None:
    if arguments.teacher is None:
        return None
    precision = "bf16" if device.bf16 else "fp32"
    found = trained.load(arguments.teacher, device=device.name, precision=precision, deterministic=device.deterministic)
    if found.classes != dataset.classes:
        raise UsageError(
            f"--teacher {arguments.teacher} knows the classes {', '.join(found.classes)}, "
            f"not those of {dataset.name}: {', '.join(dataset.classes)}"
        )
    return found


def _teach(teacher: trained.Trained | None) -> Callable[[Tensor], Tensor] | None:
    if teacher is None:
        return None

    @torch.no_grad()
    def teach(images: Tensor) -> Tensor:
        return teacher.run.logits(teacher.model, images)

    return teach


def _report(path: Path, data_dir: Path | None, device: Device) -> None:
    try:
        print(f"report    {report.write(path, data_dir=data_dir, device=device.name)}", flush=True)
    except (UsageError, RunError) as error:
        # The run is complete without it.
        print(f"train.py: the run is finished, but its report cannot be written: {error}", file=sys.stderr)


def _folder(arguments: argparse.Namespace) -> Path:
    if arguments.resume and arguments.overwrite:
        raise UsageError("--resume and --overwrite exclude each other")
    name = arguments.name
    if name is None:
        name = run_name(arguments.model, arguments.recipe, arguments.seed, validation=arguments.validation)
    if name in ("", "..") or name != Path(name).name:
        raise UsageError(f"--name {name!r} is not the name of a folder; the folder above it is --run-dir")
    return arguments.run_dir / name


def asked_recipe(arguments: argparse.Namespace, *, digits: bool) -> Recipe:
    """The recipe that a command line names, with the changes that it makes.

    Args:
        arguments: The parsed command line.
        digits: The data are the digits.

    Raises:
        UsageError: There is no such recipe, or it does not fit the rest.
    """
    recipe = recipes.choose(arguments.recipe, arguments.model, digits=digits)
    changes = {key: getattr(arguments, key) for key in CHANGES if getattr(arguments, key) is not None}
    if arguments.teacher is not None:
        changes["distill"] = DISTILL if arguments.distill is None else arguments.distill
    recipe = replace(recipe, **changes)
    if recipe.schedule == "plateau" and not arguments.validation:
        raise UsageError(
            f"--no-validation does not fit --recipe {arguments.recipe} of --model {arguments.model}, whose learning "
            "rate falls by the validation loss (schedule 'plateau'); leave it out, or use another recipe, as "
            "--recipe modern"
        )
    return recipe


def _workers(asked: int | None) -> int:
    return min(8, environment.cpus() // 2) if asked is None else asked
