"""Loss and accuracy of a trained network, over all images and class by class."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
import views
from numpy.typing import NDArray
from trained import BATCH, Trained

from data import ImageSet


@dataclass(frozen=True)
class Evaluation:
    """What a network makes of labelled images.

    Args:
        loss: Mean cross entropy.
        logits: ``(N, classes)`` float32.
        labels: ``(N,)`` int64.
    """

    loss: float
    logits: NDArray[np.float32]
    labels: NDArray[np.int64]

    @property
    def probabilities(self) -> NDArray[np.float32]:
        return torch.from_numpy(self.logits).softmax(1).numpy()

    @property
    def predictions(self) -> NDArray[np.int64]:
        # Of the logits, as in training: softmax can round two of them to one value.
        return self.logits.argmax(1)

    @property
    def accuracy(self) -> float:
        """Top-1, in percent."""
        return 100 * float((self.predictions == self.labels).sum() / len(self.labels))

    def class_accuracy(self, label: int) -> tuple[int, float]:
        """Number of images of a class, and the share of them that is recognised, in percent."""
        own = self.labels == label
        count = int(own.sum())
        return count, 100 * float((self.predictions[own] == label).sum()) / count


def evaluate(trained: Trained, images: ImageSet, *, tta: str = "none") -> Evaluation:
    """Classify images whose classes are known.

    Args:
        trained: The network.
        images: The images.
        tta: Test-time augmentation, one of ``views.NAMES``.
    """
    loss_sum, every = 0.0, []
    for start in range(0, len(images), BATCH):
        pixels = torch.from_numpy(images.images[start : start + BATCH])
        labels = torch.from_numpy(images.labels[start : start + BATCH]).to(trained.device.name)
        shown = views.views(pixels, tta)
        logits = torch.stack([weight * trained.logits(view.numpy()) for weight, view in shown]).sum(0)
        loss_sum += float(F.cross_entropy(logits, labels, reduction="sum"))
        every.append(logits.cpu().numpy())
    return Evaluation(loss_sum / len(images), np.concatenate(every), images.labels)
