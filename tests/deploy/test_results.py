"""The committed results of benchmarks/fusion.py, and that the script makes such ones."""

import json

import pytest

from benchmarks import fusion


@pytest.fixture(scope="module")
def committed():
    return json.loads(fusion.RESULTS.read_text())


def test_all_that_can_be_folded_is(committed):
    assert [row["network"] for row in committed["networks"]] == list(fusion.NETWORKS)
    assert len(fusion.NETWORKS) >= 40
    assert committed["totals"]["share_of_foldable"] >= 0.95


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
    assert {key: row[key] for key in ("norms", "foldable", "folded", "merged")} == {
        key: before[key] for key in ("norms", "foldable", "folded", "merged")
    }
    assert row["fused_float64"] < 1e-12
