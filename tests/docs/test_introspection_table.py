"""The figures in the documentation of introspection are those of the committed results."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("timm")

from benchmarks.introspection import RESULTS, table

PAGE = Path(__file__).resolve().parents[2] / "docs" / "pages" / "introspection.md"


def test_the_page_shows_the_committed_times() -> None:
    assert table() in PAGE.read_text()


def test_the_page_shows_the_committed_sweep() -> None:
    totals = json.loads((RESULTS / "introspection_sweep.json").read_text())["totals"]
    networks, equal = totals["convolutional"], totals["equal to the gradient"]
    assert totals["different"] == []
    assert totals["MACs different"] == totals["parameters different"] == []
    variants, another = totals["variants by output stride"], totals["answered by another commit"]
    shown = " ".join(PAGE.read_text().split())
    assert (
        f"of {networks} convolutional networks of timm and {variants} variants of them with another output stride, "
        f"{equal} equal it at both ends, none differs, and {len(totals['not compared'])} could not be compared"
    ) in shown
    assert f"{another} of the {totals['models'] + variants} answers are of an earlier commit" in shown
    assert f"took {totals['median field seconds']} s of one processor" in shown


def test_summary_takes_at_most_twice_the_time_of_torchinfo() -> None:
    records = json.loads((RESULTS / "introspection_speed.json").read_text())["records"]
    ratios = [row["summary"]["seconds"] / row["torchinfo"]["seconds"] for row in records]
    assert max(ratios) <= 1.8
