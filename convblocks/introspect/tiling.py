"""Tiled inference that equals the whole image: how far tiles overlap, where they begin, and a loop that does it."""

# The number of the tensor that a field is of.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from convblocks.introspect.analysis import Analysis
from convblocks.introspect.answers import ReceptiveField
from convblocks.introspect.growth import reach
from convblocks.introspect.inputs import InputSize, as_whole, shown
from convblocks.introspect.propagation import Axis
from convblocks.introspect.receptive_field import analyse
from convblocks.introspect.tracing import module_of


@dataclass(frozen=True, slots=True)
class Tiling:
    """What tiles of a network's input must be, by axis (height first).

    Attributes:
        halo: input pixels that a tile needs before and after the part whose output is kept.
        multiple: tiles begin at multiples of this many pixels, and their length is one.
        jump: input pixels an output unit.
        smallest: the shortest tile that keeps any output.
    """

    halo: tuple[tuple[int, int], ...]
    multiple: tuple[int, ...]
    jump: tuple[float, ...]

    @property
    def smallest(self) -> tuple[int, ...]:
        """The shortest tile that keeps any output."""
        return tuple(before + after + step for (before, after), step in zip(self.halo, self.multiple, strict=True))

    def fits(self, tile: Sequence[int]) -> bool:
        """Whether tiles of this size give exactly what the whole image gives."""
        return all(n >= least and n % m == 0 for n, least, m in zip(tile, self.smallest, self.multiple, strict=True))


def halo(
    model: Callable[..., Any], input_size: InputSize, *, dtype: torch.dtype | None = None, channel_last: bool = False
) -> Tiling:
    """The overlap and the tile sizes with which tiled inference equals the whole image.

    Args:
        model: a network in evaluation mode that gives one map.
        input_size: `(channels, height, width)` of the whole image, or of one that stands for it.
        dtype: element type of the input.
        channel_last: the network takes `(height, width, channels)`.

    Raises:
        ValueError: the network gathers the whole image, so that no tile can do; or its field is unknown.

    Examples:
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 5, padding=2), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3, padding=1))
        >>> plan = halo(net, (1, 64, 64))
        >>> plan.halo, plan.multiple, plan.smallest
        (((4, 4), (4, 4)), (2, 2), (10, 10))
    """
    analysis = analyse(model, input_size, dtype=dtype, channel_last=channel_last)
    return _tiling(analysis, _output(analysis))


def _output(analysis: Analysis) -> ReceptiveField:
    if analysis.native.error is not None:
        raise ValueError(f"no tile is known to do: {analysis.native.error}")
    return ReceptiveField(analysis, analysis.native.outputs[0])


def _tiling(analysis: Analysis, field: ReceptiveField) -> Tiling:
    if field.unknown:
        raise ValueError(f"no tile is known to do: {', '.join(field.unknown)}")
    if any(field.is_global):
        raise ValueError(f"no tile can do: {', '.join(field.gates)} gathers the whole image")
    halos: list[tuple[int, int]] = []
    multiples: list[int] = []
    jumps: list[float] = []
    for axis in field.axes:
        before, after, multiple, jump = _overlap(analysis, axis, field)
        halos.append((math.ceil(before / multiple) * multiple, math.ceil(after / multiple) * multiple))
        multiples.append(multiple)
        jumps.append(jump)
    return Tiling(tuple(halos), tuple(multiples), tuple(jumps))


def _overlap(analysis: Analysis, axis: Axis, field: ReceptiveField) -> tuple[int, int, int, float]:
    """How far the field of an output unit reaches before and after the pixels that the unit stands for."""
    local, _, _ = analysis.field(axis, field._value)
    if local.jump is None or local.period is None or local.jump <= 0:
        raise ValueError(
            "no tile is known to do: the units of the output do not follow one another at a constant distance"
        )
    lo, hi, inside = analysis.units(axis, field._value)
    places = inside.nonzero().flatten()
    own = places * local.jump
    before = max(0, math.ceil(float((own - lo[places]).max())))
    after = max(0, math.ceil(float((hi[places] + 1 - own - local.jump).max())))
    pattern = local.jump * local.period
    strides = reach(analysis.native, axis).multiple
    multiple = math.lcm(strides, int(pattern)) if pattern == int(pattern) else strides * int(local.period)
    return before, after, multiple, local.jump


@torch.no_grad()
def tiled(model: Callable[[Tensor], Tensor], x: Tensor, *, tile: int | Sequence[int]) -> Tensor:
    r"""Run a network on an image tile by tile; the result is that of the whole image.

    Args:
        model: a network in evaluation mode that gives one map.
        x: image (N, C, \*spatial).
        tile: length of the tiles, halo included: one number, or one for each axis.

    Returns:
        What `model(x)` gives, up to rounding.

    Raises:
        ValueError: tiles of this length cannot do; the message names the next that can. Or no tile can; or the network
            is in training mode, or gives several maps.

    Examples:
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 5, padding=2), nn.ReLU(), nn.Conv2d(4, 1, 5, padding=2)).eval()
        >>> x = torch.randn(1, 1, 50, 70)
        >>> torch.allclose(tiled(net, x, tile=24), net(x), atol=1e-5)
        True
    """
    given: Any = x
    if not isinstance(given, Tensor) or given.ndim < 3:
        raise ValueError(f"x must be a tensor (N, C, *spatial), got {shown(x)}")
    spatial = tuple(x.shape[2:])
    lengths = _lengths(tile, len(spatial))
    _in_evaluation(model)
    analysis = analyse(model, tuple(x.shape[1:]), dtype=x.dtype)
    maps = len(analysis.native.outputs)
    if maps > 1:
        raise ValueError(f"model must give one map, got {maps}: wrap it to return one of them")
    field = _output(analysis)
    plan = _tiling(analysis, field)
    if not plan.fits(lengths):
        least = [math.ceil(max(n, s) / m) * m for n, s, m in zip(lengths, plan.smallest, plan.multiple, strict=True)]
        raise ValueError(
            f"tile must be at least {plan.smallest} and a multiple of {plan.multiple}, got {lengths}; "
            f"{tuple(least)} would fit"
        )
    _same_on_a_tile(model, x, field, [min(n, m) for n, m in zip(lengths, spatial, strict=True)])
    out: Tensor | None = None
    for cores in itertools.product(*(_cores(*row) for row in zip(spatial, lengths, plan.halo, strict=True))):
        begins = [_begin(*row) for row in zip(cores, spatial, lengths, plan.halo, plan.multiple, strict=True)]
        ends = [min(n, end + after) for n, (_, end), (_, after) in zip(spatial, cores, plan.halo, strict=True)]
        piece = model(x[(..., *(slice(b, e) for b, e in zip(begins, ends, strict=True)))])
        if out is None:
            out = piece.new_empty((*piece.shape[:2], *field.shape[2:]))
        target: list[slice] = []
        source: list[slice] = []
        for i, ((start, end), begin) in enumerate(zip(cores, begins, strict=True)):
            jump, last = plan.jump[i], end == spatial[i]
            first, stop = (
                round(start / jump),
                field.shape[2 + i] if last else min(round(end / jump), field.shape[2 + i]),
            )
            shift = round(begin / jump)
            stop = max(first, stop)
            target.append(slice(first, stop))
            source.append(slice(first - shift, stop - shift))
        out[(..., *target)] = piece[(..., *source)]
    assert out is not None
    return out


def _lengths(tile: Any, count: int) -> tuple[int, ...]:
    given = cast("Sequence[Any]", tile) if isinstance(tile, Sequence) else [tile] * count
    lengths = tuple(n for n in map(as_whole, given) if n is not None)
    if len(lengths) != count or len(given) != count:
        raise ValueError(f"tile must be one positive whole number or {count} of them, got {tile!r}")
    return lengths


def _in_evaluation(model: Any) -> None:
    """Statistics of a batch are those of a tile, and what is dropped is another part in each."""
    module = module_of(model)
    if module is None:
        return
    for name, child in cast("Iterable[tuple[str, nn.Module]]", module.named_modules()):
        if child.training and isinstance(child, (_BatchNorm, _DropoutNd)):
            raise ValueError(f"model must be in evaluation mode, got {type(child).__name__} {name!r} in training mode")


def _cores(length: int, tile: int, overlap: tuple[int, int]) -> list[tuple[int, int]]:
    """The parts of an axis whose output each tile keeps."""
    step = tile - sum(overlap)
    return [(start, min(start + step, length)) for start in range(0, length, step)]


def _begin(core: tuple[int, int], length: int, tile: int, overlap: tuple[int, int], multiple: int) -> int:
    """Where a tile begins: its halo before its core, and further back where the image ends before the tile would."""
    return max(0, min(core[0] - overlap[0], (length - tile) // multiple * multiple))


def _same_on_a_tile(model: Callable[..., Any], x: Tensor, field: ReceptiveField, lengths: Sequence[int]) -> None:
    """Padding that follows the size of the input may fall elsewhere on a tile."""
    analysis = analyse(model, (x.shape[1], *lengths), dtype=x.dtype)
    there = _output(analysis)
    if there.local != field.local:
        raise ValueError(
            f"no tile of {tuple(lengths)} can do: the network pads an image of {tuple(x.shape[2:])} otherwise "
            f"(field {field.local} against {there.local})"
        )
