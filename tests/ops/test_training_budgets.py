"""What the compiler makes of the kernels of a block in training; see test_budgets.py."""

# pyright: reportMissingImports=false

import pytest

from tests.ops.test_budgets import SHORT, SIZES, tiled

pytest.importorskip("triton", reason="triton is not installed")

from convblocks.ops import _kernels, _launch, _launch_training
from convblocks.ops import _kernels_training as kernels
from convblocks.ops._launch_separable import power_of_two
from tests.ops.assembly import Assembly, compile_kernel

FLOATS = ("MEAN", "VARIANCE", "WEIGHT", "SHIFT")
OWN = ("Y", "Y1", "Y2", "DOUT", "DU", "DU1", "DY", "OUT", "POINT")
WIDE = ("PART", "PART_POINT", "FACTOR", "FACTOR_2", "AROUND")
# The widest pair of channels that a weight of each dtype may have.
WIDTHS = [("bfloat16", 64, 64), ("bfloat16", 128, 128), ("bfloat16", 64, 256), ("float32", 64, 128)]


def compiled(name: str, dtype: str, arch: int, channels: int, out: int) -> tuple[Assembly, _launch_training.Cut]:
    kernel = getattr(kernels, name)
    both = name.startswith("pointwise")
    cut = _launch_training.cut(2**20, max(channels, out) if both else channels, 264)
    pointers = dict.fromkeys(OWN, SHORT[dtype]) | dict.fromkeys(WIDE, "fp32")
    pointers |= {f"{base}{end}": "fp32" for base in FLOATS for end in ("", "_1", "_2")}
    constants: dict[str, object] = {"UNIT": 16, "UNIT_O": 16, "STATISTICS": True, "STAGES": _launch_training.STAGES}
    constants |= {f"HAS{end}": 14 for end in ("", "_1", "_2")} | {f"EPS{end}": 1e-5 for end in ("", "_1", "_2")}
    constants |= {f"ACT{end}": "relu" for end in ("", "_1", "_2")} | {"BP": cut.block}
    constants |= {"BC": power_of_two(channels), "BO": power_of_two(out)}
    names = kernel.arg_names
    used = [{key: value for key, value in some.items() if key in names} for some in (pointers, constants)]
    return compile_kernel(kernel, used[0], used[1], arch, cut.warps), cut


@pytest.mark.parametrize(("dtype", "channels", "out", "arch"), [*((*width, 90) for width in WIDTHS), (*WIDTHS[1], 80)])
@pytest.mark.parametrize("name", ["pointwise_forward", "pointwise_backward"])
def test_products(name: str, dtype: str, channels: int, out: int, arch: int) -> None:
    assembly, _ = compiled(name, dtype, arch, channels, out)
    assert assembly.spills() == 0
    loads = {n for n in assembly.instructions if n.startswith("LDGSTS")}
    assert loads
    # A block of few channels beside one of many has 64 bits for each thread.
    assert all(".128" in n or (".64" in n and channels < out) for n in loads), loads
    assert any("MMA" in n for n in assembly.instructions)


@pytest.mark.parametrize("name", ["normalise", "norm_sums", "norm_backward"])
def test_passes_over_one_tensor(name: str) -> None:
    for dtype, channels in (("bfloat16", 64), ("bfloat16", 256), ("float32", 128)):
        assembly, _ = compiled(name, dtype, 90, channels, channels)
        assert assembly.spills() == 0
        moves = {n for n in assembly.instructions if n.startswith(("LDGSTS", "STG"))}
        assert any(".128" in n for n in moves), moves


def test_statistics_cost_a_convolution_little() -> None:
    tiling = tiled(_launch.ROWS_FORWARD, "bfloat16")
    pointers = dict.fromkeys(("X", "WEIGHT", "Y"), "bf16") | dict.fromkeys(("SCALE", "SHIFT", "AROUND", "PART"), "fp32")
    options = {"HAS_SCALE": False, "HAS_SHIFT": False, "ACT": "", "PREFETCH": tiling.prefetch, "STATISTICS": True}
    blocks = {"BU": tiling.block, "BC": tiling.channels}
    assembly = compile_kernel(_kernels.rows_forward, pointers, SIZES | options | blocks, 90, tiling.warps)
    assert assembly.spills() == 0
    outputs = 2 * tiling.block * tiling.channels // (32 * tiling.warps) * tiling.rows
    assert assembly.executed(tiling.rows + 2, 1) / outputs <= 29
