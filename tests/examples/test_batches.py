import numpy as np
import pytest
import torch
from batches import TrainBatches, stream
from torch import Tensor

from data import ImageSet

# Python 3.12 and later warn of any fork of a process that has threads; torch's loader forks on Linux.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def make(images: int = 70, batch_size: int = 16, seed: int = 0, pipeline: str = "late") -> TrainBatches:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (images, 32, 32, 3), dtype=np.uint8)
    return TrainBatches(ImageSet(pixels, np.arange(images)), batch_size, seed, pipeline, (0.5, 0.5, 0.5))


def equal(left: list[tuple[Tensor, Tensor]], right: list[tuple[Tensor, Tensor]]) -> bool:
    pairs = zip(left, right, strict=True)
    return all(torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in pairs)


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_do_not_depend_on_the_number_of_workers(workers: int) -> None:
    expected = list(stream(make(), 3))
    assert len(expected) == 3 * 4
    assert equal(expected, list(stream(make(), 3, workers=workers)))


@pytest.mark.parametrize("start", [(0, 0), (0, 3), (1, 0), (1, 2), (1, 4), (2, 3), (3, 0)])
def test_stream_from_the_middle_is_the_rest_of_the_whole(start: tuple[int, int]) -> None:
    whole = list(stream(make(), 3))
    assert equal(whole[start[0] * 4 + start[1] :], list(stream(make(), 3, start=start)))


def test_epoch_shows_no_image_twice_and_another_order_each_time() -> None:
    orders = [[label for _, labels in stream(make(), 1, start=(0, 0)) for label in labels.tolist()]]
    both = [labels.tolist() for _, labels in stream(make(), 2)]
    orders.append([label for labels in both[4:] for label in labels])
    for order in orders:
        assert len(order) == len(set(order)) == 64
    assert orders[0] != orders[1]
    assert make(seed=1)[0, 0][1].tolist() != make(seed=0)[0, 0][1].tolist()


def test_images_stay_with_their_labels() -> None:
    batches = make(pipeline="none")
    images, labels = batches[2, 1]
    assert images.dtype == torch.uint8
    assert np.array_equal(images.numpy(), batches.images.images[labels.numpy()])


def test_fewer_images_than_a_batch_are_one_batch() -> None:
    batches = make(images=5)
    assert len(batches) == 1
    assert sorted(batches[0, 0][1].tolist()) == [0, 1, 2, 3, 4]


def test_stream_draws_nothing_from_the_global_generator() -> None:
    before = torch.get_rng_state()
    list(stream(make(), 1))
    assert torch.equal(before, torch.get_rng_state())
