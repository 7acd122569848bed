"""The committed results of benchmarks/fusion.py, and that the script makes such ones."""

import json
from pathlib import Path

import pytest

from benchmarks import fusion


@pytest.fixture(scope="module")
def committed():
    return json.loads(fusion.RESULTS.read_text())


def test_all_that_can_be_folded_is(committed):
    assert [row["network"] for row in committed["networks"]] == list(fusion.NETWORKS)
    assert len(fusion.NETWORKS) >= 40
    assert committed["totals"]["share"] >= 0.95


def test_what_stays_has_something_that_is_not_linear_on_both_sides(committed):
    reasons = {reason for row in committed["networks"] for reason in row["kept"]}
    before = ("its input is read by several operations", "no convolution before it but slice")
    after = ("no convolution after it but relu_", "no convolution after it but silu")
    assert reasons <= {f"{one}; {other}" for one in before for other in after}


def test_the_page_shows_them(committed):
    page = Path(fusion.__file__).parents[1] / "docs" / "pages" / "deploy.md"
    assert fusion.table(committed) in page.read_text(), "run: python -m benchmarks.fusion --table"


def test_outputs_move_by_no_more_than_rounding(committed):
    for row in committed["networks"]:
        # A network whose own float32 output is far from its float64 one amplifies rounding, ours as well as torch's.
        amplified = row["rounding_float32"] / 1e-6
        assert row["fused_float32"] <= 1e-5 * max(1, amplified), row["network"]
        assert row["fused_float64"] <= 1e-12 * max(1, amplified * 10), row["network"]


def test_the_script_measures_anew(tmp_path, committed, capsys):
    path = tmp_path / "fusion.json"
    fusion.main(["--networks", "mobilenetv3_small_100", "--output", str(path)])
    (row,) = json.loads(path.read_text())["networks"]
    (before,) = (r for r in committed["networks"] if r["network"] == "mobilenetv3_small_100")
    assert {key: row[key] for key in ("norms", "folded", "merged")} == {
        key: before[key] for key in ("norms", "folded", "merged")
    }
    assert row["fused_float64"] < 1e-12
