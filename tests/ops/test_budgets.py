"""What the compiler makes of the kernels, for GPUs that need not be there: no spills, wide loads, few instructions.

At full copy speed an H200 has about 28 instructions for each bfloat16 element that is read and written once.
"""

# pyright: reportMissingImports=false

import pytest

pytest.importorskip("triton", reason="triton is not installed")

import triton

if tuple(map(int, triton.__version__.split(".")[:2])) < (3, 3):
    pytest.skip("Triton's compiler has another interface before 3.3", allow_module_level=True)

from convblocks.ops import _kernels as kernels
from convblocks.ops import _launch
from tests.ops.assembly import Assembly, compile_kernel

SHORT = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
WIDTH = {"float32": 4, "bfloat16": 2, "float16": 2}
SIZES = {"UNIT": 16, "EVEN_C": True}


def rows_forward(dtype: str, arch: int) -> tuple[Assembly, _launch.Tiling]:
    tiling = tiled(_launch.ROWS_FORWARD, dtype)
    pointers = {"X": SHORT[dtype], "WEIGHT": SHORT[dtype], "SCALE": "fp32", "SHIFT": "fp32", "Y": SHORT[dtype]}
    pointers |= {"AROUND": "fp32", "PART": "fp32"}
    options = {"HAS_SCALE": True, "HAS_SHIFT": True, "ACT": "relu", "STATISTICS": False}
    options["PREFETCH"] = tiling.prefetch
    blocks = {"BU": tiling.block, "BC": tiling.channels}
    return compile_kernel(kernels.rows_forward, pointers, SIZES | options | blocks, arch, tiling.warps), tiling


def rows_backward(dtype: str, arch: int, bias: bool = False) -> tuple[Assembly, _launch.Tiling]:
    tiling = tiled(_launch.ROWS_BACKWARD, dtype)
    pointers = dict.fromkeys(("X", "WEIGHT", "DY", "DX"), SHORT[dtype]) | {"PART_WEIGHT": "fp32", "PART_BIAS": "fp32"}
    options = {"HAS_BIAS": bias, "PREFETCH": tiling.prefetch, "BU": tiling.block, "BC": tiling.channels}
    return compile_kernel(kernels.rows_backward, pointers, SIZES | options, arch, tiling.warps), tiling


def gather(dtype: str, arch: int, backward: bool) -> Assembly:
    tiling = tiled(_launch.GATHER_BACKWARD if backward else _launch.GATHER_FORWARD, dtype)
    pointers = dict.fromkeys(("X", "WEIGHT", "DY", "DX", "SHIFT", "Y"), SHORT[dtype]) | {"PART_WEIGHT": "fp32"}
    pointers |= {"AROUND": "fp32", "PART": "fp32"}
    options = {"KH": 5, "KW": 5, "SH": 2, "SW": 2, "HAS_SHIFT": True, "STATISTICS": False, "BP": tiling.block}
    options["BC"] = tiling.channels
    kernel = kernels.gather_backward if backward else kernels.gather_forward
    return compile_kernel(
        kernel,
        {name: kind for name, kind in pointers.items() if name in kernel.arg_names},
        {name: value for name, value in (SIZES | options).items() if name in kernel.arg_names},
        arch,
        tiling.warps,
    )


def tiled(tiling: _launch.Tiling, dtype: str) -> _launch.Tiling:
    return _launch.fit(tiling, channels=256, itemsize=WIDTH[dtype])


def an_element(assembly: Assembly, tiling: _launch.Tiling, tiles: int = 1) -> float:
    outputs = 2 * tiling.block * tiling.channels // (32 * tiling.warps) * tiling.rows * tiles
    return assembly.executed(tiling.rows + 2, tiles) / outputs


def wide(assembly: Assembly, stores: int) -> None:
    names = assembly.count(assembly.inner())
    loads = {name: n for name, n in names.items() if name.startswith("LDG")}
    assert loads
    assert all(".128" in name for name in loads), loads
    stored = {name: n for name, n in names.items() if name.startswith("STG")}
    assert sum(stored.values()) >= stores
    assert all(".128" in name for name in stored), stored


@pytest.mark.parametrize(("dtype", "arch"), [("bfloat16", 90), ("bfloat16", 80), ("float32", 90)])
def test_rolling_forward(dtype: str, arch: int) -> None:
    assembly, tiling = rows_forward(dtype, arch)
    assert assembly.spills() == 0
    wide(assembly, stores=2)
    if (dtype, arch) == ("bfloat16", 90):
        assert tiling.rows == 16
        assert an_element(assembly, tiling) <= 23


@pytest.mark.parametrize(
    ("dtype", "arch", "bias"),
    [("bfloat16", 90, False), ("bfloat16", 90, True), ("bfloat16", 80, False), ("float32", 90, False)],
)
def test_rolling_backward(dtype: str, arch: int, bias: bool) -> None:
    assembly, tiling = rows_backward(dtype, arch, bias)
    assert assembly.spills() == 0
    wide(assembly, stores=2)
    if (dtype, arch) == ("bfloat16", 90):
        assert tiling.rows == 16
        assert an_element(assembly, tiling) <= 42


@pytest.mark.parametrize("backward", [False, True])
def test_gathering(backward: bool) -> None:
    assembly = gather("bfloat16", 90, backward)
    assert assembly.spills() == 0
    names = assembly.count(assembly.inner())
    assert names["LDG.E.128"] >= 5, names
