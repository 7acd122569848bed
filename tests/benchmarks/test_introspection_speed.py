"""Times of introspection: taken in rounds, a tool that fails is named, and totals are those of the records."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import pytest

pytest.importorskip("timm")

from benchmarks import introspection_speed
from benchmarks.introspection_speed import once, smallest, spread_of, timed, times


class Clock:
    """A clock that moves only when a tool says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(introspection_speed.time, "perf_counter", clock)
    monkeypatch.setattr(introspection_speed.time, "process_time", clock)
    return clock


def test_every_round_calls_every_tool_and_the_first_does_not_count(clock: Clock) -> None:
    called: list[str] = []
    durations = {"ours": iter([9.0, 1.0, 2.0, 6.0]), "other": iter([4.0, 3.0, 3.0, 3.0])}

    def tool(name: str) -> None:
        called.append(name)
        clock.now += next(durations[name])

    found = timed({name: lambda name=name: tool(name) for name in durations}, rounds=3)
    assert called == ["ours", "other"] * 4
    assert found["ours"] == {"seconds": 2.0, "spread": 5.0, "calls": 3}
    assert found["other"] == {"seconds": 3.0, "spread": 0.0, "calls": 3}


def test_a_slow_tool_is_called_once_and_one_that_fails_is_named(clock: Clock) -> None:
    count = {"slow": 0, "broken": 0}

    def slow() -> None:
        count["slow"] += 1
        clock.now += 60

    def broken() -> None:
        count["broken"] += 1
        raise AttributeError("no size")

    found = timed({"slow": slow, "broken": broken}, rounds=3)
    assert count == {"slow": 1, "broken": 1}
    assert found == {
        "slow": {"seconds": 60.0, "spread": 0.0, "calls": 1},
        "broken": {"error": "AttributeError: no size"},
    }


def test_one_call_of_each_and_the_rest_goes_on_where_one_fails(clock: Clock) -> None:
    def broken() -> None:
        raise ValueError("no")

    def works() -> None:
        clock.now += 0.25

    assert once({"field": broken, "summary": works}) == {"error": "field: ValueError: no", "summary_seconds": 0.25}


def test_the_shortest_of_several_calls(clock: Clock) -> None:
    durations = iter([3.0, 1.0, 2.0])

    def call() -> None:
        clock.now += next(durations)

    assert smallest(call) == 1.0


def test_totals_are_those_of_the_records() -> None:
    records = {
        "a": {
            "convolutional": True,
            "field_seconds": 0.1,
            "field_best_seconds": 0.05,
            "summary_seconds": 0.2,
            "torchinfo_seconds": 0.2,
        },
        "b": {"convolutional": True, "field_seconds": 0.3, "summary_seconds": 0.5, "torchinfo_seconds": 0.2},
        "c": {"convolutional": False, "field_seconds": 9.0, "summary_seconds": 4.0, "error": "torchinfo: KeyError: x"},
    }
    totals = spread_of(records)
    assert totals["networks"] == 3
    assert totals["by commit"] == {"earlier": 3}
    assert totals["convolutional"] == 2
    assert totals["receptive_field"] == {"median": 0.2, "nine tenths": 0.3, "slowest": 0.3}
    assert totals["receptive_field, shortest of three"] == {"median": 0.05, "nine tenths": 0.05, "slowest": 0.05}
    assert totals["summary"]["slowest"] == 4.0
    assert totals["summary beside torchinfo"] == {
        "networks": 2,
        "median": 1.75,
        "nine tenths": 2.5,
        "largest": 2.5,
        "over 2": 1,
    }
    assert totals["errors"] == {"c": "torchinfo: KeyError: x"}


def test_what_another_commit_timed_is_timed_anew_if_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(introspection_speed, "RESULTS", tmp_path)
    (tmp_path / "introspection_sweep.json").write_text('{"records": {"b": {"convolutional": true}}}')
    timed_names: list[str] = []

    def answers(model: str, _: object) -> dict[str, Callable[[], object]]:
        timed_names.append(model)
        return {"field": list, "summary": list, "torchinfo": list}

    class Named(str):
        default_cfg: ClassVar[dict[str, object]] = {}

    monkeypatch.setattr(introspection_speed, "_answers", answers)

    def run(commit: str, *, again: bool) -> list[str]:
        timed_names.clear()
        times(Named, ["a", "b"], commit, again=again)
        return timed_names[1:]  # after the one that sets up

    assert run("one", again=False) == ["b", "a"]
    assert run("two", again=False) == []
    assert run("two", again=True) == ["b", "a"]
    assert run("two", again=True) == []
    records = json.loads((tmp_path / "introspection_times.json").read_text())["records"]
    assert {name: row["commit"] for name, row in records.items()} == {"a": "two", "b": "two"}
    assert "field_best_seconds" in records["b"]
    assert "field_seconds" not in records["a"]
