"""Image files of any size and format as the 32x32 RGB images that the networks take."""

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from data import SIZE

DEEP_GREY = {"I", "I;16", "I;16B", "I;16L", "I;16N", "F"}
"""Pillow's modes of more than 8 bits a pixel, which its own conversion would clip at 255."""


class Unreadable(Exception):
    """A file that gives no image; the message says why."""


def read(path: Path) -> NDArray[np.uint8]:
    """Read an image file.

    The first frame is turned as its EXIF orientation says, laid on white where it is transparent, and made RGB. Its
    shorter side is resized to 32 with antialiasing and the middle cropped, in one step: an image of 1x100000 pixels
    would else be one of 32x3200000 in between. An image of 32x32 keeps its pixels.

    Args:
        path: The file.

    Shape:
        - Output: ``(32, 32, 3)`` uint8

    Raises:
        Unreadable: It is absent, damaged or no image.
    """
    if path.is_dir():
        raise Unreadable("holds no image file")
    try:
        with warnings.catch_warnings():
            # Of large images and odd metadata, which do not matter here.
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                image.seek(0)
                upright = ImageOps.exif_transpose(image)
                square = ImageOps.fit(_rgb(upright), (SIZE, SIZE), Image.Resampling.BICUBIC)
        return np.array(square)
    except FileNotFoundError:
        raise Unreadable("does not exist") from None
    except Exception as error:
        # A damaged byte leads Pillow anywhere: OSError, SyntaxError, ValueError, struct.error, IndexError, ...
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise Unreadable(f"cannot be read as an image: {reason.replace(f' {str(path)!r}', '')}") from None


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode in DEEP_GREY:
        image = Image.fromarray(_eight_bits(np.asarray(image, np.float64)))
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")


def _eight_bits(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        raise ValueError("it holds values that are not finite")
    whole = bool((values == np.rint(values)).all())
    if whole and low >= 0 and high <= 65535:
        low, high = 0.0, 65535.0
    return np.rint((values - low) * (255 / max(high - low, np.finfo(float).tiny))).astype(np.uint8)


def find(paths: Sequence[Path]) -> Iterator[Path]:
    """The files themselves, and below a folder all that Pillow could read by their suffix, in order of name.

    A folder without any is handed on itself, to be named as what cannot be read.
    """
    suffixes = {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        inside = sorted(file for file in path.rglob("*") if file.suffix.lower() in suffixes and file.is_file())
        yield from inside or [path]
