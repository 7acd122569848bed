"""Mixup and CutMix against what their papers say, image by image."""

import mixing
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mixing import Mix, Mixture
from scipy import stats

COUNT = 4000


def drawn(mix: Mix, epoch: int = 0, count: int = COUNT) -> Mixture:
    return mixing.draw(mix, epoch, count, np.random.default_rng(0))


def kept(mixture: Mixture) -> np.ndarray:
    """Share that each image keeps of itself."""
    top, bottom, left, right = mixture.box.numpy().T
    return mixture.own.numpy() * (1 - (bottom - top) * (right - left) / 32**2)


@given(st.integers(1, 9), st.floats(0, 2), st.floats(0, 2), st.floats(0, 1), st.integers(0, 2**32))
def test_pixels_and_classes_are_mixed_alike(count: int, mixup: float, cutmix: float, share: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    mixture = mixing.draw(Mix(mixup, cutmix, share), 0, count, rng)
    images = rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    labels = np.arange(count)
    made, truth = mixing.apply(torch.from_numpy(images), torch.from_numpy(labels), count, mixture)
    assert (made.dtype, made.shape, truth.shape) == (torch.uint8, images.shape, (count, count))
    for row in range(count):
        own, (top, bottom, left, right) = mixture.own[row].item(), mixture.box[row].tolist()
        keep = np.full((32, 32, 1), own)
        keep[top:bottom, left:right] = 0
        expected = keep * images[row] + (1 - keep) * images[row - 1]
        assert np.abs(made[row].numpy() - expected).max() <= 0.51
        share_of_class = np.zeros(count)
        share_of_class[row] += keep.mean()
        share_of_class[(row - 1) % count] += 1 - keep.mean()
        assert truth[row].numpy() == pytest.approx(share_of_class, abs=1e-5)


def test_what_is_not_mixed_stays_as_it_is() -> None:
    images = torch.randint(0, 256, (50, 32, 32, 3), dtype=torch.uint8)
    made, truth = mixing.apply(images, torch.arange(50) % 10, 10, drawn(Mix(0.4, 1.0, share=0.0), count=50))
    assert torch.equal(made, images)
    assert torch.equal(truth.argmax(1), torch.arange(50) % 10)
    assert set(truth.flatten().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_mixup_keeps_what_a_beta_distribution_says(alpha: float) -> None:
    mixture = drawn(Mix(mixup=alpha))
    assert (mixture.box[:, 1] == mixture.box[:, 0]).all()
    assert stats.kstest(mixture.own.numpy(), stats.beta(alpha, alpha).cdf).pvalue > 0.001


def test_cutmix_takes_squares_around_any_point() -> None:
    mixture = drawn(Mix(cutmix=1.0), count=20_000)
    assert (mixture.own == 1).all()
    top, bottom, left, right = mixture.box.numpy().T
    assert (top >= 0).all()
    assert (bottom <= 32).all()
    inner = (top > 0) & (bottom < 32) & (left > 0) & (right < 32)
    assert np.abs((bottom - top) - (right - left))[inner].max() <= 1
    # The area that is taken, before a border cuts it, is as Beta(1, 1) says: uniform.
    rng = np.random.default_rng(1)
    half, centre = 16 * np.sqrt(rng.random(20_000)), 32 * rng.random((2, 20_000))
    expected = 1 - np.prod(np.clip(centre + half, 0, 32) - np.clip(centre - half, 0, 32), axis=0) / 32**2
    assert kept(mixture).mean() == pytest.approx(expected.mean(), abs=0.01)
    assert kept(mixture).std() == pytest.approx(expected.std(), abs=0.01)


def test_either_or_both_and_the_share_of_images() -> None:
    both = drawn(Mix(0.4, 1.0, share=0.5))
    blended, cut = both.own.numpy() < 1, (both.box[:, 1] > both.box[:, 0]).numpy()
    assert not (blended & cut).any()
    assert blended.mean() == pytest.approx(0.25, abs=0.03)
    assert cut.mean() == pytest.approx(0.25, abs=0.03)


def test_share_rises_over_the_run() -> None:
    mix = Mix(mixup=0.4, share=0.8, rising=10)
    assert [mix.share_at(epoch) for epoch in (0, 4, 9, 20)] == pytest.approx([0.08, 0.4, 0.8, 0.8])
    assert (drawn(mix, epoch=0).own < 1).float().mean() == pytest.approx(0.08, abs=0.02)


@pytest.mark.parametrize(("mix", "mixes"), [(Mix(), False), (Mix(0.1), True), (Mix(0, 1), True), (Mix(1, 1, 0), False)])
def test_truth_of_a_mix_is_whether_it_mixes(mix: Mix, mixes: bool) -> None:
    assert bool(mix) is mixes
