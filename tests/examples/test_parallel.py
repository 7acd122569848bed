"""Several processes on one network, as torchrun starts them: the same curve as one, and what happens when one dies."""

import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import parallel
import pytest
import train as script
from errors import UsageError
from parallel import Parallel

SCRIPT = Path(__file__).parents[2] / "examples" / "cifar10" / "train.py"
WORDS = (
    "--dataset",
    "digits",
    "--device",
    "cpu",
    "--precision",
    "fp32",
    "--threads",
    "1",
    "--no-report",
    "--save-every",
    "0",
)
# Without batch norm, which sees only its own process's part of a batch, the figures are those of one process.
NETWORK = ("--model", "test_convnext", "--lr", "0.02", "--epochs", "3")


STARTED: "list[subprocess.Popen[str]]" = []


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """Ends what a failed test left running, and closes its pipes."""
    yield
    while STARTED:
        with STARTED.pop() as process:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def torchrun(tmp_path: Path, *words: str, restarts: int = 0) -> "subprocess.Popen[str]":
    paths = os.pathsep.join([str(SCRIPT.parents[2]), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    process = subprocess.Popen(
        [*command, f"--max-restarts={restarts}", str(SCRIPT), "--run-dir", str(tmp_path), *WORDS, *words],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    STARTED.append(process)
    return process


def wait_for(process: "subprocess.Popen[str]", words: str) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if words in line:
            return
    _, err = process.communicate()
    pytest.fail(f"{words!r} never came; stderr: {err}")


def ranks(process: "subprocess.Popen[str]") -> list[int]:
    """The processes that torchrun started, by rank."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    found = {}
    for child in children:
        environment = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        found |= {int(item[5:]): int(child) for item in environment if item.startswith(b"RANK=")}
    return [found[rank] for rank in sorted(found)]


def log(folder: Path) -> list[dict[str, float]]:
    with open(folder / "log.csv", newline="") as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds the processes of torchrun in /proc")
def test_killed_process_is_replaced_and_the_curve_is_that_of_one_process(tmp_path: Path) -> None:
    assert script.main(["--run-dir", str(tmp_path), *WORDS, *NETWORK, "--name", "one"]) == 0
    process = torchrun(tmp_path, *NETWORK, "--name", "two", restarts=1)
    wait_for(process, "epoch   1/3")
    os.kill(ranks(process)[1], signal.SIGKILL)
    out, err = process.communicate(timeout=400)
    assert process.returncode == 0, err
    assert "exitcode: -9" in err or "Signal 9" in err
    assert "process 0 of 2 has lost another one" in err
    assert "going on in epoch" in out
    for one, two in zip(log(tmp_path / "one"), log(tmp_path / "two"), strict=True):
        assert two["lr"] == one["lr"]
        for key in ("train_loss", "val_loss", "test_loss"):
            assert two[key] == pytest.approx(one[key], rel=2e-3), key


def test_all_images_in_two_processes_give_the_figures_of_one(tmp_path: Path) -> None:
    words = (*NETWORK, "--epochs", "2", "--no-validation")
    assert script.main(["--run-dir", str(tmp_path), *WORDS, *words, "--name", "one"]) == 0
    process = torchrun(tmp_path, *words, "--name", "two")
    out, err = process.communicate(timeout=400)
    assert process.returncode == 0, err
    assert "1437 train, 0 validation, 360 test" in out
    one, two = (json.loads((tmp_path / name / "metrics.json").read_text())["last_epoch"] for name in ("one", "two"))
    for key in ("train_loss", "test_loss"):
        assert two[key] == pytest.approx(one[key], rel=2e-3), key


def test_every_process_stops_at_the_same_step_and_the_first_one_saves(tmp_path: Path) -> None:
    process = torchrun(tmp_path, "--epochs", "50", "--name", "run")
    wait_for(process, "epoch   1/50")
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=300)
    assert process.returncode != 0
    assert err.count("train.py: interrupted in epoch") == 1
    assert (tmp_path / "run" / "last.pt").exists()


def test_one_process_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    job = parallel.start("cpu")
    assert (job, job.first, job.several) == (Parallel(), True, False)
    assert job.total([1.5, 2]) == [1.5, 2]
    assert job.any(True, False) == [True, False]
    assert job.from_first(lambda: [3.0]) == [3.0]
    assert job.first_then_all(lambda: "made") == "made"


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {"RANK": "9", "WORLD_SIZE": "10", "LOCAL_RANK": "9", "LOCAL_WORLD_SIZE": "10"}
    for name, value in {**environment, "TORCHELASTIC_RUN_ID": "none"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    with pytest.raises(UsageError, match=r"started 10 processes on this machine, which has 2 GPU"):
        parallel.start("cuda")
