"""Tables say what the rows say, and the pages what the tables say."""

import json
from pathlib import Path

import pytest

from benchmarks import roofline, tables

ROOT = Path(__file__).resolve().parents[2]
PAGES = [page for page in (ROOT / "docs" / "pages").glob("*.md") if "<!-- begin " in page.read_text()]


def row(case, way, median, subject="convblocks", dtype="bfloat16", **more):
    made = {"case": case, "subject": subject, "pass": "inference", "way": way, "dtype": dtype, "mode": "eager"}
    made |= {"status": "ok", "median": median, "low": median, "high": median, "share": 0.5, "peak_memory": None}
    return made | {"bytes": 1000, "macs": 1000, "errors": {"y": 1e-3}} | more


@pytest.fixture
def result():
    # A copy of 1000 bytes takes 10 us, a product of 1000 MACs 1 us.
    run = {"command": "python -m benchmarks.blocks", "date": "2026-01-01", "dtype": "bfloat16"}
    run |= {"copy bytes per second": 1e8, "product operations per second": 2e9}
    rows = [row("A", "eager contiguous", 80.0), row("A", "folded", 20.0), row("A", "eager contiguous", 160.0)]
    rows[2] |= {"dtype": "float32"}
    rows += [row("B", "eager contiguous", 30.0), row("B", "folded", 30.0), row("C", "eager contiguous", 1.0)]
    rows += [row("A", "folded", 10.0, subject="timm"), row("A", "folded", 5.0) | {"status": "wrong", "why": "NaN"}]
    where = {"device": "a CPU", "threads": 1, "torch": "2.6", "python": "3.11"}
    return {"environment": where, "runs": [run], "left_out": ["one"], "rows": rows}


def test_speedups(result):
    assert tables.speedups(result, "inference", "bfloat16").splitlines() == [
        "| inference, bfloat16 | eager contiguous, bfloat16, us | folded | the roof |",
        "|---|---:|---:|---:|",
        "| A | 80.0 | 4.00 | 8.00 |",
        "| B | 30.0 | 1.00 | 3.00 |",
        "| C | 1.0 |  | 0.10 |",
        "| geometric mean of 2 |  | **2.00** | **4.90** |",
    ]


def test_speedups_over_another_dtype(result):
    head, _, only, mean = tables.speedups(result, "inference", "bfloat16", "float32").splitlines()
    assert head == "| inference, bfloat16 | eager contiguous, float32, us | eager contiguous | folded | the roof |"
    assert only == "| A | 160.0 | 2.00 | 8.00 | 16.00 |"
    assert mean == "| geometric mean of 1 |  | **2.00** | **8.00** | **16.00** |"


def test_rivals(result):
    text = tables.rivals(result, "inference", "bfloat16", "folded")
    assert "| A | 20.0 | timm 0.50 |" in text


def test_depthwise():
    case = {"shape": [2, 8, 4, 4], "kernel": 3, "stride": 1, "dilation": 2, "dtype": "bfloat16", "out": 0}
    times = {"torch contiguous": 30.0, "torch channels_last": 90.0, "convblocks": 20.0, "copy": 16.0}
    rows = [case | {"pass": "forward", "mode": "cold", "path": k, "median": v, "share": 0.5} for k, v in times.items()]
    rows += [row | {"pass": "backward"} for row in rows[:3]]
    rows += [rows[0] | {"mode": "graph"}, rows[0] | {"out": 16}]
    where = {"device": "a GPU", "torch": "2.6", "cuda": "13", "cudnn": "9", "triton": "3.6"}
    text = tables.depthwise({"environment": where, "copy bytes per second": 4.2e12, "rows": rows}, "cold")
    first, _, head, _, forward, backward = text.splitlines()
    assert first == "a GPU; torch 2.6, cuda 13, cudnn 9, triton 3.6; a copy moves 4.20 TB/s."
    assert head.startswith("| cold, us | pass | PyTorch contiguous |")
    case = "| 2x8x4x4, kernel 3, stride 1, dilation 2, bfloat16"
    assert forward == f"{case} | forward | 30.0 | 90.0 | 16.0 | 20.0 | 50% | 1.50 |"
    # A backward pass is no copy.
    assert backward == f"{case} | backward | 30.0 | 90.0 |  | 20.0 | 50% | 1.50 |"


def test_everything_names_what_was_not_timed(result):
    text = tables.everything(result)
    assert "| A | timm | inference | folded | bfloat16 | 10.0 (10.0, 10.0) |  |  | 50% | 8.00 |  |  | 1.0e-03 |" in text
    assert "- A, convblocks, inference, folded: wrong: NaN" in text
    assert "- one" in text


def test_a_page_is_filled_and_the_rest_is_left_alone(result, tmp_path):
    (tmp_path / "x.json").write_text(json.dumps(result))
    page = "# Title\n<!-- begin speedups x.json, inference, bfloat16 -->\nstale\n<!-- end -->\nrest\n"
    filled = tables.filled(page, tmp_path)
    assert "stale" not in filled
    assert "| A | 80.0 | 4.00 | 8.00 |" in filled
    assert filled.startswith("# Title\n")
    assert filled.endswith("<!-- end -->\nrest\n")
    assert tables.filled(filled, tmp_path) == filled


def test_a_roofline_has_a_panel_a_pass_and_a_mark_a_way(result):
    result["rows"].append(row("A", "folded", 50.0) | {"pass": "training"})
    figure = roofline.roofline(result)
    assert [axes.get_title() for axes in figure.axes] == ["inference", "training"]
    labels = figure.axes[0].get_legend_handles_labels()[1]
    assert labels == ["eager contiguous, bfloat16", "folded, bfloat16", "eager contiguous, float32"]
    roof, first, *_ = figure.axes[0].lines
    assert max(roof.get_ydata()) == 2e9
    assert first.get_xydata().tolist()[0] == [2.0, 2e9 / 80]


def test_there_is_a_page_with_tables():
    assert PAGES


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_hold_the_tables_that_the_script_makes(page):
    text = page.read_text()
    assert text == tables.filled(text), f"run: python -m benchmarks.roofline --page docs/pages/{page.name}"
