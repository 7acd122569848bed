from typing import Any

import numpy as np
import pytest
import torch
from batches import TrainBatches
from errors import UsageError
from hypothesis import given
from hypothesis import strategies as st
from mixing import Mix
from order import Order, alternating_flips
from torch import Tensor

from data import ImageSet

# Python 3.12 and later warn of any fork of a process that has threads; torch's loader forks on Linux.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def make(images: int = 70, batch_size: int = 16, seed: int = 0, pipeline: str = "late", **options: Any) -> TrainBatches:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (images, 32, 32, 3), dtype=np.uint8)
    order = Order(images, batch_size, seed)
    return TrainBatches(ImageSet(pixels, np.arange(images)), order, pipeline, (0.5, 0.5, 0.5), **options)


def equal(left: list[tuple[Tensor, Tensor]], right: list[tuple[Tensor, Tensor]]) -> bool:
    pairs = zip(left, right, strict=True)
    return all(torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in pairs)


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_do_not_depend_on_the_number_of_workers(workers: int) -> None:
    expected = list(make().stream(3))
    assert len(expected) == 3 * 4
    assert equal(expected, list(make(workers=workers).stream(3)))


@pytest.mark.parametrize("start", [(0, 0), (0, 3), (1, 0), (1, 2), (1, 4), (2, 3), (3, 0)])
def test_stream_from_the_middle_is_the_rest_of_the_whole(start: tuple[int, int]) -> None:
    whole = list(make().stream(3))
    assert equal(whole[start[0] * 4 + start[1] :], list(make().stream(3, start)))


def test_epoch_shows_no_image_twice_and_another_order_each_time() -> None:
    orders = [[label for _, labels in make().stream(1) for label in labels.tolist()]]
    both = [labels.tolist() for _, labels in make().stream(2)]
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
    list(make().stream(1))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("pipeline", ["none", "gentle"])
def test_alternating_flips_show_both_sides_of_every_image_in_two_epochs(pipeline: str) -> None:
    """Where the pipeline flips at all."""
    images, count = np.zeros((64, 32, 32, 3), np.uint8), 64
    images[:, :, 16:] = 200
    batches = TrainBatches(
        ImageSet(images, np.arange(count)), Order(count, 16, 0), pipeline, (0.5, 0.5, 0.5), flip="alternating"
    )
    sides = np.zeros((4, count), bool)
    for number, (made, labels) in enumerate(batches.stream(4)):
        sides[number // 4, labels] = made.numpy()[:, :, :8].mean((1, 2, 3)) > 100
    if pipeline == "none":
        assert not sides.any()
        return
    assert (sides[0] != sides[1]).all()
    assert (sides[0] == sides[2]).all()
    assert (sides[1] == sides[3]).all()
    assert 16 < sides[0].sum() < 48


def test_first_flips_differ_between_seeds_and_are_half() -> None:
    first, second = (alternating_flips(seed, 0, 10_000) for seed in (0, 1))
    assert first.mean() == pytest.approx(0.5, abs=0.03)
    assert (first ^ second).mean() == pytest.approx(0.5, abs=0.03)


@given(st.integers(1, 300), st.integers(1, 40), st.integers(1, 5), st.integers(0, 3))
def test_processes_share_each_batch_and_nothing_is_lost_or_twice(
    count: int, part: int, processes: int, epoch: int
) -> None:
    batch_size = part * processes
    if count < batch_size and count % processes:
        with pytest.raises(UsageError, match="cannot be shared equally"):
            Order(count, batch_size, 7, 0, processes)
        return
    whole = Order(count, batch_size, 7)
    shares = [Order(count, batch_size, 7, rank, processes).epoch(epoch) for rank in range(processes)]
    assert np.array_equal(np.concatenate(shares, 1), whole.epoch(epoch))
    assert len(np.unique(whole.epoch(epoch))) == len(whole) * whole.batch_size
    assert count - whole.epoch(epoch).size < whole.batch_size


def test_mixed_batches_have_a_share_of_each_class_and_do_not_depend_on_workers() -> None:
    options: dict[str, Any] = {"mix": Mix(mixup=0.4, cutmix=1.0), "classes": 70}
    expected = list(make(**options).stream(2))
    assert equal(expected, list(make(**options, workers=1).stream(2)))
    images, labels = expected[0]
    assert (images.dtype, labels.dtype, labels.shape) == (torch.uint8, torch.float32, (16, 70))
    assert labels.sum(1) == pytest.approx(torch.ones(16))
    assert ((labels > 0).sum(1) == 2).any()
