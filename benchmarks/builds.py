"""The kernels as `convblocks.ops` would start them, compiled for a GPU that need not be there."""

from __future__ import annotations

from typing import Any, NamedTuple

from benchmarks.assembly import Assembly, compile_kernel
from convblocks.ops import (
    _kernels,
    _kernels_five,
    _kernels_five_weight,
    _kernels_gradients,
    _kernels_maps,
    _kernels_separable,
    _kernels_stride,
    _kernels_training,
    _launch,
    _launch_five,
    _launch_maps,
    _launch_separable,
    _launch_stride,
    _launch_training,
)
from convblocks.ops._launch_separable import power_of_two

SHORT = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
WIDTH = {"float32": 4, "bfloat16": 2, "float16": 2}
FLOATS = ("MEAN", "VARIANCE", "WEIGHT", "SHIFT")
ENDS = ("", "_1", "_2")


class Build(NamedTuple):
    """A compiled kernel, and the elements that one thread of it puts out for one round of its outer loop."""

    assembly: Assembly
    outputs: float
    rounds: int
    """Rounds of the inner loop for them; 0 where there is but one loop, or none."""
    at_once: bool = False
    """Whether one round of the only loop puts them out."""

    def an_element(self) -> float:
        """Instructions an element of output, with all that a program of one tile does once where loops are two."""
        if self.at_once:
            return len(self.assembly.inner()) / self.outputs
        return self.assembly.executed(self.rounds, 1) / self.outputs


def rows(
    dtype: str,
    arch: int,
    *,
    backward: bool = False,
    bias: bool = False,
    statistics: bool = False,
    part: bool = False,
    skip: bool = False,
    channels: int = 256,
    unit: int = 16,
    tiling: _launch.Tiling | None = None,
) -> Build:
    """The rolling kernels of a depthwise convolution; forward with a bias, or with statistics."""
    forward = _launch.SUMS_OF_PART if statistics and part else _launch.ROWS_FORWARD
    chosen = tiling or (_launch.ROWS_BACKWARD if backward else forward)
    chosen = _launch.fit(chosen, channels, WIDTH[dtype])
    pointers: dict[str, str] = dict.fromkeys(("X", "WEIGHT", "Y", "DY", "DSKIP", "DX"), SHORT[dtype])
    pointers |= dict.fromkeys(("SHIFT", "AROUND", "PART", "PART_WEIGHT", "PART_BIAS"), "fp32")
    constants = {"UNIT": unit, "EVEN_C": channels % chosen.channels == 0, "HAS_BIAS": bias, "STAGES": chosen.stages}
    constants |= {"RUN_ON": chosen.run_on, "HAS_SHIFT": not statistics, "PART_OF": part, "HAS_SKIP": skip}
    constants |= {"STATISTICS": statistics, "BU": chosen.block, "BC": chosen.channels}
    kernel = _kernels_gradients.rows_backward if backward else _kernels.rows_forward
    assembly = _compiled(kernel, pointers, constants, arch, chosen.warps)
    build = _rolling(assembly, chosen, chosen.channels)
    # Of a strip from the top to the bottom of a map, backward leaves out the rounds for rows outside.
    return build._replace(rounds=chosen.rows) if backward and not chosen.run_on else build


def five(
    dtype: str,
    arch: int,
    *,
    weight: bool = False,
    bias: bool = False,
    statistics: bool = False,
    skip: bool = False,
    channels: int = 256,
    unit: int = 16,
    tiling: _launch.Tiling | None = None,
) -> Build:
    """The rolling kernels of 5 x 5: the convolution, which the gradient of x is too, or the gradient of the weight."""
    forward = _launch_five.FORWARD_SKIP if skip else _launch_five.FORWARD
    chosen = _launch.fit(tiling or (_launch_five.WEIGHT if weight else forward), channels, 2)
    pointers: dict[str, str] = dict.fromkeys(("X", "WEIGHT", "SHIFT", "SKIP", "Y", "DY"), SHORT[dtype])
    pointers |= dict.fromkeys(("AROUND", "PART", "PART_WEIGHT", "PART_BIAS"), "fp32")
    constants = {"UNIT": unit, "EVEN_C": channels % chosen.channels == 0, "HAS_BIAS": bias, "HAS_SHIFT": bias}
    constants |= {"FLIP": skip, "HAS_SKIP": skip, "STATISTICS": statistics, "STAGES": chosen.stages}
    constants |= {"BU": chosen.block, "BC": chosen.channels}
    kernel = _kernels_five_weight.rows_weight_5 if weight else _kernels_five.rows_forward_5
    assembly = _compiled(kernel, pointers, constants, arch, chosen.warps)
    return _rolling(assembly, chosen, chosen.channels)._replace(rounds=chosen.rows + 4)


def stride_2(
    dtype: str,
    arch: int,
    *,
    backward: bool = False,
    statistics: bool = False,
    channels: int = 256,
    unit: int = 16,
    tiling: _launch.Tiling | None = None,
) -> Build:
    """The rolling kernels of stride 2: an element is one of the smaller map."""
    chosen = tiling or (_launch_stride.BACKWARD if backward else _launch_stride.FORWARD)
    chosen = _launch.fit(chosen, channels, 2 if backward else WIDTH[dtype])
    pointers: dict[str, str] = dict.fromkeys(("X", "WEIGHT", "SHIFT", "Y", "DY", "DX"), SHORT[dtype])
    pointers |= dict.fromkeys(("AROUND", "PART", "PART_WEIGHT"), "fp32")
    constants = {"UNIT": unit, "EVEN_C": channels % chosen.channels == 0, "HAS_SHIFT": True, "STATISTICS": statistics}
    constants |= {"STAGES": chosen.stages, "BU": chosen.block, "BC": chosen.channels}
    kernel = _kernels_stride.rows_backward_stride_2 if backward else _kernels_stride.rows_forward_stride_2
    build = _rolling(_compiled(kernel, pointers, constants, arch, chosen.warps), chosen, chosen.channels)
    return build._replace(rounds=chosen.rows + 1)


def maps(
    dtype: str,
    arch: int,
    *,
    bias: bool = False,
    skip: bool = False,
    channels: int = 256,
    unit: int = 16,
    tiling: _launch.Tiling | None = None,
) -> Build:
    """The gradients' kernel of small maps: an element is one of 16 in each."""
    own = _launch_maps.BACKWARD_SKIP if skip else _launch_maps.BACKWARD
    chosen = _launch.fit(tiling or own, channels, WIDTH[dtype])
    pointers: dict[str, str] = dict.fromkeys(("X", "WEIGHT", "DY", "DSKIP", "DX"), SHORT[dtype])
    pointers |= dict.fromkeys(("PART_WEIGHT", "PART_BIAS"), "fp32")
    constants = {"UNIT": unit, "EVEN_C": channels % chosen.channels == 0, "HAS_BIAS": bias, "STAGES": chosen.stages}
    constants |= {"HAS_SKIP": skip, "BU": chosen.block, "BC": chosen.channels}
    assembly = _compiled(_kernels_maps.maps_backward, pointers, constants, arch, chosen.warps)
    return Build(assembly, 16 * chosen.block * chosen.channels / (32 * chosen.warps), 0, at_once=True)


def gather(dtype: str, arch: int, *, backward: bool = False, channels: int = 256) -> Build:
    """The gathering kernels, at 5 x 5 with stride 2."""
    if backward:
        chosen = _launch.fit(_launch.GATHER_BACKWARD, channels, WIDTH[dtype])
    else:
        chosen = _launch.fit(_launch.GATHER_FORWARD, channels, 2)
    pointers: dict[str, str] = dict.fromkeys(("X", "WEIGHT", "DY", "DSKIP", "DX", "SHIFT", "Y"), SHORT[dtype])
    pointers |= dict.fromkeys(("PART_WEIGHT", "AROUND", "PART"), "fp32")
    constants = {"UNIT": 16, "EVEN_C": True, "KH": 5, "KW": 5, "SH": 2, "SW": 2, "HAS_SHIFT": True}
    constants |= {"HAS_SKIP": False, "STATISTICS": False, "BP": chosen.block, "BC": chosen.channels}
    kernel = _kernels_gradients.gather_backward if backward else _kernels.gather_forward
    assembly = _compiled(kernel, pointers, constants, arch, chosen.warps)
    return Build(assembly, chosen.block * chosen.channels / (32 * chosen.warps), 0)


def separable(
    dtype: str,
    arch: int,
    channels: int,
    out: int,
    *,
    rolling: bool = True,
    act: str = "relu",
    has: int = 14,
    skip: bool = False,
    tiling: _launch.Tiling | None = None,
) -> Build:
    """A whole block in inference; the gathering one at 5 x 5 with stride 2."""
    rows = _launch_separable.ROWS_SKIP if skip else _launch_separable.ROWS
    chosen = tiling or (rows if rolling else _launch_separable.GATHER)
    chosen = _launch_separable.fit(chosen, channels, out, rolling)
    pointers: dict[str, str] = dict.fromkeys(("X", "WEIGHT", "POINT", "BIAS_1", "BIAS_2", "Y"), SHORT[dtype])
    pointers |= {f"{name}{end}": "fp32" for name in FLOATS for end in ENDS[1:]}
    constants: dict[str, Any] = {"UNIT": 16, "UNIT_O": 16, "HAS_1": has, "HAS_2": has, "EPS_1": 1e-5, "EPS_2": 1e-5}
    constants |= {"ACT_1": act, "ACT_2": act, "EVEN_C": True, "EVEN_O": True, "STAGES": chosen.stages}
    constants["SKIP"] = skip
    constants |= {"KH": 5, "KW": 5, "SH": 2, "SW": 2, "BC": chosen.channels, "BO": power_of_two(out)}
    constants |= {"BU": chosen.block, "BP": chosen.block, "SPREAD": _launch_separable.spread(chosen)}
    kernel = _kernels_separable.rows_separable if rolling else _kernels_separable.gather_separable
    assembly = _compiled(kernel, pointers, constants, arch, chosen.warps)
    if rolling:
        # What must be moved of a position is the mean of what comes in and what goes out, twice.
        return _rolling(assembly, chosen, (channels + out) / 2)
    return Build(assembly, chosen.block * out / (32 * chosen.warps), 0)


def training(name: str, dtype: str, arch: int, channels: int, out: int, *, skip: bool = False) -> Build:
    """One of the kernels of a block in training, by its name."""
    kernel = getattr(_kernels_training, name)
    both = name.startswith("pointwise")
    widest = _launch_training.widest_backward(WIDTH[dtype]) if name == "pointwise_backward" else 128
    cut = _launch_training.cut(2**20, max(channels, out) if both else channels, 1024, widest)
    own = ("Y", "Y1", "Y2", "DOUT", "DU", "DU1", "DY", "OUT", "SKIP", "POINT")
    wide = ("PART", "PART_POINT", "FACTOR", "FACTOR_2", "AROUND")
    pointers = dict.fromkeys(own, SHORT[dtype]) | dict.fromkeys(wide, "fp32")
    pointers |= {f"{base}{end}": "fp32" for base in FLOATS for end in ENDS}
    constants: dict[str, Any] = {"UNIT": 16, "UNIT_O": 16, "STATISTICS": True, "STAGES": _launch_training.STAGES}
    constants["HAS_SKIP"] = skip
    constants |= {f"HAS{end}": 14 for end in ENDS} | {f"EPS{end}": 1e-5 for end in ENDS}
    constants |= {f"ACT{end}": "relu" for end in ENDS} | {"BP": cut.block}
    constants |= {"BC": power_of_two(channels), "BO": power_of_two(out)}
    assembly = _compiled(kernel, pointers, constants, arch, cut.warps)
    width = out if name == "pointwise_forward" else channels
    return Build(assembly, cut.block * power_of_two(width) / (32 * cut.warps), 0)


def _rolling(assembly: Assembly, tiling: _launch.Tiling, width: float) -> Build:
    outputs = tiling.columns * tiling.block * width / (32 * tiling.warps) * tiling.rows
    return Build(assembly, outputs, tiling.rows + 2)


def _compiled(kernel: Any, pointers: dict[str, str], constants: dict[str, Any], arch: int, warps: int) -> Assembly:
    names = kernel.arg_names
    kinds = {name: kind for name, kind in pointers.items() if name in names}
    own: dict[str, object] = {name: v for name, v in ({"OVERLAP": False} | constants).items() if name in names}
    return compile_kernel(kernel, kinds, own, arch, warps)
