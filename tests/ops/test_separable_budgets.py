"""What the compiler makes of the kernels of whole blocks; see test_budgets.py.

A block that reads and writes each bfloat16 element once has about 28 instructions for it at full copy speed.
"""

# pyright: reportMissingImports=false

import pytest

pytest.importorskip("triton", reason="triton is not installed")

from benchmarks import builds

FEW = 30
"""Accesses to spilled registers, of some 3,000 instructions: which of Triton's versions compiles it makes this much."""


@pytest.mark.parametrize(
    ("channels", "dtype", "arch", "act", "budget"),
    [
        (64, "bfloat16", 90, "relu", 25),
        (128, "bfloat16", 90, "relu", 27),
        (32, "bfloat16", 90, "relu", 23),
        (64, "float16", 90, "relu6", 30),
        (64, "bfloat16", 80, "relu", 28),
        (128, "bfloat16", 80, "relu", 30),
        (64, "float32", 90, "relu", None),
        (64, "bfloat16", 90, "gelu", None),
        (128, "bfloat16", 90, "silu", None),
    ],
)
def test_rolling(channels: int, dtype: str, arch: int, act: str, budget: float | None) -> None:
    build = builds.separable(dtype, arch, channels, channels, act=act)
    assembly = build.assembly
    assert assembly.spills() <= (0 if (dtype, arch, act) == ("bfloat16", 90, "relu") else FEW)
    names = assembly.count(assembly.inner())
    copies = {name: n for name, n in names.items() if name.startswith("LDGSTS")}
    assert copies, "rows are copied to shared memory while others are worked on"
    assert all(".128" in name for name in copies), copies
    stores = {name: n for name, n in names.items() if name.startswith("STG")}
    assert stores
    assert all(".128" in name for name in stores), stores
    if budget is not None:
        assert any("MMA" in name for name in names)
        assert build.an_element() <= budget


@pytest.mark.parametrize(("channels", "budget"), [(32, 26), (64, 25), (128, 27)])
def test_rolling_with_the_input_added(channels: int, budget: float) -> None:
    build = builds.separable("bfloat16", 90, channels, channels, skip=True)
    assert build.assembly.spills() == 0
    names = build.assembly.count(build.assembly.inner())
    copies = {name: n for name, n in names.items() if name.startswith("LDG") and name != "LDGDEPBAR"}
    assert all(name.startswith("LDGSTS") and ".128" in name for name in copies), copies
    assert build.assembly.warps_at_work() >= 8
    assert build.an_element() <= budget


@pytest.mark.parametrize(("channels", "out"), [(16, 256), (32, 64), (64, 256), (128, 64)])
def test_no_width_spills_much(channels: int, out: int) -> None:
    for rolling in (True, False):
        assembly = builds.separable("bfloat16", 90, channels, out, rolling=rolling).assembly
        assert assembly.spills() <= FEW, (rolling, assembly.registers)
