"""The gradient of the weight of the 5 x 5 convolution in `_kernels_five`; what `_kernels` says holds here too."""

# Triton's language has no types, and Triton itself need not be there to check the rest.
# pyright: basic, reportMissingImports=false, reportArgumentType=false, reportGeneralTypeIssues=false

from __future__ import annotations

import triton
import triton.language as tl

from convblocks.ops._kernels import ROLLING, quad, share, within
from convblocks.ops._kernels_five import columns_within, in_row, load_column
from convblocks.ops._kernels_gradients import four
from convblocks.ops._kernels_sums import enter


@triton.jit
def _row_of_eight(at, step, bits, column):
    """`_row_of_eight` of `_kernels_five`, from step to step: the multiples of one would take registers."""
    a = load_column(at, bits, 0, column)
    at += step
    b = load_column(at, bits, 1, column)
    at += step
    c = load_column(at, bits, 2, column)
    at += step
    d = load_column(at, bits, 3, column)
    at += step
    e = load_column(at, bits, 4, column)
    at += step
    f = load_column(at, bits, 5, column)
    at += step
    g = load_column(at, bits, 6, column)
    at += step
    h = load_column(at, bits, 7, column)
    return a, b, c, d, e, f, g, h


@triton.jit
def _add_products(g_0, g_1, g_2, g_3, a, b, c, d, e, f, g, h, s_0, s_1, s_2, s_3, s_4):
    """What four columns of a row of dy add to the gradients of the five taps of a row."""
    s_0 = four(a, b, c, d, g_0, g_1, g_2, g_3, s_0)
    s_1 = four(b, c, d, e, g_0, g_1, g_2, g_3, s_1)
    s_2 = four(c, d, e, f, g_0, g_1, g_2, g_3, s_2)
    s_3 = four(d, e, f, g, g_0, g_1, g_2, g_3, s_3)
    s_4 = four(e, f, g, h, g_0, g_1, g_2, g_3, s_4)
    return s_0, s_1, s_2, s_3, s_4


@triton.jit
def _four_zeros(BU: tl.constexpr, BC: tl.constexpr):
    """Each of its own: what a loop hands on from one name to another of the same origin, Triton takes for unchanged."""
    a = tl.zeros((BU, BC), tl.float32)
    b = tl.zeros((BU, BC), tl.float32)
    c = tl.zeros((BU, BC), tl.float32)
    d = tl.zeros((BU, BC), tl.float32)
    return a, b, c, d


@triton.jit
def _store_sums(at, s_0, s_1, s_2, s_3, s_4, c_ok):
    tl.store(at, tl.sum(s_0, 0), mask=c_ok)
    tl.store(at + 1, tl.sum(s_1, 0), mask=c_ok)
    tl.store(at + 2, tl.sum(s_2, 0), mask=c_ok)
    tl.store(at + 3, tl.sum(s_3, 0), mask=c_ok)
    tl.store(at + 4, tl.sum(s_4, 0), mask=c_ok)


@triton.jit(do_not_specialize=ROLLING)
def rows_weight_5(
    X,
    DY,
    PART_WEIGHT,
    PART_BIAS,
    N,
    H,
    W,
    UNITS,
    HO,
    WO,
    DH,
    DW,
    PH,
    PW,
    ROWS,
    STRIPS,
    QUADS,
    TILES,
    UNIT: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    EVEN_C: tl.constexpr,
    STAGES: tl.constexpr,
    BU: tl.constexpr,
    BC: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    """The gradients of the weight and of the bias of `rows_forward_5`, in one pass over x and dy.

    The gradient of weight[i, j] is the sum over all h and w of dy[h, w] * x[h - PH + i * DH, w - PW + j * DW]. It rolls
    down rows of dy, of which it keeps four: those have four columns where rows of x have eight.
    """
    enter(OVERLAP)
    C = UNITS * UNIT
    c, c_ok, strip, chunk = share(C, STRIPS, EVEN_C, BC)
    column = c_ok[None, :]
    first = (strip // DH) * ROWS * DH + strip % DH
    rows = tl.minimum(ROWS, tl.cdiv(HO - first, DH))
    # Rows of x below the image add nothing; all rows of dy are read, for the bias.
    span = tl.maximum(tl.minimum(rows + 4, tl.cdiv(H + PH - first, DH)), rows)

    zero = tl.zeros((BU, BC), tl.float32)
    d00 = zero
    d01 = zero
    d02 = zero
    d03 = zero
    d04 = zero
    d10 = zero
    d11 = zero
    d12 = zero
    d13 = zero
    d14 = zero
    d20 = zero
    d21 = zero
    d22 = zero
    d23 = zero
    d24 = zero
    d30 = zero
    d31 = zero
    d32 = zero
    d33 = zero
    d34 = zero
    d40 = zero
    d41 = zero
    d42 = zero
    d43 = zero
    d44 = zero
    bias = zero

    for tile in range(TILES):
        u_ok, n, w = quad(chunk * TILES + tile, N, QUADS, DW, BU)
        left = w - PW
        x_at = X + (n * (H * W * C))[:, None] + ((left * C)[:, None] + c[None, :])
        g_at = DY + (n * (HO * WO * C))[:, None] + ((w * C)[:, None] + c[None, :])
        inside = columns_within(u_ok, left, DW, W, 8)
        own = columns_within(u_ok, w, DW, WO, 4)
        step = DW * C
        g10, g11, g12, g13 = _four_zeros(BU, BC)
        g20, g21, g22, g23 = _four_zeros(BU, BC)
        g30, g31, g32, g33 = _four_zeros(BU, BC)
        g40, g41, g42, g43 = _four_zeros(BU, BC)
        for k in tl.range(span, num_stages=STAGES):
            row = first + k * DH - PH
            a, b, d, e, f, g, h, i = _row_of_eight(x_at + row * W * C, step, in_row(inside, within(row, H)), column)
            g_row = g_at + (first + k * DH) * WO * C
            there = in_row(own, k < rows)
            g00 = load_column(g_row, there, 0, column)
            g01 = load_column(g_row + step, there, 1, column)
            g02 = load_column(g_row + 2 * step, there, 2, column)
            g03 = load_column(g_row + 3 * step, there, 3, column)
            d40, d41, d42, d43, d44 = _add_products(g40, g41, g42, g43, a, b, d, e, f, g, h, i, d40, d41, d42, d43, d44)
            d30, d31, d32, d33, d34 = _add_products(g30, g31, g32, g33, a, b, d, e, f, g, h, i, d30, d31, d32, d33, d34)
            d20, d21, d22, d23, d24 = _add_products(g20, g21, g22, g23, a, b, d, e, f, g, h, i, d20, d21, d22, d23, d24)
            d10, d11, d12, d13, d14 = _add_products(g10, g11, g12, g13, a, b, d, e, f, g, h, i, d10, d11, d12, d13, d14)
            d00, d01, d02, d03, d04 = _add_products(g00, g01, g02, g03, a, b, d, e, f, g, h, i, d00, d01, d02, d03, d04)
            if HAS_BIAS:
                bias += (g00 + g01) + (g02 + g03)
            # An addition each, since Triton gives up prefetching in a loop that hands a value on over two rounds.
            g40 = g30 + 0.0
            g41 = g31 + 0.0
            g42 = g32 + 0.0
            g43 = g33 + 0.0
            g30 = g20 + 0.0
            g31 = g21 + 0.0
            g32 = g22 + 0.0
            g33 = g23 + 0.0
            g20 = g10 + 0.0
            g21 = g11 + 0.0
            g22 = g12 + 0.0
            g23 = g13 + 0.0
            g10 = g00
            g11 = g01
            g12 = g02
            g13 = g03

    line = (chunk * STRIPS + strip).to(tl.int64) * C + c
    part = PART_WEIGHT + line * 25
    _store_sums(part, d00, d01, d02, d03, d04, c_ok)
    _store_sums(part + 5, d10, d11, d12, d13, d14, c_ok)
    _store_sums(part + 10, d20, d21, d22, d23, d24, c_ok)
    _store_sums(part + 15, d30, d31, d32, d33, d34, c_ok)
    _store_sums(part + 20, d40, d41, d42, d43, d44, c_ok)
    if HAS_BIAS:
        tl.store(PART_BIAS + line, tl.sum(bias, 0), mask=c_ok)
