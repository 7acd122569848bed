"""The rolling kernel of 5 x 5, stride 1, at any dilation and padding; what `_kernels` says of its own holds here too.

The 25 taps of a channel, or as many sums, fill a thread's registers: it has few channels, and loads them in fewer than
128 bits. Tilings see to that, since no thread has more of them than a block leaves it.
"""

# Triton's language has no types, and Triton itself need not be there to check the rest.
# pyright: basic, reportMissingImports=false, reportArgumentType=false, reportGeneralTypeIssues=false
# pyright: reportAssignmentType=false, reportOperatorIssue=false

from __future__ import annotations

import triton
import triton.language as tl

from convblocks.ops._kernels import ROLLING, load_tap, quad, share, within
from convblocks.ops._kernels_sums import enter, load_around


@triton.jit
def _load_taps(WEIGHT, row: tl.constexpr, FLIP: tl.constexpr, c, c_ok):
    """Five taps of a row; with FLIP those of the kernel turned by half a circle, which the gradient of x takes."""
    first: tl.constexpr = 24 - 5 * row if FLIP else 5 * row
    step: tl.constexpr = -1 if FLIP else 1
    a = load_tap(WEIGHT, first, 25, c, c_ok)
    b = load_tap(WEIGHT, first + step, 25, c, c_ok)
    d = load_tap(WEIGHT, first + 2 * step, 25, c, c_ok)
    e = load_tap(WEIGHT, first + 3 * step, 25, c, c_ok)
    f = load_tap(WEIGHT, first + 4 * step, 25, c, c_ok)
    return a, b, d, e, f


@triton.jit
def columns_within(u_ok, w, DW, W, COUNT: tl.constexpr):
    """A bit for each column from w on that lies within the image: one register, where conditions are one each."""
    bits = tl.zeros(w.shape, tl.int32)
    for j in tl.static_range(COUNT):
        bits += (u_ok & within(w + j * DW, W)).to(tl.int32) << j
    return bits


@triton.jit
def in_row(bits, ok):
    """The bits of a row, none where it lies outside: what depends on the row, no compiler unpacks before the loop."""
    # A scalar must have the block's shape: Triton's interpreter refuses to combine the two.
    return tl.where((tl.zeros(bits.shape, tl.int32) + ok.to(tl.int32)) > 0, bits, 0)


@triton.jit
def load_column(at, bits, j: tl.constexpr, column):
    return tl.load(at, mask=((bits & (1 << j)) != 0)[:, None] & column, other=0.0).to(tl.float32)


@triton.jit
def _row_of_eight(at, step, bits, column):
    """Eight neighbouring columns of one row."""
    a = load_column(at, bits, 0, column)
    b = load_column(at + step, bits, 1, column)
    c = load_column(at + 2 * step, bits, 2, column)
    d = load_column(at + 3 * step, bits, 3, column)
    e = load_column(at + 4 * step, bits, 4, column)
    f = load_column(at + 5 * step, bits, 5, column)
    g = load_column(at + 6 * step, bits, 6, column)
    h = load_column(at + 7 * step, bits, 7, column)
    return a, b, c, d, e, f, g, h


@triton.jit
def store_column(at, y, bits, j: tl.constexpr, column):
    tl.store(at, y.to(at.dtype.element_ty), mask=((bits & (1 << j)) != 0)[:, None] & column)


@triton.jit
def _five(a, b, c, d, e, w_a, w_b, w_c, w_d, w_e, sums):
    return tl.fma(e, w_e, tl.fma(d, w_d, tl.fma(c, w_c, tl.fma(b, w_b, tl.fma(a, w_a, sums)))))


@triton.jit
def _add_row(a, b, c, d, e, f, g, h, w_a, w_b, w_c, w_d, w_e, s_0, s_1, s_2, s_3):
    """What a row of the input adds to an output row by one row of taps, for the four columns of a unit."""
    s_0 = _five(a, b, c, d, e, w_a, w_b, w_c, w_d, w_e, s_0)
    s_1 = _five(b, c, d, e, f, w_a, w_b, w_c, w_d, w_e, s_1)
    s_2 = _five(c, d, e, f, g, w_a, w_b, w_c, w_d, w_e, s_2)
    s_3 = _five(d, e, f, g, h, w_a, w_b, w_c, w_d, w_e, s_3)
    return s_0, s_1, s_2, s_3


@triton.jit(do_not_specialize=ROLLING)
def rows_forward_5(
    X,
    WEIGHT,
    SHIFT,
    SKIP,
    Y,
    AROUND,
    PART,
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
    FLIP: tl.constexpr,
    HAS_SHIFT: tl.constexpr,
    HAS_SKIP: tl.constexpr,
    STATISTICS: tl.constexpr,
    EVEN_C: tl.constexpr,
    STAGES: tl.constexpr,
    BU: tl.constexpr,
    BC: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    """`rows_forward` for 5 x 5: an input row feeds five output rows, and four columns need eight of the input.

    With FLIP, and the sizes of input and output exchanged, it computes the gradient of x. SKIP lies as the output does,
    and is added to it.
    """
    enter(OVERLAP)
    C = UNITS * UNIT
    c, c_ok, strip, chunk = share(C, STRIPS, EVEN_C, BC)
    first = (strip // DH) * ROWS * DH + strip % DH
    # Strips at the bottom have fewer rows.
    rows = tl.minimum(ROWS, tl.cdiv(HO - first, DH))
    # Rows above the image add nothing.
    start = tl.minimum(tl.maximum(PH - first + DH - 1, 0) // DH, 4)

    w00, w01, w02, w03, w04 = _load_taps(WEIGHT, 0, FLIP, c, c_ok)
    w10, w11, w12, w13, w14 = _load_taps(WEIGHT, 1, FLIP, c, c_ok)
    w20, w21, w22, w23, w24 = _load_taps(WEIGHT, 2, FLIP, c, c_ok)
    w30, w31, w32, w33, w34 = _load_taps(WEIGHT, 3, FLIP, c, c_ok)
    w40, w41, w42, w43, w44 = _load_taps(WEIGHT, 4, FLIP, c, c_ok)
    # Sums start at the shift, which costs nothing an element.
    begin = tl.zeros((BU, BC), tl.float32)
    if HAS_SHIFT:
        begin += tl.load(SHIFT + c, mask=c_ok, other=0.0).to(tl.float32)[None, :]
    column = c_ok[None, :]
    if STATISTICS:
        around = load_around(AROUND, c, c_ok)[None, :]
        plain = tl.zeros((BU, BC), tl.float32)
        squares = tl.zeros((BU, BC), tl.float32)

    for tile in range(TILES):
        # The minimum is a size itself, but different for all that a compiler knows: what it would keep of a division,
        # from tile to tile, takes registers.
        quads = tl.minimum(QUADS, QUADS + tile)
        dw = tl.minimum(DW, DW + tile)
        u_ok, n, w = quad(chunk * TILES + tile, N, quads, dw, BU)
        left = w - PW
        x_at = X + (n * (H * W * C))[:, None] + ((left * C)[:, None] + c[None, :])
        y_at = Y + (n * (HO * WO * C))[:, None] + ((w * C)[:, None] + c[None, :])
        if HAS_SKIP:
            s_at = SKIP + (n * (HO * WO * C))[:, None] + ((w * C)[:, None] + c[None, :])
        inside = columns_within(u_ok, left, DW, W, 8)
        own = columns_within(u_ok, w, DW, WO, 4)
        step = DW * C
        # Sums of the next four output rows, of four taps' rows down to one.
        p0 = begin
        p1 = begin
        p2 = begin
        p3 = begin
        q0 = begin
        q1 = begin
        q2 = begin
        q3 = begin
        r0 = begin
        r1 = begin
        r2 = begin
        r3 = begin
        s0 = begin
        s1 = begin
        s2 = begin
        s3 = begin
        for turn in tl.range(rows + 4 - start, num_stages=STAGES):
            k = start + turn
            row = first + k * DH - PH
            a, b, d, e, f, g, h, i = _row_of_eight(x_at + row * W * C, step, in_row(inside, within(row, H)), column)
            y0, y1, y2, y3 = _add_row(a, b, d, e, f, g, h, i, w40, w41, w42, w43, w44, p0, p1, p2, p3)
            p0, p1, p2, p3 = _add_row(a, b, d, e, f, g, h, i, w30, w31, w32, w33, w34, q0, q1, q2, q3)
            q0, q1, q2, q3 = _add_row(a, b, d, e, f, g, h, i, w20, w21, w22, w23, w24, r0, r1, r2, r3)
            r0, r1, r2, r3 = _add_row(a, b, d, e, f, g, h, i, w10, w11, w12, w13, w14, s0, s1, s2, s3)
            s0, s1, s2, s3 = _add_row(a, b, d, e, f, g, h, i, w00, w01, w02, w03, w04, begin, begin, begin, begin)
            done = in_row(own, k >= 4)
            if HAS_SKIP:
                skip = s_at + (first + (k - 4) * DH) * WO * C
                y0 += load_column(skip, done, 0, column)
                y1 += load_column(skip + step, done, 1, column)
                y2 += load_column(skip + 2 * step, done, 2, column)
                y3 += load_column(skip + 3 * step, done, 3, column)
            out = y_at + (first + (k - 4) * DH) * WO * C
            store_column(out, y0, done, 0, column)
            store_column(out + step, y1, done, 1, column)
            store_column(out + 2 * step, y2, done, 2, column)
            store_column(out + 3 * step, y3, done, 3, column)
            if STATISTICS:
                z0 = tl.where(((done & 1) != 0)[:, None], y0 - around, 0.0)
                plain += z0
                squares = tl.fma(z0, z0, squares)
                z1 = tl.where(((done & 2) != 0)[:, None], y1 - around, 0.0)
                plain += z1
                squares = tl.fma(z1, z1, squares)
                z2 = tl.where(((done & 4) != 0)[:, None], y2 - around, 0.0)
                plain += z2
                squares = tl.fma(z2, z2, squares)
                z3 = tl.where(((done & 8) != 0)[:, None], y3 - around, 0.0)
                plain += z3
                squares = tl.fma(z3, z3, squares)
    if STATISTICS:
        line = PART + (chunk * STRIPS + strip).to(tl.int64) * (2 * C) + c
        tl.store(line, tl.sum(plain, 0), mask=c_ok)
        tl.store(line + C, tl.sum(squares, 0), mask=c_ok)
