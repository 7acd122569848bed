"""All runs of a command: their order, what is skipped and goes on, and what a failure does to the others."""

import json
import time
from pathlib import Path
from typing import Any

import experiments
import pytest
import table

FAKE = '''"""Stands in for train.py: writes what a run folder holds, fails, or waits for a signal."""
import argparse, json, pathlib, signal, sys, time
parser = argparse.ArgumentParser()
for option in ("data-dir", "run-dir", "model", "recipe", "seed", "name", "behave"):
    parser.add_argument("--" + option)
for option in ("no-report", "no-validation", "graph", "resume", "overwrite"):
    parser.add_argument("--" + option, action="store_true")
given = parser.parse_args()
images = {"train": 60, "validation": 0} if given.no_validation else {"train": 54, "validation": 6}
best = None if given.no_validation else {"test_acc": 81.0}
folder = pathlib.Path(given.run_dir, given.name)
folder.mkdir(parents=True, exist_ok=True)
with open(folder / "calls", "a") as file:
    print("resume" if given.resume else "overwrite", "graph" if given.graph else "eager", file=file)
if given.behave == "fail" or (given.behave == "fail-with-graph" and given.graph):
    sys.exit("train.py: error: so it is")
if given.behave == "wait":
    signal.signal(signal.SIGTERM, lambda *_: (folder.joinpath("last.pt").touch(), sys.exit(130)))
    while True:
        time.sleep(0.05)
metrics = {
    "model": given.model, "recipe": given.recipe, "dataset": "CIFAR-10, JPEG copy", "precision": "fp32", "epochs": 1,
    "finished": True, "last_epoch": {"test_acc": 80.0}, "best_on_validation": best, "wall_time_s": 60,
    "hardware": {"cpu": "Some CPU", "threads": 1},
}
folder.joinpath("metrics.json").write_text(json.dumps(metrics))
folder.joinpath("config.json").write_text(json.dumps({"recipe": {"augment": "none"}, "images": images}))
'''


@pytest.fixture(autouse=True)
def _fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fake.py").write_text(FAKE)
    monkeypatch.setattr(experiments, "TRAIN", tmp_path / "fake.py")
    monkeypatch.setattr(experiments, "STARTING", 0.0)


def run(tmp_path: Path, *words: str) -> int:
    folders = ["--run-dir", str(tmp_path / "runs"), "--results", str(tmp_path / "results")]
    command, _, rest = " ".join(words).partition(" -- ")
    return experiments.main([*folders, *command.split(), *(["--", *rest.split()] if rest else [])])


def calls(tmp_path: Path, name: str) -> list[str]:
    return (tmp_path / "runs" / name / "calls").read_text().splitlines()


def said(tmp_path: Path) -> dict[str, Any]:
    return json.loads((tmp_path / "runs" / "experiments.json").read_text())


def test_one_seed_of_each_network_comes_before_the_next_seed() -> None:
    names = [job.name for job in experiments.plan(["a", "b"], ["modern", "published"], [0, 1], graph=False)]
    one = [f"{model}-{recipe}" for model in "ab" for recipe in ("modern", "published")]
    assert names == [f"{name}-{seed}" for seed in (0, 1) for name in one]


def test_frontier_is_trained_longer() -> None:
    jobs = experiments.plan(["frontier_100k", "net4"], None, [0], graph=False)
    assert [job.name for job in jobs] == ["frontier_100k-long-0", "net4-modern-0"]


def test_all_networks_have_a_place() -> None:
    import networks

    assert set(networks.NETWORKS) <= set(experiments.MODELS)


def test_every_run_is_made_once_and_lands_in_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "--models net4 era_s9 --seeds 0 1 --jobs 2") == 0
    out = capsys.readouterr().out
    assert "4 of 4 runs are finished\n" in out
    assert "80.00 ± 0.00 (81.00 ± 0.00)" in out
    names = {f"{model}-modern-{seed}" for model in ("net4", "era_s9") for seed in (0, 1)}
    assert {path.stem for path in (tmp_path / "results").iterdir()} == names
    assert json.loads((tmp_path / "results" / "net4-modern-0.json").read_text())["runs_at_once"] == 2
    assert {one["status"] for one in said(tmp_path)["runs"]} == {"finished"}
    assert run(tmp_path, "--models net4 era_s9 --seeds 0 1 --jobs 2") == 0
    assert all(len(calls(tmp_path, name)) == 1 for name in names)


def test_runs_on_all_images_lie_beside_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = "--models net4 --seeds 0"
    assert run(tmp_path, words) == run(tmp_path, f"{words} --no-validation") == 0
    assert {path.stem for path in (tmp_path / "results").iterdir()} == {"net4-modern-0", "net4-modern-all-0"}
    assert [one["validation"] for one in said(tmp_path)["runs"]] == [False]
    table_of_both = capsys.readouterr().out.rpartition("runs are finished\n")[2]
    for cells in ("| 80.00 (81.00) |  | CIFAR-10, JPEG copy | 54 |", "| 80.00 |  | CIFAR-10, JPEG copy | all 60 |"):
        assert table_of_both.count(cells) == 1


def test_failure_is_named_and_stops_no_other_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "--models net4 era_s9 --seeds 0 -- --behave fail") == experiments.FAILED
    out = capsys.readouterr().out
    for name in ("net4-modern-0", "era_s9-modern-0"):
        assert f"{name}: failed with exit status 1 (train.py: error: so it is)" in out
        assert len(calls(tmp_path, name)) == 1
    assert "left: net4-modern-0, era_s9-modern-0" in out


def test_graph_is_given_up_where_it_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert run(tmp_path, "--models net4 --seeds 0 -- --behave fail-with-graph") == 0
    assert calls(tmp_path, "net4-modern-0") == ["overwrite graph", "overwrite eager"]
    assert (
        "net4-modern-0: failed with --graph (train.py: error: so it is); once more without" in capsys.readouterr().out
    )
    assert [one["graph"] for one in said(tmp_path)["runs"]] == [False]


def test_time_that_is_up_interrupts_and_the_next_call_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = time.monotonic()
    words = "--models net4 era_s9 --seeds 0 --jobs 1"
    assert run(tmp_path, f"{words} --minutes 0.04 -- --behave wait") == experiments.TIME_IS_UP
    assert time.monotonic() - start < 30
    assert [one["status"] for one in said(tmp_path)["runs"]] == ["interrupted", "waiting"]
    assert "0 of 2 runs are finished" in capsys.readouterr().out
    before = [one["seconds"] for one in said(tmp_path)["runs"]]
    assert before[0] > 1
    assert run(tmp_path, words) == 0
    assert calls(tmp_path, "net4-modern-0") == ["overwrite eager", "resume eager"]
    # What the first call spent on it counts too.
    assert said(tmp_path)["runs"][0]["seconds"] > before[0]
    assert run(tmp_path, words) == 0
    assert said(tmp_path)["runs"][0]["seconds"] > before[0]


@pytest.mark.parametrize(
    ("words", "message"),
    [("--models net5", "--model 'net5' is not known"), ("--jobs 0", "--jobs 0 is not at least 1")],
)
def test_bad_command_line_ends_in_one_line(
    words: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, words) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_results_of_a_real_run_fit(digits_run: Path, tmp_path: Path) -> None:
    """The stand-in above must not be all that the table can read."""
    made = table.add(digits_run, tmp_path, runs_at_once=3)
    (found,) = table.runs(tmp_path)
    assert found["settings"]["augment"] == "gentle"
    assert json.loads(made.read_text())["runs_at_once"] == 3
