"""Training batches made on the training device: the whole uint8 set lies there, and whole epochs are augmented there.

What is random is drawn on the CPU and sent over, so that every device shows the network the same pictures.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from typing import Any

import mixing
import numpy as np
import pipelines
import torch
import torch.nn.functional as F
from mixing import Mix, Mixture
from order import Order, alternating_flips
from pipelines import Augmentation
from torch import Tensor

from data import SIZE, Channels, ImageSet

CHUNK = 4096
"""Images augmented at once: enough to fill a GPU, few enough that the first step of an epoch need not wait."""

CENTRE = (SIZE - 1) / 2


@dataclass(frozen=True)
class Draws:
    """What was drawn for a number of images; None where the pipeline has no such step.

    Args:
        flip: ``(N,)`` bool.
        matrix: ``(N, 2, 3)`` float32, from a pixel of the result to one of the image, from centre to centre.
        crop: ``(N, 2)`` int64, rows and columns that the crop moves by.
        hole: ``(N, 2)`` int64, its first row and column; outside the image where there is none.
        grey: ``(N,)`` bool.
        mixture: Of mixup and CutMix.
    """

    flip: Tensor | None = None
    matrix: Tensor | None = None
    crop: Tensor | None = None
    hole: Tensor | None = None
    grey: Tensor | None = None
    mixture: Mixture | None = None

    def to(self, device: str) -> "Draws":
        if device == "cpu":
            return self
        # From memory that is not pinned the copy would wait for all steps that are under way.
        return self._each(lambda tensor: tensor.pin_memory().to(device, non_blocking=True))

    def __getitem__(self, part: slice | Tensor) -> "Draws":
        return self._each(lambda tensor: tensor[part])

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Draws":
        made: dict[str, Any] = {}
        for field in fields(self):
            value: Tensor | Mixture | None = getattr(self, field.name)
            if isinstance(value, Mixture):
                made[field.name] = Mixture(change(value.own), change(value.box))
            elif value is not None:
                made[field.name] = change(value)
        return Draws(**made)


def draw(chosen: Augmentation, count: int, rng: np.random.Generator) -> Draws:
    """Draw what happens to a number of images."""
    made: dict[str, Any] = {}
    if chosen.flip:
        made["flip"] = torch.from_numpy(rng.random(count) < 0.5)
    if chosen.affine:
        made["matrix"] = torch.from_numpy(_matrices(chosen, count, rng))
    if chosen.crop:
        made["crop"] = torch.from_numpy(rng.integers(-chosen.crop, chosen.crop, (count, 2), endpoint=True))
    if chosen.hole:
        place = rng.integers(0, SIZE - chosen.hole, (count, 2), endpoint=True)
        taken = rng.random((count, 1)) < chosen.hole_share
        made["hole"] = torch.from_numpy(np.where(taken, place, SIZE))
    if chosen.grey:
        made["grey"] = torch.from_numpy(rng.random(count) < chosen.grey)
    return Draws(**made)


def _matrices(chosen: Augmentation, count: int, rng: np.random.Generator) -> np.ndarray:
    angle = np.radians(rng.uniform(-chosen.rotate, chosen.rotate, count))
    scale = rng.uniform(1 - chosen.scale, 1 + chosen.scale, count)
    # Cut to whole pixels, as albumentations does.
    shift = np.trunc(rng.uniform(-chosen.shift, chosen.shift, (count, 2)) * SIZE)
    taken = rng.random(count) < chosen.affine
    return inverse(np.where(taken, angle, 0), np.where(taken, scale, 1), np.where(taken[:, None], shift, 0))


def inverse(angle: np.ndarray, scale: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Of turning by an angle (radians, from x to y), scaling about the centre, and then shifting by ``(x, y)`` pixels.

    Returns:
        ``(N, 2, 3)`` float32: of ``(x, y, 1)``, measured from the centre of the result, to ``(x, y)`` from that of the
        image.
    """
    cos, sin = np.cos(angle) / scale, np.sin(angle) / scale
    linear = np.stack([np.stack([cos, sin], -1), np.stack([-sin, cos], -1)], -2)
    return np.concatenate([linear, -linear @ shift[..., None]], -1).astype(np.float32)


def apply(chosen: Augmentation, images: Tensor, draws: Draws, fill: Tensor) -> Tensor:
    """Augment images with what was drawn for them.

    Args:
        chosen: The pipeline.
        images: ``(N, 32, 32, 3)`` uint8, on any device.
        draws: As much as there are images, on the same device.
        fill: ``(3,)`` uint8, what holes are filled with.

    Returns:
        ``(N, 32, 32, 3)`` uint8.
    """
    place = torch.arange(SIZE, device=images.device)
    if draws.matrix is not None:
        if draws.flip is not None:
            images = torch.where(draws.flip[:, None, None, None], images.flip(2), images)
        images = _move(images, draws.matrix)
    if draws.crop is not None or (draws.flip is not None and draws.matrix is None):
        rows = columns = place.expand(len(images), SIZE)
        if draws.crop is not None:
            rows, columns = (_reflect(place + by[:, None]) for by in draws.crop.unbind(1))
        if draws.flip is not None and draws.matrix is None:
            # Flip and crop are one look-up.
            columns = torch.where(draws.flip[:, None], SIZE - 1 - columns, columns)
        number = torch.arange(len(images), device=images.device)
        images = images[number[:, None, None], rows[:, :, None], columns[:, None]]
    if draws.hole is not None:
        inside = [(place >= first[:, None]) & (place < first[:, None] + chosen.hole) for first in draws.hole.unbind(1)]
        images = torch.where((inside[0][:, :, None] & inside[1][:, None])[..., None], fill, images)
    if draws.grey is not None:
        weights = torch.tensor([0.299, 0.587, 0.114], device=images.device)
        grey = (images.float() * weights).sum(-1, keepdim=True).round_().to(torch.uint8)
        images = torch.where(draws.grey[:, None, None, None], grey, images)
    return images


def _reflect(place: Tensor) -> Tensor:
    """Reflect about the centres of the outermost pixels: ``2 1 | 0 1 2``."""
    return SIZE - 1 - (SIZE - 1 - place.abs()).abs()


def _move(images: Tensor, matrix: Tensor) -> Tensor:
    offset = torch.arange(SIZE, device=images.device) - CENTRE
    y, x = torch.meshgrid(offset, offset, indexing="ij")
    points = torch.stack([x, y, torch.ones_like(x)], -1).view(-1, 3)
    grid = (points @ matrix.transpose(1, 2)).view(-1, SIZE, SIZE, 2) / CENTRE
    pixels = images.permute(0, 3, 1, 2).float()
    moved = F.grid_sample(pixels, grid, mode="bilinear", padding_mode="reflection", align_corners=True)
    return moved.round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


class ResidentBatches:
    """Shuffled, augmented batches of a set that lies on the device.

    Args:
        images: What is trained on.
        order: How it is cut into batches.
        pipeline: Name of the augmentation.
        mean: The data's mean, which fills holes.
        mirrored: False leaves out flips.
        flip: One of ``recipes.FLIPS``.
        mix: Mixup and CutMix.
        classes: Number of classes.
        device: Where the batches are made.
    """

    def __init__(
        self,
        images: ImageSet,
        order: Order,
        pipeline: str,
        mean: Channels,
        mirrored: bool = True,
        *,
        flip: str = "random",
        mix: Mix | None = None,
        classes: int = 10,
        device: str = "cpu",
    ) -> None:
        chosen = pipelines.choose(pipeline)
        self.chosen = replace(chosen, flip=chosen.flip and mirrored)
        self.order = order
        self.alternating = flip == "alternating" and self.chosen.flip
        self.mix = mix or Mix()
        self.classes = classes
        self.device = device
        self.images = torch.from_numpy(images.images).to(device)
        self.labels = torch.from_numpy(images.labels).to(device)
        self.fill = torch.tensor([round(255 * value) for value in mean], dtype=torch.uint8, device=device)

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Batch ``(epoch, index)``, as it comes in the stream."""
        return next(self.stream(key[0] + 1, key))

    def draws(self, epoch: int) -> Draws:
        """What happens to the images of an epoch, in the order of its rows."""
        # Of all processes together, so that what happens to an image does not depend on who computes it.
        order = self.order
        rng = np.random.default_rng([order.seed, epoch, 1])
        number = len(order) * order.batch_size
        made = draw(self.chosen, number, rng)
        if self.mix:
            made = replace(made, mixture=mixing.draw(self.mix, epoch, number, rng))
        if order.part < order.batch_size:
            places = torch.arange(number).view(len(order), order.batch_size // order.part, order.part)
            made = made[places[:, order.rank].reshape(-1)]
        if self.alternating:
            mirrored = alternating_flips(order.seed, epoch, order.count)[order.epoch(epoch).reshape(-1)]
            made = replace(made, flip=torch.from_numpy(mirrored))
        return made

    def stream(self, epochs: int, start: tuple[int, int] = (0, 0)) -> Iterator[tuple[Tensor, Tensor]]:
        """All batches from ``(epoch, index)`` to the last epoch's last, on the device.

        Returns:
            Images ``(B, 32, 32, 3)`` uint8; labels ``(B,)`` int64, or ``(B, classes)`` float32 where images are mixed.
        """
        part = self.order.part
        # Whole batches, so that a resumed run mixes the same neighbours.
        chunk = max(1, CHUNK // part)
        for epoch, (order, drawn) in enumerate(self._drawn_ahead(range(start[0], epochs)), start[0]):
            draws = drawn.to(self.device)
            rows = order if self.device == "cpu" else order.pin_memory().to(self.device, non_blocking=True)
            skip = start[1] if epoch == start[0] else 0
            for first in range(skip - skip % chunk, len(self), chunk):
                images, labels = self._make(rows[first : first + chunk], draws[first * part : (first + chunk) * part])
                yield from list(zip(images.split(part), labels.split(part), strict=True))[max(0, skip - first) :]

    def _drawn_ahead(self, epochs: range) -> Iterator[tuple[Tensor, Draws]]:
        """Rows and draws of each epoch, made during the one before it: a GPU would wait for them."""

        def make(epoch: int) -> tuple[Tensor, Draws]:
            return torch.from_numpy(np.ascontiguousarray(self.order.epoch(epoch))), self.draws(epoch)

        with ThreadPoolExecutor(1) as beside:
            ahead = None
            for epoch in epochs:
                made = make(epoch) if ahead is None else ahead.result()
                ahead = beside.submit(make, epoch + 1) if epoch + 1 in epochs else None
                yield made

    def _make(self, rows: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        chosen = rows.reshape(-1)
        images, labels = apply(self.chosen, self.images[chosen], draws, self.fill), self.labels[chosen]
        if draws.mixture is None:
            return images, labels
        return mixing.apply(images, labels, self.classes, draws.mixture)
