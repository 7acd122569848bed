import numpy as np
import pytest
import torch
import views

IMAGES = torch.randint(0, 256, (3, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("kind", "count"), [("none", 1), ("mirror", 2), ("mirror+shift", 6)])
def test_views_are_weighted_to_one_and_keep_their_form(kind: str, count: int) -> None:
    found = views.views(IMAGES, kind)
    assert len(found) == count
    assert sum(weight for weight, _ in found) == 1
    assert all(view.shape == IMAGES.shape and view.dtype == torch.uint8 for _, view in found)
    assert torch.equal(found[0][1], IMAGES)


def test_mirror_is_the_mirror_image() -> None:
    assert np.array_equal(views.views(IMAGES, "mirror")[1][1].numpy(), IMAGES.numpy()[:, :, ::-1])


def test_shifts_are_by_a_pixel_over_a_reflected_border() -> None:
    padded = np.pad(IMAGES.numpy(), ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    shown = [view.numpy() for _, view in views.views(IMAGES, "mirror+shift")]
    for number, start in ((2, 0), (4, 2)):
        expected = padded[:, start : start + 32, start : start + 32]
        assert np.array_equal(shown[number], expected)
        assert np.array_equal(shown[number + 1], expected[:, :, ::-1])


def test_unknown_kind_is_an_error() -> None:
    with pytest.raises(ValueError, match="'crop' is none of none, mirror, mirror\\+shift"):
        views.views(IMAGES, "crop")
