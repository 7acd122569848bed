"""What the compiler makes of the kernels of a block in training; see test_budgets.py."""

# pyright: reportMissingImports=false

import pytest

pytest.importorskip("triton", reason="triton is not installed")

from benchmarks import builds

# The widest pair of channels that a weight of each dtype may have.
WIDTHS = [("bfloat16", 64, 64), ("bfloat16", 128, 128), ("bfloat16", 64, 256), ("float32", 64, 128)]


@pytest.mark.parametrize(("dtype", "channels", "out", "arch"), [*((*width, 90) for width in WIDTHS), (*WIDTHS[1], 80)])
@pytest.mark.parametrize("name", ["pointwise_forward", "pointwise_backward"])
def test_products(name: str, dtype: str, channels: int, out: int, arch: int) -> None:
    assembly = builds.training(name, dtype, arch, channels, out).assembly
    # Two warps a program are what compute capability 9.0 is quickest with.
    assert assembly.spills() <= (0 if arch == 90 else 16)
    loads = {n for n in assembly.instructions if n.startswith("LDGSTS")}
    assert loads
    # A block of few channels beside one of many has 64 bits for each thread.
    assert all(".128" in n or (".64" in n and channels < out) for n in loads), loads
    assert any("MMA" in n for n in assembly.instructions)


@pytest.mark.parametrize("name", ["normalise", "channel_sums", "norm_sums", "norm_backward"])
def test_passes_over_one_tensor(name: str) -> None:
    for dtype, channels in (("bfloat16", 64), ("bfloat16", 256), ("float32", 128)):
        assembly = builds.training(name, dtype, 90, channels, channels).assembly
        assert assembly.spills() == 0
        moves = {n for n in assembly.instructions if n.startswith(("LDGSTS", "STG"))}
        assert any(".128" in n for n in moves), moves


def test_statistics_cost_a_convolution_little() -> None:
    build = builds.rows("bfloat16", 90, statistics=True)
    assert build.assembly.spills() == 0
    assert build.an_element() <= 29
