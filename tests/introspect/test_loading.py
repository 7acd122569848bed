"""Networks as the command line names them, and one clear line for each name that is none."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from convblocks import receptive_field
from convblocks.__main__ import main
from convblocks.introspect.loading import load_model

pytest.importorskip("timm")
pytest.importorskip("torchvision")

SOURCE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3)
    def forward(self, x):
        return self.conv(x)

class Wants(nn.Module):
    def __init__(self, width):
        super().__init__()

class Breaks(nn.Module):
    def __init__(self, width=1):
        raise RuntimeError("out of luck")

class ReadsValues(Net):
    def __init__(self, width=4):
        super().__init__(int(torch.full((2,), 2.0).sum()))

class Raises(Net):
    def forward(self, x):
        raise RuntimeError("first line\\nsecond line")

number = 3

def gives_number():
    return 3
"""
ONE = """
from torch import nn

class Part(nn.Module):
    def __init__(self, width): ...

class Net(nn.Conv2d):
    def __init__(self):
        super().__init__(3, 4, 3)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    files = {
        "several.py": SOURCE,
        "one_class.py": ONE,
        "one_instance.py": ONE + "net = Net()\n",
        "nothing_in_it.py": "x = 1\n",
        "fails.py": "raise RuntimeError('at the top')\n",
        "wrong.py": "def f(:\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    yield tmp_path
    for name in files:
        sys.modules.pop(name.removesuffix(".py"), None)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("spec", "kind"),
    [
        ("several.py:Net", "Net"),
        ("several:Net", "Net"),
        ("one_class.py", "Net"),
        ("one_instance.py", "Net"),
        ("one_instance.py:net", "Net"),
        # It reads values while it is built, which the meta device has not.
        ("several.py:ReadsValues", "ReadsValues"),
        ("timm:resnet18", "ResNet"),
        ("timm:resnet18.a1_in1k", "ResNet"),
        ("torchvision:resnet18", "ResNet"),
        ("torchvision:fcn_resnet50", "FCN"),
    ],
)
def test_networks(spec: str, kind: str) -> None:
    assert type(load_model(spec)).__name__ == kind


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("plain", "MODEL must be module:callable, .* got 'plain'"),
        ("timm:", "MODEL must be .* got 'timm:'"),
        ("missing.py:Net", "there is no file missing.py"),
        ("missing.py", "there is no file missing.py"),
        ("several.py", "several.py holds Net, Breaks, ReadsValues, Raises: name one, as several.py:Net"),
        ("nothing_in_it.py", "nothing_in_it.py holds no network that takes no arguments"),
        ("several.py:Nett", "several.py has no 'Nett'; close are Net"),
        ("several.py:number", "'several.py:number' is of type int, not a torch module"),
        ("several.py:gives_number", "'several.py:gives_number' gives int, not a torch module"),
        ("several.py:Wants", "'several.py:Wants' called without arguments raises TypeError: .*'width'"),
        ("several.py:Breaks", "called without arguments raises RuntimeError: out of luck"),
        ("fails.py:Net", "cannot import 'fails.py': RuntimeError: at the top"),
        ("wrong.py:f", "cannot import 'wrong.py': SyntaxError"),
        ("no_such_module:net", "cannot import 'no_such_module': ModuleNotFoundError"),
        ("timm:resnet181", "timm has no model 'resnet181'; close are .*resnet18"),
        ("torchvision:resnet181", "torchvision has no model 'resnet181'; close are .*resnet18"),
    ],
)
def test_what_names_no_network(spec: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each of these once was a traceback, or named less."""
    with pytest.raises(ValueError, match=message):
        load_model(spec)
    assert main(["rf", spec]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.usefixtures("folder")
def test_an_error_is_one_line_and_names_the_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rf", "several.py:Raises"]) == 2
    assert capsys.readouterr().err == (
        "convblocks: the network does not run on input_size=(3, 224, 224): "
        "RuntimeError: first line second line; --input gives another size\n"
    )


def test_a_file_called_like_a_library_leaves_that_alone(folder: Path) -> None:
    (folder / "torch.py").write_text("from torch import nn\nnet = nn.Conv2d(3, 4, 3)\n")
    assert type(load_model("torch.py")).__name__ == "Conv2d"
    assert sys.modules["torch"] is torch


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["summary", "--depth", "-1"], "argument --depth: must be a whole number from 0, got '-1'"),
        (["summary", "--width", "0"], "argument --width: must be a whole number from 1, got '0'"),
        (["audit", "--max-parameters", "1e5"], "argument --max-parameters: must be a whole number from 0, got '1e5'"),
        (["audit", "--at-most", "dilated"], "argument --at-most: must be KIND=N, such as dilated=1, got 'dilated'"),
        (["audit", "--at-most", "round=1"], "at_most names no kind of layer: 'round'"),
        (["audit", "--min-coverage", "90"], "min_coverage is a share, at most 1, got 90.0"),
        (["plot", "--out", "no/such/folder.png"], "--out must be a file in a folder that exists"),
        (["plot", "--out", "."], "--out must be a file in a folder that exists, got '.'"),
        (["plot", "--out", "field.unheard"], "Format 'unheard' is not supported"),
        (["plot", "--layer", "nothing"], "no layer 'nothing'"),
        (["rf", "--input", "3,a"], "argument --input: must be numbers such as 3,224,224, got '3,a'"),
        (["rf", "--input", "3,0,4"], "all positive whole numbers, got (3, 0, 4)"),
    ],
)
def test_bad_options(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    command, *rest = arguments
    try:
        status = main([command, "several.py:Net", *rest])
    except SystemExit as stopped:
        status = stopped.code
    assert status == 2
    assert message in capsys.readouterr().err


def test_a_picture_without_an_ending_is_a_png(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plot", "several.py:Net", "--input", "3,16,16", "--out", "field"]) == 0
    assert capsys.readouterr().out == "field.png\n"
    assert (folder / "field.png").is_file()


def test_a_reader_that_has_seen_enough_is_no_error(folder: Path) -> None:
    command = f"{sys.executable} -m convblocks summary several.py:Net --input 3,16,16 --json | head -c 1"
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        ["sh", "-c", command], cwd=folder, env={"PYTHONPATH": root}, capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("{", "")


MASKED = """
import torch
from torch import nn

class Masked(nn.Conv2d):
    def __init__(self, channels=4):
        super().__init__(3, channels, 5)
        mask = torch.ones_like(self.weight)
        mask[..., 3:] = 0
        self.register_buffer("mask", mask)
    def forward(self, x):
        return self._conv_forward(x, self.weight * self.mask, self.bias)

def large():
    return Masked(2**20)
"""


def test_constants_of_a_network_have_their_values_where_it_is_small(folder: Path) -> None:
    (folder / "masked.py").write_text(MASKED)
    assert receptive_field(load_model("masked.py:Masked"), (3, 16, 16)).size == (5, 3)
    large = load_model("masked.py:large")
    assert all(tensor.is_meta for tensor in large.state_dict().values())
    assert receptive_field(large, (3, 16, 16)).size == (5, 5)
