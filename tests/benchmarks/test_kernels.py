"""The benchmark runs small on the CPU, checks before it times, and writes what it says."""

import json

import pytest
import torch

from benchmarks import cases, decide, kernels
from benchmarks.timing import Timing
from convblocks.ops import _choice


def test_a_quick_run_writes_figures_and_a_table(tmp_path, capsys):
    path = tmp_path / "kernels.json"
    kernels.main(["--device", "cpu", "--quick", "--output", str(path)])
    result = json.loads(path.read_text())
    assert result["environment"]["torch"] == torch.__version__
    passes = sum(1 if case.out else 2 for case in kernels.QUICK)
    copies = [row for row in result["rows"] if row["path"] == "copy"]
    assert [(row["shape"], row["pass"]) for row in copies] == [([2, 16, 16, 16], "forward")]
    assert len(result["rows"]) == passes * 3 + 1
    assert all(0 < row["low"] <= row["median"] <= row["high"] for row in result["rows"])
    assert all(row["share"] > 0 for row in result["rows"])
    lines = path.with_suffix(".md").read_text().splitlines()
    assert len(lines) == 2 + passes
    assert lines[2].startswith("| 2x8x12x12 k3 s2 d2 float32 | backward | eager |")
    assert lines[2] in capsys.readouterr().out


def test_a_wrong_kernel_is_not_timed(monkeypatch):
    data = cases.Data(cases.QUICK[0], "cpu", torch.channels_last)
    data.check()
    right = data.calls(ours=True)
    wrong = right | {"forward": lambda: right["forward"]() * 1.1}
    monkeypatch.setattr(data, "calls", lambda ours: wrong)
    with pytest.raises(AssertionError, match=r"y is off by 1\.0e-01"):
        data.check()


def test_a_wrong_block_is_not_timed(monkeypatch):
    data = cases.BlockData(cases.QUICK[2], "cpu", torch.channels_last)
    assert data.check()["y"] < 1e-2
    torch.testing.assert_close(data.one_by_one(), data.fused(), rtol=5e-2, atol=5e-2)
    assert data.bytes_moved("forward") == 2 * 2 * 8 * 8 * (16 + 24)
    monkeypatch.setattr(data, "fused", lambda: data.one_by_one() * 1.1)
    with pytest.raises(AssertionError, match=r"2x16x8x8 to 24 k3 s1 d1 bfloat16: y is off by 1\.0e-01"):
        data.check()


def test_the_decision_table_can_be_read_back(tmp_path):
    path = tmp_path / "decisions.json"
    kernels.main(["--device", "cpu", "--quick", "--decide", "--output", str(path)])
    found = _choice.read_table(path)["cpu"]
    assert sorted(found) == [
        f"float32 3x3 stride 1x1 undilated {layout} {use}"
        for layout in ("channels_last", "contiguous")
        for use in ("inference", "training")
    ] + [f"separable 64 to 256 bfloat16 3x3 stride 2x2 undilated channels_last {u}" for u in ("inference", "training")]


def test_a_table_from_the_cpu_does_not_become_the_one_in_use():
    with pytest.raises(SystemExit):
        kernels.main(["--device", "cpu", "--quick", "--decide"])
    assert "cpu" not in _choice.read_table(_choice.DECISIONS)


def timing(median):
    return Timing(median, median, median)


@pytest.mark.parametrize(
    ("ours", "least"),
    [
        ((9, 9, 9), 1),
        ((11, 9, 9), 10),
        ((9, 11, 9), 100),
        ((9, 9, 11), None),
        ((9.9, 9.9, 9.9), None),
    ],
)
def test_a_size_is_ours_where_it_and_all_larger_ones_are_faster(ours, least):
    sizes = (1, 10, 100)
    assert decide._least([(n, timing(10), timing(us)) for n, us in zip(sizes, ours, strict=True)]) == least


def test_a_size_is_ours_only_where_every_clock_says_so():
    timings = [(1, timing(10), timing(9)), (1, timing(10), timing(12)), (10, timing(10), timing(9))]
    assert decide._least(timings) == 10


def test_bytes_are_the_least_that_must_be_moved():
    data = cases.Data(cases.Case((2, 8, 12, 12), stride=2), "cpu", torch.channels_last)
    assert data.bytes_moved("forward") == 2 * (2 * 8 * 12 * 12 + 2 * 8 * 6 * 6)
    assert data.bytes_moved("backward") == 2 * (2 * 2 * 8 * 12 * 12 + 2 * 8 * 6 * 6)
