"""How a kernel is cut into programs."""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

from convblocks.ops._start import Options, options

Pair = tuple[int, int]

MULTIPROCESSORS = 132
"""Of an H200, where tilings were tried."""


class Tiling(NamedTuple):
    """How a kernel is cut into programs; what `benchmarks/kernels.py --tune` varies."""

    block: int = 16
    """Positions (units of some columns, for the rolling kernels) of one step."""
    channels: int = 64
    """Channels of one program; narrowed to what the tensor has."""
    rows: int = 16
    """Rows that a rolling kernel goes down, at most."""
    tiles: int = 0
    """Blocks of positions that one program works through; 0: as many as are done soonest, see `plan_rows`."""
    warps: int = 4
    stages: int = 3
    """Rows at a time in a rolling kernel: the one that is worked on, and those on their way."""
    run_on: bool = False
    """Whether a rolling kernel goes from tile to tile without waiting for the first rows of the next."""
    start: int = 0
    """Rounds of a rolling kernel's loop that the beginning and the end of a program are worth."""
    beyond: int = 2
    """Rounds that a strip of a rolling kernel takes for rows above and below its own."""
    columns: int = 4
    """Of a unit of a rolling kernel."""


class Plan(NamedTuple):
    rows: int
    strips: int
    quads: int
    """Units of a row."""
    tiles: int
    chunks: int
    programs: int

    @property
    def down(self) -> tuple[int, int, int, int]:
        """What a rolling kernel is told of it."""
        return self[:4]


def at_once(tiling: Tiling, itemsize: int) -> int:
    """Return the programs of a rolling kernel that an H200 holds at a time, by the registers that they take."""
    return MULTIPROCESSORS * ((8 if itemsize == 2 else 12) // tiling.warps)


@functools.lru_cache(4096)
def plan_rows(n: int, c: int, height: int, width: int, dilation: Pair, tiling: Tiling, places: int) -> Plan:
    """Cut a map into strips of rows and those into programs, so that the last of them is done soonest.

    `places` programs run at a time, each for the rows of its strip and those beyond, tile after tile, and the
    beginning and end of a program. That orders what was measured on an H200, and comes within some percent of it.
    """
    quads = blocks(blocks(width, dilation[1]), tiling.columns) * min(dilation[1], width)
    chunks, across = blocks(n * quads, tiling.block), blocks(c, tiling.channels)
    residue, of_each = blocks(height, dilation[0]), min(dilation[0], height)
    least = blocks(residue, tiling.rows)
    best: tuple[int, Plan] | None = None
    # Strips of equal length: two of 14 rows for 28, not 16 and 12.
    for rows in dict.fromkeys(blocks(residue, groups) for groups in range(least, min(8 * least, residue) + 1)):
        strips = blocks(residue, rows) * of_each
        for tiles in [tiling.tiles] if tiling.tiles else range(1, 17):
            programs = blocks(chunks, tiles) * strips * across
            # Those outside the image are left out, all or half of them.
            rounds = tiles * (rows + (tiling.beyond // 2 if rows == residue else tiling.beyond)) + tiling.start
            cost = blocks(programs, places) * rounds
            if best is None or cost < best[0]:
                best = cost, Plan(rows, strips, quads, tiles, blocks(chunks, tiles), programs)
        if tiling.tiles:
            break
    assert best is not None, "a map has a row"
    return best[1]


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
