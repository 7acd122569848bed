"""Augmentation in torch against albumentations: the same pictures where the draws are the same, the same distribution
of draws, and batches that do not depend on where a run was resumed or how many processes share it."""

import random
import threading
from typing import Any

import albumentations as A
import augment
import cv2
import numpy as np
import pipelines
import pytest
import resident
import torch
from hypothesis import given
from hypothesis import strategies as st
from mixing import Mix
from order import Order, alternating_flips
from pipelines import Augmentation
from resident import Draws, ResidentBatches
from scipy import stats

from data import ImageSet

MEAN = (0.4914, 0.4822, 0.4465)
FILL = torch.tensor([125, 123, 114], dtype=torch.uint8)
TRIALS = 3000
IMAGE = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
SMOOTH = cv2.GaussianBlur(IMAGE, (0, 0), 1.5)


def applied(chosen: Augmentation, image: np.ndarray, **draws: Any) -> np.ndarray:
    return resident.apply(chosen, torch.from_numpy(image)[None], Draws(**draws), FILL)[0].numpy()


def by_albumentations(*steps: A.BasicTransform, image: np.ndarray = IMAGE) -> np.ndarray:
    return A.Compose(list(steps))(image=image)["image"]


@given(st.floats(-45, 45), st.floats(0.8, 1.25), st.integers(-3, 3), st.integers(-3, 3), st.booleans())
def test_affine_is_that_of_albumentations(angle: float, scale: float, x: int, y: int, flip: bool) -> None:
    turn = A.Affine(
        rotate=(angle, angle),
        scale=(scale, scale),
        translate_px={"x": (x, x), "y": (y, y)},
        border_mode=cv2.BORDER_REFLECT_101,
        p=1,
    )
    expected = by_albumentations(A.HorizontalFlip(p=float(flip)), turn, image=SMOOTH)
    # albumentations turns the other way round: from y to x.
    matrix = resident.inverse(np.radians([-angle]), np.array([scale]), np.array([[x, y]]))
    made = applied(pipelines.choose("published"), SMOOTH, matrix=torch.from_numpy(matrix), flip=torch.tensor([flip]))
    # OpenCV rounds the place between two pixels to 1/32.
    assert np.abs(made.astype(int) - expected).max() <= 3


@given(st.integers(-4, 4), st.integers(-4, 4), st.booleans())
def test_flip_and_crop_are_those_of_numpy(y: int, x: int, flip: bool) -> None:
    flipped = IMAGE[:, ::-1] if flip else IMAGE
    expected = np.pad(flipped, ((4, 4), (4, 4), (0, 0)), mode="reflect")[4 + y : 36 + y, 4 + x : 36 + x]
    made = applied(pipelines.choose("gentle"), IMAGE, flip=torch.tensor([flip]), crop=torch.tensor([[y, x]]))
    assert np.array_equal(made, expected)


@given(st.integers(0, 16), st.integers(0, 16))
def test_hole_is_filled_with_the_mean(y: int, x: int) -> None:
    expected = IMAGE.copy()
    expected[y : y + 16, x : x + 16] = FILL
    assert np.array_equal(applied(pipelines.choose("published"), IMAGE, hole=torch.tensor([[y, x]])), expected)


def test_no_hole_and_no_grey_change_nothing() -> None:
    chosen = pipelines.choose("late")
    assert np.array_equal(applied(chosen, IMAGE, hole=torch.tensor([[32, 32]]), grey=torch.tensor([False])), IMAGE)


def test_grey_is_that_of_albumentations() -> None:
    made = applied(pipelines.choose("late"), IMAGE, grey=torch.tensor([True])).astype(int)
    assert np.abs(made - by_albumentations(A.ToGray(num_output_channels=3, p=1))).max() <= 1


def draws(name: str) -> Draws:
    return resident.draw(pipelines.choose(name), TRIALS, np.random.default_rng(0))


def test_affine_is_drawn_as_albumentations_draws() -> None:
    (affine,) = (step for step in augment.build("published", MEAN).transforms if isinstance(step, A.Affine))
    affine.set_random_state(np.random.default_rng(0), random.Random(0))
    expected = []
    for _ in range(TRIALS):
        matrix = affine.get_params_dependent_on_data({"shape": (32, 32, 3)}, {})["matrix"]
        expected.append(_facts(matrix[:2, :2], matrix[:2] @ [15.5, 15.5, 1] - 15.5))
    drawn = draws("published").matrix
    assert drawn is not None
    own = []
    for matrix in drawn.numpy().astype(float):
        linear = np.linalg.inv(matrix[:, :2])
        own.append(_facts(linear, -linear @ matrix[:, 2]))
    taken = np.array(own)[np.abs(np.array(own) - [1, 0, 0, 0]).max(1) > 1e-6]
    assert len(taken) / TRIALS == pytest.approx(0.5, abs=0.04)
    for column in range(4):
        # Rounded: shifts are whole pixels but for the last digits.
        columns = (np.round(part[:, column], 4) for part in (taken, np.array(expected)))
        assert stats.ks_2samp(*columns).pvalue > 0.001, column


def _facts(linear: np.ndarray, shift: np.ndarray) -> tuple[float, ...]:
    """Scale, angle and shift of an affine map."""
    return np.sqrt(np.linalg.det(linear)), np.degrees(np.arctan2(linear[1, 0], linear[0, 0])), *shift


@pytest.mark.parametrize("name", ["gentle", "published", "late", "cutout"])
def test_pictures_are_distributed_as_those_of_albumentations(name: str) -> None:
    """Mean and spread of every pixel, over many draws of one image."""
    chosen = pipelines.choose(name)
    pipeline = augment.build(name, MEAN)
    augment.reseed(pipeline, 0)
    expected = np.stack([pipeline(image=SMOOTH)["image"] for _ in range(TRIALS)]).astype(np.float32)
    images = torch.from_numpy(SMOOTH).expand(TRIALS, 32, 32, 3)
    made = resident.apply(chosen, images, draws(name), FILL).numpy().astype(np.float32)
    spread = np.sqrt((expected.var(0) + made.var(0)) / TRIALS)
    distance = np.abs(expected.mean(0) - made.mean(0)) / np.maximum(spread, 0.05)
    # 3,072 pixels that are far from independent: none beyond five standard errors, and the typical one within one.
    assert distance.max() < 5
    assert np.sqrt((distance**2).mean()) < 1.5
    assert made.std(0) == pytest.approx(expected.std(0), rel=0.15, abs=1)


@pytest.mark.parametrize(
    ("name", "quantity", "share"), [("published", "hole", 0.5), ("cutout", "hole", 1.0), ("late", "grey", 0.5)]
)
def test_shares_are_those_of_the_pipeline(name: str, quantity: str, share: float) -> None:
    drawn = getattr(draws(name), quantity)
    taken = drawn if drawn.ndim == 1 else (drawn < 32).all(1)
    assert taken.float().mean() == pytest.approx(share, abs=0.04)
    if drawn.ndim == 2:
        side = pipelines.choose(name).hole
        assert set(drawn[taken].flatten().tolist()) == set(range(32 - side + 1))


def make(count: int = 70, batch_size: int = 16, pipeline: str = "late", **options: Any) -> ResidentBatches:
    pixels = np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    order = Order(count, batch_size, 0, options.pop("rank", 0), options.pop("processes", 1))
    images = ImageSet(pixels, np.arange(count))
    return ResidentBatches(images, order, pipeline, MEAN, classes=count, **options)


@pytest.mark.parametrize("start", [(0, 0), (0, 3), (1, 0), (1, 2), (1, 4), (2, 3), (3, 0)])
@pytest.mark.parametrize("chunk", [16, 33, 4096])
def test_stream_from_the_middle_is_the_rest_of_the_whole(
    start: tuple[int, int], chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resident, "CHUNK", chunk)
    options: dict[str, Any] = {"pipeline": "varied", "flip": "alternating", "mix": Mix(1.0, 1.0, rising=3)}
    whole = list(make(**options).stream(3))
    rest = list(make(**options).stream(3, start))
    assert len(whole) == 12
    for (a, b), (c, d) in zip(whole[start[0] * 4 + start[1] :], rest, strict=True):
        assert torch.equal(a, c)
        assert torch.equal(b, d)


def test_the_next_epoch_is_drawn_while_this_one_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: dict[int, threading.Event] = {epoch: threading.Event() for epoch in range(4)}
    draws = ResidentBatches.draws

    def noting(self: ResidentBatches, epoch: int) -> Draws:
        made = draws(self, epoch)
        drawn[epoch].set()
        return made

    monkeypatch.setattr(ResidentBatches, "draws", noting)
    images = ImageSet(np.zeros((20, 32, 32, 3), np.uint8), np.arange(20))
    stream = ResidentBatches(images, Order(20, 5, 0), "gentle", MEAN).stream(3)
    for epoch in range(3):
        next(stream)
        if epoch < 2:
            assert drawn[epoch + 1].wait(10)
        for _ in range(3):
            next(stream)
    assert not drawn[3].is_set()


@pytest.mark.parametrize("pipeline", ["gentle", "late"])
def test_processes_make_together_what_one_makes(pipeline: str) -> None:
    whole = list(make(pipeline=pipeline, flip="alternating").stream(2))
    shares = [make(pipeline=pipeline, flip="alternating", rank=rank, processes=4).stream(2) for rank in range(4)]
    for (images, labels), *parts in zip(whole, *shares, strict=True):
        assert torch.equal(torch.cat([part[0] for part in parts]), images)
        assert torch.equal(torch.cat([part[1] for part in parts]), labels)


def test_images_stay_with_their_labels_and_each_comes_once() -> None:
    batches = make(pipeline="none")
    made = list(batches.stream(1))
    labels = torch.cat([part for _, part in made])
    assert len(labels.unique()) == len(labels) == 64
    assert torch.equal(torch.cat([part for part, _ in made]), batches.images[labels])


def test_alternating_flips_are_those_of_the_worker_pipeline() -> None:
    pixels = np.zeros((64, 32, 32, 3), np.uint8)
    pixels[:, :, 16:] = 200
    order = Order(64, 16, 5)
    for epoch in (0, 1):
        batches = ResidentBatches(ImageSet(pixels, np.arange(64)), order, "gentle", MEAN, flip="alternating")
        for images, labels in batches.stream(epoch + 1, (epoch, 0)):
            mirrored = images[:, :, :8].float().mean((1, 2, 3)) > 100
            assert np.array_equal(mirrored.numpy(), alternating_flips(5, epoch, 64)[labels.numpy()])


@pytest.mark.parametrize("flip", ["random", "alternating"])
def test_what_is_no_image_of_its_class_when_mirrored_is_not_mirrored(flip: str) -> None:
    pixels = np.zeros((64, 32, 32, 3), np.uint8)
    pixels[:, :, 16:] = 200
    batches = ResidentBatches(
        ImageSet(pixels, np.arange(64)), Order(64, 16, 0), "gentle", MEAN, mirrored=False, flip=flip
    )
    assert all((images[:, :, :8] == 0).all() for images, _ in batches.stream(2))
