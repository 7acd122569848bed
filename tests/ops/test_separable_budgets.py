"""What the compiler makes of the kernels of whole blocks; see test_budgets.py.

A block that reads and writes each bfloat16 element once has about 28 instructions for it at full copy speed.
"""

# pyright: reportMissingImports=false

import pytest

from tests.ops.test_budgets import SHORT

pytest.importorskip("triton", reason="triton is not installed")

from convblocks.ops import _kernels_separable as kernels
from convblocks.ops import _launch, _launch_separable
from tests.ops.assembly import Assembly, compile_kernel


def compiled(
    rolling: bool, channels: int, out: int, dtype: str, arch: int, act: str = "relu", has: int = 14
) -> tuple[Assembly, _launch.Tiling]:
    tiling = _launch_separable.fit(_launch_separable.ROWS if rolling else _launch_separable.GATHER, channels, out)
    kernel = kernels.rows_separable if rolling else kernels.gather_separable
    pointers = dict.fromkeys(("X", "WEIGHT", "POINT", "BIAS_1", "BIAS_2", "Y"), SHORT[dtype])
    pointers |= {f"{name}_{i}": "fp32" for name in ("MEAN", "VARIANCE", "WEIGHT", "SHIFT") for i in (1, 2)}
    constants = {"UNIT": 16, "UNIT_O": 16, "HAS_1": has, "HAS_2": has, "EPS_1": 1e-5, "EPS_2": 1e-5}
    constants |= {"ACT_1": act, "ACT_2": act, "EVEN_C": True, "EVEN_O": True, "STAGES": tiling.stages}
    constants |= {"KH": 5, "KW": 5, "SH": 2, "SW": 2, "BC": tiling.channels, "BO": _launch_separable.power_of_two(out)}
    constants |= {"BU": tiling.block, "BP": tiling.block}
    known = {name: value for name, value in constants.items() if name in kernel.arg_names}
    return compile_kernel(kernel, pointers, known, arch, tiling.warps), tiling


@pytest.mark.parametrize(
    ("channels", "dtype", "arch", "act", "budget"),
    [
        (64, "bfloat16", 90, "relu", 33),
        (128, "bfloat16", 90, "relu", 37),
        (32, "bfloat16", 90, "relu", 33),
        (64, "float16", 90, "relu6", 33),
        (64, "bfloat16", 80, "relu", 33),
        (128, "bfloat16", 80, "relu", 37),
        (64, "float32", 90, "relu", None),
        (64, "bfloat16", 90, "gelu", None),
        (128, "bfloat16", 90, "silu", None),
    ],
)
def test_rolling(channels: int, dtype: str, arch: int, act: str, budget: float | None) -> None:
    assembly, tiling = compiled(True, channels, channels, dtype, arch, act)
    assert assembly.spills() == 0
    names = assembly.count(assembly.inner())
    copies = {name: n for name, n in names.items() if name.startswith("LDGSTS")}
    assert copies, "rows are copied to shared memory while others are worked on"
    assert all(".128" in name for name in copies), copies
    stores = {name: n for name, n in names.items() if name.startswith("STG")}
    assert stores
    assert all(".128" in name for name in stores), stores
    if budget is not None:
        assert any("MMA" in name for name in names)
        outputs = 2 * tiling.block * channels // (32 * tiling.warps) * tiling.rows
        assert assembly.executed(tiling.rows + 2, 1) / outputs <= budget


@pytest.mark.parametrize(("channels", "out"), [(16, 256), (32, 64), (64, 256), (128, 64)])
def test_no_width_spills(channels: int, out: int) -> None:
    for rolling in (True, False):
        assembly, _ = compiled(rolling, channels, out, "bfloat16", 90)
        assert assembly.spills() == 0, (rolling, assembly.registers)
