"""A data set of class folders small enough to train on in a second, and the script run in this process."""

import signal
from collections.abc import Callable
from pathlib import Path

import engine
import numpy as np
import pytest
import torch
import train as script
from PIL import Image
from torch import Tensor

Train = Callable[..., int]


def write_tree(root: Path) -> Path:
    """Noise images whose brightness tells the class, as PNG."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 20), ("test", 4)):
        for label, name in enumerate(("circle", "cross", "square")):
            folder = root / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 80, (32, 32, 3)) + 80 * label
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number:04}.png")
    return root


@pytest.fixture(scope="session")
def shared_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class folders that no test changes."""
    return write_tree(tmp_path_factory.mktemp("data") / "shapes")


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of one epoch on the digits, which no test changes."""
    folder = tmp_path_factory.mktemp("runs")
    words = "--dataset digits --epochs 1 --device cpu --precision fp32 --workers 0 --name digits --no-report"
    assert script.main([*words.split(), "--run-dir", str(folder)]) == 0
    return folder / "digits"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Class folders that a test may damage."""
    return write_tree(tmp_path / "shapes")


@pytest.fixture
def train(shared_tree: Path, tmp_path: Path) -> Train:
    """Run the script in this process on the class folders; returns its exit status.

    `name` is the folder below tmp_path; 54 images in batches of 16 are 3 steps an epoch.
    """

    def run(*words: str, name: str = "run", epochs: int = 3, model: str = "twelve_layer", workers: int = 0) -> int:
        command = ["--data-dir", str(shared_tree), "--run-dir", str(tmp_path), "--name", name, "--model", model]
        command += ["--epochs", str(epochs), "--batch-size", "16", "--workers", str(workers), "--precision", "fp32"]
        # Two threads on a machine busy with other things wait for each other more than they compute.
        command += ["--device", "cpu", "--threads", "1", "--no-report", "--save-every", "0"]
        try:
            return script.main([*command, *words])
        except SystemExit as left:
            return int(left.code or 0)

    return run


@pytest.fixture
def at_step(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[engine.Run], None]], None]:
    """Do something right after the n-th step, counted from 1, that this process makes."""

    def arrange(number: int, action: Callable[[engine.Run], None]) -> None:
        made = 0
        step = engine.Run.train_step

        def counting(run: engine.Run, images: Tensor, labels: Tensor) -> Tensor:
            nonlocal made
            sums = step(run, images, labels)
            made += 1
            if made == number:
                action(run)
            return sums

        monkeypatch.setattr(engine.Run, "train_step", counting)

    return arrange


@pytest.fixture
def interrupt() -> Callable[[object], None]:
    """Ctrl-C, for real."""
    return lambda _: signal.raise_signal(signal.SIGINT)


@pytest.fixture(autouse=True)
def _keep_threads() -> object:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
