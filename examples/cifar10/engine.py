"""One run: its state, an epoch of training, an evaluation, and all of it as a checkpoint."""

import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import checkpoint
import torch
import torch.nn.functional as F
import views
from devices import Device
from errors import RunError
from graph import Graphed
from interrupt import Interrupted, StopRequest
from losses import distillation
from optim import make_average, make_optimizer, make_schedule
from parallel import Parallel
from progress import Progress, Row
from recipes import Recipe
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from data import Channels, ImageSet

CHECK_EVERY = {"cpu": 1, "cuda": 200}
"""Steps between two looks at the loss: a look makes the host wait for a GPU."""
EVALUATED_AT_ONCE = 1000
"""Images of an evaluation's batch: another number changes the last digits of a figure."""


class Run:
    """A network in training.

    Args:
        model: The network, on the CPU.
        recipe: How it is trained.
        steps_per_epoch: Batches an epoch.
        statistics: The data's mean and standard deviation, as fractions of 255.
        device: Where it is trained.
        parallel: The processes that train it together.
        teacher: Gives the logits that the network learns from besides the labels, for uint8 images on the device.
    """

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe,
        steps_per_epoch: int,
        statistics: tuple[Channels, Channels],
        device: Device,
        parallel: Parallel | None = None,
        teacher: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.recipe = recipe
        self.device = device
        self.steps_per_epoch = steps_per_epoch
        self.parallel = parallel or Parallel()
        self.teacher = teacher
        self.model = model.to(device.name, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.average = make_average(recipe, self.model)
        self.optimizer = make_optimizer(recipe, self.model)
        self.schedule = make_schedule(recipe, self.optimizer, steps_per_epoch)
        self.progress = Progress()
        mean, std = (torch.tensor(values, device=device.name).view(1, 3, 1, 1) * 255 for values in statistics)
        self._scale, self._shift = 1 / std, -mean / std
        self._resident: dict[int, tuple[ImageSet, Tensor, Tensor]] = {}
        if device.compile:
            self.model.compile()
            if self.average is not None:
                self.average.module.compile()
        self._trained = self.model
        if self.parallel.several:
            ids = [self.parallel.local_rank] if device.name == "cuda" else None
            self._trained = DistributedDataParallel(self.model, device_ids=ids)
        self._graphed = Graphed(self._pass, self.model.parameters()) if device.graph else None

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

    def prepare(self, images: Tensor, labels: Tensor) -> None:
        """Compile, capture and let libraries set themselves up on a batch, and leave everything else as it is."""
        if self.device.name == "cpu" and not self.device.compile:
            return
        start = time.perf_counter()
        before = copy.deepcopy(self.state())
        self.model.train()
        self._passes(images, labels.to(self.device.name))
        with torch.no_grad():
            self.logits(self.evaluated.eval(), images.new_zeros((EVALUATED_AT_ONCE, *images.shape[1:])))
        if self._graphed is None:
            self.optimizer.zero_grad()
        self.load_state(before)
        if self.device.name == "cuda":
            torch.cuda.synchronize()
        self.progress.prepare_seconds += time.perf_counter() - start

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
        every = CHECK_EVERY[self.device.name]
        try:
            with meter:
                while progress.step < self.steps_per_epoch:
                    if not self.parallel.several:
                        stop.check()
                    images, labels = next(batches)
                    sums += self.train_step(images, labels.to(self.device.name, non_blocking=True))
                    progress.step += 1
                    seen += len(labels)
                    if bar:
                        speed = seen / (time.perf_counter() - start)
                        meter.set_postfix_str(f"{speed:.0f} images/s, lr {self.lr:.5f}", refresh=False)
                        meter.update()
                    if progress.step % every == 0 or progress.step == self.steps_per_epoch:
                        self._agree(float(sums[0]), stop)
        finally:
            progress.sums = [*sums.tolist(), seen]
            progress.seconds = time.perf_counter() - start

    def _agree(self, loss_sum: float, stop: StopRequest) -> None:
        """Go on only where every process can: one that stopped alone would leave the others waiting for it."""
        if not self.parallel.several:
            return self._require_finite(loss_sum)
        asked, broken = self.parallel.any(stop.requested, not math.isfinite(loss_sum))
        self._require_finite(math.nan if broken else loss_sum)
        if asked:
            raise Interrupted
        return None

    def train_step(self, images: Tensor, labels: Tensor) -> Tensor:
        """Make a step; returns the sum of the losses, and the number of images that are right, on the device."""
        sums = self._passes(images, labels)
        self.optimizer.step()
        self.schedule.after_step()
        if self.average is not None:
            self.average.update(self.progress.epoch * self.steps_per_epoch + self.progress.step)
        return sums

    def _passes(self, images: Tensor, labels: Tensor) -> Tensor:
        if self._graphed is not None:
            return self._graphed(images, labels)
        self.optimizer.zero_grad()
        return self._pass(images, labels)

    def _pass(self, images: Tensor, labels: Tensor) -> Tensor:
        """Forward and backward pass; returns the sum of the losses, and the number of images that are right."""
        logits = self.logits(self._trained, images)
        loss = F.cross_entropy(logits, labels, label_smoothing=self.recipe.label_smoothing)
        if self.teacher is not None:
            taught = distillation(logits, self.teacher(images), self.recipe.temperature)
            loss = torch.lerp(loss, taught, self.recipe.distill)
        loss.backward()
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
    def evaluate(self, images: ImageSet, stop: StopRequest, tta: str = "none") -> tuple[float, float]:
        """Mean loss and accuracy in percent, of the weights that count.

        Args:
            images: What is classified. It stays on the device from then on.
            stop: Is looked at between two batches.
            tta: Test-time augmentation, one of ``views.NAMES``.

        Raises:
            Interrupted: A stop was asked for.
        """
        model = self.evaluated.eval()
        every, truth = self._on_device(images)
        total = torch.zeros(2, dtype=torch.float64, device=self.device.name)
        for pixels, labels in zip(every.split(EVALUATED_AT_ONCE), truth.split(EVALUATED_AT_ONCE), strict=True):
            stop.check()
            logits = torch.stack([weight * self.logits(model, view) for weight, view in views.views(pixels, tta)]).sum(
                0
            )
            loss = F.cross_entropy(logits, labels, reduction="sum")
            total += torch.stack([loss, (logits.argmax(1) == labels).sum()]).double()
        loss_sum, correct = total.tolist()
        return loss_sum / len(images), 100 * (correct / len(images))

    def _on_device(self, images: ImageSet) -> tuple[Tensor, Tensor]:
        if id(images) not in self._resident:
            pixels, labels = (torch.from_numpy(part).to(self.device.name) for part in (images.images, images.labels))
            # The set itself is kept as well, or its id could become that of another.
            self._resident[id(images)] = images, pixels, labels
        return self._resident[id(images)][1:]

    def finish_epoch(self, val: ImageSet | None, test: ImageSet, stop: StopRequest) -> Row:
        """Evaluate, note the epoch, and move the schedule. The test part is only noted: it decides nothing.

        Without a validation part nothing is classified before the last epoch is over.

        Raises:
            Interrupted: A stop was asked for; the epoch's evaluation is made anew when the run goes on.
            RunError: The loss or the weights are not finite: the epoch's last steps broke them.
        """
        start = time.perf_counter()
        lr = self.lr
        self.gather()
        # Among several processes one that stopped here would leave the others waiting for it.
        stop = StopRequest() if self.parallel.several else stop
        progress = self.progress
        parts = {} if val is None else {"val": val}
        if val is not None or progress.epoch + 1 == self.recipe.epochs:
            parts["test"] = test
        found = self.parallel.from_first(
            lambda: [figure for part in parts.values() for figure in self.evaluate(part, stop)]
        )
        self._require_finite(found[0] if found else self._sum_of_weights())
        evaluated = dict(zip([f"{part}_{kind}" for part in parts for kind in ("loss", "acc")], found, strict=True))
        loss_sum, correct, number = progress.sums
        row: Row = {
            "epoch": progress.epoch + 1,
            "lr": lr,
            "train_loss": loss_sum / number,
            "train_acc": 100 * correct / number,
            **evaluated,
            "images_per_s": number / progress.seconds,
            "train_seconds": progress.seconds,
            "seconds": progress.seconds + time.perf_counter() - start,
        }
        self.schedule.after_epoch(evaluated.get("val_loss"))
        self.progress = Progress(
            epoch=progress.epoch + 1, history=[*progress.history, row], prepare_seconds=progress.prepare_seconds
        )
        return row

    def _sum_of_weights(self) -> float:
        """Not finite where one of them is not."""
        return float(torch.stack([weight.detach().sum() for weight in self.evaluated.parameters()]).sum())

    def gather(self) -> None:
        """Put together what the processes have counted in the epoch under way."""
        self.progress.sums = self.parallel.total(self.progress.sums)

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
        if not self.parallel.first:
            # What the first process has put together is its to carry on, and the others' dropout must be their own.
            self.progress.sums = [0.0, 0.0, 0.0]
            torch.manual_seed(self.progress.epoch * self.parallel.processes + self.parallel.rank)
