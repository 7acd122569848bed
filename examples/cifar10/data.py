"""Images in memory: what every source is turned into, how it is split, hashed and normalised."""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from errors import UsageError
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split

SIZE = 32
"""Height and width of every image, in pixels."""

Channels = tuple[float, float, float]


@dataclass(frozen=True)
class ImageSet:
    """Images and their classes.

    Args:
        images: ``(N, 32, 32, 3)`` uint8, RGB.
        labels: ``(N,)`` int64, an index into the classes of the dataset.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: NDArray[np.int64]) -> "ImageSet":
        return ImageSet(self.images[index], self.labels[index])


@dataclass(frozen=True)
class Dataset:
    """A named dataset with its published training and test parts.

    Args:
        name: The variant, as it is written beside every accuracy measured on it.
        classes: Class names, in the order of the labels.
        train: What may be trained on or validated with.
        test: What chooses nothing.
        mirrored: True where a mirrored image is still an image of its class.
    """

    name: str
    classes: tuple[str, ...]
    train: ImageSet
    test: ImageSet
    mirrored: bool = True

    def sha256(self) -> str:
        """Hash of every pixel and label: equal where, and only where, the data is equal."""
        digest = hashlib.sha256()
        for part in (self.train, self.test):
            for array in (part.images, part.labels):
                digest.update(f"{array.shape} {array.dtype.str} ".encode())
                digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


def split(images: ImageSet, seed: int) -> tuple[ImageSet, ImageSet]:
    """Split off a stratified validation part: a tenth, and 5,000 images at most.

    Args:
        images: The training part of a dataset.
        seed: Equal seeds give equal splits.

    Returns:
        What is trained on, and what is validated with.

    Raises:
        UsageError: A class has too few images to be in both parts.
    """
    held_out = min(5000, round(len(images) / 10))
    index = np.arange(len(images))
    try:
        parts: list[Any] = train_test_split(index, test_size=held_out, stratify=images.labels, random_state=seed)
    except ValueError as error:
        raise UsageError(
            f"{len(images)} training images are too few for a stratified validation part: {error}"
        ) from None
    chosen, held = (np.sort(part) for part in parts)
    return images.take(chosen), images.take(held)


def channel_statistics(images: NDArray[np.uint8]) -> tuple[Channels, Channels]:
    """Mean and standard deviation of each channel, as fractions of 255, exact to float64.

    Args:
        images: ``(N, H, W, 3)`` uint8.
    """
    levels = np.arange(256) / 255
    mean, std = [], []
    for channel in range(3):
        counts = np.bincount(images[..., channel].reshape(-1), minlength=256)
        centre = float(counts @ levels / counts.sum())
        mean.append(centre)
        std.append(float(np.sqrt(counts @ (levels - centre) ** 2 / counts.sum())))
    return (mean[0], mean[1], mean[2]), (std[0], std[1], std[2])
