"""Training batches as a function of (seed, epoch, index) alone: equal for any number of workers, and after a resume."""

import signal
from collections.abc import Iterator
from typing import Protocol

import mixing
import numpy as np
import pipelines
import torch
from mixing import Mix
from order import Order, alternating_flips
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from data import Channels, ImageSet


class Batches(Protocol):
    """Where training batches come from."""

    order: Order

    def __len__(self) -> int:
        """Batches an epoch."""
        ...

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Batch ``(epoch, index)``: images and labels."""
        ...

    def stream(self, epochs: int, start: tuple[int, int] = (0, 0)) -> Iterator[tuple[Tensor, Tensor]]:
        """All batches from ``(epoch, index)`` to the last epoch's last."""
        ...


class TrainBatches(Dataset[tuple[Tensor, Tensor]]):
    """Shuffled batches that albumentations augments.

    Args:
        images: What is trained on.
        order: How it is cut into batches.
        pipeline: Name of the augmentation.
        mean: The data's mean, which fills holes.
        mirrored: False leaves out flips.
        flip: One of ``recipes.FLIPS``.
        mix: Mixup and CutMix.
        classes: Number of classes.
        workers: Processes that make the batches; 0 makes every batch in this one.
        pin: True where the batches go to a GPU.

    Shape:
        - Item ``(epoch, index)``: images ``(B, 32, 32, 3)`` uint8; labels ``(B,)`` int64, or ``(B, classes)`` float32
          where images are mixed.
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
        workers: int = 0,
        pin: bool = False,
    ) -> None:
        self.workers = workers
        self.pin = pin
        self.images = images
        self.order = order
        mirrored = mirrored and pipelines.choose(pipeline).flip
        self.alternating = mirrored and flip == "alternating"
        # Here, for albumentations and OpenCV are needed by these batches alone: what augments in torch does without.
        import augment

        self.reseed = augment.reseed
        self.pipeline = augment.build(pipeline, mean, mirrored and not self.alternating)
        self.mix = mix or Mix()
        self.classes = classes

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Tensor]:
        epoch, index = key
        order = self.order
        rows = order.epoch(epoch)[index]
        # The first of several processes draws what a single one does.
        stream = (order.seed, epoch, index, *([order.rank] if order.rank else []))
        self.reseed(self.pipeline, *stream)
        chosen = self.images.images[rows]
        if self.alternating:
            mirrored = alternating_flips(order.seed, epoch, order.count)[rows]
            chosen = np.where(mirrored[:, None, None, None], chosen[:, :, ::-1], chosen)
        images = torch.from_numpy(np.stack([self.pipeline(image=image)["image"] for image in chosen]))
        labels = torch.from_numpy(self.images.labels[rows])
        if not self.mix:
            return images, labels
        rng = np.random.default_rng(np.random.SeedSequence(stream, spawn_key=(1,)))
        return mixing.apply(images, labels, self.classes, mixing.draw(self.mix, epoch, len(rows), rng))

    def stream(self, epochs: int, start: tuple[int, int] = (0, 0)) -> Iterator[tuple[Tensor, Tensor]]:
        """All batches from ``(epoch, index)`` to the last epoch's last, made ahead by workers that live as long."""
        first, skip = start
        keys = ((epoch, at) for epoch in range(first, epochs) for at in range(skip if epoch == first else 0, len(self)))
        loader = DataLoader(
            self,
            batch_size=None,
            sampler=keys,
            num_workers=self.workers,
            worker_init_fn=_leave_signals_to_the_parent,
            prefetch_factor=4 if self.workers else None,
            pin_memory=self.pin,
            # Its own generator: making an iterator must not draw from the stream that dropout uses.
            generator=torch.Generator().manual_seed(0),
        )
        return iter(loader)


def _leave_signals_to_the_parent(worker: int) -> None:
    import cv2

    cv2.setNumThreads(0)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
