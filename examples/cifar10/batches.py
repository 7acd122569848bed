"""Training batches as a function of (seed, epoch, index) alone: equal for any number of workers, and after a resume."""

import signal
from collections.abc import Iterator

import augment
import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from data import Channels, ImageSet


class TrainBatches(Dataset[tuple[Tensor, Tensor]]):
    """Shuffled, augmented batches.

    An epoch drops the images that do not fill a batch (others each time); fewer images than a batch are one batch.

    Args:
        images: What is trained on.
        batch_size: Images a batch.
        seed: Seed of order and augmentation.
        pipeline: Name of the augmentation.
        mean: The data's mean, which fills holes.
        mirrored: False leaves out flips.

    Shape:
        - Item ``(epoch, index)``: images ``(B, 32, 32, 3)`` uint8, labels ``(B,)`` int64.
    """

    def __init__(
        self, images: ImageSet, batch_size: int, seed: int, pipeline: str, mean: Channels, mirrored: bool = True
    ) -> None:
        self.images = images
        self.batch_size = min(batch_size, len(images))
        self.seed = seed
        self.pipeline = augment.build(pipeline, mean, mirrored)
        self._order: tuple[int, np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.images) // self.batch_size

    def order(self, epoch: int) -> np.ndarray:
        """The permutation of an epoch, kept until another epoch is asked for."""
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, np.random.default_rng([self.seed, epoch]).permutation(len(self.images))
        return self._order[1]

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Tensor]:
        epoch, index = key
        rows = self.order(epoch)[index * self.batch_size : (index + 1) * self.batch_size]
        augment.reseed(self.pipeline, self.seed, epoch, index)
        images = np.stack([self.pipeline(image=image)["image"] for image in self.images.images[rows]])
        return torch.from_numpy(images), torch.from_numpy(self.images.labels[rows])


def stream(
    batches: TrainBatches, epochs: int, *, start: tuple[int, int] = (0, 0), workers: int = 0, pin_memory: bool = False
) -> Iterator[tuple[Tensor, Tensor]]:
    """All batches from ``start`` to the last epoch's last, made ahead by worker processes that live as long.

    Args:
        batches: The batches.
        epochs: Epochs of the whole run.
        start: Epoch and index of the first batch.
        workers: Processes; 0 makes every batch in this one.
        pin_memory: True where the batches go to a GPU.
    """
    first, skip = start
    keys = (
        (epoch, index) for epoch in range(first, epochs) for index in range(skip if epoch == first else 0, len(batches))
    )
    loader = DataLoader(
        batches,
        batch_size=None,
        sampler=keys,
        num_workers=workers,
        worker_init_fn=_leave_signals_to_the_parent,
        prefetch_factor=4 if workers else None,
        pin_memory=pin_memory,
        # Its own generator: making an iterator must not draw from the stream that dropout uses.
        generator=torch.Generator().manual_seed(0),
    )
    return iter(loader)


def _leave_signals_to_the_parent(worker: int) -> None:
    cv2.setNumThreads(0)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
