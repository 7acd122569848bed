"""The loop over epochs, what it prints and what it leaves in the run folder."""

import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import plots
import torch
import views
from batches import Batches
from engine import Run
from interrupt import EXIT_STATUS, Interrupted, StopRequest
from progress import Progress, Row
from rundir import AUGMENTED, BEST, CONFIG, CURVES, LAST, METRICS, RunDir

from data import ImageSet

GRID = 64
"""Augmented images shown in a run folder."""
DRAW_EVERY = 30.0
"""Seconds between two drawings of the curves, which can take as long as an epoch on a small set."""
TIMED = (75.0, 80.0, 82.5, 85.0, 87.5, 90.0, 91.0, 92.0, 92.5, 93.0, 93.5, 94.0)
"""Validation accuracies whose time is noted, in percent."""


class Loop:
    """A run that prints what it does and saves what it has.

    Args:
        run: The network in training, fresh or as a checkpoint left it.
        folder: Where results go.
        identity: What a checkpoint must share with a run that resumes from it.
        config: What config.json says.
        save_every: Seconds between two checkpoints at least: on a GPU an epoch can be shorter than writing one.
    """

    def __init__(
        self, run: Run, folder: RunDir, identity: dict[str, Any], config: dict[str, Any], save_every: float = 0.0
    ) -> None:
        self.run = run
        self.folder = folder
        self.identity = identity
        self.config = config
        self.save_every = save_every
        self._drawn = self._saved = time.monotonic()
        self._best: dict[str, Any] | None = None

    def start(self, classes: Sequence[str], batches: Batches, *, resumed: bool) -> None:
        """Write and print what is known before the first step.

        Raises:
            RunError: The run folder cannot be written.
        """
        if not self.run.parallel.first:
            return
        self.folder.open()
        progress = self.run.progress
        if resumed:
            changing = ("command", "workers", "hardware", "versions", "git_commit")
            self.folder.note_resumption(
                {"epoch": progress.epoch, "step": progress.step, **{key: self.config[key] for key in changing}}
            )
        else:
            self.folder.write_json(CONFIG, self.config)
            images, labels = _first_images(batches)
            title = f"{self.config['dataset']}, augmentation {self.run.recipe.augment}"
            self.folder.write(AUGMENTED, plots.grid(title, images, [classes[int(label)] for label in labels]))
        print(_announcement(self.config))
        at = f", going on in epoch {progress.epoch + 1} after step {progress.step}" if resumed else ""
        if progress.epoch == self.run.recipe.epochs:
            at = ", already finished"
        print(f"results   {self.folder.path}{at}", flush=True)

    def go(
        self, batches: Batches, val: ImageSet | None, test: ImageSet, stop: StopRequest, *, views: bool = True
    ) -> int:
        """Train to the last epoch, or until a signal asks to stop.

        Args:
            batches: Training images.
            val: Held-out images, classified after each epoch; None where all are trained on.
            test: Test images, the same; without held-out ones after the last epoch alone.
            stop: Says whether one has.
            views: Classify those with test-time augmentation too, after the last epoch.

        Returns:
            The exit status: 0, or 130 after a signal.

        Raises:
            RunError: The loss is not finite, or a file cannot be written.
        """
        run, epochs = self.run, self.run.recipe.epochs
        start = run.progress.epoch, run.progress.step
        if run.progress.epoch < epochs:
            run.prepare(*batches[start[0], 0])
        source = batches.stream(epochs, start)
        try:
            while run.progress.epoch < epochs:
                run.train_epoch(source, stop, bar=sys.stderr.isatty() and run.parallel.first)
                row = run.finish_epoch(val, test, stop)
                self._keep_best()
                if time.monotonic() - self._saved > self.save_every:
                    self._save()
                if run.parallel.first:
                    print(_epoch_line(row, epochs), flush=True)
            if start[0] < epochs:
                self._save()
            averaged = self._test_time_augmentation(test, stop) if views else {}
        except Interrupted:
            run.gather()
            self._save()
            if run.parallel.first:
                self._say_interrupted()
            return EXIT_STATUS
        if run.parallel.first:
            self._save_results(averaged)
            self._draw_curves()
            self._say_finished(averaged)
        return 0

    def _test_time_augmentation(self, test: ImageSet, stop: StopRequest) -> dict[str, dict[str, float]]:
        """Figures of the last epoch with test-time augmentation."""
        if not self.run.parallel.first:
            return {}
        found = {kind: self.run.evaluate(test, stop, kind) for kind in views.NAMES[1:]}
        return {kind: {"test_loss": round(loss, 4), "test_acc": round(acc, 4)} for kind, (loss, acc) in found.items()}

    def _keep_best(self) -> None:
        progress = self.run.progress
        if progress.best() is progress.history[-1]:
            weights = {key: value.clone() for key, value in self.run.evaluated.state_dict().items()}
            about = self._about() | {"epoch": progress.epoch}
            self._best = {"identity": self.identity, "config": about, "weights": weights}

    def _save(self) -> None:
        if not self.run.parallel.first:
            return
        # In this order a crash in between leaves nothing that a resumed run does not write again.
        if self._best is not None:
            self.folder.save(BEST, self._best)
            self._best = None
        self.folder.save(LAST, {"identity": self.identity, "config": self._about(), **self.run.state()})
        if self.run.progress.history:
            self._save_results()
        if time.monotonic() - self._drawn > DRAW_EVERY:
            self._draw_curves()
        self._saved = time.monotonic()

    def _about(self) -> dict[str, Any]:
        return {key: self.config[key] for key in ("model", "dataset", "classes", "mean", "std", "seed")}

    def _save_results(self, averaged: dict[str, dict[str, float]] | None = None) -> None:
        self.folder.write_log(self.run.progress.history)
        self.folder.write_json(METRICS, _metrics(self.config, self.run.progress, averaged))

    def _say_interrupted(self) -> None:
        progress = self.run.progress
        if progress.history:
            self._draw_curves()
        print(
            f"train.py: interrupted in epoch {progress.epoch + 1} after step {progress.step}; saved to "
            f"{self.folder.path / LAST}, go on with --resume",
            file=sys.stderr,
        )

    def _say_finished(self, averaged: dict[str, dict[str, float]]) -> None:
        last, best = self.run.progress.history[-1], self.run.progress.best()
        chosen = best and (
            f", {best['test_acc']:.2f} % at the best validation accuracy "
            f"({best['val_acc']:.2f} %, epoch {best['epoch']:.0f})"
        )
        for kind, figures in averaged.items():
            print(f"with test-time augmentation ({kind}): test accuracy {figures['test_acc']:.2f} %")
        print(
            f"{self.config['dataset']}: test accuracy {last['test_acc']:.2f} % after the last epoch{chosen or ''}",
            flush=True,
        )

    def _draw_curves(self) -> None:
        title = f"{self.config['model']}, {self.config['recipe']['name']} recipe, {self.config['dataset']}"
        self.folder.write(CURVES, plots.curves(title, self.run.progress.history))
        self._drawn = time.monotonic()


def _first_images(batches: Batches) -> tuple[np.ndarray, np.ndarray]:
    count = min(len(batches), -(-GRID // batches.order.part))
    first = [batches[0, index] for index in range(count)]
    images, labels = (torch.cat(part)[:GRID].cpu() for part in zip(*first, strict=True))
    return images.numpy(), (labels if labels.ndim == 1 else labels.argmax(1)).numpy()


def _metrics(
    config: dict[str, Any], progress: Progress, averaged: dict[str, dict[str, float]] | None
) -> dict[str, Any]:
    history = progress.history
    images = config["steps_per_epoch"] * min(config["recipe"]["batch_size"], config["images"]["train"])
    best = progress.best()
    copied = (
        *("model", "parameters", "dataset", "dataset_sha256", "images", "seed"),
        *("evaluated_weights", "precision", "hardware"),
    )
    return {
        **{key: config[key] for key in copied},
        "recipe": config["recipe"]["name"],
        "epochs": len(history),
        "finished": len(history) == config["recipe"]["epochs"],
        "last_epoch": _accuracies(history[-1]),
        "best_on_validation": best and _accuracies(best),
        **({"test_time_augmentation": averaged} if averaged else {}),
        "first_reached_on_validation": best and progress.first_reached(TIMED),
        "prepare_seconds": round(progress.prepare_seconds, 2),
        "train_seconds": round(sum(row["train_seconds"] for row in history), 2),
        "wall_time_s": round(sum(row["seconds"] for row in history), 1),
        "images_per_s": round(images * len(history) / sum(row["train_seconds"] for row in history), 1),
    }


def _accuracies(row: Row) -> dict[str, float]:
    kept = ("train_loss", "train_acc", "val_loss", "val_acc", "test_loss", "test_acc")
    return {"epoch": int(row["epoch"]), **{key: round(row[key], 4) for key in kept if key in row}}


def _announcement(config: dict[str, Any]) -> str:
    recipe, hardware, images = config["recipe"], config["hardware"], config["images"]
    flips = "" if config["horizontal_flip"] else " without flips"
    return (
        f"data      {config['dataset']}: "
        f"{images['train']} train, {images['validation']} validation, {images['test']} test\n"
        f"network   {config['model']}, {config['parameters']:,} parameters; "
        f"evaluated are the {config['evaluated_weights']} weights\n"
        f"recipe    {recipe['name']}: {recipe['epochs']} epochs of {config['steps_per_epoch']} steps, "
        f"{recipe['optimizer']}, lr {recipe['lr']:g}, {recipe['schedule']}, batch {recipe['batch_size']}, "
        f"augmentation {recipe['augment']}{flips} by {recipe['augment_with']}\n"
        f"computer  {hardware.get('gpu', hardware['cpu'])}, {config['precision']}, {config['memory_format']}, "
        f"{hardware['threads']} threads, {config['workers']} workers, {config['processes']} process(es)"
    )


def _epoch_line(row: Row, epochs: int) -> str:
    evaluated = "".join(f"{part} {row[f'{part}_acc']:6.2f} %  " for part in ("val", "test") if f"{part}_acc" in row)
    return (
        f"epoch {row['epoch']:>3.0f}/{epochs}  lr {row['lr']:.5f}  "
        f"train {row['train_loss']:.4f} {row['train_acc']:6.2f} %  {evaluated}"
        f"{row['images_per_s']:.0f} images/s  {row['seconds']:.1f} s"
    )
