"""Where images come from: the official archive, a tree of class folders, or scikit-learn's digits."""

import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np
from errors import UsageError
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torchvision.datasets import CIFAR10
from torchvision.datasets.utils import calculate_md5, check_integrity, download_url, extract_archive

from data import SIZE, Dataset, ImageSet

CHOICES = ("auto", "cifar10", "folder", "digits")
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
DIGITS = "digits 32x32 (fallback, not CIFAR-10)"
SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".tif", ".tiff"}
DOWNLOAD_TIMEOUT = 10.0
"""Seconds without an answer after which a download is given up."""


class NoArchive(UsageError):
    """The official archive is neither here nor to be had."""


def load(choice: str, data_dir: Path) -> tuple[Dataset, str | None]:
    """Read a dataset into memory.

    Args:
        choice: One of ``CHOICES``. ``"auto"`` takes class folders where there are some, then the official archive
            (downloaded where absent), then the digits.
        data_dir: Where class folders or the archive are, or where the archive goes.

    Returns:
        The dataset, and a line that must be shown where it is not the one a reader would expect.

    Raises:
        UsageError: Something asked for is absent, damaged or of another shape.
    """
    if choice == "cifar10":
        return read_archive(data_dir), None
    if choice == "folder":
        return read_folders(data_dir), None
    if choice == "digits":
        return read_digits(), None
    if choice != "auto":
        raise UsageError(f"dataset {choice!r} is none of {', '.join(CHOICES)}")
    if any((data_dir / part).is_dir() for part in ("train", "test")):
        return read_folders(data_dir), None
    try:
        return read_archive(data_dir), None
    except NoArchive as error:
        return read_digits(), f"{error}. Training on scikit-learn's digits instead: {DIGITS}"


def read_archive(data_dir: Path) -> Dataset:
    """CIFAR-10 as published, checked by md5, downloaded into ``data_dir`` where it is absent."""
    archive = data_dir / CIFAR10.filename
    unpacked = data_dir / CIFAR10.base_folder
    if not _intact(unpacked):
        if not archive.exists() and unpacked.exists():
            raise UsageError(
                f"{unpacked} is incomplete or damaged (md5 differs); delete it or put {archive.name} beside it"
            )
        if not archive.exists():
            _download(data_dir)
        if not check_integrity(os.fspath(archive), CIFAR10.tgz_md5):
            found = calculate_md5(os.fspath(archive))
            raise UsageError(
                f"{archive} is truncated or damaged (md5 {found}, not {CIFAR10.tgz_md5}); "
                "delete it to download it again"
            )
        try:
            extract_archive(archive, data_dir)
        except OSError as error:
            raise UsageError(f"cannot unpack {archive}: {error}") from None
    parts = [CIFAR10(data_dir, train=train) for train in (True, False)]
    train, test = (ImageSet(np.ascontiguousarray(part.data), np.asarray(part.targets, np.int64)) for part in parts)
    return Dataset("CIFAR-10", tuple(parts[0].classes), train, test)


def _intact(unpacked: Path) -> bool:
    files = [*CIFAR10.train_list, *CIFAR10.test_list, [CIFAR10.meta["filename"], CIFAR10.meta["md5"]]]
    return all(check_integrity(os.fspath(unpacked / name), md5) for name, md5 in files)


def _download(data_dir: Path) -> None:
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        # A broken download must never lie under the archive's own name.
        with tempfile.TemporaryDirectory(prefix=".download-", dir=data_dir) as folder, _timeout(DOWNLOAD_TIMEOUT):
            download_url(CIFAR10.url, folder, CIFAR10.filename, CIFAR10.tgz_md5)
            os.replace(Path(folder, CIFAR10.filename), data_dir / CIFAR10.filename)
    except (OSError, RuntimeError, HTTPException) as error:
        reason = str(getattr(error, "reason", error)) or type(error).__name__
        raise NoArchive(
            f"CIFAR-10 is not in {data_dir} and cannot be downloaded ({reason}); put {CIFAR10.filename} there, or name "
            "with --data-dir a folder that holds it or holds train/<class>/* and test/<class>/*"
        ) from None


@contextmanager
def _timeout(seconds: float) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def read_folders(data_dir: Path) -> Dataset:
    """Images of 32x32 pixels in ``train/<class>/*`` and ``test/<class>/*``."""
    files = {part: _class_files(data_dir / part) for part in ("train", "test")}
    for here, there in (("train", "test"), ("test", "train")):
        if missing := sorted(files[here].keys() - files[there].keys()):
            raise UsageError(
                f"{data_dir / there} lacks the class folder{'s' * (len(missing) > 1)} {', '.join(missing)} "
                f"({len(files[there])} classes there, {len(files[here])} in {data_dir / here})"
            )
    classes = tuple(files["train"])
    train, test = (_decode(list(files[part].values())) for part in ("train", "test"))
    suffixes = {path.suffix.lower() for part in files.values() for paths in part.values() for path in paths}
    copy = classes == CIFAR10_CLASSES and (len(train), len(test)) == (50000, 10000) and suffixes <= {".jpg", ".jpeg"}
    name = "CIFAR-10, JPEG copy" if copy else f"folder {data_dir.resolve().name}"
    return Dataset(name, classes, train, test)


def _class_files(part: Path) -> dict[str, list[Path]]:
    if not part.is_dir():
        raise UsageError(f"{part} is not a folder; class folders are looked for in train/<class>/* and test/<class>/*")
    folders = sorted(path for path in part.iterdir() if path.is_dir() and not path.name.startswith("."))
    if len(folders) < 2:
        raise UsageError(f"{part} holds {len(folders)} class folder(s); at least 2 are needed")
    files = {folder.name: sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES) for folder in folders}
    for name, paths in files.items():
        if not paths:
            raise UsageError(f"class folder {part / name} holds no images ({' '.join(sorted(SUFFIXES))})")
    return files


def _decode(classes: list[list[Path]]) -> ImageSet:
    labels = np.repeat(np.arange(len(classes)), [len(paths) for paths in classes]).astype(np.int64)
    images = np.empty((len(labels), SIZE, SIZE, 3), np.uint8)
    for row, path in enumerate(path for paths in classes for path in paths):
        try:
            with Image.open(path) as image:
                if image.size != (SIZE, SIZE):
                    raise UsageError(f"{path} is {image.width}x{image.height} pixels, not {SIZE}x{SIZE}")
                images[row] = np.asarray(image.convert("RGB"))
        except (OSError, SyntaxError, ValueError) as error:
            raise UsageError(f"{path} cannot be read as an image: {str(error).splitlines()[0]}") from None
    return ImageSet(images, labels)


def read_digits() -> Dataset:
    """scikit-learn's 1,797 handwritten digits of 8x8 pixels, enlarged to 32x32 RGB; a fifth is the test part."""
    digits: Any = load_digits()
    grey = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    large = [np.asarray(Image.fromarray(image).resize((SIZE, SIZE), Image.Resampling.BICUBIC)) for image in grey]
    images = np.repeat(np.stack(large)[..., None], 3, axis=-1)
    labels = digits.target.astype(np.int64)
    train, test = train_test_split(np.arange(len(labels)), test_size=0.2, stratify=labels, random_state=0)
    every = ImageSet(images, labels)
    names = tuple(str(name) for name in digits.target_names)
    return Dataset(DIGITS, names, every.take(np.sort(train)), every.take(np.sort(test)), mirrored=False)
