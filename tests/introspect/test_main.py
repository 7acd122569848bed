"""The command line, by its output and exit status."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from convblocks.__main__ import main

NETWORKS = str(Path(__file__).parents[2] / "examples" / "cifar10" / "networks.py")
ERA = ["networks:era_s9", "--input", "3,32,32"]


def test_summary(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["summary", *ERA, "--depth", "1", "--width", "100"]) == 0
    out = capsys.readouterr().out
    assert "parameters 199,562, MACs 53,614,016" in out
    assert main(["summary", *ERA, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["parameters"] == 199_562
    assert main(["summary", *ERA, "--geometry"]) == 0
    assert "trans4.conv" in capsys.readouterr().out
    assert main(["summary", *ERA, "--markdown"]) == 0
    assert capsys.readouterr().out.startswith("| layer |")


def test_field(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rf", *ERA, "--layer", "trans4", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["trans4"]["size"] == [47, 47]
    assert main(["rf", *ERA, "--layer", "nothing"]) == 2
    assert "no layer 'nothing'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["audit", *ERA, "--preset", "cifar10-200k"], 0),
        (["audit", *ERA, "--preset", "cifar10-100k"], 1),
        (["audit", *ERA, "--max-parameters", "200000", "--at-least", "dilated=3"], 0),
        (["audit", *ERA, "--max-parameters", "1000", "--json"], 1),
        (["audit", *ERA], 2),
        (["audit", "timm:resnet18", "--max-parameters", "12000000"], 0),
        (["rf", "torchvision:resnet18"], 0),
        (["rf", "timm:no_such_network"], 2),
        (["rf", "networks:nothing"], 2),
        (["rf", "no_such_module:net"], 2),
        (["rf", "plain"], 2),
        (["rf", "missing.py:net"], 2),
        (["rf", "networks:era_s9", "--input", "5,32,32"], 2),
    ],
)
def test_exit_status(arguments: list[str], status: int) -> None:
    assert main(arguments) == status


def test_a_file_as_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rf", f"{NETWORKS}:net4", "--input", "3,32,32"]) == 0
    assert "local size=(55, 55)" in capsys.readouterr().out
