"""The script as a process: signals, the network, and what importing it costs."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "examples" / "cifar10" / "train.py"


STARTED: "list[subprocess.Popen[str]]" = []


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """Ends what a failed test left running, and closes its pipes."""
    yield
    while STARTED:
        with STARTED.pop() as process:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def start(tmp_path: Path, *words: str, **environment: str) -> "subprocess.Popen[str]":
    paths = os.pathsep.join([str(SCRIPT.parents[2]), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), "--run-dir", str(tmp_path / "runs"), *words],
        cwd=tmp_path,
        # Two threads on a machine busy with other things wait for each other more than they compute.
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A group of its own, so that a signal can go to the script and its workers as Ctrl-C does.
        start_new_session=True,
    )
    STARTED.append(process)
    return process


def wait_for(process: "subprocess.Popen[str]", words: str) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if words in line:
            return
    process.wait()
    assert process.stderr is not None
    pytest.fail(f"{words!r} never came; stderr: {process.stderr.read()}")


def digits(name: str, *words: str) -> list[str]:
    return ["--dataset", "digits", "--name", name, "--workers", "1", "--threads", "1", "--no-report", *words]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_saves_and_leaves_and_the_run_goes_on(number: signal.Signals, tmp_path: Path) -> None:
    process = start(tmp_path, *digits("run", "--epochs", "50"))
    wait_for(process, "epoch   1/50")
    os.killpg(process.pid, number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.count("\n") == 1
    progress = torch.load(tmp_path / "runs" / "run" / "last.pt", weights_only=True)["progress"]
    at = f"in epoch {progress['epoch'] + 1} after step {progress['step']}"
    assert f"train.py: interrupted {at}; saved to" in err
    assert "go on with --resume" in err

    process = start(tmp_path, *digits("run", "--epochs", "50", "--resume"))
    wait_for(process, f"going on {at}")
    os.killpg(process.pid, number)
    process.communicate(timeout=60)
    assert process.returncode in (130, -number)


def test_killed_in_the_middle_of_an_epoch_and_resumed_is_the_uninterrupted_run(tmp_path: Path) -> None:
    words = ("--epochs", "3", "--device", "cpu", "--precision", "fp32", "--save-every", "0")
    process = start(tmp_path, *digits("whole", *words))
    _, err = process.communicate(timeout=400)
    assert process.returncode == 0, err
    process = start(tmp_path, *digits("parts", *words))
    wait_for(process, "epoch   1/3")
    # Steps of the second epoch are made by now, and are in no checkpoint.
    time.sleep(0.3)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=300)
    assert torch.load(tmp_path / "runs" / "parts" / "last.pt", weights_only=True)["progress"]["epoch"] < 3
    process = start(tmp_path, *digits("parts", *words, "--resume"))
    out, _ = process.communicate(timeout=400)
    assert "going on in epoch" in out
    whole, parts = (json.loads((tmp_path / "runs" / name / "metrics.json").read_text()) for name in ("whole", "parts"))
    for key in ("last_epoch", "best_on_validation", "epochs", "finished"):
        assert whole[key] == parts[key]


def test_second_signal_leaves_at_once(tmp_path: Path) -> None:
    hold = tmp_path / "hold"
    hold.mkdir()
    # A step that never ends, as a stuck disk or GPU would be.
    (hold / "sitecustomize.py").write_text(
        "import sys, threading, time\n"
        "def wait():\n"
        "    while 'engine' not in sys.modules or not hasattr(sys.modules['engine'], 'Run'): time.sleep(0.01)\n"
        "    def stuck(*_):\n"
        "        print('stuck', flush=True)\n"
        "        while True: time.sleep(0.05)\n"
        "    sys.modules['engine'].Run.train_step = stuck\n"
        "threading.Thread(target=wait, daemon=True).start()\n"
    )
    process = start(tmp_path, *digits("run"), PYTHONPATH=os.pathsep.join([str(hold), str(SCRIPT.parents[2])]))
    wait_for(process, "stuck")
    os.killpg(process.pid, signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "interrupted twice, leaving without saving" in err


def test_default_run_without_data_and_network_reaches_95_percent_on_the_digits(tmp_path: Path) -> None:
    proxy = "http://127.0.0.1:9"
    process = start(
        tmp_path, "--epochs", "6", "--no-report", http_proxy=proxy, https_proxy=proxy, no_proxy="", NO_PROXY=""
    )
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert err.count("\n") == 1
    assert "Training on scikit-learn's digits instead: digits 32x32 (fallback, not CIFAR-10)" in err
    folder = tmp_path / "runs" / "twelve_layer-modern-0"
    for name in ("config.json", "metrics.json"):
        assert json.loads((folder / name).read_text())["dataset"] == "digits 32x32 (fallback, not CIFAR-10)"
    config = json.loads((folder / "config.json").read_text())
    assert (config["horizontal_flip"], config["recipe"]["name"]) == (False, "modern (digits)")
    assert json.loads((folder / "metrics.json").read_text())["last_epoch"]["test_acc"] > 95
    assert "digits 32x32 (fallback, not CIFAR-10): test accuracy" in out


def test_cifar10_by_name_without_network_fails_fast_and_clearly(tmp_path: Path) -> None:
    proxy = "http://127.0.0.1:9"
    process = start(tmp_path, "--dataset", "cifar10", http_proxy=proxy, https_proxy=proxy, no_proxy="", NO_PROXY="")
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (2, "")
    assert err.count("\n") == 1
    assert err.startswith("train.py: error: CIFAR-10 is not in data and cannot be downloaded (")
    assert not (tmp_path / "runs").exists()


def test_importing_the_script_loads_nothing_heavy_and_does_nothing(tmp_path: Path) -> None:
    code = "import sys, train; print([name for name in ('torch', 'numpy', 'timm') if name in sys.modules])"
    environment = {**os.environ, "PYTHONPATH": str(SCRIPT.parent)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")
    assert os.listdir(tmp_path) == []


def test_help_names_every_group(tmp_path: Path) -> None:
    out, err = start(tmp_path, "--help").communicate(timeout=60)
    assert err == ""
    for group in ("data:", "what is trained:", "changes to the recipe:", "how it is computed:", "results:"):
        assert f"\n{group}\n" in out
