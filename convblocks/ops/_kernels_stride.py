"""The rolling kernels of 3 x 3, stride 2, undilated, at any padding; what `_kernels` says of its own holds here too.

A unit is two columns of the output, which need five of the input, two of them again for the unit beside it.
"""

# Triton's language has no types, and Triton itself need not be there to check the rest.
# pyright: basic, reportMissingImports=false, reportArgumentType=false, reportGeneralTypeIssues=false
# pyright: reportAssignmentType=false, reportOperatorIssue=false

from __future__ import annotations

import triton
import triton.language as tl

from convblocks.ops._kernels import ROLLING, load_nine, share, three, within
from convblocks.ops._kernels_five import columns_within, in_row, load_column, store_column
from convblocks.ops._kernels_gradients import store_nine
from convblocks.ops._kernels_sums import enter, load_around

UNDILATED = [name for name in ROLLING if name not in ("DH", "DW")]


@triton.jit
def _pair(tile, N, PAIRS, BU: tl.constexpr):
    """Where the units of a tile lie: whether there are such, image, first column of the two."""
    u = tile * BU + tl.arange(0, BU)
    return u < N * PAIRS, (u // PAIRS).to(tl.int64), 2 * (u % PAIRS)


@triton.jit
def _row_of_five(at, C, bits, column):
    a = load_column(at, bits, 0, column)
    b = load_column(at + C, bits, 1, column)
    c = load_column(at + 2 * C, bits, 2, column)
    d = load_column(at + 3 * C, bits, 3, column)
    e = load_column(at + 4 * C, bits, 4, column)
    return a, b, c, d, e


@triton.jit(do_not_specialize=UNDILATED)
def rows_forward_stride_2(
    X,
    WEIGHT,
    SHIFT,
    Y,
    AROUND,
    PART,
    N,
    H,
    W,
    UNITS,
    HO,
    WO,
    PH,
    PW,
    ROWS,
    STRIPS,
    QUADS,
    TILES,
    UNIT: tl.constexpr,
    HAS_SHIFT: tl.constexpr,
    STATISTICS: tl.constexpr,
    EVEN_C: tl.constexpr,
    STAGES: tl.constexpr,
    BU: tl.constexpr,
    BC: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    """An output row takes three input rows, of which the last is the first of the next one; QUADS are pairs here."""
    enter(OVERLAP)
    C = UNITS * UNIT
    c, c_ok, strip, chunk = share(C, STRIPS, EVEN_C, BC)
    first = strip * ROWS
    # The last strip has fewer rows.
    rows = tl.minimum(ROWS, HO - first)
    # The first round is for the row that the first output row begins with; one above the image adds nothing.
    start = (2 * first < PH).to(tl.int32)

    w00, w01, w02, w10, w11, w12, w20, w21, w22 = load_nine(WEIGHT, c, c_ok)
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
        u_ok, n, w = _pair(chunk * TILES + tile, N, QUADS, BU)
        left = 2 * w - PW
        x_at = X + (n * (H * W * C))[:, None] + ((left * C)[:, None] + c[None, :])
        y_at = Y + (n * (HO * WO * C))[:, None] + ((w * C)[:, None] + c[None, :])
        inside = columns_within(u_ok, left, 1, W, 5)
        own = columns_within(u_ok, w, 1, WO, 2)
        # Sums of the next output row, of its first row of taps.
        p0 = begin
        p1 = begin
        for turn in tl.range(rows + 1 - start, num_stages=STAGES):
            k = start + turn
            # The middle one of the output row first + k - 1.
            row = 2 * (first + k) - PH - 1
            at = x_at + row * W * C
            a, b, d, e, f = _row_of_five(at, C, in_row(inside, within(row, H) & (k > 0)), column)
            g, h, i, j, m = _row_of_five(at + W * C, C, in_row(inside, within(row + 1, H)), column)
            y0 = three(g, h, i, w20, w21, w22, three(a, b, d, w10, w11, w12, p0))
            y1 = three(i, j, m, w20, w21, w22, three(d, e, f, w10, w11, w12, p1))
            p0 = three(g, h, i, w00, w01, w02, begin)
            p1 = three(i, j, m, w00, w01, w02, begin)
            done = in_row(own, k > 0)
            out = y_at + (first + k - 1) * WO * C
            store_column(out, y0, done, 0, column)
            store_column(out + C, y1, done, 1, column)
            if STATISTICS:
                z0 = tl.where(((done & 1) != 0)[:, None], y0 - around, 0.0)
                z1 = tl.where(((done & 2) != 0)[:, None], y1 - around, 0.0)
                plain += z0 + z1
                squares = tl.fma(z1, z1, tl.fma(z0, z0, squares))
    if STATISTICS:
        line = PART + (chunk * STRIPS + strip).to(tl.int64) * (2 * C) + c
        tl.store(line, tl.sum(plain, 0), mask=c_ok)
        tl.store(line + C, tl.sum(squares, 0), mask=c_ok)


@triton.jit
def _two(x_0, x_1, g_0, g_1, sums):
    return tl.fma(x_1, g_1, tl.fma(x_0, g_0, sums))


@triton.jit(do_not_specialize=UNDILATED)
def rows_backward_stride_2(
    X,
    WEIGHT,
    DY,
    DX,
    PART_WEIGHT,
    N,
    H,
    W,
    UNITS,
    HO,
    WO,
    PH,
    PW,
    ROWS,
    STRIPS,
    QUADS,
    TILES,
    UNIT: tl.constexpr,
    EVEN_C: tl.constexpr,
    STAGES: tl.constexpr,
    BU: tl.constexpr,
    BC: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    """Both gradients of `rows_forward_stride_2` in one pass over x and dy.

    Rows and columns of x are counted with the padding: 2 a is met by the first tap of the output a and by the last one
    of a - 1, and 2 a + 1 by the middle tap of a. So a round takes two rows of x and one of dy, and keeps that for the
    next; a unit takes four columns of x and three of dy. QUADS are such units. It rolls down rows of dy from PH // 2
    on, the first that x meets.
    """
    enter(OVERLAP)
    C = UNITS * UNIT
    c, c_ok, strip, chunk = share(C, STRIPS, EVEN_C, BC)
    first = strip * ROWS + PH // 2
    rows = tl.minimum(ROWS, (H + PH + 1) // 2 - first)
    # The first round is for the row of dy above; there is none above the first.
    start = (first == 0).to(tl.int32)

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

    for tile in range(TILES):
        u_ok, n, b = _pair(chunk * TILES + tile, N, QUADS, BU)
        b += PW // 2
        left = 2 * b - PW
        own = (n * (H * W * C))[:, None] + ((left * C)[:, None] + c[None, :])
        g_at = DY + (n * (HO * WO * C))[:, None] + (((b - 1) * C)[:, None] + c[None, :])
        inside = columns_within(u_ok, left, 1, W, 4)
        of_dy = columns_within(u_ok, b - 1, 1, WO, 3)
        # dy of the row before.
        p0 = tl.zeros((BU, BC), tl.float32)
        p1 = tl.zeros((BU, BC), tl.float32)
        p2 = tl.zeros((BU, BC), tl.float32)
        for turn in tl.range(rows + 1 - start, num_stages=STAGES):
            k = start + turn
            a = first + k - 1
            row = 2 * a - PH
            g_bits = in_row(of_dy, a < HO)
            even = in_row(inside, (k > 0) & within(row, H))
            odd = in_row(inside, (k > 0) & within(row + 1, H))
            at = own + row * W * C
            g_row = g_at + a * WO * C
            g0 = load_column(g_row, g_bits, 0, column)
            g1 = load_column(g_row + C, g_bits, 1, column)
            g2 = load_column(g_row + 2 * C, g_bits, 2, column)
            x00 = load_column(X + at, even, 0, column)
            x01 = load_column(X + at + C, even, 1, column)
            x02 = load_column(X + at + 2 * C, even, 2, column)
            x03 = load_column(X + at + 3 * C, even, 3, column)
            below = at + W * C
            x10 = load_column(X + below, odd, 0, column)
            x11 = load_column(X + below + C, odd, 1, column)
            x12 = load_column(X + below + 2 * C, odd, 2, column)
            x13 = load_column(X + below + 3 * C, odd, 3, column)

            store_column(DX + at, _two(p0, p1, w22, w20, tl.fma(g0, w02, g1 * w00)), even, 0, column)
            store_column(DX + at + C, tl.fma(p1, w21, g1 * w01), even, 1, column)
            store_column(DX + at + 2 * C, _two(p1, p2, w22, w20, tl.fma(g1, w02, g2 * w00)), even, 2, column)
            store_column(DX + at + 3 * C, tl.fma(p2, w21, g2 * w01), even, 3, column)
            store_column(DX + below, tl.fma(g0, w12, g1 * w10), odd, 0, column)
            store_column(DX + below + C, g1 * w11, odd, 1, column)
            store_column(DX + below + 2 * C, tl.fma(g1, w12, g2 * w10), odd, 2, column)
            store_column(DX + below + 3 * C, g2 * w11, odd, 3, column)

            d00 = _two(x00, x02, g1, g2, d00)
            d01 = _two(x01, x03, g1, g2, d01)
            d02 = _two(x00, x02, g0, g1, d02)
            d10 = _two(x10, x12, g1, g2, d10)
            d11 = _two(x11, x13, g1, g2, d11)
            d12 = _two(x10, x12, g0, g1, d12)
            d20 = _two(x00, x02, p1, p2, d20)
            d21 = _two(x01, x03, p1, p2, d21)
            d22 = _two(x00, x02, p0, p1, d22)
            p0 = g0
            p1 = g1
            p2 = g2

    part = PART_WEIGHT + ((chunk * STRIPS + strip).to(tl.int64) * C + c) * 9
    store_nine(part, d00, d01, d02, d10, d11, d12, d20, d21, d22, c_ok)
