"""The gradients of 3 x 3, stride 1, padding as wide as the dilation, for maps of at most 4 x 4; see `_kernels` too.

A dilated convolution is an undilated one of every residue modulo the dilation by itself, a map of few rows and columns
where the dilation is wide. Such a map fits into registers as it is: nothing is read twice, and nothing waits for the
rows before it. A unit is one of these maps.
"""

# Triton's language has no types, and Triton itself need not be there to check the rest.
# pyright: basic, reportMissingImports=false, reportArgumentType=false, reportGeneralTypeIssues=false

from __future__ import annotations

import triton
import triton.language as tl

from convblocks.ops._kernels import load_nine, share, within
from convblocks.ops._kernels_gradients import four, store_four, store_nine
from convblocks.ops._kernels_sums import enter

MAPS = ["N", "H", "W", "UNITS", "DH", "DW", "TILES"]


@triton.jit
def _maps(tile, N, H, W, DH, DW, C, c, BU: tl.constexpr):
    """Where the maps of a tile lie: the first row and column of each, which of four columns there are, its offset."""
    down, across = tl.minimum(DH, H), tl.minimum(DW, W)
    u = tile * BU + tl.arange(0, BU)
    ok = u < N * (down * across)
    w = u % across
    h = u // across % down
    n = (u // across // down).to(tl.int64)
    at = (n * (H * W * C))[:, None] + (((h * W + w) * C)[:, None] + c[None, :])
    # A map that there is not has no rows.
    h = tl.where(ok, h, H)
    return h, within(w, W), within(w + DW, W), within(w + 2 * DW, W), within(w + 3 * DW, W), at


@triton.jit
def _row(at, step, ok_0, ok_1, ok_2, ok_3, row, size, column):
    ok = within(tl.zeros(ok_0.shape, tl.int32) + row, size)
    a = tl.load(at, mask=(ok_0 & ok)[:, None] & column, other=0.0)
    b = tl.load(at + step, mask=(ok_1 & ok)[:, None] & column, other=0.0)
    c = tl.load(at + 2 * step, mask=(ok_2 & ok)[:, None] & column, other=0.0)
    d = tl.load(at + 3 * step, mask=(ok_3 & ok)[:, None] & column, other=0.0)
    return a.to(tl.float32), b.to(tl.float32), c.to(tl.float32), d.to(tl.float32)


@triton.jit
def _add_row(a, b, c, d, left, here, right, s0, s1, s2, s3):
    """Four sums, and what a row of the kernel makes of a row of four columns with nothing beside them."""
    s0 = tl.fma(b, right, tl.fma(a, here, s0))
    s1 = tl.fma(c, right, tl.fma(b, here, tl.fma(a, left, s1)))
    s2 = tl.fma(d, right, tl.fma(c, here, tl.fma(b, left, s2)))
    s3 = tl.fma(d, here, tl.fma(c, left, s3))
    return s0, s1, s2, s3


@triton.jit
def _products(x0, x1, x2, x3, g0, g1, g2, g3, left, here, right):
    """What a row of x and one of dy add to the gradient of a row of the kernel."""
    left = tl.fma(x2, g3, tl.fma(x1, g2, tl.fma(x0, g1, left)))
    here = four(x0, x1, x2, x3, g0, g1, g2, g3, here)
    right = tl.fma(x3, g2, tl.fma(x2, g1, tl.fma(x1, g0, right)))
    return left, here, right


@triton.jit(do_not_specialize=MAPS)
def maps_backward(
    X,
    WEIGHT,
    DY,
    DSKIP,
    DX,
    PART_WEIGHT,
    PART_BIAS,
    N,
    H,
    W,
    UNITS,
    DH,
    DW,
    TILES,
    UNIT: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_SKIP: tl.constexpr,
    EVEN_C: tl.constexpr,
    STAGES: tl.constexpr,
    BU: tl.constexpr,
    BC: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    """Both gradients: that of x is the convolution of dy by the kernel turned by half a circle, and DSKIP."""
    enter(OVERLAP)
    C = UNITS * UNIT
    c, c_ok, _, chunk = share(C, 1, EVEN_C, BC)
    w00, w01, w02, w10, w11, w12, w20, w21, w22 = load_nine(WEIGHT, c, c_ok)
    zero = tl.zeros((BU, BC), tl.float32)
    column = c_ok[None, :]
    d00 = zero
    d01 = zero
    d02 = zero
    d10 = zero
    d11 = zero
    d12 = zero
    d20 = zero
    d21 = zero
    d22 = zero
    bias = zero
    for tile in tl.range(TILES, num_stages=STAGES):
        h, ok_0, ok_1, ok_2, ok_3, at = _maps(chunk * TILES + tile, N, H, W, DH, DW, C, c, BU)
        step, line = DW * C, DH * W * C
        a0, a1, a2, a3 = _row(DY + at, step, ok_0, ok_1, ok_2, ok_3, h, H, column)
        b0, b1, b2, b3 = _row(DY + at + line, step, ok_0, ok_1, ok_2, ok_3, h + DH, H, column)
        c0, c1, c2, c3 = _row(DY + at + 2 * line, step, ok_0, ok_1, ok_2, ok_3, h + 2 * DH, H, column)
        e0, e1, e2, e3 = _row(DY + at + 3 * line, step, ok_0, ok_1, ok_2, ok_3, h + 3 * DH, H, column)
        if HAS_BIAS:
            bias += ((a0 + a1) + (a2 + a3)) + ((b0 + b1) + (b2 + b3))
            bias += ((c0 + c1) + (c2 + c3)) + ((e0 + e1) + (e2 + e3))
        for row in tl.static_range(4):
            ok = within(h + row * DH, H)
            x0, x1, x2, x3 = _row(X + at + row * line, step, ok_0, ok_1, ok_2, ok_3, h + row * DH, H, column)
            if HAS_SKIP:
                y0, y1, y2, y3 = _row(DSKIP + at + row * line, step, ok_0, ok_1, ok_2, ok_3, h + row * DH, H, column)
            else:
                y0, y1, y2, y3 = zero, zero, zero, zero
            if row == 0:
                d10, d11, d12 = _products(x0, x1, x2, x3, a0, a1, a2, a3, d10, d11, d12)
                d00, d01, d02 = _products(x0, x1, x2, x3, b0, b1, b2, b3, d00, d01, d02)
                y0, y1, y2, y3 = _add_row(a0, a1, a2, a3, w12, w11, w10, y0, y1, y2, y3)
                y0, y1, y2, y3 = _add_row(b0, b1, b2, b3, w02, w01, w00, y0, y1, y2, y3)
            elif row == 1:
                d20, d21, d22 = _products(x0, x1, x2, x3, a0, a1, a2, a3, d20, d21, d22)
                d10, d11, d12 = _products(x0, x1, x2, x3, b0, b1, b2, b3, d10, d11, d12)
                d00, d01, d02 = _products(x0, x1, x2, x3, c0, c1, c2, c3, d00, d01, d02)
                y0, y1, y2, y3 = _add_row(a0, a1, a2, a3, w22, w21, w20, y0, y1, y2, y3)
                y0, y1, y2, y3 = _add_row(b0, b1, b2, b3, w12, w11, w10, y0, y1, y2, y3)
                y0, y1, y2, y3 = _add_row(c0, c1, c2, c3, w02, w01, w00, y0, y1, y2, y3)
            elif row == 2:
                d20, d21, d22 = _products(x0, x1, x2, x3, b0, b1, b2, b3, d20, d21, d22)
                d10, d11, d12 = _products(x0, x1, x2, x3, c0, c1, c2, c3, d10, d11, d12)
                d00, d01, d02 = _products(x0, x1, x2, x3, e0, e1, e2, e3, d00, d01, d02)
                y0, y1, y2, y3 = _add_row(b0, b1, b2, b3, w22, w21, w20, y0, y1, y2, y3)
                y0, y1, y2, y3 = _add_row(c0, c1, c2, c3, w12, w11, w10, y0, y1, y2, y3)
                y0, y1, y2, y3 = _add_row(e0, e1, e2, e3, w02, w01, w00, y0, y1, y2, y3)
            else:
                d20, d21, d22 = _products(x0, x1, x2, x3, c0, c1, c2, c3, d20, d21, d22)
                d10, d11, d12 = _products(x0, x1, x2, x3, e0, e1, e2, e3, d10, d11, d12)
                y0, y1, y2, y3 = _add_row(c0, c1, c2, c3, w22, w21, w20, y0, y1, y2, y3)
                y0, y1, y2, y3 = _add_row(e0, e1, e2, e3, w12, w11, w10, y0, y1, y2, y3)
            store_four(DX + at + row * line, step, y0, y1, y2, y3, ok & ok_0, ok & ok_1, ok & ok_2, ok & ok_3, column)
    line = chunk.to(tl.int64) * C + c
    store_nine(PART_WEIGHT + line * 9, d00, d01, d02, d10, d11, d12, d20, d21, d22, c_ok)
    if HAS_BIAS:
        tl.store(PART_BIAS + line, tl.sum(bias, 0), mask=c_ok)
