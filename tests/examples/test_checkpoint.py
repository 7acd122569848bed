import os
import random
import resource
from collections.abc import Iterator
from pathlib import Path

import checkpoint
import numpy as np
import pytest
import torch
from errors import RunError, UsageError


@pytest.fixture
def small_disk() -> Iterator[None]:
    """No file of this process grows over 100 kB."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_file_is_replaced_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    checkpoint.write_atomic(path, "first")
    checkpoint.write_atomic(path, b"second")
    assert path.read_text() == "second"
    assert os.listdir(tmp_path) == ["log.csv"]


@pytest.mark.usefixtures("small_disk")
def test_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    checkpoint.write_atomic(path, b"old")
    with pytest.raises(RunError, match=r"cannot write .*last.pt: File too large; what was saved before is intact"):
        checkpoint.write_atomic(path, b"x" * 200_000)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["last.pt"]


def test_crash_before_the_rename_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    path = tmp_path / "last.pt"
    checkpoint.write_atomic(path, b"old")
    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.write_atomic(path, b"new")
    assert path.read_bytes() == b"old"


def test_absent_folder_is_an_error_of_the_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"cannot write .*gone/last.pt: No such file"):
        checkpoint.write_atomic(tmp_path / "gone" / "last.pt", b"")


def test_state_is_loaded_as_it_was_saved(tmp_path: Path) -> None:
    weights = {"weight": torch.randn(3, 4), "count": torch.tensor(7)}
    checkpoint.save(tmp_path / "last.pt", {"weights": weights, "lr": 0.1, "history": [{"epoch": 1}], "none": None})
    state = checkpoint.load(tmp_path / "last.pt")
    assert torch.equal(state["weights"]["weight"], weights["weight"])
    assert (state["lr"], state["history"], state["none"]) == (0.1, [{"epoch": 1}], None)


class Harmful:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch harmed",)


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"format": checkpoint.FORMAT, "harm": Harmful()}, "last.pt")
    with pytest.raises(UsageError, match=r"last.pt cannot be loaded: .*"):
        checkpoint.load(Path("last.pt"))
    assert not Path("harmed").exists()


@pytest.mark.parametrize("kept", [0, 10, 500, -1])
def test_truncated_checkpoint_is_refused_in_one_line(kept: int, tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    checkpoint.save(path, {"weights": torch.randn(100)})
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(UsageError, match=r"last.pt cannot be loaded: ") as caught:
        checkpoint.load(path)
    assert "\n" not in str(caught.value)


def test_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(1)}, tmp_path / "last.pt")
    with pytest.raises(UsageError, match=r"last.pt is not a checkpoint of this script \(format 1\)"):
        checkpoint.load(tmp_path / "last.pt")


def test_absent_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"there is no checkpoint .*last.pt"):
        checkpoint.load(tmp_path / "last.pt")


def test_first_difference_is_named_with_both_values() -> None:
    saved = {"network": "net4", "seed": 0}
    checkpoint.require_same(Path("last.pt"), saved, dict(saved))
    with pytest.raises(UsageError, match=r"last.pt is of another run: its network is 'net4', not 'era_s9'"):
        checkpoint.require_same(Path("last.pt"), saved, {"network": "era_s9", "seed": 1})
    with pytest.raises(UsageError, match=r"its lr is None, not 0.1"):
        checkpoint.require_same(Path("last.pt"), saved, {"network": "net4", "lr": 0.1})


def test_random_streams_go_on_where_they_were(tmp_path: Path) -> None:
    def draw() -> list[float]:
        return [torch.rand(1).item(), float(np.random.rand()), random.random(), random.gauss(0, 1)]

    draw()
    checkpoint.save(tmp_path / "last.pt", {"random": checkpoint.random_state()})
    expected = draw()
    draw()
    checkpoint.set_random_state(checkpoint.load(tmp_path / "last.pt")["random"])
    assert draw() == expected


def test_a_run_on_a_gpu_goes_on_where_there_are_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.Generator().manual_seed(3)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device="cuda": gpu.get_state())
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", lambda: [gpu.get_state()] * 8)
    # As torch: a GPU that is not there has no generator.
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device=0: [gpu][device].set_state(state))
    monkeypatch.setattr(
        torch.cuda, "set_rng_state_all", lambda states: [[gpu][at].set_state(one) for at, one in enumerate(states)]
    )
    state = checkpoint.random_state()
    expected = torch.rand(4, generator=gpu)
    checkpoint.set_random_state(state)
    assert torch.equal(torch.rand(4, generator=gpu), expected)


def test_a_run_on_the_cpu_does_not_wake_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("CUDA error: all CUDA-capable devices are busy")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_rng_state", broken)
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", broken)
    assert checkpoint.random_state()["cuda"] == []
