"""What the compiler makes of the kernels: the committed counts, and the arithmetic behind them."""

import dataclasses
import json

import pytest

from benchmarks import machine_code


@pytest.fixture(scope="module")
def committed():
    return json.loads(machine_code.PATH.read_text())


def test_no_committed_kernel_spills_much_or_is_too_large(committed):
    assert [row for row in committed["rows"] if not row["fits"]] == []
    # Of whole blocks a few of some thousand instructions, and of what has two warps on compute capability 8.0.
    few = [row for row in committed["rows"] if row["spills"]]
    assert all(row["spills"] <= 40 for row in few)
    assert {row["kernel"] for row in few if row["arch"] == 90} <= {"rows_separable"}
    assert all(row["dtype"] == "bfloat16" for row in few)
    kinds = {(row["dtype"], row["arch"]) for row in committed["rows"]}
    assert kinds == set(machine_code.KINDS)


def test_committed_kernels_keep_the_budgets(committed):
    budgets = {
        ("rows_forward", 64, None): 26,
        ("rows_backward", 64, None): 42,
        ("maps_backward", 64, None): 42,
        ("rows_separable", 64, 64): 33,
        ("rows_separable", 128, 128): 37,
    }
    rows = [row for row in committed["rows"] if (row["dtype"], row["arch"]) == machine_code.MAIN]
    found = {(row["kernel"], row["channels"], row.get("out")): row["instructions an element"] for row in rows}
    assert {key: found[key] for key, budget in budgets.items() if found[key] > budget} == {}


def test_tables_say_what_the_rows_say():
    row = {"dtype": "bfloat16", "arch": 90, "channels": 64, "kernel": "k", "registers": 214, "spills": 0}
    row |= {"shared": 16384, "warps": 4, "warps at work": 8, "fits": True, "instructions an element": 22.7}
    wide = row | {"kernel": "w", "out": 128, "spills": 3, "instructions an element": None, "warps at work": 12}
    result = {"environment": {"triton": "3", "torch": "2"}, "rows": [row, wide, row | {"arch": 80}]}
    lines = machine_code.table(result).splitlines()
    assert lines[2:] == ["| k | 64 | 214 | 0 | 16.0 | 8 | 22.7 |", "| w | 64 to 128 | 214 | 3 | 16.0 | 12 |  |"]
    said = machine_code.worst(result)
    assert "Spilled registers: in 1." in said
    assert "Fewer than 12 warps a multiprocessor: 2." in said


@pytest.mark.parametrize(
    ("registers", "shared", "warps", "arch", "at_work"),
    [
        # Four warps of 216 registers: 6912 a warp, nine warps, of which two programs of four find room.
        (214, 16384, 4, 90, 8),
        (168, 0, 4, 90, 12),
        (40, 0, 4, 90, 48),
        (32, 0, 4, 90, 64),
        (32, 0, 1, 90, 32),
        (32, 100 * 1024, 8, 90, 16),
        (32, 100 * 1024, 8, 80, 8),
        (32, 164 * 1024, 8, 80, 0),
    ],
)
def test_registers_and_shared_memory_limit_the_warps(registers, shared, warps, arch, at_work):
    pytest.importorskip("triton", reason="triton is not installed")
    from benchmarks.assembly import Assembly

    assembly = Assembly((), (), registers, 0, shared, warps, arch)
    assert assembly.warps_at_work() == at_work
    assert assembly.fits() == (at_work > 0)
    assert not dataclasses.replace(assembly, shared=228 * 1024).fits()


def test_the_script_compiles_and_counts(tmp_path, monkeypatch):
    pytest.importorskip("triton", reason="triton is not installed")
    jobs = machine_code.jobs
    monkeypatch.setattr(machine_code, "jobs", lambda quick: list(jobs(quick))[-1:])
    path = tmp_path / "machine_code.json"
    machine_code.main(["--quick", "--output", str(path)])
    (row,) = json.loads(path.read_text())["rows"]
    assert row["kernel"] == "norm_backward"
    assert row["registers"] > 16
    assert row["spills"] == 0
