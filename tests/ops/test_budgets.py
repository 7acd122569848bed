"""What the compiler makes of the kernels, for GPUs that need not be there: no spills, wide loads, few instructions.

At full copy speed an H200 has about 28 instructions for each bfloat16 element that is read and written once.
"""

# pyright: reportMissingImports=false

import ast
import functools
import textwrap
from collections import Counter

import pytest

pytest.importorskip("triton", reason="triton is not installed")

import triton

if tuple(map(int, triton.__version__.split(".")[:2])) < (3, 3):
    pytest.skip("Triton's compiler has another interface before 3.3", allow_module_level=True)

from benchmarks import builds
from benchmarks.assembly import Assembly, compile_kernel
from convblocks.ops import (
    _kernels,
    _kernels_five,
    _kernels_five_weight,
    _kernels_gradients,
    _kernels_maps,
    _kernels_separable,
    _kernels_stride,
    _kernels_sums,
    _kernels_training,
    _launch,
)


def wide(assembly: Assembly, stores: int, bits: str = ".128") -> None:
    names = assembly.count(assembly.inner())
    loads = {name: n for name, n in names.items() if name.startswith("LDG") and name != "LDGDEPBAR"}
    assert loads
    assert all(bits in name for name in loads), loads
    assert all(name.startswith("LDGSTS") for name in loads), "rows are on their way while others are worked on"
    stored = {name: n for name, n in names.items() if name.startswith("STG")}
    assert sum(stored.values()) >= stores
    assert all(bits in name for name in stored), stored


@pytest.mark.parametrize("statistics", [False, True])
@pytest.mark.parametrize("part", [False, True])
@pytest.mark.parametrize(("dtype", "arch"), [("bfloat16", 90), ("bfloat16", 80), ("float32", 90)])
def test_rolling_forward(dtype: str, arch: int, part: bool, statistics: bool) -> None:
    build = builds.rows(dtype, arch, statistics=statistics, part=part)
    assert build.assembly.spills() == 0
    wide(build.assembly, stores=4)
    assert build.assembly.warps_at_work() >= 8
    if (dtype, arch) == ("bfloat16", 90):
        assert build.rounds == 66
        assert build.an_element() <= (24 if statistics else 20)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("part", [False, True])
@pytest.mark.parametrize(("dtype", "arch"), [("bfloat16", 90), ("bfloat16", 80), ("float32", 90)])
def test_rolling_backward(dtype: str, arch: int, part: bool, bias: bool) -> None:
    build = builds.rows(dtype, arch, backward=True, bias=bias, part=part)
    assert build.assembly.spills() == 0
    # Of 16 bits a thread has four channels: for eight, the sums alone would fill its registers.
    wide(build.assembly, stores=4, bits=".64")
    assert build.assembly.warps_at_work() >= 8
    if (dtype, arch) == ("bfloat16", 90):
        assert build.rounds == 64
        assert build.an_element() <= 37


@pytest.mark.parametrize(("dtype", "arch"), [("bfloat16", 90), ("bfloat16", 80), ("float32", 90)])
def test_gradients_added_to_another(dtype: str, arch: int) -> None:
    """Loads of their own for it, ahead as all the others."""
    rows = builds.rows(dtype, arch, backward=True, skip=True)
    assert rows.assembly.spills() == 0
    wide(rows.assembly, stores=4, bits=".64")
    assert rows.assembly.warps_at_work() >= 8
    five = builds.five(dtype, arch, skip=True)
    assert five.assembly.spills() == 0
    wide(five.assembly, stores=4, bits=".128" if dtype == "float32" else ".64")
    maps = builds.maps(dtype, arch, skip=True)
    assert maps.assembly.spills() == 0
    wide(maps.assembly, stores=16, bits=".64")
    if (dtype, arch) == ("bfloat16", 90):
        assert rows.an_element() <= 39
        assert five.an_element() <= 45
        assert maps.an_element() <= 27


@pytest.mark.parametrize("statistics", [False, True])
@pytest.mark.parametrize(("dtype", "arch"), [("bfloat16", 90), ("bfloat16", 80), ("float32", 90)])
def test_rolling_five(dtype: str, arch: int, statistics: bool) -> None:
    build = builds.five(dtype, arch, statistics=statistics)
    assert build.assembly.spills() == 0
    # Of any dtype a thread has four channels: the taps of eight would fill its registers.
    wide(build.assembly, stores=4, bits=".128" if dtype == "float32" else ".64")
    assert build.rounds == 68
    # 25 of them multiply.
    assert build.an_element() <= (45 if statistics else 42)


@pytest.mark.parametrize("statistics", [False, True])
@pytest.mark.parametrize(("dtype", "arch"), [("bfloat16", 90), ("bfloat16", 80), ("float32", 90)])
def test_rolling_forward_of_stride_two(dtype: str, arch: int, statistics: bool) -> None:
    build = builds.stride_2(dtype, arch, statistics=statistics)
    assert build.assembly.spills() == 0
    wide(build.assembly, stores=2)
    assert build.assembly.warps_at_work() >= 8
    assert build.rounds == 65
    # Of the output, for each of which 10 bytes are moved: at full copy speed there is time for 70.
    assert build.an_element() <= (35 if statistics else 30)


@pytest.mark.parametrize(("dtype", "arch"), [("bfloat16", 90), ("bfloat16", 80), ("float32", 90), ("float32", 80)])
def test_rolling_backward_of_stride_two(dtype: str, arch: int) -> None:
    build = builds.stride_2(dtype, arch, backward=True)
    assert build.assembly.spills() == 0
    wide(build.assembly, stores=8, bits=".128" if dtype == "float32" else ".64")
    assert build.rounds == 65
    # Of dy, for each of which 18 bytes are moved: there is time for 126.
    assert build.an_element() <= 60


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("dtype", "arch"), [("bfloat16", 90), ("bfloat16", 80), ("float32", 90)])
def test_rolling_five_weight(dtype: str, arch: int, bias: bool) -> None:
    build = builds.five(dtype, arch, weight=True, bias=bias)
    assert build.assembly.spills() == 0
    wide(build.assembly, stores=0, bits=".128" if dtype == "float32" else ".64")
    assert build.rounds == 68
    assert build.an_element() <= (52 if bias else 50)


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize(("dtype", "arch"), [("bfloat16", 90), ("bfloat16", 80), ("float32", 90), ("float32", 80)])
def test_rolling_from_tile_to_tile(dtype: str, arch: int, backward: bool) -> None:
    own = _launch.ROWS_BACKWARD if backward else _launch.ROWS_FORWARD
    assembly = builds.rows(dtype, arch, backward=backward, tiling=own._replace(run_on=True)).assembly
    assert assembly.spills() == 0
    assert len(assembly.carried) == 1
    wide(assembly, stores=4, bits=".64" if backward else ".128")
    # Of every round, a third more than where a tile's place is found once.
    assert len(assembly.inner()) <= {False: 740, True: 720}[backward]


@pytest.mark.parametrize("statistics", [False, True])
@pytest.mark.parametrize("part", [False, True])
@pytest.mark.parametrize(("dtype", "arch"), [("bfloat16", 90), ("bfloat16", 80), ("float32", 90)])
def test_rolling_at_far_dilations(dtype: str, arch: int, part: bool, statistics: bool) -> None:
    assembly = builds.rows(dtype, arch, statistics=statistics, part=part, tiling=_launch.FAR_FORWARD).assembly
    assert assembly.spills() == 0
    wide(assembly, stores=4)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("dtype", "arch"), [("bfloat16", 90), ("bfloat16", 80), ("float32", 90)])
def test_gradients_of_small_maps(dtype: str, arch: int, bias: bool) -> None:
    build = builds.maps(dtype, arch, bias=bias)
    assert build.assembly.spills() == 0
    wide(build.assembly, stores=16, bits=".64")
    # Two maps on their way take registers, and are worth more on an H200 than a ninth warp.
    assert build.assembly.warps_at_work() >= 8
    if (dtype, arch) == ("bfloat16", 90):
        assert build.an_element() <= (26 if bias else 25)
    # Nothing from map to map but the sums.
    assert build.assembly.carried == (9 + bias,)


def test_loops_hand_on_all_that_they_should() -> None:
    """What a GPU showed: Triton drops what a loop hands on from one name to another of the same origin."""
    # Sums of two rows for four columns; then the nine of the weight's gradient, and six columns of dy of two rows.
    assert builds.rows("bfloat16", 90).assembly.carried == (0, 8)
    assert builds.rows("bfloat16", 90, statistics=True).assembly.carried == (2, 10)
    assert builds.rows("bfloat16", 90, backward=True).assembly.carried == (9, 21)
    assert builds.rows("bfloat16", 90, backward=True, bias=True).assembly.carried == (10, 22)
    # Of 5 x 5, sums of four rows for four columns; then 25 sums, and dy of four rows.
    assert builds.five("bfloat16", 90).assembly.carried == (0, 16)
    assert builds.five("bfloat16", 90, statistics=True).assembly.carried == (2, 18)
    assert builds.five("bfloat16", 90, weight=True).assembly.carried == (25, 41)
    assert builds.five("bfloat16", 90, weight=True, bias=True).assembly.carried == (26, 42)
    # Of stride 2, sums of one row for two columns; then nine sums, and three columns of dy of one row.
    assert builds.stride_2("bfloat16", 90).assembly.carried == (0, 2)
    assert builds.stride_2("bfloat16", 90, statistics=True).assembly.carried == (2, 4)
    assert builds.stride_2("bfloat16", 90, backward=True).assembly.carried == (9, 12)
    assert builds.separable("bfloat16", 90, 64, 64).assembly.carried == (0, 8)
    assert builds.rows("bfloat16", 90, backward=True, skip=True).assembly.carried == (9, 21)
    assert builds.five("bfloat16", 90, skip=True).assembly.carried == (0, 16)
    assert builds.maps("bfloat16", 90, skip=True).assembly.carried == (9,)
    assert builds.separable("bfloat16", 90, 64, 64, skip=True).assembly.carried == (0, 8)
    assert builds.training("norm_sums", "bfloat16", 90, 64, 64).assembly.carried == (2,)
    assert builds.training("pointwise_forward", "bfloat16", 90, 64, 64).assembly.carried == (2,)
    assert builds.training("pointwise_backward", "bfloat16", 90, 64, 64).assembly.carried == (3,)


@pytest.mark.parametrize("unit", [1, 2, 4, 8])
@pytest.mark.parametrize("backward", [False, True])
def test_few_channels_are_loaded_as_widely_as_they_lie(unit: int, backward: bool) -> None:
    build = builds.rows("bfloat16", 90, backward=backward, channels=48 + unit, unit=unit)
    assert build.assembly.spills() == 0
    names = build.assembly.instructions
    bits = {1: ".U16", 2: "LDGSTS.E", 4: "LDGSTS.E.64", 8: "LDGSTS.E.64" if backward else "LDGSTS.E.BYPASS.128"}[unit]
    assert any(name.startswith("LDG") and name.endswith(bits) for name in names), Counter(names)


@pytest.mark.parametrize("unit", [1, 2, 4])
@pytest.mark.parametrize("weight", [False, True])
def test_few_channels_of_five_are_loaded_as_widely_as_they_lie(unit: int, weight: bool) -> None:
    build = builds.five("bfloat16", 90, weight=weight, channels=48 + unit, unit=unit)
    names = build.assembly.instructions
    bits = {1: ".U16", 2: "LDGSTS.E", 4: "LDGSTS.E.64"}[unit]
    assert any(name.startswith("LDG") and name.endswith(bits) for name in names), Counter(names)


@pytest.mark.parametrize("unit", [1, 2, 4, 8])
@pytest.mark.parametrize("backward", [False, True])
def test_few_channels_of_stride_two_are_loaded_as_widely_as_they_lie(unit: int, backward: bool) -> None:
    build = builds.stride_2("bfloat16", 90, backward=backward, channels=48 + unit, unit=unit)
    assert build.assembly.spills() == 0
    names = build.assembly.instructions
    bits = {1: ".U16", 2: "LDGSTS.E", 4: "LDGSTS.E.64", 8: "LDGSTS.E.64" if backward else "LDGSTS.E.BYPASS.128"}[unit]
    assert any(name.startswith("LDG") and name.endswith(bits) for name in names), Counter(names)


@pytest.mark.parametrize(("dtype", "arch"), [("bfloat16", 80), ("float32", 80), ("float32", 90)])
@pytest.mark.parametrize("backward", [False, True])
def test_gathering_spills_nowhere(dtype: str, arch: int, backward: bool) -> None:
    assert builds.gather(dtype, arch, backward=backward, channels=64).assembly.spills() == 0


@pytest.mark.parametrize("backward", [False, True])
def test_gathering(backward: bool) -> None:
    assembly = builds.gather("bfloat16", 90, backward=backward).assembly
    assert assembly.spills() == 0
    names = assembly.count(assembly.inner())
    assert names["LDG.E.128"] >= 5, names


KERNELS = [
    *(_kernels.rows_forward, _kernels.gather_forward),
    *(_kernels_five.rows_forward_5, _kernels_five_weight.rows_weight_5),
    *(_kernels_gradients.rows_backward, _kernels_gradients.gather_backward, _kernels_maps.maps_backward),
    *(_kernels_stride.rows_forward_stride_2, _kernels_stride.rows_backward_stride_2),
    *(_kernels_separable.rows_separable, _kernels_separable.gather_separable),
    *(_kernels_training.normalise, _kernels_training.channel_sums, _kernels_training.norm_sums),
    *(_kernels_training.norm_backward, _kernels_training.pointwise_forward, _kernels_training.pointwise_backward),
]
SUMS = [_kernels_sums.add_rows, _kernels_sums.finish_statistics, _kernels_sums.finish_gradients]


@pytest.mark.parametrize("kernel", [*KERNELS, *SUMS], ids=lambda kernel: kernel.__name__)
def test_every_kernel_waits_for_the_one_before_it(kernel) -> None:
    """Where programs are let in before the kernel before them has ended, nothing may come before the wait."""
    assert kernel.arg_names[-1] == "OVERLAP"
    (function,) = ast.parse(textwrap.dedent(kernel.src)).body
    assert isinstance(function, ast.FunctionDef)
    # Behind the docstring.
    assert ast.unparse(function.body[1]) == "enter(OVERLAP)"


OVERLAPPED = {
    "rows_forward": builds.rows,
    "rows_backward": functools.partial(builds.rows, backward=True, skip=True),
    "rows_forward_5": builds.five,
    "maps_backward": builds.maps,
    "gather_forward": builds.gather,
    "rows_separable": functools.partial(builds.separable, channels=64, out=64),
    "pointwise_backward": functools.partial(builds.training, "pointwise_backward", channels=64, out=64),
    "norm_sums": functools.partial(builds.training, "norm_sums", channels=64, out=64),
}


@pytest.mark.parametrize("build", OVERLAPPED.values(), ids=OVERLAPPED)
def test_no_access_to_memory_comes_before_the_wait(monkeypatch, build) -> None:
    def overlapping(kernel, kinds, constants, *rest):
        return compile_kernel(kernel, kinds, constants | {"OVERLAP": True}, *rest)

    monkeypatch.setattr(builds, "compile_kernel", overlapping)
    assembly = build(dtype="bfloat16", arch=90).assembly
    names = assembly.instructions
    first = min(i for i, name in enumerate(names) if name.startswith(("LDG", "STG", "LD.", "ST.")))
    # What `griddepcontrol.wait` and `.launch_dependents` are in machine code.
    assert names.index("ACQBULK") < names.index("PREEXIT") < first
    assert assembly.spills() == 0


def test_no_kernel_waits_where_none_is_let_in() -> None:
    assert not {"ACQBULK", "PREEXIT"} & set(builds.rows("bfloat16", 90).assembly.instructions)


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.__name__)
def test_no_kernel_is_compiled_anew_for_another_size(kernel) -> None:
    # Triton makes a kernel of its own for an integer of 1 and for multiples of 16, unless it is told not to.
    sizes = {"N", "H", "W", "UNITS", "UNITS_O", "HO", "WO", "DH", "DW", "PH", "PW", "M"}
    sizes |= {"ROWS", "STRIPS", "QUADS", "TILES"}
    assert sizes & set(kernel.arg_names)
    assert not [p.name for p in kernel.params if p.name in sizes and not p.do_not_specialize]
