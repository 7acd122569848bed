"""The Triton kernels that add up what the programs of the others have left, one row a program, in a fixed order.

What a norm needs of its sums is a few numbers a channel. PyTorch would compute them in some twenty launches, which take
longer than a pass over a tensor does, and on the host longer than the whole block.
"""

# Triton's language has no types, and Triton itself need not be there to check the rest.
# pyright: basic, reportMissingImports=false, reportArgumentType=false, reportGeneralTypeIssues=false

from __future__ import annotations

import triton
import triton.language as tl

try:
    from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait
except ImportError:
    # Never called then, see `_start.overlap`.
    gdc_launch_dependents = gdc_wait = tl.debug_barrier

# As in `_kernels`: no kernel is made for one size of these.
COUNTS = ["ROWS", "COLUMNS", "COUNT"]


@triton.jit
def enter(OVERLAP: tl.constexpr):
    """With OVERLAP, wait until all that the kernel before wrote can be read, and let programs of the next one in.

    Every kernel begins so, before it touches memory. In this order: whoever is let in finds all done but this kernel.
    """
    if OVERLAP:
        gdc_wait()
        gdc_launch_dependents()


@triton.jit
def _pair_sums(PART, ROWS, COLUMNS, c, c_ok, BR: tl.constexpr, BC: tl.constexpr):
    """The sums of both halves of the rows, a column each. They are read at once: the way to memory takes the time."""
    one = tl.zeros((BR, BC), tl.float64)
    other = tl.zeros((BR, BC), tl.float64)
    for first in range(0, ROWS, BR):
        r = first + tl.arange(0, BR)
        at = PART + r.to(tl.int64)[:, None] * (2 * COLUMNS) + c[None, :]
        ok = (r < ROWS)[:, None] & c_ok[None, :]
        a = tl.load(at, mask=ok, other=0.0)
        b = tl.load(at + COLUMNS, mask=ok, other=0.0)
        one += a.to(tl.float64)
        other += b.to(tl.float64)
    return tl.sum(one, 0), tl.sum(other, 0)


@triton.jit
def load_around(AROUND, c, c_ok):
    """A number a channel near its mean, which sums of squares about it lose less by: 0 where it is none."""
    around = tl.load(AROUND + c, mask=c_ok, other=0.0).to(tl.float32)
    return tl.where(tl.abs(around) <= 3.0e38, around, 0.0)


@triton.jit(do_not_specialize=COUNTS)
def add_rows(PART, OUT, ROWS, COLUMNS, BR: tl.constexpr, BC: tl.constexpr, OVERLAP: tl.constexpr):
    """OUT = the sum of the rows of PART."""
    enter(OVERLAP)
    c = tl.program_id(0) * BC + tl.arange(0, BC)
    sums = tl.zeros((BR, BC), tl.float32)
    for first in range(0, ROWS, BR):
        r = first + tl.arange(0, BR)
        at = PART + r.to(tl.int64)[:, None] * COLUMNS + c[None, :]
        sums += tl.load(at, mask=(r < ROWS)[:, None] & (c < COLUMNS)[None, :], other=0.0)
    tl.store(OUT + c, tl.sum(sums, 0).to(OUT.dtype.element_ty), mask=c < COLUMNS)


@triton.jit(do_not_specialize=COUNTS)
def finish_statistics(
    PART, AROUND, STATS, ROWS, COLUMNS, COUNT, BR: tl.constexpr, BC: tl.constexpr, OVERLAP: tl.constexpr
):
    """Mean, variance, and variance over COUNT - 1, from rows of sums of y - AROUND and of its square."""
    enter(OVERLAP)
    c = tl.program_id(0) * BC + tl.arange(0, BC)
    c_ok = c < COLUMNS
    count = COUNT.to(tl.float64)
    mean, square = _pair_sums(PART, ROWS, COLUMNS, c, c_ok, BR, BC)
    mean = mean / count
    square = square / count
    variance = square - mean * mean
    variance = tl.where(variance < 0.0, 0.0, variance)
    tl.store(STATS + c, (mean + load_around(AROUND, c, c_ok).to(tl.float64)).to(tl.float32), mask=c_ok)
    tl.store(STATS + COLUMNS + c, variance.to(tl.float32), mask=c_ok)
    # One value has no variance over none: as 0 / 0 it is no number, as in PyTorch.
    tl.store(STATS + 2 * COLUMNS + c, (variance * count / (count - 1.0)).to(tl.float32), mask=c_ok)


@triton.jit(do_not_specialize=COUNTS)
def finish_gradients(
    PART,
    STATS,
    WEIGHT,
    TABLE,
    DWEIGHT,
    DSHIFT,
    ROWS,
    COLUMNS,
    COUNT,
    HAS_WEIGHT: tl.constexpr,
    BATCH: tl.constexpr,
    EPS: tl.constexpr,
    BR: tl.constexpr,
    BC: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    """`factors` of `_norm`, from rows of sums of du and of du * (y - mean)."""
    enter(OVERLAP)
    c = tl.program_id(0) * BC + tl.arange(0, BC)
    c_ok = c < COLUMNS
    plain, moved = _pair_sums(PART, ROWS, COLUMNS, c, c_ok, BR, BC)
    mean = tl.load(STATS + c, mask=c_ok, other=0.0).to(tl.float64)
    variance = tl.load(STATS + COLUMNS + c, mask=c_ok, other=1.0).to(tl.float64)
    inverse = 1.0 / tl.sqrt(variance + EPS)
    scale = inverse
    if HAS_WEIGHT:
        scale = inverse * tl.load(WEIGHT + c, mask=c_ok, other=0.0).to(tl.float64)
    tl.store(TABLE + c, scale.to(tl.float32), mask=c_ok)
    of_y = tl.zeros((BC,), tl.float64)
    alone = tl.zeros((BC,), tl.float64)
    if BATCH:
        count = COUNT.to(tl.float64)
        of_y = -scale * inverse * inverse * moved / count
        alone = -scale * plain / count - of_y * mean
    tl.store(TABLE + COLUMNS + c, of_y.to(tl.float32), mask=c_ok)
    tl.store(TABLE + 2 * COLUMNS + c, alone.to(tl.float32), mask=c_ok)
    tl.store(DWEIGHT + c, (moved * inverse).to(DWEIGHT.dtype.element_ty), mask=c_ok)
    tl.store(DSHIFT + c, plain.to(DSHIFT.dtype.element_ty), mask=c_ok)
