"""One run: its state, an epoch of training, an evaluation, and all of it as a checkpoint."""

import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import checkpoint
import numpy as np
import torch
import torch.nn.functional as F
from errors import RunError
from interrupt import StopRequest
from optim import make_average, make_optimizer, make_schedule
from recipes import Recipe
from torch import Tensor, nn
from tqdm import tqdm

from data import Channels, ImageSet

Row = dict[str, float]
CHECK_EVERY = {"cpu": 1, "cuda": 50}
"""Steps between two looks at the loss: a look makes the host wait for a GPU."""


@dataclass
class Progress:
    """How far a run is.

    Args:
        epoch: Finished epochs.
        step: Steps made in the epoch that is under way.
        seconds: Time spent on the epoch that is under way.
        sums: Loss, correct images and images of the epoch that is under way.
        history: A row for every finished epoch.
    """

    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    sums: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    history: list[Row] = field(default_factory=list)

    def best(self) -> Row:
        """The first of the epochs that did best on the validation part."""
        return max(self.history, key=lambda row: row["val_acc"])


@dataclass(frozen=True)
class Device:
    """Where and how numbers are computed."""

    name: str
    bf16: bool = False
    compile: bool = False


class Run:
    """A network in training.

    Args:
        model: The network, on the CPU.
        recipe: How it is trained.
        steps_per_epoch: Batches an epoch.
        statistics: The data's mean and standard deviation, as fractions of 255.
        device: Where it is trained.
    """

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe,
        steps_per_epoch: int,
        statistics: tuple[Channels, Channels],
        device: Device,
    ) -> None:
        self.recipe = recipe
        self.device = device
        self.steps_per_epoch = steps_per_epoch
        self.model = model.to(device.name, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.average = make_average(recipe, self.model)
        self.optimizer = make_optimizer(recipe, self.model)
        self.schedule = make_schedule(recipe, self.optimizer, steps_per_epoch)
        self.progress = Progress()
        mean, std = (torch.tensor(values, device=device.name).view(1, 3, 1, 1) * 255 for values in statistics)
        self._scale, self._shift = 1 / std, -mean / std
        if device.compile:
            self.model.compile()
            if self.average is not None:
                self.average.module.compile()

    @property
    def lr(self) -> float:
        """The learning rate of the next step."""
        return self.optimizer.param_groups[0]["lr"]

    @property
    def evaluated(self) -> nn.Module:
        """The weights that count: the averaged ones where there are some."""
        return self.model if self.average is None else self.average.module

    def logits(self, model: nn.Module, images: Tensor) -> Tensor:
        """Normalise ``(N, 32, 32, 3)`` uint8 images on the device and classify them: ``(N, classes)`` float32."""
        # The permutation alone makes them channels_last: nothing is copied.
        pixels = images.to(self.device.name, non_blocking=True).permute(0, 3, 1, 2).float()
        with torch.autocast(self.device.name, torch.bfloat16, enabled=self.device.bf16):
            return model(torch.addcmul(self._shift, pixels, self._scale)).float()

    def train_epoch(self, batches: Iterator[tuple[Tensor, Tensor]], stop: StopRequest, *, bar: bool = False) -> None:
        """Make the steps that the epoch under way still lacks.

        Raises:
            Interrupted: A stop was asked for; what is done is in ``progress``.
            RunError: The loss is not finite.
        """
        self.model.train()
        progress = self.progress
        sums = torch.tensor(progress.sums[:2], dtype=torch.float64, device=self.device.name)
        seen = progress.sums[2]
        start = time.perf_counter() - progress.seconds
        title = f"epoch {progress.epoch + 1}/{self.recipe.epochs}"
        meter = tqdm(total=self.steps_per_epoch, initial=progress.step, desc=title, leave=False, disable=not bar)
        try:
            with meter:
                while progress.step < self.steps_per_epoch:
                    stop.check()
                    images, labels = next(batches)
                    sums += self._train_step(images, labels.to(self.device.name, non_blocking=True))
                    progress.step += 1
                    seen += len(labels)
                    speed = seen / (time.perf_counter() - start)
                    meter.set_postfix_str(f"{speed:.0f} images/s, lr {self.lr:.5f}", refresh=False)
                    meter.update()
                    if progress.step % CHECK_EVERY[self.device.name] == 0 or progress.step == self.steps_per_epoch:
                        self._require_finite(float(sums[0]))
        finally:
            progress.sums = [*sums.tolist(), seen]
            progress.seconds = time.perf_counter() - start

    def _train_step(self, images: Tensor, labels: Tensor) -> Tensor:
        logits = self.logits(self.model, images)
        loss = F.cross_entropy(logits, labels, label_smoothing=self.recipe.label_smoothing)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.schedule.after_step()
        if self.average is not None:
            done = self.progress.epoch * self.steps_per_epoch + self.progress.step
            self.average.update(done)
        # Of a mixed image the class that it has most of.
        truth = labels if labels.ndim == 1 else labels.argmax(1)
        correct = (logits.detach().argmax(1) == truth).sum()
        return torch.stack([loss.detach() * len(labels), correct]).double()

    def _require_finite(self, loss_sum: float) -> None:
        if not math.isfinite(loss_sum):
            raise RunError(
                f"the loss is no longer finite in epoch {self.progress.epoch + 1}, by step {self.progress.step}, at "
                f"learning rate {self.lr:.4g}; the last good checkpoint is kept. A lower --lr may help"
            )

    @torch.no_grad()
    def evaluate(self, images: ImageSet, stop: StopRequest, batch_size: int = 1000) -> tuple[float, float]:
        """Mean loss and accuracy in percent, of the weights that count.

        Raises:
            Interrupted: A stop was asked for.
        """
        model = self.evaluated.eval()
        total = np.zeros(2)
        for start in range(0, len(images), batch_size):
            stop.check()
            labels = torch.from_numpy(images.labels[start : start + batch_size]).to(self.device.name)
            logits = self.logits(model, torch.from_numpy(images.images[start : start + batch_size]))
            loss = F.cross_entropy(logits, labels, reduction="sum")
            total += float(loss), float((logits.argmax(1) == labels).sum())
        loss_sum, correct = total / len(images)
        return float(loss_sum), 100 * float(correct)

    def finish_epoch(self, val: ImageSet, test: ImageSet, stop: StopRequest) -> Row:
        """Evaluate, note the epoch, and move the schedule. The test part is only noted: it decides nothing.

        Raises:
            Interrupted: A stop was asked for; the epoch's evaluation is made anew when the run goes on.
            RunError: The validation loss is not finite: the epoch's last steps broke the weights.
        """
        start = time.perf_counter()
        lr = self.lr
        val_loss, val_acc = self.evaluate(val, stop)
        self._require_finite(val_loss)
        test_loss, test_acc = self.evaluate(test, stop)
        progress = self.progress
        loss_sum, correct, number = progress.sums
        row: Row = {
            "epoch": progress.epoch + 1,
            "lr": lr,
            "train_loss": loss_sum / number,
            "train_acc": 100 * correct / number,
            "val_loss": val_loss,
            "val_acc": val_acc,
            "test_loss": test_loss,
            "test_acc": test_acc,
            "images_per_s": number / progress.seconds,
            "train_seconds": progress.seconds,
            "seconds": progress.seconds + time.perf_counter() - start,
        }
        self.schedule.after_epoch(val_loss)
        self.progress = Progress(epoch=progress.epoch + 1, history=[*progress.history, row])
        return row

    def state(self) -> dict[str, Any]:
        """Everything that what follows depends on, as tensors and plain values."""
        return {
            "model": self.model.state_dict(),
            "average": None if self.average is None else self.average.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.scheduler.state_dict(),
            "random": checkpoint.random_state(),
            "progress": asdict(self.progress),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Put back what ``state`` gave."""
        self.model.load_state_dict(state["model"])
        if self.average is not None:
            self.average.module.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.scheduler.load_state_dict(state["schedule"])
        checkpoint.set_random_state(state["random"])
        self.progress = Progress(**state["progress"])
