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


def test_outputs_move_by_no_more_than_the_limits_but_for_one_network(committed):
    met = [row["network"] for row in committed["networks"] if fusion.within(row)]
    assert len(met) >= 40
    assert set(fusion.NETWORKS) - set(met) == {"efficientnetv2_rw_t"}


def test_the_one_that_misses_them_is_as_far_off_without_fusing(committed):
    """It amplifies rounding: no fold could be nearer to its float32 output than that is to its float64 one."""
    (row,) = (row for row in committed["networks"] if row["network"] == "efficientnetv2_rw_t")
    assert row["rounding_float32"] > 0.1
    assert row["fused_float32"] <= 2 * row["rounding_float32"]
    # float64 is 2 ** 29 times as fine as float32.
    assert row["fused_float64"] <= row["rounding_float32"] * 2**-18


def test_a_row_that_misses_a_limit_says_so(committed):
    row = committed["networks"][0]
    assert fusion.within(row)
    for key in ("fused_float32", "fused_float64"):
        missed = fusion.table({**committed, "networks": [row | {key: 2e-5}]})
        assert "no" in [cell.strip() for cell in missed.splitlines()[2].split("|")]


def test_the_script_measures_anew(tmp_path, committed, capsys):
    path = tmp_path / "fusion.json"
    fusion.main(["--networks", "mobilenetv3_small_100", "--output", str(path)])
    (row,) = json.loads(path.read_text())["networks"]
    (before,) = (r for r in committed["networks"] if r["network"] == "mobilenetv3_small_100")
    assert {key: row[key] for key in ("norms", "folded", "merged")} == {
        key: before[key] for key in ("norms", "folded", "merged")
    }
    assert row["fused_float64"] < 1e-12
