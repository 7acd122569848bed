import numpy as np
import pytest
from errors import UsageError

from data import Dataset, ImageSet, channel_statistics, split


def image_set(count: int, classes: int, seed: int = 0) -> ImageSet:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    return ImageSet(images, rng.permutation(np.arange(count) % classes).astype(np.int64))


def marked(count: int, classes: int) -> ImageSet:
    """Every image carries its own number in its first two pixels."""
    made = image_set(count, classes)
    made.images[:, 0, 0, 0] = np.arange(count) // 256
    made.images[:, 0, 1, 0] = np.arange(count) % 256
    return made


def numbers(part: ImageSet) -> set[int]:
    return {int(image[0, 0, 0]) * 256 + int(image[0, 1, 0]) for image in part.images}


@pytest.mark.parametrize(
    ("images", "classes", "validation"), [(1000, 10, 100), (203, 3, 20), (60, 3, 6), (1797, 10, 180)]
)
def test_split_is_disjoint_complete_and_stratified(images: int, classes: int, validation: int) -> None:
    whole = marked(images, classes)
    train, held = split(whole, seed=3)
    assert len(held) == validation
    assert not numbers(train) & numbers(held)
    assert numbers(train) | numbers(held) == set(range(images))
    expected = np.bincount(whole.labels) * validation / images
    assert np.abs(np.bincount(held.labels, minlength=classes) - expected).max() <= 1


def test_split_holds_out_5000_of_50000() -> None:
    labels = np.arange(50000) % 10
    train, held = split(ImageSet(np.zeros((50000, 1, 1, 3), np.uint8), labels), seed=0)
    assert (len(train), len(held)) == (45000, 5000)
    assert np.bincount(held.labels).tolist() == [500] * 10


def test_split_is_a_function_of_its_seed() -> None:
    whole = marked(200, 4)
    assert numbers(split(whole, 1)[1]) == numbers(split(whole, 1)[1]) != numbers(split(whole, 2)[1])


def test_split_keeps_each_image_with_its_label() -> None:
    whole = marked(200, 4)
    for part in split(whole, 0):
        for row in range(len(part)):
            (number,) = numbers(part.take(np.array([row])))
            assert part.labels[row] == whole.labels[number]


def test_split_of_a_class_with_one_image_is_refused() -> None:
    labels = np.array([0] * 30 + [1])
    with pytest.raises(UsageError, match="31 training images are too few for a stratified validation part"):
        split(ImageSet(np.zeros((31, 32, 32, 3), np.uint8), labels), seed=0)


def test_channel_statistics_are_those_of_float64() -> None:
    images = image_set(50, 5).images
    images[..., 1] //= 3
    mean, std = channel_statistics(images)
    scaled = images.astype(np.float64) / 255
    assert mean == pytest.approx(scaled.mean((0, 1, 2)), abs=1e-12)
    assert std == pytest.approx(scaled.std((0, 1, 2)), abs=1e-12)


def test_hash_tells_a_changed_pixel_label_and_part() -> None:
    def named(train: ImageSet, test: ImageSet) -> str:
        return Dataset("any", ("a", "b"), train, test).sha256()

    first, second = image_set(8, 2, seed=1), image_set(8, 2, seed=2)
    pixel = ImageSet(first.images.copy(), first.labels)
    pixel.images[3, 4, 5, 0] ^= 1
    label = ImageSet(first.images, 1 - first.labels)
    hashes = [named(*parts) for parts in ((first, second), (second, first), (pixel, second), (label, second))]
    assert len(set(hashes)) == 4
    assert named(first, second) == named(ImageSet(first.images.copy(), first.labels.copy()), second)
