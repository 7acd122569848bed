"""What each augmentation does, said once: augment.py does it with albumentations, resident.py in torch."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Augmentation:
    """The steps of a pipeline, in their order; a share is that of the images a step is taken for.

    Args:
        flip: Mirror half of the images.
        affine: Share of the images that are turned, scaled and shifted over a reflected border.
        rotate: Largest angle, in degrees.
        scale: Largest change of the scale.
        shift: Largest shift as a share of the width, cut to whole pixels.
        crop: Largest shift of the crop over a reflected border, in whole pixels.
        hole: Side of the square that is filled with the data's mean, in pixels.
        hole_share: Share of the images that get one.
        grey: Share of the images that lose their colour.
    """

    flip: bool = True
    affine: float = 0.0
    rotate: float = 0.0
    scale: float = 0.0
    shift: float = 0.0
    crop: int = 0
    hole: int = 0
    hole_share: float = 0.0
    grey: float = 0.0


_PUBLISHED = {"affine": 0.5, "rotate": 45.0, "scale": 0.1, "shift": 0.0625, "hole": 16, "hole_share": 0.5}

PIPELINES = {
    "gentle": Augmentation(crop=4),
    "cutout": Augmentation(crop=4, hole=8, hole_share=1.0),
    "varied": Augmentation(affine=0.5, rotate=15.0, scale=0.1, crop=4, hole=8, hole_share=1.0),
    "published": Augmentation(**_PUBLISHED),
    "late": Augmentation(**_PUBLISHED, grey=0.5),
    "none": Augmentation(flip=False),
}
NAMES = tuple(PIPELINES)


def choose(name: str) -> Augmentation:
    """The pipeline of a name.

    Raises:
        ValueError: The name is unknown.
    """
    if name not in PIPELINES:
        raise ValueError(f"augmentation {name!r} is none of {', '.join(NAMES)}")
    return PIPELINES[name]
