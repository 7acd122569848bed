"""The picture shows the field that was computed, and nothing but drawing imports matplotlib."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import networks
import numpy as np
import pytest
from torch import nn

from convblocks.__main__ import main
from convblocks.introspect.plotting import plot_receptive_field


def test_field_and_growth() -> None:
    figure = plot_receptive_field(networks.era_s9(), (3, 32, 32), layer="trans4")
    left, right = figure.axes
    assert left.get_title() == "trans4: 47 x 47 pixels, 100% reach it"
    assert [int(y) for y in np.asarray(right.lines[0].get_ydata())] == [
        3,
        5,
        7,
        9,
        11,
        15,
        17,
        19,
        27,
        29,
        31,
        47,
        48,
        48,
    ]


def test_gridding_is_drawn() -> None:
    net = nn.Sequential(nn.Conv2d(1, 1, 3, dilation=2, padding=2), nn.Conv2d(1, 1, 3, dilation=4, padding=4))
    [left, _] = plot_receptive_field(net, (1, 32, 32)).axes
    assert left.get_title() == "1: 13 x 13 pixels, 29% reach it"
    assert np.asarray(left.images[0].get_array()).sum() == 49


def test_what_cannot_be_drawn() -> None:
    with pytest.raises(ValueError, match="no layer 'nothing'"):
        plot_receptive_field(networks.era_s9(), (3, 32, 32), layer="nothing")
    with pytest.raises(ValueError, match="height and a width"):
        plot_receptive_field(nn.Conv1d(1, 1, 3), (1, 32))


def test_command(tmp_path: Path) -> None:
    out = tmp_path / "field.png"
    assert main(["plot", "networks:net4", "--input", "3,32,32", "--out", str(out)]) == 0
    assert out.read_bytes()[:4] == b"\x89PNG"


def test_matplotlib_is_imported_late() -> None:
    code = "import sys, convblocks.introspect.plotting; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=False).returncode == 0
