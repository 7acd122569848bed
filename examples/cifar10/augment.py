"""The pipelines of pipelines.py in albumentations, uint8 in and uint8 out; normalisation is left to the device."""

import os
import random
import warnings

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import albumentations as A
import cv2
import numpy as np
import pipelines
from pipelines import Augmentation

from data import SIZE, Channels


def build(name: str, mean: Channels, mirrored: bool = True) -> A.Compose:
    """Build a pipeline.

    Args:
        name: One of ``pipelines.NAMES``.
        mean: The data's mean, as fractions of 255, which fills the hole.
        mirrored: False leaves out the flip.

    Raises:
        ValueError: The name is unknown, or albumentations does not take an argument as it is written here.
    """
    chosen = pipelines.choose(name)
    with warnings.catch_warnings():
        # albumentations only warns of an argument it does not know, and then leaves it out.
        warnings.simplefilter("error")
        try:
            steps = _steps(chosen, tuple(round(255 * value) for value in mean))
        except UserWarning as warning:
            raise ValueError(f"albumentations {A.__version__} refuses an argument: {warning}") from None
    flip = [A.HorizontalFlip(p=0.5)] if mirrored and chosen.flip else []
    return A.Compose([*flip, *steps])


def _steps(chosen: Augmentation, fill: tuple[int, ...]) -> list[A.BasicTransform]:
    steps: list[A.BasicTransform] = []
    if chosen.affine:
        move = A.Affine(
            translate_percent=(-chosen.shift, chosen.shift),
            scale=(1 - chosen.scale, 1 + chosen.scale),
            rotate=(-chosen.rotate, chosen.rotate),
            keep_ratio=True,
            border_mode=cv2.BORDER_REFLECT_101,
            p=chosen.affine,
        )
        steps.append(move)
    if chosen.crop:
        steps += [A.Pad(padding=chosen.crop, border_mode=cv2.BORDER_REFLECT_101), A.RandomCrop(SIZE, SIZE)]
    if chosen.hole:
        hole = A.CoarseDropout(
            num_holes_range=(1, 1),
            hole_height_range=(chosen.hole, chosen.hole),
            hole_width_range=(chosen.hole, chosen.hole),
            fill=fill,
            fill_mask=None,
            p=chosen.hole_share,
        )
        steps.append(hole)
    if chosen.grey:
        steps.append(A.ToGray(num_output_channels=3, p=chosen.grey))
    return steps


def reseed(pipeline: A.Compose, *key: int) -> None:
    """Make what follows a function of ``key`` alone.

    One stream is shared by all steps: ``Compose.set_random_seed`` gives each step a stream of its own with the same
    seed, and the first image after it is then flipped exactly where it gets a hole.
    """
    entropy = np.random.SeedSequence(key)
    pipeline.set_random_state(
        np.random.default_rng(entropy), random.Random(int(entropy.generate_state(1, np.uint64)[0]))
    )
