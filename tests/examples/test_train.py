"""The script end to end, in this process."""

import argparse
import csv
import functools
import json
import os
import resource
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import engine
import loop
import models
import numpy as np
import pytest
import report
import sources
import torch
import train as script
import trained
import training
from devices import Device
from errors import RunError, UsageError
from parallel import Parallel
from PIL import Image
from rundir import FILES

from data import ImageSet, channel_statistics, split

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

Train = Callable[..., int]
AtStep = Callable[[int, Callable[[engine.Run], None]], None]
TIMES = ("images_per_s", "train_seconds", "seconds")
MEASURED = ("wall_time_s", "images_per_s", "train_seconds", "prepare_seconds", "first_reached_on_validation")


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def log(folder: Path) -> list[dict[str, str]]:
    """The rows of log.csv without what a clock tells."""
    with open(folder / "log.csv", newline="") as file:
        return [{key: value for key, value in row.items() if key not in TIMES} for row in csv.DictReader(file)]


def figures(folder: Path) -> dict[str, Any]:
    metrics = read(folder / "metrics.json")
    return {key: value for key, value in metrics.items() if key not in MEASURED}


def assert_same_run(first: Path, second: Path) -> None:
    def flatten(value: object, key: str = "") -> dict[str, object]:
        if isinstance(value, dict):
            return {deep: v for name, part in value.items() for deep, v in flatten(part, f"{key}/{name}").items()}
        if isinstance(value, list | tuple):
            return flatten(dict(enumerate(value)), key)
        return {key: value}

    names = {path.name for path in first.iterdir()}
    assert names == {path.name for path in second.iterdir()}
    for name in names & {"last.pt", "best.pt"}:
        left, right = (flatten(torch.load(folder / name, weights_only=True)) for folder in (first, second))
        assert left.keys() == right.keys()
        for key, value in left.items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(value, right[key]), key
            elif not key.endswith(TIMES):
                assert value == right[key], key
    assert log(first) == log(second)
    assert figures(first) == figures(second)


def error(capsys: pytest.CaptureFixture[str]) -> str:
    """What went to stderr, which must be one line."""
    text = capsys.readouterr().err
    assert text.count("\n") == 1, text
    assert text.startswith("train.py: ")
    return text


def test_run_folder_holds_what_a_run_is(
    train: Train, shared_tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train() == 0
    folder = tmp_path / "run"
    assert {path.name for path in folder.iterdir()} == set(FILES)

    dataset = sources.read_folders(shared_tree)
    training, _ = split(dataset.train, 0)
    config = read(folder / "config.json")
    assert (config["dataset"], config["dataset_sha256"]) == ("folder shapes", dataset.sha256())
    assert config["images"] == {"train": 54, "validation": 6, "test": 12}
    assert (config["mean"], config["std"]) == tuple(map(list, channel_statistics(training.images)))
    assert (config["parameters"], config["seed"], config["precision"]) == (169_987, 0, "fp32")
    assert (config["recipe"]["epochs"], config["recipe"]["dropout"], config["steps_per_epoch"]) == (3, 0.0, 3)
    assert config["versions"].keys() >= {"python", "torch", "torchvision", "albumentations", "timm"}
    assert config["hardware"]["device"] == "cpu"
    assert config["hardware"]["threads"] == 1
    assert config["command"].startswith("python examples/cifar10/train.py --data-dir ")

    rows = log(folder)
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    metrics = read(folder / "metrics.json")
    assert (metrics["finished"], metrics["epochs"], metrics["dataset"]) == (True, 3, "folder shapes")
    best = max(rows, key=lambda row: float(row["val_acc"]))
    for said, row in ((metrics["last_epoch"], rows[-1]), (metrics["best_on_validation"], best)):
        assert said["epoch"] == int(row["epoch"])
        assert said["test_acc"] == pytest.approx(float(row["test_acc"]), rel=1e-4)
    assert str(tmp_path) not in (folder / "metrics.json").read_text()
    assert metrics["wall_time_s"] >= 0
    assert metrics["images_per_s"] > 0

    for name in ("curves.png", "augmented.png"):
        with Image.open(folder / name) as picture:
            # White everywhere would be an empty picture.
            assert np.asarray(picture.convert("L")).std() > 10, name

    out = capsys.readouterr().out
    assert "folder shapes: 54 train, 6 validation, 12 test" in out
    assert "test accuracy" in out.splitlines()[-1]
    assert "after the last epoch" in out.splitlines()[-1]
    assert "at the best validation accuracy" in out.splitlines()[-1]
    assert sum(line.startswith("epoch ") for line in out.splitlines()) == 3


def test_best_weights_give_the_accuracy_that_is_written(train: Train, shared_tree: Path, tmp_path: Path) -> None:
    assert train(epochs=6) == 0
    saved = torch.load(tmp_path / "run" / "best.pt", weights_only=True)
    config = saved["config"]
    model = models.build(config["model"], len(config["classes"])).eval()
    model.load_state_dict(saved["weights"])
    test = sources.read_folders(shared_tree).test
    pixels = torch.from_numpy(test.images).permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(config[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        correct = (model((pixels - mean) / std).argmax(1).numpy() == test.labels).mean()
    best = read(tmp_path / "run" / "metrics.json")["best_on_validation"]
    assert (100 * correct, config["epoch"]) == (pytest.approx(best["test_acc"], abs=1e-3), best["epoch"])


def test_without_validation_all_images_are_trained_on(
    train: Train, shared_tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("--no-validation") == 0
    folder = tmp_path / "run"
    assert {path.name for path in folder.iterdir()} == set(FILES) - {"best.pt"}
    config, metrics = read(folder / "config.json"), read(folder / "metrics.json")
    assert config["images"] == metrics["images"] == {"train": 60, "validation": 0, "test": 12}
    dataset = sources.read_folders(shared_tree)
    assert (config["mean"], config["std"]) == tuple(map(list, channel_statistics(dataset.train.images)))
    assert (metrics["best_on_validation"], metrics["first_reached_on_validation"]) == (None, None)
    assert set(metrics["last_epoch"]) == {"epoch", "train_loss", "train_acc", "test_loss", "test_acc"}
    rows = log(folder)
    assert [row["test_acc"] != "" for row in rows] == [False, False, True]
    assert all("val_acc" not in row for row in rows)
    assert metrics["last_epoch"]["test_acc"] == pytest.approx(float(rows[-1]["test_acc"]), rel=1e-4)

    out = capsys.readouterr().out
    assert "folder shapes: 60 train, 0 validation, 12 test" in out
    epochs = [line for line in out.splitlines() if line.startswith("epoch ")]
    assert [" test " in line for line in epochs] == [False, False, True]
    assert not any(" val " in line for line in epochs)
    assert out.splitlines()[-1].endswith(" % after the last epoch")


def test_without_validation_every_image_is_seen(train: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    counts: dict[bool, int] = {}
    order = training.Order

    def counted(count: int, *rest: Any) -> Any:
        counts["--no-validation" in words] = count
        return order(count, *rest)

    monkeypatch.setattr(training, "Order", counted)
    for words in ([], ["--no-validation"]):
        assert train(*words, name=f"run{len(words)}", epochs=1) == 0
    assert counts == {False: 54, True: 60}


@pytest.mark.parametrize(("words", "looks"), [(["--validation"], [6, 12, 6, 12, 6, 12]), (["--no-validation"], [12])])
def test_the_test_images_are_looked_at_once_where_nothing_is_held_out(
    words: list[str], looks: list[int], train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[int] = []
    evaluate = engine.Run.evaluate

    def noted(run: engine.Run, images: ImageSet, *rest: Any) -> tuple[float, float]:
        found.append(len(images))
        return evaluate(run, images, *rest)

    monkeypatch.setattr(engine.Run, "evaluate", noted)
    assert train(*words, "--no-test-time-augmentation") == 0
    assert found == looks


def test_checkpoint_on_all_images_is_refused_to_a_run_that_holds_some_out(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("--no-validation", epochs=1) == 0
    capsys.readouterr()
    assert train("--resume", epochs=1) == 2
    assert "last.pt is of another run: its validation is False, not True" in error(capsys)
    assert train("--resume", "--no-validation", epochs=1) == 0


def test_checkpoint_from_before_there_was_a_choice_held_images_out(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(epochs=1) == 0
    state = torch.load(tmp_path / "run" / "last.pt", weights_only=True)
    del state["identity"]["validation"]
    torch.save(state, tmp_path / "run" / "last.pt")
    capsys.readouterr()
    assert train("--resume", "--no-validation", epochs=1) == 2
    assert "its validation is True, not False" in error(capsys)
    assert train("--resume", epochs=1) == 0


@pytest.mark.parametrize(("words", "name"), [([], "net4-long-3"), (["--no-validation"], "net4-long-all-3")])
def test_folder_of_a_run_on_all_images_has_another_name(words: list[str], name: str) -> None:
    arguments = script.parser().parse_args(["--model", "net4", "--recipe", "long", "--seed", "3", *words])
    assert training._folder(arguments) == Path("runs") / name


def test_training_learns(train: Train, tmp_path: Path) -> None:
    assert train("--augment", "gentle", epochs=10) == 0
    assert read(tmp_path / "run" / "metrics.json")["last_epoch"]["test_acc"] >= 90


@pytest.mark.parametrize(
    ("model", "words", "workers", "step"),
    [
        ("twelve_layer", (), 0, 5),
        ("twelve_layer", ("--augment-with", "albumentations"), 1, 6),
        ("twelve_layer", ("--no-validation",), 0, 5),
        ("twelve_layer", ("--no-validation",), 0, 9),
        ("twelve_layer", ("--mixup", "0.4", "--cutmix", "1", "--mix-rising"), 0, 5),
        ("net4", ("--recipe", "published"), 0, 4),
        ("era_s9", ("--recipe", "published", "--seed", "3"), 0, 7),
    ],
)
def test_interrupted_and_resumed_is_bit_for_bit_the_uninterrupted(
    model: str,
    words: tuple[str, ...],
    workers: int,
    step: int,
    train: Train,
    at_step: AtStep,
    interrupt: Callable[[object], None],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert train(*words, model=model, name="whole") == 0
    capsys.readouterr()
    at_step(step, interrupt)
    assert train(*words, model=model, name="parts", workers=workers) == 130
    epoch, made = divmod(step - 1, 3)
    assert f"interrupted in epoch {epoch + 1} after step {made + 1}; saved to" in error(capsys)
    # Other draws in between must not matter.
    torch.rand(5)
    assert train(*words, "--resume", model=model, name="parts", workers=workers) == 0
    assert f"going on in epoch {epoch + 1} after step {made + 1}" in capsys.readouterr().out
    assert_same_run(tmp_path / "whole", tmp_path / "parts")
    config = read(tmp_path / "parts" / "config.json")
    assert [(note["epoch"], note["step"]) for note in config["resumed"]] == [(epoch, made + 1)]


def test_a_request_to_stop_counts_from_the_announcement_on(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the background of a shell, SIGINT is ignored by whoever has no handler yet."""
    begin = loop.Loop.start

    def announced(self: loop.Loop, *arguments: Any, **named: Any) -> None:
        begin(self, *arguments, **named)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(loop.Loop, "start", announced)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert train() == 130
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    monkeypatch.undo()
    assert (tmp_path / "run" / "last.pt").exists()
    assert train("--resume") == 0


def test_interrupt_between_evaluation_and_the_next_epoch_loses_nothing(
    train: Train, interrupt: Callable[[object], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert train(name="whole") == 0
    evaluate = engine.Run.evaluate
    calls = 0

    def interrupted(run: engine.Run, *arguments: Any) -> tuple[float, float]:
        nonlocal calls
        calls += 1
        if calls in (3, 6):
            interrupt(run)
        return evaluate(run, *arguments)

    monkeypatch.setattr(engine.Run, "evaluate", interrupted)
    assert train(name="parts") == 130
    assert train("--resume", name="parts") == 130
    assert train("--resume", name="parts") == 0
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_results_do_not_depend_on_the_number_of_workers(train: Train, tmp_path: Path) -> None:
    words = ("--augment-with", "albumentations")
    assert train(*words, name="none", epochs=2) == 0
    assert train(*words, name="two", epochs=2, workers=2) == 0
    assert_same_run(tmp_path / "none", tmp_path / "two")


def test_seed_decides_the_run(train: Train, tmp_path: Path) -> None:
    assert train(name="zero", epochs=1) == train("--seed", "1", name="one", epochs=1) == 0
    assert log(tmp_path / "zero") != log(tmp_path / "one")


def test_finished_run_is_not_trained_again(train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(epochs=1) == 0
    before = (tmp_path / "run" / "last.pt").read_bytes()
    assert train("--resume", epochs=1) == 0
    assert "already finished" in capsys.readouterr().out
    assert (tmp_path / "run" / "last.pt").read_bytes() == before


@pytest.mark.parametrize("keep", ["last.pt", "config.json", "log.csv"])
def test_run_folder_is_never_overwritten_in_silence(
    keep: str, train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / keep).write_text("precious")
    assert train() == 2
    message = error(capsys)
    for words in (f"already holds a run ({keep})", "--resume", "--name", "--overwrite"):
        assert words in message
    assert (folder / keep).read_text() == "precious"


def test_overwrite_replaces_a_run_but_not_what_else_lies_there(train: Train, tmp_path: Path) -> None:
    assert train(epochs=2) == 0
    (tmp_path / "run" / "notes.txt").write_text("mine")
    assert train("--overwrite", epochs=1) == 0
    assert len(log(tmp_path / "run")) == 1
    assert (tmp_path / "run" / "notes.txt").read_text() == "mine"


def test_overwrite_that_cannot_start_keeps_the_old_run(train: Train, tmp_path: Path) -> None:
    assert train(epochs=1) == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    assert train("--overwrite", model="twelve_leyer") == 2
    assert train("--overwrite", "--data-dir", str(tmp_path / "nowhere"), "--dataset", "folder") == 2
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--model", "net4"), "its network is 'twelve_layer', not 'net4'"),
        (("--recipe", "published"), "its recipe is 'modern', not 'published'"),
        (("--epochs", "2"), "its epochs is 1, not 2"),
        (("--lr", "0.5"), "its lr is 0.4, not 0.5"),
        (("--optimizer", "adamw"), "its optimizer is 'sgd', not 'adamw'"),
        (("--seed", "1"), "its seed is 0, not 1"),
        (("--no-validation",), "its validation is True, not False"),
        (("--precision", "bf16"), "its precision is 'fp32', not 'bf16'"),
        (("--dataset", "digits"), "its data is 'folder shapes', not 'digits 32x32 (fallback, not CIFAR-10)'"),
    ],
)
def test_checkpoint_of_another_run_is_refused(
    words: tuple[str, ...],
    said: str,
    train: Train,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    capsys: pytest.CaptureFixture[str],
) -> None:
    finished = tmp_path_factory.getbasetemp() / "finished"
    if not finished.exists():
        assert train(epochs=1) == 0
        shutil.copytree(tmp_path / "run", finished)
    shutil.copytree(finished, tmp_path / "run", dirs_exist_ok=True)
    before = (tmp_path / "run" / "last.pt").read_bytes()
    capsys.readouterr()
    assert train("--resume", *words, epochs=1) == 2
    assert said in error(capsys)
    assert (tmp_path / "run" / "last.pt").read_bytes() == before


def test_checkpoint_of_other_pixels_is_refused(
    train: Train, tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(epochs=1) == 0
    path = tree / "train" / "cross" / "0000.png"
    with Image.open(path) as image:
        image.rotate(90).save(path)
    capsys.readouterr()
    assert train("--resume", "--data-dir", str(tree), epochs=1) == 2
    assert "its data_sha256 is" in error(capsys)


def test_nan_loss_stops_and_keeps_the_last_good_checkpoint(
    train: Train, at_step: AtStep, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept: list[bytes] = []

    def poison(run: engine.Run) -> None:
        kept.append((tmp_path / "run" / "last.pt").read_bytes())
        next(run.model.parameters()).data.fill_(float("nan"))

    at_step(4, poison)
    assert train() == 1
    message = error(capsys)
    assert "the loss is no longer finite in epoch 2, by step 2, at learning rate 0." in message
    assert "last good checkpoint is kept" in message
    assert (tmp_path / "run" / "last.pt").read_bytes() == kept[0]
    assert len(log(tmp_path / "run")) == 1


@pytest.mark.parametrize("words", [(), ("--no-validation",)])
def test_weights_broken_by_the_last_step_of_an_epoch_are_not_saved(
    words: tuple[str, ...], train: Train, at_step: AtStep, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def poison(run: engine.Run) -> None:
        next(run.evaluated.parameters()).data.fill_(float("nan"))

    at_step(6, poison)
    assert train(*words) == 1
    assert "no longer finite in epoch 2" in error(capsys)
    assert torch.load(tmp_path / "run" / "last.pt", weights_only=True)["progress"]["epoch"] == 1


def test_learning_rate_beyond_reason_ends_in_one_line(train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    assert train("--lr", "1e30") == 1
    assert "the loss is no longer finite in epoch 1" in error(capsys)


def test_full_disk_keeps_the_last_good_checkpoint(
    train: Train, at_step: AtStep, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    assert train(name="whole") == 0
    capsys.readouterr()
    at_step(4, lambda _: resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard)))
    try:
        assert train() == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    message = error(capsys)
    assert f"cannot write {tmp_path / 'run' / 'last.pt'}: File too large" in message
    assert "is intact" in message
    assert not [path for path in (tmp_path / "run").iterdir() if path.name.startswith(".")]
    assert torch.load(tmp_path / "run" / "last.pt", weights_only=True)["progress"]["epoch"] == 1
    assert train("--resume") == 0
    assert_same_run(tmp_path / "whole", tmp_path / "run")


def test_damaged_checkpoint_is_refused(train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(epochs=1) == 0
    capsys.readouterr()
    path = tmp_path / "run" / "last.pt"
    path.write_bytes(path.read_bytes()[:10_000])
    assert train("--resume", epochs=1) == 2
    assert "last.pt cannot be loaded" in error(capsys)


def test_run_folder_that_is_a_file_is_refused(train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run").write_text("mine")
    assert train() == 1
    assert f"cannot write the run folder {tmp_path / 'run'}" in error(capsys)
    assert (tmp_path / "run").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes anywhere")
def test_unwritable_run_folder_is_refused(train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run").mkdir(mode=0o500)
    assert train() == 1
    assert "cannot write the run folder" in error(capsys)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--model", "twelve_leyer"), "--model 'twelve_leyer' is not known; did you mean twelve_layer"),
        (("--model", "test_resnet", "--recipe", "published"), "--model test_resnet has no published recipe"),
        (("--resume",), "there is no checkpoint"),
        (("--resume", "--overwrite"), "--resume and --overwrite exclude each other"),
        (("--name", "a/b"), "--name 'a/b' is not the name of a folder"),
        (("--name", ""), "--name '' is not the name of a folder"),
        (("--name", ".."), "--name '..' is not the name of a folder"),
        (("--dataset", "folder", "--data-dir", "nowhere"), "nowhere/train is not a folder"),
    ],
)
def test_bad_command_line_ends_in_one_line(
    words: tuple[str, ...], said: str, train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(*words) == 2
    assert said in error(capsys)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--epochs", "0"), "0 is not between 1 and"),
        (("--epochs", "1.5"), "'1.5' is not a whole number"),
        (("--batch-size", "1"), "1 is not between 2 and"),
        (("--lr", "0"), "0 is not above 0"),
        (("--lr", "nan"), "nan is not above 0"),
        (("--lr", "fast"), "'fast' is not a number"),
        (("--label-smoothing", "1"), "1 is not at least 0 and below 1"),
        (("--weight-decay", "-1"), "-1 is not at least 0"),
        (("--workers", "-1"), "-1 is not between 0 and"),
        (("--dataset", "cifar100"), "invalid choice: 'cifar100'"),
        (("--epoch-count", "3"), "unrecognized arguments: --epoch-count"),
    ],
)
def test_argument_out_of_bounds_is_refused(
    words: tuple[str, str], said: str, train: Train, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(*words) == 2
    assert said in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_gpu_asked_for_but_absent_is_an_error(train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    assert train("--device", "cuda") == 2
    assert "--device cuda: torch sees no GPU here" in error(capsys)


def test_missing_package_is_answered_with_the_command_that_installs_it(
    train: Train, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "training", None)
    assert train() == 2
    assert "pip install -e '.[examples]'" in error(capsys)


def test_corrupt_image_ends_in_one_line(
    train: Train, tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tree / "train" / "cross" / "0001.png").write_bytes(b"")
    assert train("--data-dir", str(tree)) == 2
    assert "train/cross/0001.png cannot be read as an image" in error(capsys)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_bar_is_for_terminals(
    terminal: bool, train: Train, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    # Drawn anew at every step: three steps are sooner done than the tenth of a second between two drawings.
    monkeypatch.setattr(engine, "tqdm", functools.partial(engine.tqdm, mininterval=0, miniters=1))
    assert train(epochs=1) == 0
    err = capsys.readouterr().err
    assert ("epoch 1/1: " in err and " images/s, lr 0." in err) == terminal
    assert terminal or err == ""


def test_bf16_trains(train: Train, tmp_path: Path) -> None:
    assert train("--precision", "bf16", epochs=1) == 0
    assert read(tmp_path / "run" / "config.json")["precision"] == "bf16"


def test_network_of_timm_trains(train: Train, tmp_path: Path) -> None:
    assert train(model="test_resnet", epochs=1) == 0
    assert read(tmp_path / "run" / "metrics.json")["model"] == "test_resnet"


def test_teacher_is_learned_from_and_recorded(train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(name="teacher") == 0
    teacher = str(tmp_path / "teacher")
    assert train("--teacher", teacher, name="taught", epochs=1) == 0
    assert train(name="alone", epochs=1) == 0
    assert train("--teacher", teacher, "--distill", "0", name="deaf", epochs=1) == 0
    assert log(tmp_path / "taught") != log(tmp_path / "alone") == log(tmp_path / "deaf")
    config = read(tmp_path / "taught" / "config.json")
    assert (config["teacher"], config["recipe"]["distill"]) == ("teacher", 0.5)
    capsys.readouterr()
    # Another network under the same name is another teacher.
    assert train("--teacher", str(tmp_path / "alone"), "--resume", name="taught", epochs=1) == 2
    assert "its teacher is" in error(capsys)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--distill", "0.5"), "--distill needs a teacher"),
        (("--teacher", "nowhere"), "nowhere holds no last.pt"),
        (("--graph",), "--graph: CUDA graphs need a GPU"),
        (
            ("--no-validation", "--model", "era_s9", "--recipe", "published"),
            "--no-validation does not fit --recipe published of --model era_s9",
        ),
        (("--sync-batch-norm",), "--sync-batch-norm: torch's SyncBatchNorm needs GPUs"),
    ],
)
def test_what_does_not_fit_together_is_refused(
    words: tuple[str, ...], said: str, train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(*words) == 2
    assert said in error(capsys)
    assert not (tmp_path / "run").exists()


def test_a_graph_is_refused_to_several_processes() -> None:
    arguments = argparse.Namespace(sync_batch_norm=False, distill=None, teacher=None)
    with pytest.raises(UsageError, match="--graph is for one process"):
        training._require_fit(arguments, Device("cuda", graph=True), Parallel(processes=2))
    training._require_fit(arguments, Device("cuda", graph=True), Parallel())


def test_teacher_of_other_classes_is_refused(
    train: Train, digits_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train("--teacher", str(digits_run)) == 2
    assert "knows the classes 0, 1, 2" in error(capsys)


def test_preparation_leaves_a_run_as_it_is(train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU and torch.compile need before the first step, made here on the CPU: the figures stay the same."""
    words = ("--model", "net4", "--recipe", "published")
    assert train(*words, name="plain", epochs=2) == 0
    prepare = engine.Run.prepare

    def forced(run: engine.Run, images: torch.Tensor, labels: torch.Tensor) -> None:
        # Compiling itself takes too long for this test; what it is done for is a step like any other.
        device, run.device = run.device, replace(run.device, compile=True)
        prepare(run, images, labels)
        run.device = device
        assert run.progress.prepare_seconds > 0

    monkeypatch.setattr(engine.Run, "prepare", forced)
    assert train(*words, name="prepared", epochs=2) == 0
    assert_same_run(tmp_path / "plain", tmp_path / "prepared")
    assert read(tmp_path / "prepared" / "metrics.json")["prepare_seconds"] > 0


def test_test_time_augmentation_is_noted_apart(train: Train, tmp_path: Path) -> None:
    assert train(epochs=2) == 0
    metrics = read(tmp_path / "run" / "metrics.json")
    assert set(metrics["test_time_augmentation"]) == {"mirror", "mirror+shift"}
    assert metrics["last_epoch"]["test_acc"] == pytest.approx(float(log(tmp_path / "run")[-1]["test_acc"]), rel=1e-4)


def test_test_time_augmentation_can_be_left_out(train: Train, tmp_path: Path) -> None:
    """On a CPU the views can take longer than an epoch."""
    assert train("--no-test-time-augmentation", epochs=1) == 0
    assert "test_time_augmentation" not in read(tmp_path / "run" / "metrics.json")


def test_checkpoint_holds_what_its_network_is(train: Train, tmp_path: Path) -> None:
    """last.pt alone is enough, as best.pt is."""
    assert train(epochs=1) == 0
    (tmp_path / "run" / "config.json").unlink()
    assert trained.load(tmp_path / "run", device="cpu").classes == ("circle", "cross", "square")


def test_checkpoints_wait_for_each_other_and_none_is_lost(
    train: Train, at_step: AtStep, interrupt: Callable[[object], None], tmp_path: Path
) -> None:
    assert train(name="whole") == 0
    assert train("--save-every", "1e9", name="rare") == 0
    assert_same_run(tmp_path / "whole", tmp_path / "rare")
    at_step(8, interrupt)
    assert train("--save-every", "1e9", name="parts") == 130
    assert train("--resume", name="parts") == 0
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_report_is_written_at_the_end(
    train: Train, shared_tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[tuple[object, ...]] = []

    def write(run: Path, *, data_dir: Path | None, device: str) -> Path:
        assert read(run / "metrics.json")["finished"]
        asked.append((run, data_dir, device))
        return run / "report" / "index.html"

    monkeypatch.setattr(report, "write", write)
    assert train("--report", epochs=1) == 0
    assert asked == [(tmp_path / "run", shared_tree, "cpu")]
    assert f"report    {tmp_path / 'run' / 'report' / 'index.html'}" in capsys.readouterr().out


def test_report_that_fails_loses_nothing(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def write(*_: object, **__: object) -> Path:
        raise RunError("no room")

    monkeypatch.setattr(report, "write", write)
    assert train("--report", epochs=1) == 0
    assert "the run is finished, but its report cannot be written: no room" in error(capsys)
    assert read(tmp_path / "run" / "metrics.json")["finished"]
