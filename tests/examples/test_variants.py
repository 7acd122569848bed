"""Variants of a recipe: what is run, skipped, goes on and is refused, and that no figure of the test images is kept."""

import json
from pathlib import Path
from typing import Any

import experiments
import pytest
import table
import variants
from experiments import Job


def run(tmp_path: Path, *words: str) -> int:
    return variants.main(["--run-dir", str(tmp_path / "runs"), "--out", str(tmp_path / "out.json"), *words])


def plan(*chosen: str, seeds: tuple[int, ...] = (0,), epochs: int = 40) -> list[Job]:
    return variants.plan("net4", "long", chosen, epochs, seeds, graph=False)


def entry(variant: str, val_acc: float, seed: int = 0, **changes: Any) -> dict[str, dict[str, Any]]:
    (job,) = plan(variant, seeds=(seed,))
    made = {
        "variant": variant,
        "model": "net4",
        "recipe": "long",
        "settings": variants.settings(job),
        "epochs": 40,
        "seed": seed,
        "val_acc": val_acc,
        "train_acc": 80.0,
        "train_seconds": 30.4,
        "data": "CIFAR-10, JPEG copy",
        "hardware": {"cpu": "Some CPU"},
        "precision": "bf16",
    }
    return {job.name: made | changes}


def write(path: Path, *entries: dict[str, dict[str, Any]]) -> Path:
    path.write_text(json.dumps({"runs": {name: one for some in entries for name, one in some.items()}}))
    return path


def test_variants_are_run_on_the_digits_go_on_and_are_not_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """For real: one is interrupted after its first epoch, the next call ends both, the one after has nothing to do."""
    words = ["--model", "test_efficientnet", "--variants", "lr 0.1", "no mixup", "--epochs", "3", "--jobs", "1"]
    words += ["--", "--dataset", "digits", "--device", "cpu", "--precision", "fp32", "--threads", "1"]
    words += ["--save-every", "0"]
    names = [f"test_efficientnet-long-{name}-3-epochs-0" for name in ("lr-0.1", "no-mixup")]
    first = tmp_path / "runs" / names[0]
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)

    look_after = experiments.Experiments._look_after

    def interrupted(self: experiments.Experiments, job: Job, *, stopping: bool = False) -> None:
        if not stopping and (first / "last.pt").exists():
            raise KeyboardInterrupt
        look_after(self, job, stopping=stopping)

    with monkeypatch.context() as patched:
        patched.setattr(experiments.Experiments, "_look_after", interrupted)
        assert run(tmp_path, *words) == 130
    assert not (tmp_path / "out.json").exists()
    capsys.readouterr()

    assert run(tmp_path, *words) == 0
    log = (tmp_path / "runs" / f"{names[0]}.log").read_text().splitlines()
    assert [line.split()[-1] for line in log if line.startswith("$")] == ["--overwrite", "--resume"]
    assert len((first / "log.csv").read_text().splitlines()) == 4
    told = capsys.readouterr().out
    text = (tmp_path / "out.json").read_text()
    found = json.loads(text)["runs"]
    assert list(found) == names
    for name, variant in zip(names, ("lr 0.1", "no mixup"), strict=True):
        one = found[name]
        metrics = json.loads((tmp_path / "runs" / name / "metrics.json").read_text())
        assert {key: one[key] for key in variants.KEPT} == {key: metrics["last_epoch"][key] for key in variants.KEPT}
        assert one["variant"] == variant
        assert one["words"] == variants.LONG[variant]
        assert (one["model"], one["recipe"], one["epochs"], one["seed"]) == ("test_efficientnet", "long", 3, 0)
        assert one["data"] == "digits 32x32 (fallback, not CIFAR-10)"
        assert one["images"]["validation"] > 0
        assert one["runs_at_once"] == 1
        assert {"train_seconds", "images_per_s", "hardware", "versions", "git_commit"} <= one.keys()
        assert f"| {variant} | sgd, lr " in told
        assert f"| {one['val_acc']:.2f} | {one['train_acc']:.2f} |" in told
        assert f"validation accuracy {one['val_acc']:.2f} %" in told
    assert found[names[0]]["settings"]["lr"] == 0.1
    assert found[names[1]]["settings"]["mixup"] == 0
    assert "test_" not in text.replace("test_efficientnet", "")
    assert "test acc" not in told
    assert told.count("not run yet") == len(variants.LONG) - 2

    monkeypatch.setattr(experiments, "TRAIN", tmp_path / "is not there")
    assert run(tmp_path, *words) == 0
    assert "2 of 2 runs are finished\n" in capsys.readouterr().out
    # A folder will do where the file is lost, and the file where the folder is.
    (tmp_path / "out.json").unlink()
    assert run(tmp_path, *words) == 0
    assert json.loads((tmp_path / "out.json").read_text())["runs"].keys() == set(names)
    (tmp_path / "runs").rename(tmp_path / "elsewhere")
    assert run(tmp_path, *words) == 0


def test_one_seed_of_each_variant_comes_before_the_next_seed() -> None:
    names = [job.name for job in plan("as it is", "lr 0.1, decay 1e-4", seeds=(0, 1), epochs=2)]
    kinds = ("as-it-is", "lr-0.1-decay-1e-4")
    assert names == [f"net4-long-{kind}-2-epochs-{seed}" for seed in (0, 1) for kind in kinds]


@pytest.mark.parametrize("recipe", variants.VARIANTS)
def test_variants_differ_in_name_of_folder_and_in_recipe(recipe: str) -> None:
    jobs = variants.plan("net4", recipe, list(variants.VARIANTS[recipe]), 40, [0], graph=False)
    assert len({job.name for job in jobs}) == len(jobs)
    assert len({json.dumps(variants.settings(job)) for job in jobs}) == len(jobs)
    assert all(variants.settings(job)["epochs"] == 40 for job in jobs)


def test_best_is_first_and_what_lacks_is_last(tmp_path: Path) -> None:
    path = write(
        tmp_path / "out.json",
        entry("as it is", 80.0),
        entry("lr 0.1", 82.0),
        entry("lr 0.1", 84.0, seed=1),
        entry("no mixup", 90.0, model="era_s9"),
        entry("lr 0.2", 90.0, epochs=3),
    )
    lines = variants.show(path, "net4", "long", 40).splitlines()[2:]
    how = "80.00 | 30 | CIFAR-10, JPEG copy | Some CPU, bf16 |"
    assert lines[0] == (
        "| lr 0.1, 2 seeds | sgd, lr 0.1, decay 0.0005, varied, mixup 0.4 of 50 % | 83.00 ± 1.41 | "
        + how.replace("80.00", "80.00 ± 0.00")
    )
    assert lines[1] == f"| as it is | sgd, lr 0.4, decay 0.0005, varied, mixup 0.4 of 50 % | 80.00 | {how}"
    lacking = [variant for variant in variants.LONG if variant not in ("as it is", "lr 0.1")]
    assert [line.split(" | ")[0] for line in lines[2:]] == [f"| {variant}" for variant in lacking]
    assert all("| not run yet |" in line for line in lines[2:])


def test_runs_on_other_data_are_a_row_of_their_own(tmp_path: Path) -> None:
    path = write(tmp_path / "out.json", entry("as it is", 80.0), entry("as it is", 99.0, seed=1, data="digits"))
    first, second = variants.show(path, "net4", "long", 40).splitlines()[2:4]
    assert "| 99.00 | 80.00 | 30 | digits |" in first
    assert "| 80.00 | 80.00 | 30 | CIFAR-10, JPEG copy |" in second


@pytest.mark.parametrize("where", ["file", "folder"])
def test_a_run_by_another_recipe_is_not_taken_for_this_one(
    where: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there = entry("lr 0.1", 82.0)
    ((name, one),) = there.items()
    one["settings"]["lr"] = 0.05
    if where == "file":
        write(tmp_path / "out.json", there)
    else:
        (tmp_path / "runs" / name).mkdir(parents=True)
        said = {"recipe": one["settings"], "dataset": one["data"]}
        (tmp_path / "runs" / name / "config.json").write_text(json.dumps(said))
    assert run(tmp_path, "--model", "net4", "--variants", "lr 0.1") == 2
    error = capsys.readouterr().err
    assert f"holds {name} by another recipe: lr 0.05, not 0.1; choose another --" in error


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--variants", "lr 3"], "--variants 'lr 3' is not known; those of --recipe long are 'as it is', 'lr 0.1'"),
        (["--no-validation"], "--no-validation does not fit"),
        (["--", "--no-validation"], "--no-validation does not fit"),
        (["--", "--no-val"], "--no-validation does not fit"),
        (["--", "--lr", "3"], "--lr after -- would be another comparison than the file says"),
        (["--", "--save-every", "1", "--seed", "1"], "--seed after -- would be"),
        (["--epochs", "0"], "--epochs 0 is not at least 1"),
        (["--jobs", "0"], "--jobs 0 is not at least 1"),
        (["--model", "net5"], "--model 'net5' is not known"),
    ],
)
def test_bad_command_line_ends_in_one_line(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, *words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["{", "[]", '{"candidates": {}}'])
def test_a_damaged_file_is_named(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out.json").write_text(text)
    assert run(tmp_path, "--table") == 2
    assert f"{tmp_path / 'out.json'} cannot be read" in capsys.readouterr().err


def test_page_holds_the_table_of_the_committed_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = variants.PAGE.read_text()
    monkeypatch.setattr(variants, "PAGE", tmp_path / "train.md")
    variants.PAGE.write_text(page)
    assert variants.main(["--write"]) == 0
    assert variants.PAGE.read_text() == page, "run: python examples/cifar10/variants.py --write"


def test_committed_figures_are_of_held_out_images_alone() -> None:
    for one in variants.entries(variants.OUT).values():
        assert one["words"] == variants.VARIANTS[one["recipe"]][one["variant"]]
        assert one["images"]["validation"] > 0
        assert not [key for key in one if "test" in key]


def test_the_page_quotes_the_run_of_long() -> None:
    found = json.loads((table.RESULTS / "frontier_100k-long-all-0.json").read_text())
    config, last = found["config"], found["metrics"]["last_epoch"]
    told = (
        f"`long` left `{config['model']}` after all {config['recipe']['epochs']} epochs, on all "
        f"{config['images']['train']:,} images, at {last['test_acc']:.2f} % on the test images, and had "
        f"{last['train_acc']:.2f} % of the training images right"
    )
    assert told in " ".join(variants.PAGE.read_text().split())
