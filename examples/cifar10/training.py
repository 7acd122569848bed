"""From a command line to a finished run folder."""

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import environment
import models
import numpy as np
import plots
import recipes
import sources
import torch
from batches import TrainBatches, stream
from checkpoint import require_same
from engine import Device, Row, Run
from errors import UsageError
from interrupt import EXIT_STATUS, Interrupted, StopRequest
from rundir import AUGMENTED, BEST, CONFIG, CURVES, LAST, METRICS, RunDir

from data import Dataset, ImageSet, channel_statistics, split

CHANGES = ("epochs", "batch_size", "lr", "weight_decay", "label_smoothing", "augment")


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
    if arguments.resume and arguments.overwrite:
        raise UsageError("--resume and --overwrite exclude each other")
    name = arguments.name or f"{arguments.model}-{arguments.recipe}-{arguments.seed}"
    if name != os.path.basename(name) or name in ("", ".", ".."):
        raise UsageError(f"--name {name!r} is not the name of a folder; the folder above it is --run-dir")
    folder = RunDir(arguments.run_dir / name, resume=arguments.resume, overwrite=arguments.overwrite)
    device = _device(arguments)
    dataset, warning = sources.load(arguments.dataset, arguments.data_dir)
    if warning:
        print(f"train.py: {warning}", file=sys.stderr, flush=True)

    recipe = recipes.choose(arguments.recipe, arguments.model, digits=dataset.name == sources.DIGITS)
    recipe = replace(recipe, **{key: getattr(arguments, key) for key in CHANGES if getattr(arguments, key) is not None})
    train_set, val_set = split(dataset.train, arguments.seed)
    statistics = channel_statistics(train_set.images)
    batches = TrainBatches(
        train_set, recipe.batch_size, arguments.seed, recipe.augment, statistics[0], dataset.mirrored
    )
    torch.manual_seed(arguments.seed)
    model = models.build(arguments.model, len(dataset.classes), recipe.dropout)
    run = Run(model, recipe, len(batches), statistics, device)

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
    workers = _workers(arguments.workers)
    config = {
        "command": shlex.join(["python", "examples/cifar10/train.py", *words]),
        "name": name,
        "model": arguments.model,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "seed": arguments.seed,
        "dataset": dataset.name,
        "dataset_sha256": identity["data_sha256"],
        "classes": dataset.classes,
        "images": {"train": len(train_set), "validation": len(val_set), "test": len(dataset.test)},
        "mean": statistics[0],
        "std": statistics[1],
        "mirrored": dataset.mirrored,
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
        require_same(folder.path / LAST, state["identity"], identity)
        run.load_state(state)
    folder.open()
    folder.write_json(CONFIG, config)
    if not arguments.resume:
        folder.write(AUGMENTED, _augmented_grid(dataset, batches))
    _announce(config, folder, run)
    return _Loop(run, folder, identity, config).go(batches, val_set, dataset.test, workers)


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
    if asked is not None:
        return asked
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(8, cpus // 2)


def _augmented_grid(dataset: Dataset, batches: TrainBatches) -> bytes:
    pairs = [batches[0, index] for index in range(min(len(batches), -(-64 // batches.batch_size)))]
    images = np.concatenate([images.numpy() for images, _ in pairs])[:64]
    labels = np.concatenate([labels.numpy() for _, labels in pairs])[:64]
    return plots.grid(dataset.name, images, [dataset.classes[label] for label in labels])


def _announce(config: dict[str, Any], folder: RunDir, run: Run) -> None:
    recipe, hardware, images = config["recipe"], config["hardware"], config["images"]
    print(
        f"data      {config['dataset']}: {images['train']} train, {images['validation']} validation, {images['test']} test"
    )
    print(
        f"network   {config['model']}, {config['parameters']:,} parameters; {config['evaluated_weights']} weights are evaluated"
    )
    print(
        f"recipe    {recipe['name']}: {recipe['epochs']} epochs of {config['steps_per_epoch']} steps, {recipe['optimizer']}, "
        f"lr {recipe['lr']:g}, {recipe['schedule']}, batch {recipe['batch_size']}, augmentation {recipe['augment']}"
        f"{'' if config['mirrored'] else ' without flips'}"
    )
    print(
        f"computer  {hardware.get('gpu', hardware['cpu'])}, {config['precision']}, channels_last, "
        f"{hardware['threads']} threads, {config['workers']} workers"
    )
    done = run.progress
    at = f" (going on after epoch {done.epoch}, step {done.step})" if done.epoch or done.step else ""
    print(f"results   {folder.path}{at}", flush=True)


class _Loop:
    """The loop over epochs, and what is written after each."""

    def __init__(self, run: Run, folder: RunDir, identity: dict[str, Any], config: dict[str, Any]) -> None:
        self.run = run
        self.folder = folder
        self.identity = identity
        self.config = config

    def go(self, batches: TrainBatches, val: ImageSet, test: ImageSet, workers: int) -> int:
        run, epochs = self.run, self.run.recipe.epochs
        bar = sys.stderr.isatty()
        with StopRequest() as stop:
            start = run.progress.epoch, run.progress.step
            source = stream(batches, epochs, start=start, workers=workers, pin_memory=run.device.name == "cuda")
            try:
                while run.progress.epoch < epochs:
                    run.train_epoch(source, stop, bar=bar)
                    row = run.finish_epoch(val, test, stop)
                    print(_line(row, epochs), flush=True)
                    self.save()
            except Interrupted:
                self.save_checkpoint()
                print(
                    f"train.py: interrupted in epoch {run.progress.epoch + 1} after step {run.progress.step}; saved to "
                    f"{self.folder.path / LAST}, go on with --resume",
                    file=sys.stderr,
                )
                return EXIT_STATUS
        self.save_results()
        last, best = run.progress.history[-1], run.progress.best()
        print(
            f"{self.config['dataset']}: test accuracy {last['test_acc']:.2f} % after the last epoch, {best['test_acc']:.2f} % "
            f"at the best validation accuracy ({best['val_acc']:.2f} %, epoch {best['epoch']:.0f})"
        )
        return 0

    def save(self) -> None:
        """After an epoch: first the best weights, then the state, then what is made from it."""
        progress = self.run.progress
        if progress.best() is progress.history[-1]:
            weights = self.run.evaluated.state_dict()
            self.folder.save(BEST, {"identity": self.identity, "config": self.plain_config(), "weights": weights})
        self.save_checkpoint()
        self.save_results()

    def save_checkpoint(self) -> None:
        self.folder.save(LAST, {"identity": self.identity, **self.run.state()})

    def plain_config(self) -> dict[str, Any]:
        keys = ("model", "dataset", "classes", "mean", "std", "seed")
        return {key: self.config[key] for key in keys} | {"epoch": self.run.progress.epoch}

    def save_results(self) -> None:
        history = self.run.progress.history
        self.folder.write_log(history)
        self.folder.write_json(METRICS, self.metrics())
        title = f"{self.config['model']}, {self.config['recipe']['name']} recipe, {self.config['dataset']}"
        self.folder.write(CURVES, plots.curves(title, history))

    def metrics(self) -> dict[str, Any]:
        """The run in figures, with no path of the machine."""
        history = self.run.progress.history
        config = self.config
        images = config["steps_per_epoch"] * min(config["recipe"]["batch_size"], config["images"]["train"])
        return {
            "model": config["model"],
            "parameters": config["parameters"],
            "recipe": config["recipe"]["name"],
            "dataset": config["dataset"],
            "dataset_sha256": config["dataset_sha256"],
            "seed": config["seed"],
            "evaluated_weights": config["evaluated_weights"],
            "epochs": len(history),
            "finished": len(history) == self.run.recipe.epochs,
            "last_epoch": _accuracies(history[-1]),
            "best_on_validation": _accuracies(self.run.progress.best()),
            "wall_time_s": round(sum(row["seconds"] for row in history), 1),
            "images_per_s": round(images * len(history) / sum(row["train_seconds"] for row in history), 1),
            "precision": config["precision"],
            "hardware": config["hardware"],
        }


def _accuracies(row: Row) -> dict[str, float]:
    kept = ("train_loss", "train_acc", "val_loss", "val_acc", "test_loss", "test_acc")
    return {"epoch": int(row["epoch"]), **{key: round(row[key], 4) for key in kept}}


def _line(row: Row, epochs: int) -> str:
    return (
        f"epoch {row['epoch']:>3.0f}/{epochs}  lr {row['lr']:.5f}  train {row['train_loss']:.4f} {row['train_acc']:6.2f} %  "
        f"val {row['val_acc']:6.2f} %  test {row['test_acc']:6.2f} %  {row['images_per_s']:.0f} images/s  {row['seconds']:.1f} s"
    )
