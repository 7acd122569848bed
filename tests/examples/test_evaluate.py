"""evaluate.py: the figures of a run from its checkpoint, or a refusal that says why not."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import evaluate as script
import numpy as np
import pytest
import sources
import testset
import torch
import trained
from evaluation import evaluate
from PIL import Image

Json = dict[str, object]


def printed(capsys: pytest.CaptureFixture[str], *words: object) -> Json:
    assert script.main([*map(str, words), "--json", "--device", "cpu"]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    assert script.main([*map(str, words), "--device", "cpu"]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert err.count("\n") == 1
    return err


@pytest.fixture
def run(digits_run: Path, tmp_path: Path) -> Path:
    """A run that a test may change."""
    return Path(shutil.copytree(digits_run, tmp_path / "run"))


def change(path: Path, edit: Callable[[dict[str, object]], object]) -> None:
    state = torch.load(path, weights_only=True)
    edit(state)
    torch.save(state, path)


def write_digits(folder: Path) -> Path:
    """The test part of the digits as a tree of class folders."""
    digits = sources.read_digits()
    for number, (image, label) in enumerate(zip(digits.test.images, digits.test.labels, strict=True)):
        path = folder / "test" / digits.classes[label] / f"{number:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return folder


@pytest.mark.parametrize(("which", "recorded"), [("last", "last_epoch"), ("best", "best_on_validation")])
def test_figures_equal_those_of_the_run(
    digits_run: Path, which: str, recorded: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found = printed(capsys, digits_run, "--which", which)
    expected = json.loads((digits_run / "metrics.json").read_text())[recorded]
    assert (found["accuracy"], found["loss"]) == (expected["test_acc"], expected["test_loss"])
    assert (found["epoch"], found["data"]) == (expected["epoch"], sources.DIGITS)
    assert found["data_of_the_run"] is True


def test_no_epoch_of_a_run_on_all_images_is_the_best(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def on_all(state: Any) -> None:
        state["identity"]["validation"] = False

    (run / "best.pt").unlink()
    assert "holds no best.pt" in refused(capsys, run, "--which", "best")
    change(run / "last.pt", on_all)
    assert f"--which best: {run} was trained with --no-validation" in refused(capsys, run, "--which", "best")
    assert printed(capsys, run)["epoch"] == 1


def test_last_is_the_averaged_weights_of_a_run_that_evaluates_them(run: Path) -> None:
    state = torch.load(run / "last.pt", weights_only=True)
    assert not torch.equal(state["average"]["conv1.0.conv.weight"], state["model"]["conv1.0.conv.weight"])
    for key, value in trained.load(run, device="cpu").model.state_dict().items():
        assert torch.equal(value, state["average"][key]), key

    change(run / "last.pt", lambda state: state.update(average=None))
    for key, value in trained.load(run, device="cpu").model.state_dict().items():
        assert torch.equal(value, state["model"][key]), key


def test_classes_add_up_to_the_whole(digits_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = printed(capsys, digits_run)
    classes = found["classes"]
    assert list(classes) == [str(digit) for digit in range(10)]
    assert sum(one["images"] for one in classes.values()) == found["images"] == 360
    mean = sum(one["images"] * one["accuracy"] for one in classes.values()) / 360
    assert mean == pytest.approx(found["accuracy"], abs=1e-3)


def test_text_shows_the_same_figures(digits_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = printed(capsys, digits_run)
    assert script.main([str(digits_run), "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert f"accuracy  {found['accuracy']:.2f} %, loss {found['loss']:.4f}" in out
    for name, one in found["classes"].items():
        assert f"{name:<5}  {one['images']:>6}  {one['accuracy']:>6.2f} %" in out


def test_class_folders_without_a_training_part(
    digits_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = write_digits(tmp_path / "tree")
    found = printed(capsys, digits_run, "--data-dir", tree, "--tta")
    whole = printed(capsys, digits_run)
    assert found["classes"] == whole["classes"]
    assert (found["data"], found["data_of_the_run"]) == ("folder tree", None)
    assert found["tta"] != {key: found[key] for key in ("accuracy", "loss")}


def test_flip_is_the_mean_of_the_logits_of_both_sides(digits_run: Path) -> None:
    network = trained.load(digits_run, device="cpu")
    images = testset.read(network).images
    both = [network.logits(side) for side in _sides(images.images)]
    flipped = evaluate(network, images, tta="mirror")
    torch.testing.assert_close(torch.from_numpy(flipped.logits), torch.stack(both).mean(0))
    assert flipped.loss == pytest.approx(
        float(torch.nn.functional.cross_entropy(torch.stack(both).mean(0), torch.from_numpy(images.labels))), rel=1e-5
    )


def _sides(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return images, np.stack([np.fliplr(image) for image in images])


def test_flip_is_refused_where_it_makes_other_things(digits_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--tta: in digits" in refused(capsys, digits_run, "--tta")


def test_other_classes_are_refused_and_both_named(
    digits_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("circle", "cross"):
        (tmp_path / "shapes" / "test" / name).mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(tmp_path / "shapes" / "test" / name / "1.png")
    error = refused(capsys, digits_run, "--data-dir", tmp_path / "shapes")
    assert "digits knows 0, 1, 2, 3, 4, 5, 6, 7, 8, 9; folder shapes has circle, cross" in error


def test_a_checkpoint_runs_no_code(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (tmp_path / "touched",)

    state = torch.load(run / "last.pt", weights_only=True)
    torch.save({**state, "evil": Evil()}, run / "last.pt")
    assert "last.pt cannot be loaded" in refused(capsys, run)
    assert not (tmp_path / "touched").exists()


def truncate(run: Path) -> None:
    (run / "last.pt").write_bytes((run / "last.pt").read_bytes()[:1000])


def as_before(run: Path) -> None:
    """A checkpoint from when last.pt left out what config.json says."""
    change(run / "last.pt", lambda state: state.pop("config"))


def relabel(run: Path) -> None:
    as_before(run)
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**config, "seed": 7}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shutil.rmtree, "holds no last.pt; a run folder is what train.py writes"),
        (lambda run: (run / "last.pt").unlink(), "holds no last.pt"),
        (truncate, "last.pt cannot be loaded"),
        (lambda run: (as_before(run), (run / "config.json").unlink()), "best.pt needs no other file"),
        (lambda run: (as_before(run), (run / "config.json").write_text("{")), "config.json, which cannot be read"),
        (relabel, "is not of the run of last.pt: its seed is 7, not 0"),
        (lambda run: change(run / "last.pt", lambda state: state.pop("progress")), "says nothing of 'progress'"),
        (lambda run: change(run / "last.pt", lambda state: state["average"].popitem()), "does not fit twelve_layer"),
    ],
    ids=["no-run", "no-checkpoint", "truncated", "no-config", "bad-config", "other-config", "no-progress", "no-weight"],
)
def test_what_is_no_run_is_refused(
    run: Path, damage: Callable[[Path], object], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(run)
    assert message in refused(capsys, run)


def test_checkpoint_from_before_it_held_the_config_is_read(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = printed(capsys, run)
    as_before(run)
    assert printed(capsys, run) == expected


def test_best_needs_no_other_file(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = printed(capsys, run, "--which", "best")
    for path in run.iterdir():
        if path.name != "best.pt":
            path.unlink()
    assert printed(capsys, run, "--which", "best") == expected


def test_data_that_is_not_there_is_asked_for(
    digits_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = refused(capsys, digits_run, "--data-dir", tmp_path)
    assert "holds neither test/<class>/* nor cifar-10-python.tar.gz; the run was trained on digits" in error


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused(digits_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert script.main([str(digits_run), "--device", "cuda"]) == 2
    assert "torch sees no GPU" in capsys.readouterr().err


@pytest.mark.gpu
def test_a_gpu_gives_the_figures_of_the_cpu(digits_run: Path) -> None:
    found = []
    for device in ("cpu", "cuda"):
        network = trained.load(digits_run, device=device)
        found.append(evaluate(network, testset.read(network).images))
    assert found[1].loss == pytest.approx(found[0].loss, rel=1e-3)
    assert found[1].accuracy == pytest.approx(found[0].accuracy, abs=0.6)
