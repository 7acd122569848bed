"""What a trained network is evaluated on, and whether that is the data it was trained on."""

from dataclasses import dataclass
from pathlib import Path

import sources
from errors import UsageError
from torchvision.datasets import CIFAR10
from trained import Trained

from data import Dataset, ImageSet

DEFAULT = Path("data")


@dataclass(frozen=True)
class TestSet:
    """Test images.

    Args:
        name: The variant, as it is written beside every accuracy measured on it.
        images: The images and their classes, those of the network.
        same: True where training and test part are the run's own, to the last pixel; None where there is no training
            part to tell by.
        mirrored: True where a mirrored image is still an image of its class.
    """

    # pytest takes what is called Test... for tests.
    __test__ = False

    name: str
    images: ImageSet
    same: bool | None
    mirrored: bool

    def __str__(self) -> str:
        same = {True: "the data of the run", False: "not the data of the run", None: "a test part alone"}[self.same]
        return f"{self.name}, {len(self.images)} test images ({same})"


def read(trained: Trained, data_dir: Path | None = None) -> TestSet:
    """Read the test images for a network.

    Args:
        trained: The network.
        data_dir: Holds ``test/<class>/*``, or the official archive; None is the digits for a network trained on them,
            else ``data``.

    Raises:
        UsageError: There are none, they cannot be read, or their classes are not those of the network.
    """
    name, classes, images, whole = _read(trained.identity["data"], data_dir)
    if classes != trained.classes:
        raise UsageError(
            f"the classes differ: {trained.name} knows {', '.join(trained.classes)}; {name} has {', '.join(classes)}"
        )
    same = whole.sha256() == trained.identity["data_sha256"] if whole else None
    return TestSet(name, images, same, whole.mirrored if whole else True)


def _read(trained_on: str, data_dir: Path | None) -> tuple[str, tuple[str, ...], ImageSet, Dataset | None]:
    if data_dir is None and trained_on == sources.DIGITS:
        whole = sources.read_digits()
    else:
        data_dir = data_dir or DEFAULT
        if (data_dir / "test").is_dir() and not (data_dir / "train").is_dir():
            classes, images = sources.read_test_folders(data_dir)
            return f"folder {data_dir.resolve().name}", classes, images, None
        if (data_dir / "test").is_dir():
            whole = sources.read_folders(data_dir)
        elif trained_on == "CIFAR-10" or any((data_dir / f).exists() for f in (CIFAR10.filename, CIFAR10.base_folder)):
            whole = sources.read_archive(data_dir)
        else:
            raise UsageError(
                f"{data_dir} holds neither test/<class>/* nor {CIFAR10.filename}; the run was trained on {trained_on}: "
                "name its folder, or another of the same classes, with --data-dir"
            )
    return whole.name, whole.classes, whole.test, whole
