import pickle
import random

import albumentations as A
import augment
import numpy as np
import pipelines
import pytest

MEAN = (0.4914, 0.4822, 0.4465)
FILL = np.array([125, 123, 114])
TRIALS = 2000


def outcomes(name: str, image: np.ndarray, mirrored: bool = True, count: int = TRIALS) -> np.ndarray:
    pipeline = augment.build(name, MEAN, mirrored)
    augment.reseed(pipeline, 0)
    return np.stack([pipeline(image=image)["image"] for _ in range(count)])


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("gentle", ["HorizontalFlip", "Pad", "RandomCrop"]),
        ("cutout", ["HorizontalFlip", "Pad", "RandomCrop", "CoarseDropout"]),
        ("varied", ["HorizontalFlip", "Affine", "Pad", "RandomCrop", "CoarseDropout"]),
        ("published", ["HorizontalFlip", "Affine", "CoarseDropout"]),
        ("late", ["HorizontalFlip", "Affine", "CoarseDropout", "ToGray"]),
        ("none", []),
    ],
)
def test_pipelines_hold_their_steps(name: str, steps: list[str]) -> None:
    assert [type(step).__name__ for step in augment.build(name, MEAN).transforms] == steps
    unmirrored = augment.build(name, MEAN, mirrored=False)
    assert [type(step).__name__ for step in unmirrored.transforms] == [step for step in steps if "Flip" not in step]


@pytest.mark.parametrize("name", ["published", "late"])
def test_hole_is_256_pixels_of_the_mean_in_half_of_the_images(name: str) -> None:
    red = np.zeros((32, 32, 3), np.uint8) + np.array([250, 3, 3], np.uint8)
    images = outcomes(name, red)
    # What ToGray makes of the hole, for the late pipeline.
    grey = np.rint(FILL @ [0.299, 0.587, 0.114])
    filled = (np.abs(images - FILL.astype(int)).max(-1) == 0) | (np.abs(images - grey).max(-1) == 0)
    holes = filled.sum((1, 2))
    assert set(holes.tolist()) == {0, 256}
    assert np.mean(holes == 256) == pytest.approx(0.5, abs=0.05)
    for mask in filled[holes == 256]:
        rows, columns = np.nonzero(mask)
        assert (np.ptp(rows), np.ptp(columns)) == (15, 15)


@pytest.mark.parametrize("name", ["gentle", "published", "late"])
def test_half_of_the_images_are_mirrored(name: str) -> None:
    image = np.zeros((32, 32, 3), np.uint8)
    image[:, 16:] = 200
    images = outcomes(name, image).astype(int)
    # A hole can hide one side but not turn the sides round, a rotation by 45 degrees neither.
    mirrored = images[:, 12:20, :16].mean((1, 2, 3)) > images[:, 12:20, 16:].mean((1, 2, 3))
    assert mirrored.mean() == pytest.approx(0.5, abs=0.05)
    straight = outcomes("gentle", image, mirrored=False).astype(int)
    assert (straight[:, :, :12] == 0).all()


def test_affine_stays_within_the_published_bounds() -> None:
    (affine,) = (step for step in augment.build("published", MEAN).transforms if isinstance(step, A.Affine))
    assert affine.p == 0.5
    seen = []
    affine.set_random_state(np.random.default_rng(0), random.Random(0))
    for _ in range(TRIALS):
        found = affine.get_params_dependent_on_data({"shape": (32, 32, 3)}, {})
        linear = found["matrix"][:2, :2]
        scale = float(np.sqrt(np.linalg.det(linear)))
        centre = found["matrix"][:2] @ [15.5, 15.5, 1] - 15.5
        seen.append((scale, float(np.degrees(np.arctan2(linear[1, 0], linear[0, 0]))), *centre))
        assert np.allclose(linear @ linear.T, scale**2 * np.eye(2))
    low, high = np.min(seen, 0), np.max(seen, 0)
    # albumentations cuts shifts to whole pixels, so that a range of 6.25 % of 32 pixels gives -1, 0 and 1, never 2.
    assert low == pytest.approx([0.9, -45, -1, -1], abs=0.1)
    assert high == pytest.approx([1.1, 45, 1, 1], abs=0.1)


def test_gentle_shifts_by_up_to_4_over_a_reflected_border() -> None:
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    large = np.pad(image, ((4, 4), (4, 4), (0, 0)), mode="reflect")
    crops = {(y, x): large[y : y + 32, x : x + 32].tobytes() for y in range(9) for x in range(9)}
    places = {content: place for place, content in crops.items()}
    seen = {places[image.tobytes()] for image in outcomes("gentle", image, mirrored=False)}
    assert seen == set(crops)


def test_late_greys_half_of_the_images() -> None:
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    images = outcomes("late", image)
    grey = (np.ptp(images, axis=-1) == 0).all((1, 2))
    assert grey.mean() == pytest.approx(0.5, abs=0.05)


def test_none_changes_nothing() -> None:
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    assert (outcomes("none", image, count=5) == image).all()


def test_steps_are_independent_right_after_a_reseed() -> None:
    """Compose.set_random_seed gives all steps one seed: the first image is then flipped where it gets a hole."""
    image = np.zeros((32, 32, 3), np.uint8)
    image[:, 16:] = 200
    pipeline = augment.build("published", MEAN)
    flips, holes = [], []
    for seed in range(TRIALS):
        augment.reseed(pipeline, seed)
        made = pipeline(image=image)["image"].astype(int)
        flips.append(made[12:20, :16].mean() > made[12:20, 16:].mean())
        holes.append((np.abs(made - FILL).max(-1) == 0).sum() >= 200)
    assert abs(np.corrcoef(flips, holes)[0, 1]) < 0.1


def test_equal_keys_give_equal_images_and_others_do_not() -> None:
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    pipeline = augment.build("late", MEAN)

    def draw(*key: int) -> bytes:
        augment.reseed(pipeline, *key)
        return b"".join(pipeline(image=image)["image"].tobytes() for _ in range(8))

    assert draw(0, 1, 2) == draw(0, 1, 2)
    assert len({draw(*key) for key in ((0, 1, 2), (0, 2, 1), (1, 1, 2), (0, 1, 3))}) == 4


def test_argument_that_albumentations_would_ignore_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(augment, "_steps", lambda *_: [A.CoarseDropout(max_holes=1, max_height=16, p=0.5)])
    with pytest.raises(ValueError, match=r"albumentations 2.0.8 refuses an argument: .*max_holes"):
        augment.build("published", MEAN)


def test_unknown_name_is_an_error() -> None:
    with pytest.raises(ValueError, match="'heavy' is none of gentle, cutout, varied, published, late, none"):
        augment.build("heavy", MEAN)


@pytest.mark.parametrize("name", pipelines.NAMES)
def test_pipelines_can_be_sent_to_a_worker_process(name: str) -> None:
    copy = pickle.loads(pickle.dumps(augment.build(name, MEAN)))
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    augment.reseed(copy, 7)
    pipeline = augment.build(name, MEAN)
    augment.reseed(pipeline, 7)
    assert np.array_equal(copy(image=image)["image"], pipeline(image=image)["image"])
