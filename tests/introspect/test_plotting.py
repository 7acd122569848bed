"""The picture shows the field that was computed, and nothing but drawing imports matplotlib."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import networks
import numpy as np
import pytest
import small_networks
import torch
from torch import Tensor, nn

from convblocks.__main__ import main
from convblocks.introspect.plotting import plot_receptive_field


def test_field_and_growth() -> None:
    figure = plot_receptive_field(networks.era_s9(), (3, 32, 32), layer="trans4")
    left, right = figure.axes
    assert left.get_title() == "trans4: 47 x 47 pixels, 100% reach it"
    line, pooled = ([int(y) for y in np.asarray(drawn.get_ydata())] for drawn in right.lines[:2])
    assert line == [3, 5, 7, 9, 11, 15, 17, 19, 27, 29, 31, 47]
    assert pooled == [48, 48]


def test_gates_are_beside_the_line_of_growth() -> None:
    """They once made a saw of it."""
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        model = timm.create_model("mobilenetv3_small_050")
    right = plot_receptive_field(model, (3, 224, 224), layer="conv_stem").axes[1]
    growth = np.asarray(right.lines[0].get_ydata())
    assert len(growth) > 30
    assert (np.diff(growth) >= 0).all()
    assert "dip" not in right.get_xlabel()


def test_a_shorter_branch_is_named() -> None:
    net = networks.era_s9()
    assert "dip" not in plot_receptive_field(net, (3, 32, 32)).axes[1].get_xlabel()
    [_, right] = plot_receptive_field(small_networks.UNet("nearest"), (1, 64, 64)).axes
    assert "dip" not in right.get_xlabel()

    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.far, self.near = nn.Conv2d(1, 1, 5, padding=2), nn.Conv2d(1, 1, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.far(x) + self.near(x)

    assert plot_receptive_field(Branches(), (1, 32, 32)).axes[1].get_xlabel().endswith("(a dip is a shorter branch)")


def test_one_dimension_is_a_strip() -> None:
    net = nn.Sequential(nn.Conv1d(2, 4, 3, dilation=4), nn.MaxPool1d(2), nn.Conv1d(4, 4, 3, dilation=2))
    left, right = plot_receptive_field(net, (2, 64)).axes
    assert left.get_title() == "2: 18 pixels, 56% reach it"
    assert np.asarray(left.images[0].get_array()).shape == (1, 18)
    assert [line.get_label() for line in right.lines] == ["length", "input"]


def test_a_network_of_one_size_has_its_pixels() -> None:
    """It refuses a larger input, and so was said to have none."""

    class OneSize(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convs = nn.Sequential(*(nn.Conv2d(1, 1, 3, dilation=2, padding=2) for _ in range(2)))

        def forward(self, x: Tensor) -> Tensor:
            assert tuple(x.shape[2:]) == (32, 32)
            return self.convs(x)

    [left, _] = plot_receptive_field(OneSize(), (1, 32, 32)).axes
    assert left.get_title() == "convs.1: 9 x 9 pixels, 31% reach it"


def test_pixels_that_are_not_known_are_said_not_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("convblocks.introspect.plotting.reached_pixels", lambda *_: None)
    [left, _] = plot_receptive_field(nn.Sequential(nn.Conv2d(1, 1, 3)), (1, 32, 32), layer="0").axes
    assert "which of its pixels reach it is not known" in left.get_xlabel()


def test_a_layer_before_control_flow_is_drawn() -> None:
    class Decides(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 1, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            return x if x.sum() > 0 else -x

    [left, _] = plot_receptive_field(Decides(), (1, 16, 16), layer="conv").axes
    assert left.get_title() == "conv: 3 x 3 pixels, 100% reach it"


def test_gridding_is_drawn() -> None:
    net = nn.Sequential(nn.Conv2d(1, 1, 3, dilation=2, padding=2), nn.Conv2d(1, 1, 3, dilation=4, padding=4))
    [left, _] = plot_receptive_field(net, (1, 32, 32)).axes
    assert left.get_title() == "1: 13 x 13 pixels, 29% reach it"
    assert np.asarray(left.images[0].get_array()).sum() == 49


def test_what_cannot_be_drawn() -> None:
    with pytest.raises(ValueError, match="no layer 'nothing'"):
        plot_receptive_field(networks.era_s9(), (3, 32, 32), layer="nothing")
    with pytest.raises(ValueError, match="one or two spatial dimensions"):
        plot_receptive_field(nn.Conv3d(1, 1, 3), (1, 8, 8, 8))


def test_command(tmp_path: Path) -> None:
    out = tmp_path / "field.png"
    assert main(["plot", "networks:net4", "--input", "3,32,32", "--out", str(out)]) == 0
    assert out.read_bytes()[:4] == b"\x89PNG"


def test_matplotlib_is_imported_late() -> None:
    code = "import sys, convblocks.introspect.plotting; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=False).returncode == 0
