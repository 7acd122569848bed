"""Training on a GPU: CUDA graphs and torch.compile change the time and not the run."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import engine
import pytest
import throughput
import torch
import train as script

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    # Some layers have no deterministic gradient on a GPU; torch then warns, and the figures may differ.
    pytest.mark.filterwarnings("ignore:.*does not have a deterministic implementation.*"),
    # torch.compile's own look at its inputs, in torch 2.11.
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf"),
]


def run(tree: Path, folder: Path, name: str, *words: str, model: str = "twelve_layer", epochs: int = 3) -> int:
    where = ["--data-dir", str(tree), "--run-dir", str(folder), "--name", name, "--model", model]
    how = ["--device", "cuda", "--no-report", "--batch-size", "16", "--workers", "0", "--epochs", str(epochs)]
    return script.main([*where, *how, *words])


def figures(folder: Path) -> dict[str, Any]:
    metrics = json.loads((folder / "metrics.json").read_text())
    return {key: metrics[key] or {} for key in ("last_epoch", "best_on_validation", "test_time_augmentation")}


@pytest.mark.parametrize("model", ["twelve_layer", "net4"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    "words", [(), ("--recipe", "published"), ("--mixup", "0.4", "--cutmix", "1"), ("--no-validation",)]
)
def test_graph_computes_what_its_kernels_do(
    model: str, precision: str, words: tuple[str, ...], shared_tree: Path, tmp_path: Path
) -> None:
    if "published" in words:
        pytest.importorskip("albumentations", reason="the published recipes augment by albumentations")
    words = (*words, "--precision", precision)
    assert run(shared_tree, tmp_path, "eager", *words, model=model) == 0
    assert run(shared_tree, tmp_path, "graph", *words, "--graph", model=model) == 0
    eager, graph = figures(tmp_path / "eager"), figures(tmp_path / "graph")
    for part, expected in eager.items():
        for key, value in expected.items():
            # Dropout draws other numbers inside of a graph than outside.
            tolerance = 0.5 if "published" in words else 1e-3
            if "loss" in key:
                assert graph[part][key] == pytest.approx(value, rel=tolerance, abs=tolerance), (part, key)


def test_graph_interrupted_and_resumed_is_the_uninterrupted(
    shared_tree: Path,
    tmp_path: Path,
    at_step: Callable[[int, Callable[[engine.Run], None]], None],
    interrupt: Callable[[object], None],
) -> None:
    assert run(shared_tree, tmp_path, "whole", "--graph") == 0
    at_step(5, interrupt)
    assert run(shared_tree, tmp_path, "parts", "--graph") == 130
    assert run(shared_tree, tmp_path, "parts", "--graph", "--resume") == 0
    assert figures(tmp_path / "whole") == figures(tmp_path / "parts")


@pytest.mark.parametrize("words", [("--compile",), ("--compile", "--graph"), ("--no-deterministic", "--graph")])
def test_other_ways_to_compute_learn_as_well(words: tuple[str, ...], shared_tree: Path, tmp_path: Path) -> None:
    assert run(shared_tree, tmp_path, "run", *words, "--augment", "gentle", epochs=10) == 0
    assert figures(tmp_path / "run")["last_epoch"]["train_acc"] >= 90


def test_teacher_and_workers_go_with_a_graph(shared_tree: Path, tmp_path: Path) -> None:
    pytest.importorskip("albumentations", reason="workers augment by albumentations")
    assert run(shared_tree, tmp_path, "teacher", "--graph", "--augment-with", "albumentations", "--workers", "2") == 0
    assert run(shared_tree, tmp_path, "taught", "--graph", "--teacher", str(tmp_path / "teacher")) == 0


def test_graph_keeps_the_gpu_busy(tmp_path: Path) -> None:
    assert throughput.main(["--model", "net4", "--graph", "--json", str(tmp_path / "out.json")]) == 0
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["busy"] >= 0.9, found
