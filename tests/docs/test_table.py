"""README's table says what the committed results say, and those say what the networks are."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import describe
import networks
import pytest
import recipes
import table

WHOLE = recipes.MODERN.epochs


def test_readme_holds_the_table_that_the_script_makes() -> None:
    readme = table.README.read_text()
    assert readme == table.replaced(readme, table.table()), "run: python examples/cifar10/table.py --write"


@pytest.mark.parametrize("name", networks.NETWORKS)
def test_committed_facts_are_those_of_the_built_network(name: str) -> None:
    committed = json.loads((table.RESULTS / "networks.json").read_text())
    assert committed[name] == describe.describe(name), "run: python examples/cifar10/describe.py"


def test_committed_facts_and_published_figures_are_of_all_and_of_the_published_networks() -> None:
    committed = json.loads((table.RESULTS / "networks.json").read_text())
    assert list(committed) == list(networks.NETWORKS)
    assert list(table.PUBLISHED) == list(networks.PUBLISHED)


def run(settings: Mapping[str, object] = MappingProxyType({}), **changes: Any) -> dict[str, Any]:
    metrics = {
        "model": "net4",
        "recipe": "modern",
        "dataset": "CIFAR-10, JPEG copy",
        "precision": "fp32",
        "epochs": 3,
        "finished": True,
        "last_epoch": {"test_acc": 80.0},
        "best_on_validation": {"test_acc": 81.0},
        "wall_time_s": 120,
        "hardware": {"cpu": "Some CPU", "threads": 2},
    }
    config = {"recipe": {"augment": "cutout", **settings}, "images": {"train": 45, "validation": 5, "test": 10}}
    return {"config": config, "metrics": metrics | changes}


@pytest.fixture
def results(tmp_path: Path) -> Path:
    (tmp_path / "networks.json").write_text((table.RESULTS / "networks.json").read_text())
    return tmp_path


def rows(results: Path, model: str) -> list[str]:
    return [line for line in table.table(results).splitlines() if f"`{model}`" in line]


def test_a_network_without_a_run_says_so(results: Path) -> None:
    assert all("not run yet" in rows(results, name)[0] for name in networks.NETWORKS)


def test_a_run_is_shown_with_data_recipe_and_hardware(results: Path) -> None:
    (results / "a.json").write_text(json.dumps(run()))
    (row,) = rows(results, "net4")
    how = f"modern (cutout), 3 of {WHOLE} epochs | Some CPU, 2 threads, fp32, 2 min"
    assert f"| 80.00 (81.00) |  | CIFAR-10, JPEG copy | 45 | {how} |" in row


@pytest.mark.parametrize(("epochs", "shown"), [(3, f"3 of {WHOLE} epochs"), (WHOLE, f"{WHOLE} epochs")])
def test_a_short_schedule_is_never_shown_as_the_recipe(results: Path, epochs: int, shown: str) -> None:
    (results / "a.json").write_text(json.dumps(run(epochs=epochs)))
    (row,) = rows(results, "net4")
    assert f"| modern (cutout), {shown} |" in row


def test_seeds_are_averaged_and_other_differences_are_not(results: Path) -> None:
    (results / "a.json").write_text(json.dumps(run()))
    (results / "b.json").write_text(json.dumps(run(last_epoch={"test_acc": 82.0})))
    (results / "c.json").write_text(json.dumps(run(dataset="CIFAR-10")))
    # The same name of a recipe, for another one.
    (results / "d.json").write_text(json.dumps(run({"augment": "gentle"}, last_epoch={"test_acc": 70.0})))
    both, other, changed = rows(results, "net4")
    recipe = f"modern (cutout), 3 of {WHOLE} epochs"
    assert f"| 81.00 ± 1.41 (81.00 ± 0.00) |  | CIFAR-10, JPEG copy | 45 | {recipe}, 2 seeds |" in both
    assert "| 80.00 (81.00) |  | CIFAR-10 |" in other
    assert f"| 70.00 (81.00) |  | CIFAR-10, JPEG copy | 45 | modern (gentle), 3 of {WHOLE} epochs |" in changed


def test_runs_on_all_training_images_are_a_row_of_their_own(results: Path) -> None:
    for name, accuracy in (("b", 82.0), ("c", 84.0)):
        content = run(last_epoch={"test_acc": accuracy}, best_on_validation=None)
        content["config"]["images"] = {"train": 50000, "validation": 0, "test": 10}
        (results / f"{name}.json").write_text(json.dumps(content))
    (results / "a.json").write_text(json.dumps(run()))
    held_out, on_all = rows(results, "net4")
    assert "| 80.00 (81.00) |  | CIFAR-10, JPEG copy | 45 |" in held_out
    assert "| 83.00 ± 1.41 |  | CIFAR-10, JPEG copy | all 50,000 |" in on_all


def test_a_run_on_the_fallback_data_is_no_result_on_cifar10(results: Path) -> None:
    (results / "a.json").write_text(json.dumps(run(dataset="digits 32x32 (fallback, not CIFAR-10)")))
    assert "not run yet" in rows(results, "net4")[0]


def test_an_unfinished_run_is_refused(results: Path, tmp_path: Path) -> None:
    (results / "a.json").write_text(json.dumps(run(finished=False)))
    with pytest.raises(ValueError, match=r"a\.json is of a run that has not finished"):
        table.table(results)


@pytest.mark.parametrize("finished", [True, False])
def test_add_merges_a_finished_run_and_refuses_another(results: Path, tmp_path: Path, finished: bool) -> None:
    folder = tmp_path / "net4-modern-0"
    folder.mkdir()
    parts = run(finished=finished)
    for part, content in parts.items():
        (folder / f"{part}.json").write_text(json.dumps(content))
    if finished:
        assert json.loads(table.add(folder, results).read_text()) == parts
    else:
        with pytest.raises(ValueError, match="has not finished: 3 epochs so far"):
            table.add(folder, results)


def test_test_time_augmentation_is_a_column_of_its_own(results: Path) -> None:
    averaged = [{"mirror+shift": {"test_acc": value}, "mirror": {"test_acc": 1.0}} for value in (90.0, 92.0)]
    for name, figures in zip("ab", averaged, strict=True):
        (results / f"{name}.json").write_text(json.dumps(run(test_time_augmentation=figures)))
    (row,) = rows(results, "net4")
    assert "| 80.00 ± 0.00 (81.00 ± 0.00) | 91.00 ± 1.41 | CIFAR-10, JPEG copy |" in row


def test_table_of_some_networks(results: Path) -> None:
    assert [line.split("`")[1] for line in table.table(results, ["net4"]).splitlines()[2:]] == ["net4"]
