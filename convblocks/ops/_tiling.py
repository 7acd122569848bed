"""How a kernel is cut into programs."""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

from convblocks.ops._start import Options, options

Pair = tuple[int, int]


class Tiling(NamedTuple):
    """How a kernel is cut into programs; what `benchmarks/kernels.py --tune` varies."""

    block: int = 16
    """Positions (of four columns, for the rolling kernels) of one step."""
    channels: int = 64
    """Channels of one program; narrowed to what the tensor has."""
    rows: int = 16
    """Rows that a rolling kernel goes down, at most."""
    tiles: int = 0
    """Blocks of positions that one program works through; 0: as many as leave the GPU busy."""
    warps: int = 4
    stages: int = 3
    """Rows at a time in a rolling kernel: the one that is worked on, and those on their way."""
    run_on: bool = False
    """Whether a rolling kernel goes from tile to tile without waiting for the first rows of the next."""
    programs: int = 2048
    """Programs that leave the GPU busy: where there are more, each works through several tiles."""
    registers: int = 0
    """Registers of a thread at most, for the kernels of whole blocks; 0: as many as the compiler likes."""


class Plan(NamedTuple):
    rows: int
    strips: int
    quads: int
    tiles: int
    chunks: int
    programs: int

    @property
    def down(self) -> tuple[int, int, int, int]:
        """What a rolling kernel is told of it."""
        return self[:4]


@functools.lru_cache(4096)
def plan_rows(n: int, c: int, height: int, width: int, dilation: Pair, tiling: Tiling) -> Plan:
    # Strips of equal length: two of 14 rows for 28, not 16 and 12.
    residue = blocks(height, dilation[0])
    groups = blocks(residue, tiling.rows)
    rows = blocks(residue, groups)
    strips = groups * min(dilation[0], height)
    quads = blocks(blocks(width, dilation[1]), 4) * min(dilation[1], width)
    chunks = blocks(n * quads, tiling.block)
    across = blocks(c, tiling.channels)
    tiles = tiling.tiles or min(16, max(1, chunks * strips * across // tiling.programs))
    chunks = blocks(chunks, tiles)
    return Plan(rows, strips, quads, tiles, chunks, chunks * strips * across)


@functools.lru_cache(4096)
def fit(tiling: Tiling, channels: int, itemsize: int) -> Tiling:
    """Narrow the block of channels to the tensor and give what is won to the positions; halve the steps of float32."""
    width = tiling.channels
    # A block that reaches past the last channel works in vain there: take the widest that wastes little.
    while width > 16 and blocks(channels, width) * width > 1.125 * channels:
        width //= 2
    block = tiling.block * tiling.channels // width
    return tiling._replace(channels=width, block=block if itemsize == 2 else max(1, block // 2))


def compiled_for(channels: int, tiling: Tiling, **more: Any) -> Options:
    return options(
        UNIT=math.gcd(channels, 16),
        BC=tiling.channels,
        EVEN_C=channels % tiling.channels == 0,
        num_warps=tiling.warps,
        # Said aloud, since Triton is changing its default; the kernels ask for every fused multiply-add by name.
        enable_fp_fusion=False,
        **more,
    )


def blocks(size: int, block: int) -> int:
    return -(-size // block)
