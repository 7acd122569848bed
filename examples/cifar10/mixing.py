"""Mixup and CutMix: each image gets a part of its neighbour, and the same part of the neighbour's class."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from data import SIZE


@dataclass(frozen=True)
class Mix:
    """Which images are mixed, and how strongly.

    Args:
        mixup: Both parameters of the Beta distribution that an image's own share is drawn from; 0 is no mixup.
        cutmix: The same for the area of a rectangle that is taken from the neighbour; 0 is no CutMix. Where both are
            given, an image gets the one or the other with equal chance.
        share: Share of the images that are mixed.
        rising: Epochs over which that share rises from 0 in a straight line; 0 is at once.
    """

    mixup: float = 0.0
    cutmix: float = 0.0
    share: float = 1.0
    rising: int = 0

    def __bool__(self) -> bool:
        return self.share > 0 and (self.mixup > 0 or self.cutmix > 0)

    def share_at(self, epoch: int) -> float:
        """Share of the images that are mixed in an epoch, counted from 0."""
        return self.share * min(1.0, (epoch + 1) / self.rising) if self.rising else self.share


@dataclass(frozen=True)
class Mixture:
    """What was drawn for a number of images.

    Args:
        own: ``(N,)`` float32, how much of itself an image keeps outside its rectangle.
        box: ``(N, 4)`` int64, top, bottom, left and right of the rectangle that it keeps nothing of.
    """

    own: Tensor
    box: Tensor


def draw(mix: Mix, epoch: int, count: int, rng: np.random.Generator) -> Mixture:
    """Draw the mixture of a number of images."""
    cut = rng.random(count) < (0.5 if mix.mixup and mix.cutmix else float(mix.cutmix > 0))
    mixed = rng.random(count) < mix.share_at(epoch)
    blend = rng.beta(mix.mixup, mix.mixup, count) if mix.mixup else np.ones(count)
    area = rng.beta(mix.cutmix, mix.cutmix, count) if mix.cutmix else np.zeros(count)
    box = _boxes(np.where(cut & mixed, area, 0), rng)
    own = np.where(mixed & ~cut, blend, 1)
    return Mixture(torch.from_numpy(own.astype(np.float32)), torch.from_numpy(box))


def _boxes(area: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Squares of an area around a point anywhere in the image; what lies outside is cut off."""
    half = np.sqrt(area) * SIZE / 2
    centre = rng.random((2, len(area))) * SIZE
    edges = [np.rint(centre[axis] + sign * half) for axis in (0, 1) for sign in (-1, 1)]
    return np.stack(edges, 1).clip(0, SIZE).astype(np.int64)


def apply(images: Tensor, labels: Tensor, classes: int, mixture: Mixture) -> tuple[Tensor, Tensor]:
    """Mix each image with the one before it, the first with the last.

    Args:
        images: What is mixed.
        labels: Their classes.
        classes: Number of classes.
        mixture: As much as there are images.

    Shape:
        - images: ``(N, 32, 32, 3)`` uint8
        - labels: ``(N,)`` int64
        - Output: ``(N, 32, 32, 3)`` uint8 and ``(N, classes)`` float32, the share of each class

    Source: H. Zhang et al. 2018, "mixup"; S. Yun et al. 2019, "CutMix".
    """
    top, bottom, left, right = mixture.box[:, :, None].unbind(1)
    place = torch.arange(SIZE, device=images.device)
    rows, columns = (place >= top) & (place < bottom), (place >= left) & (place < right)
    keep = torch.where(rows[:, :, None] & columns[:, None], 0.0, mixture.own[:, None, None])
    # A whole image is kept as it is to the last level, whatever its neighbour.
    blend = torch.lerp(images.roll(1, 0).float(), images.float(), keep[..., None])
    truth = F.one_hot(labels, classes).float()
    share = keep.mean((1, 2))[:, None]
    return blend.round_().to(torch.uint8), torch.lerp(truth.roll(1, 0), truth, share)
