"""The augmentation pipelines, uint8 in and uint8 out; normalisation is left to the device."""

import os
import random
import warnings

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import albumentations as A
import cv2
import numpy as np

from data import SIZE, Channels

NAMES = ("gentle", "published", "late", "none")


def build(name: str, mean: Channels, mirrored: bool = True) -> A.Compose:
    """Build a pipeline.

    - ``"gentle"``: flip; shift by up to 4 pixels over a reflected border.
    - ``"published"``: flip; shift, scale and rotate; one 16x16 hole filled with the mean.
    - ``"late"``: the published one, and half of the images grey.
    - ``"none"``: nothing.

    Args:
        name: One of ``NAMES``.
        mean: The data's mean, as fractions of 255, which fills the hole.
        mirrored: False leaves out the flip.

    Raises:
        ValueError: The name is unknown, or albumentations does not take an argument as it is written here.
    """
    if name not in NAMES:
        raise ValueError(f"augmentation {name!r} is none of {', '.join(NAMES)}")
    with warnings.catch_warnings():
        # albumentations only warns of an argument it does not know, and then leaves it out.
        warnings.simplefilter("error")
        try:
            steps = _steps(name, tuple(round(255 * value) for value in mean))
        except UserWarning as warning:
            raise ValueError(f"albumentations {A.__version__} refuses an argument: {warning}") from None
    flip = [A.HorizontalFlip(p=0.5)] if mirrored and name != "none" else []
    return A.Compose([*flip, *steps])


def _steps(name: str, fill: tuple[int, ...]) -> list[A.BasicTransform]:
    if name == "none":
        return []
    if name == "gentle":
        return [A.Pad(padding=4, border_mode=cv2.BORDER_REFLECT_101), A.RandomCrop(SIZE, SIZE)]
    move = A.Affine(
        translate_percent=(-0.0625, 0.0625),
        scale=(0.9, 1.1),
        rotate=(-45, 45),
        keep_ratio=True,
        border_mode=cv2.BORDER_REFLECT_101,
        p=0.5,
    )
    hole = A.CoarseDropout(
        num_holes_range=(1, 1),
        hole_height_range=(16, 16),
        hole_width_range=(16, 16),
        fill=fill,
        fill_mask=None,
        p=0.5,
    )
    grey = [A.ToGray(num_output_channels=3, p=0.5)] if name == "late" else []
    return [move, hole, *grey]


def reseed(pipeline: A.Compose, *key: int) -> None:
    """Make what follows a function of ``key`` alone.

    One stream is shared by all steps: ``Compose.set_random_seed`` gives each step a stream of its own with the same
    seed, and the first image after it is then flipped exactly where it gets a hole.
    """
    entropy = np.random.SeedSequence(key)
    pipeline.set_random_state(
        np.random.default_rng(entropy), random.Random(int(entropy.generate_state(1, np.uint64)[0]))
    )
