"""Weights: from a run folder to `pretrained=True`, and the committed ones against what their cards say."""

import hashlib
import json
import shutil
from pathlib import Path

import networks
import pretrained
import pytest
import timm
import timm.data
import torch
import trained
import weights
from errors import UsageError

CLASSES = 3


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, shared_tree: Path) -> Path:
    """The folder of a run of one epoch whose data is called CIFAR-10, as only weights of CIFAR-10 are kept."""
    import train as script

    runs = tmp_path_factory.mktemp("runs")
    command = ["--data-dir", str(shared_tree), "--run-dir", str(runs), "--name", "one", "--model", "eva8_s6"]
    command += ["--epochs", "1", "--batch-size", "16", "--workers", "0", "--precision", "fp32", "--device", "cpu"]
    assert script.main(command) == 0
    change(runs / "one", dataset="CIFAR-10, made up")
    return runs / "one"


def change(run: Path, **values: object) -> None:
    for name in ("config.json", "metrics.json"):
        content = json.loads((run / name).read_text())
        (run / name).write_text(json.dumps(content | {key: new for key, new in values.items() if key in content}))


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(finished, tmp_path / "one"))


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    """Weights of eva8_s6, made of that run."""
    weights.convert(finished, tmp_path / "weights")
    return tmp_path / "weights"


def test_the_weights_after_the_last_epoch_come_back(finished: Path, folder: Path) -> None:
    model = networks.eva8_s6(CLASSES)
    pretrained.load_into(model, "eva8_s6", folder)
    expected = trained.load(finished, "last").model.state_dict()
    assert model.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[key]) for key, value in model.state_dict().items())


def test_facts_and_card_are_those_of_the_run(finished: Path, folder: Path) -> None:
    metrics = json.loads((finished / "metrics.json").read_text())
    facts = pretrained.facts("eva8_s6", folder)
    assert facts["test_accuracy"] == metrics["last_epoch"]["test_acc"]
    assert (facts["epochs"], facts["dataset"], facts["classes"]) == (
        1,
        "CIFAR-10, made up",
        ["circle", "cross", "square"],
    )
    card = (folder / "eva8_s6.md").read_text()
    assert f"{facts['test_accuracy']:.2f} %, after the last epoch" in card
    assert facts["command"] in card
    assert facts["sha256"] in card


def test_card_says_what_was_trained_on_and_what_was_held_out(finished: Path, folder: Path) -> None:
    facts = pretrained.facts("eva8_s6", folder)
    metrics = json.loads((finished / "metrics.json").read_text())
    assert facts["images"] == metrics["images"] == {"train": 54, "validation": 6, "test": 12}
    accuracy = f"{metrics['last_epoch']['val_acc']:.2f} %, on 6 held-out training images"
    assert f"| Validation accuracy | {accuracy} |\n| Trained on | 54 images |" in weights.card(facts)


def test_card_of_a_run_on_all_images(run: Path, tmp_path: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    figures = {key: value for key, value in metrics["last_epoch"].items() if not key.startswith("val_")}
    images = {"train": 60, "validation": 0, "test": 12}
    change(run, images=images, last_epoch=figures, best_on_validation=None)
    path = weights.convert(run, tmp_path / "weights")
    assert json.loads(path.with_suffix(".json").read_text())["validation_accuracy"] is None
    card = path.with_suffix(".md").read_text()
    assert "| Validation accuracy | none: no training image is held out |\n| Trained on | 60 images |" in card


def test_a_short_schedule_is_called_one_and_a_whole_one_is_not(folder: Path) -> None:
    facts = pretrained.facts("eva8_s6", folder)
    full = facts["epochs_of_the_recipe"]
    assert f"1 epochs of the recipe's {full}" in weights.card(facts)
    assert "A short schedule" in weights.card(facts)
    assert "short schedule" not in weights.card(facts | {"epochs": full})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"finished": False}, r"has not finished: 1 of 1 epochs"),
        ({"dataset": "digits"}, r"is of digits; weights are kept of CIFAR-10"),
        ({"model": "resnet18"}, r"is of resnet18; weights are kept of era_s9"),
    ],
)
def test_runs_that_make_no_weights(run: Path, tmp_path: Path, values: dict[str, object], message: str) -> None:
    change(run, **values)
    with pytest.raises(UsageError, match=message):
        weights.convert(run, tmp_path / "weights")
    assert not (tmp_path / "weights").exists()


def test_weights_that_are_there_stay_unless_replaced(run: Path, folder: Path) -> None:
    before = (folder / "eva8_s6.safetensors").read_bytes()
    with pytest.raises(UsageError, match=r"eva8_s6.safetensors exists; --replace replaces it"):
        weights.convert(run, folder)
    assert (folder / "eva8_s6.safetensors").read_bytes() == before
    weights.convert(run, folder, replace=True)


def test_missing_file_is_named(folder: Path) -> None:
    (folder / "eva8_s6.safetensors").unlink()
    with pytest.raises(ValueError, match=r"pretrained=True: .*eva8_s6.safetensors is missing; git checkout weights/"):
        pretrained.load_into(networks.eva8_s6(CLASSES), "eva8_s6", folder)


def test_one_changed_byte_is_seen(folder: Path) -> None:
    path = folder / "eva8_s6.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"the sha256 of .* is {hashlib.sha256(content).hexdigest()}, not "):
        pretrained.load_into(networks.eva8_s6(CLASSES), "eva8_s6", folder)


def test_a_network_without_weights_says_so_and_which_have(folder: Path) -> None:
    with pytest.raises(ValueError, match="pretrained=True: net4 has no weights, eva8_s6 has; make them by python"):
        pretrained.load_into(networks.net4(), "net4", folder)


@pytest.mark.parametrize("model", [lambda: networks.eva8_s6(10), lambda: networks.eva8_s6(CLASSES, norm="group")])
def test_weights_do_not_fit_other_options(folder: Path, model) -> None:
    with pytest.raises(ValueError, match="the weights are of eva8_s6 with its default options and do not fit these: "):
        pretrained.load_into(model(), "eva8_s6", folder)


committed = pytest.mark.parametrize("name", pretrained.available())


@committed
def test_committed_weights_load_and_compute_what_they_did(name: str) -> None:
    facts = pretrained.facts(name)
    assert facts["network"] == name
    assert facts["dataset"].startswith("CIFAR-10")
    path = pretrained.FOLDER / f"{name}.safetensors"
    assert path.stat().st_size == facts["bytes"] <= weights.LIMIT
    model = timm.create_model(name, pretrained=True)
    assert sum(p.numel() for p in model.parameters()) == facts["parameters"]
    assert weights.probe(model) == pytest.approx(facts["probe"], abs=1e-4)
    config = timm.data.resolve_model_data_config(model)
    assert (config["mean"], config["std"]) == (tuple(facts["mean"]), tuple(facts["std"]))


@committed
def test_committed_card_is_made_of_the_committed_facts(name: str) -> None:
    assert (pretrained.FOLDER / f"{name}.md").read_text() == weights.card(pretrained.facts(name))


@committed
def test_committed_figures_are_those_of_a_committed_result(name: str) -> None:
    facts = pretrained.facts(name)
    results = [json.loads(path.read_text()) for path in (pretrained.FOLDER.parent / "results").glob(f"{name}-*.json")]
    assert (facts["test_accuracy"], facts["images"]) in [
        (result["metrics"]["last_epoch"]["test_acc"], result["config"]["images"])
        for result in results
        if result["config"]["command"] == facts["command"] and result["config"]["git_commit"] == facts["commit"]
    ]
