"""The figures in the documentation of introspection are those of the committed results."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("timm")

from benchmarks.introspection import RESULTS, table
from benchmarks.introspection_speed import spread_of

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


def test_the_page_shows_the_committed_times_of_all_networks() -> None:
    data = json.loads((RESULTS / "introspection_times.json").read_text())
    totals = data["totals"]
    assert totals == json.loads(json.dumps(spread_of(data["records"])))
    field, table_of, beside = totals["receptive_field"], totals["summary"], totals["summary beside torchinfo"]
    best = totals["receptive_field, shortest of three"]
    shown = " ".join(PAGE.read_text().split())
    assert (
        f"On {totals['convolutional']} convolutional networks of timm, the first call each at their own input "
        f"size, `receptive_field` took {field['median']} s of one processor at the median, {field['nine tenths']} s at "
        f"nine tenths and {field['slowest']} s at most; the shortest of three further calls took {best['median']} s at "
        "the median"
    ) in shown
    assert f"took {table_of['median']} s at the median of the {totals['networks']} networks timed" in shown
    assert f"timed, and {table_of['slowest']} s at most; that is {beside['median']} times torchinfo's time" in shown
    assert (
        f"and more than twice on {beside['over 2']} of {beside['networks']}, at most {beside['largest']} times" in shown
    )
    over = [
        name
        for name, row in data["records"].items()
        if row.get("torchinfo_seconds") and row["summary_seconds"] / row["torchinfo_seconds"] > 2
    ]
    assert len(over) == beside["over 2"]
    assert all(name in shown for name in over)
    assert f"{totals['by commit'].get('earlier', 0)} of the {totals['networks']} times are of earlier commits" in shown


def test_summary_takes_at_most_twice_the_time_of_torchinfo() -> None:
    records = json.loads((RESULTS / "introspection_speed.json").read_text())["records"]
    ratios = [row["summary"]["seconds"] / row["torchinfo"]["seconds"] for row in records]
    assert max(ratios) <= 2
    assert f"takes {min(ratios):.1f} to {max(ratios):.1f} times as long as torchinfo here" in " ".join(
        PAGE.read_text().split()
    )
