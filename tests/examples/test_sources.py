import http.server
import pickle
import shutil
import socket
import tarfile
import threading
from collections.abc import Callable, Iterator
from hashlib import md5
from pathlib import Path

import numpy as np
import pytest
import sources
from errors import UsageError
from torchvision.datasets import CIFAR10

from data import channel_statistics

JPEG_COPY = Path(__file__).parents[2] / "data" / "cifar10-jpeg"


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An archive as the official one, of 12 + 4 images; torchvision is told its checksums."""
    rng = np.random.default_rng(0)
    batches = tmp_path / "made" / CIFAR10.base_folder
    batches.mkdir(parents=True)

    def write(name: str, content: object) -> list[str]:
        (batches / name).write_bytes(pickle.dumps(content, protocol=2))
        return [name, md5((batches / name).read_bytes()).hexdigest()]

    def batch(count: int) -> dict[str, object]:
        pixels = rng.integers(0, 256, (count, 3072), dtype=np.uint8)
        return {"data": pixels, "labels": [number % 10 for number in range(count)]}

    train = [write(f"data_batch_{number}", batch(6)) for number in (1, 2)]
    test = [write("test_batch", batch(4))]
    meta = write("batches.meta", {"label_names": list(sources.CIFAR10_CLASSES)})
    path = tmp_path / "made" / CIFAR10.filename
    with tarfile.open(path, "w:gz") as made:
        made.add(batches, CIFAR10.base_folder)
    monkeypatch.setattr(CIFAR10, "train_list", train)
    monkeypatch.setattr(CIFAR10, "test_list", test)
    monkeypatch.setattr(CIFAR10, "meta", {"filename": meta[0], "key": "label_names", "md5": meta[1]})
    monkeypatch.setattr(CIFAR10, "tgz_md5", md5(path.read_bytes()).hexdigest())
    return path


@pytest.fixture
def data_dir(archive: Path, tmp_path: Path) -> Path:
    """A folder that holds the archive and nothing else."""
    folder = tmp_path / "data"
    folder.mkdir()
    shutil.copy(archive, folder)
    return folder


@pytest.fixture
def no_download(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(sources, "download_url", fail)


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], None]]:
    """Let torchvision download from a folder of this machine."""
    monkeypatch.setenv("no_proxy", "*")
    servers: list[http.server.ThreadingHTTPServer] = []

    def start(folder: Path) -> None:
        class Handler(http.server.SimpleHTTPRequestHandler):
            def __init__(self, *arguments: object) -> None:
                super().__init__(*arguments, directory=str(folder))  # pyright: ignore[reportArgumentType]

            def log_message(self, *_: object) -> None:
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        monkeypatch.setattr(CIFAR10, "url", f"http://127.0.0.1:{server.server_port}/{CIFAR10.filename}")

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.usefixtures("no_download")
@pytest.mark.parametrize("choice", ["auto", "cifar10"])
def test_archive_is_read_as_its_pixels(choice: str, data_dir: Path) -> None:
    dataset, warning = sources.load(choice, data_dir)
    assert (dataset.name, warning, dataset.mirrored) == ("CIFAR-10", None, True)
    assert dataset.classes == sources.CIFAR10_CLASSES
    rows = [
        pickle.loads((data_dir / CIFAR10.base_folder / name).read_bytes())["data"] for name, _ in CIFAR10.train_list
    ]
    planes = np.concatenate(rows).reshape(12, 3, 32, 32)
    assert np.array_equal(dataset.train.images, planes.transpose(0, 2, 3, 1))
    assert dataset.train.labels.tolist() == [0, 1, 2, 3, 4, 5] * 2
    assert dataset.test.images.shape == (4, 32, 32, 3)
    assert dataset.test.labels.dtype == np.int64


@pytest.mark.usefixtures("no_download")
def test_unpacked_batches_need_no_archive(data_dir: Path) -> None:
    first, _ = sources.load("cifar10", data_dir)
    (data_dir / CIFAR10.filename).unlink()
    assert sources.load("cifar10", data_dir)[0].sha256() == first.sha256()


@pytest.mark.usefixtures("no_download")
def test_damaged_batch_is_unpacked_anew_from_the_archive(data_dir: Path) -> None:
    first, _ = sources.load("cifar10", data_dir)
    (data_dir / CIFAR10.base_folder / "data_batch_2").write_bytes(b"damaged")
    assert sources.load("cifar10", data_dir)[0].sha256() == first.sha256()


@pytest.mark.usefixtures("no_download")
@pytest.mark.parametrize("choice", ["auto", "cifar10"])
@pytest.mark.parametrize("name", ["data_batch_1", "test_batch", "batches.meta"])
def test_damaged_batch_without_the_archive_is_refused(choice: str, name: str, data_dir: Path) -> None:
    sources.load("cifar10", data_dir)
    (data_dir / CIFAR10.filename).unlink()
    (data_dir / CIFAR10.base_folder / name).write_bytes(b"damaged")
    with pytest.raises(UsageError, match=r"cifar-10-batches-py is incomplete or damaged"):
        sources.load(choice, data_dir)


@pytest.mark.parametrize("choice", ["auto", "cifar10"])
def test_truncated_archive_is_refused_and_kept(choice: str, data_dir: Path) -> None:
    path = data_dir / CIFAR10.filename
    path.write_bytes(path.read_bytes()[:-100])
    before = path.read_bytes()
    with pytest.raises(UsageError, match=rf"{CIFAR10.filename} is truncated or damaged .*delete it"):
        sources.load(choice, data_dir)
    assert path.read_bytes() == before


def test_absent_archive_is_downloaded(archive: Path, serve: Callable[[Path], None], tmp_path: Path) -> None:
    serve(archive.parent)
    dataset, warning = sources.load("auto", tmp_path / "new" / "folder")
    assert (dataset.name, warning, len(dataset.train)) == ("CIFAR-10", None, 12)
    assert {path.name for path in (tmp_path / "new" / "folder").iterdir()} == {CIFAR10.filename, CIFAR10.base_folder}


def test_damaged_download_leaves_nothing(archive: Path, serve: Callable[[Path], None], tmp_path: Path) -> None:
    archive.write_bytes(archive.read_bytes()[:-100])
    serve(archive.parent)
    with pytest.raises(UsageError, match="cannot be downloaded"):
        sources.load("cifar10", tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []


def test_server_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(sources, "DOWNLOAD_TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(CIFAR10, "url", f"http://127.0.0.1:{silent.getsockname()[1]}/{CIFAR10.filename}")
        with pytest.raises(UsageError, match=r"cannot be downloaded \(.*timed out.*put cifar-10-python.tar.gz there"):
            sources.load("cifar10", tmp_path)
    assert socket.getdefaulttimeout() is None


@pytest.mark.usefixtures("no_download")
def test_nothing_to_be_had_falls_back_to_digits_and_says_so(tmp_path: Path) -> None:
    dataset, warning = sources.load("auto", tmp_path)
    assert dataset.name == "digits 32x32 (fallback, not CIFAR-10)"
    assert not dataset.mirrored
    assert warning is not None
    assert "\n" not in warning
    for words in ("no network", dataset.name, CIFAR10.filename, "train/<class>/*", "--data-dir"):
        assert words in warning


@pytest.mark.usefixtures("no_download")
def test_cifar10_by_name_never_falls_back(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"CIFAR-10 is not in .* cannot be downloaded \(no network\)"):
        sources.load("cifar10", tmp_path)


def test_digits_are_enlarged_stratified_and_always_the_same() -> None:
    dataset, warning = sources.load("digits", Path("nowhere"))
    assert warning is None
    assert (len(dataset.train), len(dataset.test), len(dataset.classes)) == (1437, 360, 10)
    assert dataset.train.images.shape[1:] == (32, 32, 3)
    assert np.bincount(dataset.test.labels).min() >= 35
    assert np.ptp(dataset.train.images, axis=-1).max() == 0
    assert (dataset.train.images.min(), dataset.train.images.max()) == (0, 255)
    assert dataset.sha256() == sources.read_digits().sha256()


@pytest.mark.parametrize("choice", ["auto", "folder"])
def test_class_folders_are_read(choice: str, shared_tree: Path) -> None:
    dataset, warning = sources.load(choice, shared_tree)
    assert (dataset.name, warning, dataset.classes) == ("folder shapes", None, ("circle", "cross", "square"))
    assert np.bincount(dataset.train.labels).tolist() == [20, 20, 20]
    assert np.bincount(dataset.test.labels).tolist() == [4, 4, 4]
    for label in range(3):
        assert 80 * label <= dataset.train.images[dataset.train.labels == label].min()


def test_grey_and_palette_images_become_rgb(tree: Path) -> None:
    for number, mode in enumerate(("L", "P", "RGBA", "1")):
        path = tree / "train" / "circle" / f"{number:04}.png"
        with sources.Image.open(path) as image:
            image.convert(mode).save(path)
    assert sources.read_folders(tree).train.images.shape == (60, 32, 32, 3)


def remove_from(*parts: str) -> Callable[[Path], None]:
    def damage(tree: Path) -> None:
        for part in parts:
            shutil.rmtree(tree / part)

    return damage


def empty(tree: Path) -> None:
    for path in (tree / "test" / "cross").iterdir():
        path.unlink()
    (tree / "test" / "cross" / "notes.txt").write_text("no image")


def truncate(tree: Path) -> None:
    path = tree / "train" / "square" / "0007.png"
    path.write_bytes(path.read_bytes()[:1000])


def not_an_image(tree: Path) -> None:
    (tree / "train" / "square" / "0007.png").write_bytes(b"not an image")


def broken_chunk(tree: Path) -> None:
    path = tree / "train" / "square" / "0007.png"
    content = bytearray(path.read_bytes())
    content[40:48] = b"\xff" * 8
    path.write_bytes(content)


def too_large(tree: Path) -> None:
    path = tree / "test" / "cross" / "0001.png"
    with sources.Image.open(path) as image:
        image.resize((48, 32)).save(path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove_from("test"), r"test is not a folder; class folders are looked for"),
        (remove_from("train"), r"train is not a folder"),
        (remove_from("train/cross"), r"train lacks the class folder cross \(2 classes there, 3 in .*test\)"),
        (remove_from("test/cross", "test/circle"), r"test holds 1 class folder\(s\); at least 2"),
        (remove_from("test/cross"), r"test lacks the class folder cross \(2 classes there, 3 in .*train\)"),
        (empty, r"class folder .*test/cross holds no images"),
        (truncate, r"train/square/0007.png cannot be read as an image: .*truncated"),
        (not_an_image, r"train/square/0007.png cannot be read as an image: cannot identify"),
        (broken_chunk, r"train/square/0007.png cannot be read as an image"),
        (too_large, r"test/cross/0001.png is 48x32 pixels, not 32x32"),
    ],
)
def test_broken_class_folders_are_named(damage: Callable[[Path], None], message: str, tree: Path) -> None:
    damage(tree)
    with pytest.raises(UsageError, match=message) as caught:
        sources.load("auto", tree)
    assert "\n" not in str(caught.value)


def test_truncated_jpeg_is_named(tree: Path) -> None:
    path = tree / "train" / "cross" / "0003.jpg"
    with sources.Image.open(path.with_suffix(".png")) as image:
        image.save(path)
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(UsageError, match=r"train/cross/0003.jpg cannot be read as an image: .*truncated"):
        sources.read_folders(tree)


@pytest.mark.skipif(not JPEG_COPY.is_dir(), reason="needs the JPEG copy of CIFAR-10 in data/cifar10-jpeg")
def test_jpeg_copy_is_told_from_the_original() -> None:
    dataset, _ = sources.load("auto", JPEG_COPY)
    assert dataset.name == "CIFAR-10, JPEG copy"
    mean, std = channel_statistics(dataset.train.images)
    assert mean == pytest.approx((0.4914, 0.4822, 0.4465), abs=5e-4)
    # JPEG takes away contrast, of colour most.
    assert std == pytest.approx((0.2470, 0.2435, 0.2616), abs=5e-3)


@pytest.mark.skipif(not (JPEG_COPY.parent / CIFAR10.base_folder).is_dir(), reason="needs CIFAR-10 in data/")
def test_statistics_of_cifar10_are_the_quoted_ones() -> None:
    dataset, _ = sources.load("cifar10", JPEG_COPY.parent)
    mean, std = channel_statistics(dataset.train.images)
    assert mean == pytest.approx((0.4914, 0.4822, 0.4465), abs=5e-5)
    assert std == pytest.approx((0.2470, 0.2435, 0.2616), abs=5e-5)
