"""The Triton kernels. Images lie channels-last: element (n, h, w, c) at ((n * H + h) * W + w) * C + c.

Names: H, W, C of the input; HO, WO of the output; S, D, P for stride, dilation and padding, with a second letter for
the axis; B for the size of a block. C comes as UNITS * UNIT, which tells the compiler what divides it: a load is only
as wide as its proven alignment. An image starts at a 64-bit offset, and inside it offsets have 32 bits.

No kernel uses an atomic: sums over programs go to a buffer of one row a program, added up afterwards.
"""

# Triton's language has no types, and Triton itself need not be there to check the rest.
# pyright: basic, reportMissingImports=false, reportArgumentType=false, reportGeneralTypeIssues=false

from __future__ import annotations

import triton
import triton.language as tl

from convblocks.ops._kernels_sums import load_around

# Sizes vary from call to call: a kernel made for a size of 1 or for multiples of 16 would be no faster, and compiled
# anew for them, for seconds.
SIZES = ["N", "H", "W", "UNITS", "UNITS_O", "HO", "WO", "DH", "DW", "PH", "PW"]
ROLLING = [*SIZES, "ROWS", "STRIPS", "PAIRS", "TILES"]


@triton.jit
def activate(v, ACT: tl.constexpr):
    """An activation by its name in `ACTIVATIONS` of `_stage`; a NaN stays one, as in PyTorch."""
    if ACT == "relu":
        v = tl.maximum(v, 0.0, propagate_nan=tl.PropagateNan.ALL)
    elif ACT == "relu6":
        v = _six(v)
    elif ACT == "silu":
        v = v * tl.sigmoid(v)
    elif ACT == "gelu":
        v = 0.5 * v * (1.0 + tl.erf(v * 0.7071067811865476))
    elif ACT == "gelu_tanh":
        # tanh(u) = 2 sigmoid(2 u) - 1
        v = v * tl.sigmoid(1.5957691216057308 * tl.fma(v * v * v, tl.full(v.shape, 0.044715, tl.float32), v))
    elif ACT == "hardswish":
        v = v * _six(v + 3.0) * 0.16666666666666666
    return v


@triton.jit
def _six(v):
    v = tl.maximum(v, 0.0, propagate_nan=tl.PropagateNan.ALL)
    return tl.minimum(v, 6.0, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def load_tap(WEIGHT, t: tl.constexpr, TAPS: tl.constexpr, c, c_ok):
    return tl.load(WEIGHT + c * TAPS + t, mask=c_ok, other=0.0).to(tl.float32)[None, :]


@triton.jit
def within(index, size):
    return (index >= 0) & (index < size)


@triton.jit
def row_of_four(at, step, ok_a, ok_b, ok_c, ok_d, row, size, column):
    """Four neighbouring columns of one row; zeros where the row or a column lies outside."""
    # A condition on a scalar must have the block's shape: Triton's interpreter refuses to combine the two.
    ok = within(tl.zeros(ok_a.shape, tl.int32) + row, size)
    a = tl.load(at, mask=(ok_a & ok)[:, None] & column, other=0.0)
    b = tl.load(at + step, mask=(ok_b & ok)[:, None] & column, other=0.0)
    c = tl.load(at + 2 * step, mask=(ok_c & ok)[:, None] & column, other=0.0)
    d = tl.load(at + 3 * step, mask=(ok_d & ok)[:, None] & column, other=0.0)
    return a, b, c, d


@triton.jit
def _row_of_two(at, step, ok_0, ok_1, row, size, column):
    ok = within(tl.zeros(ok_0.shape, tl.int32) + row, size)
    a = tl.load(at, mask=(ok_0 & ok)[:, None] & column, other=0.0)
    b = tl.load(at + step, mask=(ok_1 & ok)[:, None] & column, other=0.0)
    return a, b


@triton.jit(do_not_specialize=ROLLING)
def rows_forward(
    X,
    WEIGHT,
    SCALE,
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
    DH,
    DW,
    PH,
    PW,
    ROWS,
    STRIPS,
    PAIRS,
    TILES,
    UNIT: tl.constexpr,
    HAS_SCALE: tl.constexpr,
    HAS_SHIFT: tl.constexpr,
    ACT: tl.constexpr,
    STATISTICS: tl.constexpr,
    EVEN_C: tl.constexpr,
    STAGES: tl.constexpr,
    AHEAD: tl.constexpr,
    BU: tl.constexpr,
    BC: tl.constexpr,
):
    """3 x 3, stride 1: every input row is read once, and feeds the three output rows it belongs to.

    Output rows of one residue modulo DH need input rows of one residue, so a dilated kernel is an undilated one on
    every DH-th row. A program rolls down ROWS of them. Along the width a unit u is a pair of columns (w, w + DW) of one
    residue modulo DW, which needs four input columns where single ones need six. Units run on from image to image, so
    that small images fill a block too. STATISTICS asks for the sums of y - AROUND and of its square, for a norm.
    """
    C = UNITS * UNIT
    blocks = tl.cdiv(C, BC)
    pid = tl.program_id(0)
    c = (pid % blocks) * BC + tl.arange(0, BC)
    c_ok = (c < C) if not EVEN_C else (c >= 0)
    strip = (pid // blocks) % STRIPS
    chunk = pid // blocks // STRIPS
    first = (strip // DH) * ROWS * DH + strip % DH
    # Strips at the bottom have fewer rows.
    rows = tl.minimum(ROWS, tl.cdiv(HO - first, DH))

    w00 = load_tap(WEIGHT, 0, 9, c, c_ok)
    w01 = load_tap(WEIGHT, 1, 9, c, c_ok)
    w02 = load_tap(WEIGHT, 2, 9, c, c_ok)
    w10 = load_tap(WEIGHT, 3, 9, c, c_ok)
    w11 = load_tap(WEIGHT, 4, 9, c, c_ok)
    w12 = load_tap(WEIGHT, 5, 9, c, c_ok)
    w20 = load_tap(WEIGHT, 6, 9, c, c_ok)
    w21 = load_tap(WEIGHT, 7, 9, c, c_ok)
    w22 = load_tap(WEIGHT, 8, 9, c, c_ok)
    if HAS_SCALE:
        scale = tl.load(SCALE + c, mask=c_ok, other=0.0).to(tl.float32)[None, :]
    if HAS_SHIFT:
        shift = tl.load(SHIFT + c, mask=c_ok, other=0.0).to(tl.float32)[None, :]
    zero = tl.zeros((BU, BC), tl.float32)
    column = c_ok[None, :]
    if STATISTICS:
        around = load_around(AROUND, c, c_ok)[None, :]
        plain = zero
        squares = zero

    for tile in range(TILES):
        u = (chunk * TILES + tile) * BU + tl.arange(0, BU)
        u_ok = u < N * PAIRS
        n = (u // PAIRS).to(tl.int64)
        w = (u % PAIRS) // DW * (2 * DW) + (u % PAIRS) % DW
        left = w - PW
        ok_a = u_ok & within(left, W)
        ok_b = u_ok & within(left + DW, W)
        ok_c = u_ok & within(left + 2 * DW, W)
        ok_d = u_ok & within(left + 3 * DW, W)
        ok_0 = u_ok & (w < WO)
        ok_1 = u_ok & (w + DW < WO)
        x_at = X + (n * (H * W * C))[:, None] + ((left * C)[:, None] + c[None, :])
        y_at = Y + (n * (HO * WO * C))[:, None] + ((w * C)[:, None] + c[None, :])
        # Sums of the next output row (two taps already there) and of the one after it (one tap).
        p0 = zero
        p1 = zero
        q0 = zero
        q1 = zero
        step = DW * C
        top = first - PH
        if AHEAD >= 1:
            na, nb, nc, nd = row_of_four(x_at + top * W * C, step, ok_a, ok_b, ok_c, ok_d, top, H, column)
        if AHEAD >= 2:
            h = top + DH
            ma, mb, mc, md = row_of_four(x_at + h * W * C, step, ok_a, ok_b, ok_c, ok_d, h, H, column)
        for k in tl.range(rows + 2, num_stages=STAGES):
            h = top + (k + AHEAD) * DH
            h = tl.where(k + AHEAD < rows + 2, h, -1)
            la, lb, lc, ld = row_of_four(x_at + h * W * C, step, ok_a, ok_b, ok_c, ok_d, h, H, column)
            if AHEAD == 0:
                ra, rb, rc, rd = la, lb, lc, ld
            else:
                ra, rb, rc, rd = na, nb, nc, nd
            if AHEAD == 1:
                na, nb, nc, nd = la, lb, lc, ld
            if AHEAD == 2:
                na, nb, nc, nd = ma, mb, mc, md
                ma, mb, mc, md = la, lb, lc, ld
            xa = ra.to(tl.float32)
            xb = rb.to(tl.float32)
            xc = rc.to(tl.float32)
            xd = rd.to(tl.float32)
            y0 = tl.fma(xc, w22, tl.fma(xb, w21, tl.fma(xa, w20, p0)))
            y1 = tl.fma(xd, w22, tl.fma(xc, w21, tl.fma(xb, w20, p1)))
            p0 = tl.fma(xc, w12, tl.fma(xb, w11, tl.fma(xa, w10, q0)))
            p1 = tl.fma(xd, w12, tl.fma(xc, w11, tl.fma(xb, w10, q1)))
            q0 = tl.fma(xc, w02, tl.fma(xb, w01, xa * w00))
            q1 = tl.fma(xd, w02, tl.fma(xc, w01, xb * w00))
            if HAS_SCALE:
                y0 = tl.fma(y0, scale, shift)
                y1 = tl.fma(y1, scale, shift)
            elif HAS_SHIFT:
                y0 = y0 + shift
                y1 = y1 + shift
            if STATISTICS:
                some = (tl.zeros((BU,), tl.int32) + k) >= 2
                d0 = tl.where((ok_0 & some)[:, None], y0 - around, 0.0)
                d1 = tl.where((ok_1 & some)[:, None], y1 - around, 0.0)
                plain += d0 + d1
                squares = tl.fma(d1, d1, tl.fma(d0, d0, squares))
            y0 = activate(y0, ACT)
            y1 = activate(y1, ACT)
            done = (tl.zeros((BU,), tl.int32) + k) >= 2
            out = y_at + (first + (k - 2) * DH) * WO * C
            tl.store(out, y0.to(Y.dtype.element_ty), mask=(ok_0 & done)[:, None] & column)
            tl.store(out + DW * C, y1.to(Y.dtype.element_ty), mask=(ok_1 & done)[:, None] & column)
    if STATISTICS:
        row = PART + (chunk * STRIPS + strip).to(tl.int64) * (2 * C) + c
        tl.store(row, tl.sum(plain, 0), mask=c_ok)
        tl.store(row + C, tl.sum(squares, 0), mask=c_ok)


@triton.jit(do_not_specialize=ROLLING)
def rows_backward(
    X,
    WEIGHT,
    DY,
    DX,
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
    PAIRS,
    TILES,
    UNIT: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    EVEN_C: tl.constexpr,
    STAGES: tl.constexpr,
    AHEAD: tl.constexpr,
    BU: tl.constexpr,
    BC: tl.constexpr,
):
    """Both gradients of `rows_forward` in one pass over x and dy; needs PH <= DH and PW <= DW.

    dx[h, w] = sum over i, j of weight[i, j] * dy[h + PH - i * DH, w + PW - j * DW], and the same products of dy with
    x[h, w] instead of the weight, summed over all h and w, are the gradient of the weight. It rolls down rows of dx.
    """
    C = UNITS * UNIT
    blocks = tl.cdiv(C, BC)
    pid = tl.program_id(0)
    c = (pid % blocks) * BC + tl.arange(0, BC)
    c_ok = (c < C) if not EVEN_C else (c >= 0)
    strip = (pid // blocks) % STRIPS
    chunk = pid // blocks // STRIPS
    first = (strip // DH) * ROWS * DH + strip % DH
    rows = tl.minimum(ROWS, tl.cdiv(H - first, DH))

    w00 = load_tap(WEIGHT, 0, 9, c, c_ok)
    w01 = load_tap(WEIGHT, 1, 9, c, c_ok)
    w02 = load_tap(WEIGHT, 2, 9, c, c_ok)
    w10 = load_tap(WEIGHT, 3, 9, c, c_ok)
    w11 = load_tap(WEIGHT, 4, 9, c, c_ok)
    w12 = load_tap(WEIGHT, 5, 9, c, c_ok)
    w20 = load_tap(WEIGHT, 6, 9, c, c_ok)
    w21 = load_tap(WEIGHT, 7, 9, c, c_ok)
    w22 = load_tap(WEIGHT, 8, 9, c, c_ok)
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

    for tile in range(TILES):
        u = (chunk * TILES + tile) * BU + tl.arange(0, BU)
        u_ok = u < N * PAIRS
        n = (u // PAIRS).to(tl.int64)
        w = (u % PAIRS) // DW * (2 * DW) + (u % PAIRS) % DW
        left = w + PW - 2 * DW
        ok_a = u_ok & within(left, WO)
        ok_b = u_ok & within(left + DW, WO)
        ok_c = u_ok & within(left + 2 * DW, WO)
        ok_d = u_ok & within(left + 3 * DW, WO)
        ok_0 = u_ok & (w < W)
        ok_1 = u_ok & (w + DW < W)
        g_at = DY + (n * (HO * WO * C))[:, None] + ((left * C)[:, None] + c[None, :])
        own = (n * (H * W * C))[:, None] + ((w * C)[:, None] + c[None, :])
        x_at = X + own
        dx_at = DX + own
        p0 = zero
        p1 = zero
        q0 = zero
        q1 = zero
        # x of the two rows above the one that k reaches. Each starts from a zero of its own: what a loop hands on from
        # one name to another, Triton takes for unchanged where both began as one and the same value.
        x00 = tl.zeros((BU, BC), tl.float32)
        x01 = tl.zeros((BU, BC), tl.float32)
        x10 = tl.zeros((BU, BC), tl.float32)
        x11 = tl.zeros((BU, BC), tl.float32)
        step = DW * C
        top = first + PH - 2 * DH
        if AHEAD >= 1:
            na, nb, nc, nd = row_of_four(g_at + top * WO * C, step, ok_a, ok_b, ok_c, ok_d, top, HO, column)
            n0, n1 = _row_of_two(x_at + first * W * C, step, ok_0, ok_1, 0, rows, column)
        if AHEAD >= 2:
            h = top + DH
            ma, mb, mc, md = row_of_four(g_at + h * WO * C, step, ok_a, ok_b, ok_c, ok_d, h, HO, column)
            m0, m1 = _row_of_two(x_at + (first + DH) * W * C, step, ok_0, ok_1, 1, rows, column)
        for k in tl.range(rows + 2, num_stages=STAGES):
            ahead = k + AHEAD
            h = tl.where(ahead < rows + 2, top + ahead * DH, -1)
            la, lb, lc, ld = row_of_four(g_at + h * WO * C, step, ok_a, ok_b, ok_c, ok_d, h, HO, column)
            l0, l1 = _row_of_two(x_at + (first + ahead * DH) * W * C, step, ok_0, ok_1, ahead, rows, column)
            if AHEAD == 0:
                ra, rb, rc, rd, r0, r1 = la, lb, lc, ld, l0, l1
            else:
                ra, rb, rc, rd, r0, r1 = na, nb, nc, nd, n0, n1
            if AHEAD == 1:
                na, nb, nc, nd, n0, n1 = la, lb, lc, ld, l0, l1
            if AHEAD == 2:
                na, nb, nc, nd, n0, n1 = ma, mb, mc, md, m0, m1
                ma, mb, mc, md, m0, m1 = la, lb, lc, ld, l0, l1
            ga = ra.to(tl.float32)
            gb = rb.to(tl.float32)
            gc = rc.to(tl.float32)
            gd = rd.to(tl.float32)
            x20 = r0.to(tl.float32)
            x21 = r1.to(tl.float32)
            y0 = tl.fma(ga, w02, tl.fma(gb, w01, tl.fma(gc, w00, p0)))
            y1 = tl.fma(gb, w02, tl.fma(gc, w01, tl.fma(gd, w00, p1)))
            p0 = tl.fma(ga, w12, tl.fma(gb, w11, tl.fma(gc, w10, q0)))
            p1 = tl.fma(gb, w12, tl.fma(gc, w11, tl.fma(gd, w10, q1)))
            q0 = tl.fma(ga, w22, tl.fma(gb, w21, gc * w20))
            q1 = tl.fma(gb, w22, tl.fma(gc, w21, gd * w20))
            d00 = tl.fma(x01, gd, tl.fma(x00, gc, d00))
            d01 = tl.fma(x01, gc, tl.fma(x00, gb, d01))
            d02 = tl.fma(x01, gb, tl.fma(x00, ga, d02))
            d10 = tl.fma(x11, gd, tl.fma(x10, gc, d10))
            d11 = tl.fma(x11, gc, tl.fma(x10, gb, d11))
            d12 = tl.fma(x11, gb, tl.fma(x10, ga, d12))
            d20 = tl.fma(x21, gd, tl.fma(x20, gc, d20))
            d21 = tl.fma(x21, gc, tl.fma(x20, gb, d21))
            d22 = tl.fma(x21, gb, tl.fma(x20, ga, d22))
            if HAS_BIAS:
                # Each row of dy is the middle one of one program alone, each column of one unit.
                k_u = tl.zeros((BU,), tl.int32) + k
                middle = ((k_u >= 1) & (k_u <= rows)).to(tl.float32)
                bias = tl.fma(gb, (middle * ok_0.to(tl.float32))[:, None], bias)
                bias = tl.fma(gc, (middle * ok_1.to(tl.float32))[:, None], bias)
            x00 = x10
            x01 = x11
            x10 = x20
            x11 = x21
            done = (tl.zeros((BU,), tl.int32) + k) >= 2
            out = dx_at + (first + (k - 2) * DH) * W * C
            tl.store(out, y0.to(DX.dtype.element_ty), mask=(ok_0 & done)[:, None] & column)
            tl.store(out + DW * C, y1.to(DX.dtype.element_ty), mask=(ok_1 & done)[:, None] & column)

    line = (chunk * STRIPS + strip).to(tl.int64) * C + c
    part = PART_WEIGHT + line * 9
    tl.store(part + 0, tl.sum(d00, 0), mask=c_ok)
    tl.store(part + 1, tl.sum(d01, 0), mask=c_ok)
    tl.store(part + 2, tl.sum(d02, 0), mask=c_ok)
    tl.store(part + 3, tl.sum(d10, 0), mask=c_ok)
    tl.store(part + 4, tl.sum(d11, 0), mask=c_ok)
    tl.store(part + 5, tl.sum(d12, 0), mask=c_ok)
    tl.store(part + 6, tl.sum(d20, 0), mask=c_ok)
    tl.store(part + 7, tl.sum(d21, 0), mask=c_ok)
    tl.store(part + 8, tl.sum(d22, 0), mask=c_ok)
    if HAS_BIAS:
        tl.store(PART_BIAS + line, tl.sum(bias, 0), mask=c_ok)


@triton.jit(do_not_specialize=SIZES)
def gather_forward(
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
    DH,
    DW,
    PH,
    PW,
    UNIT: tl.constexpr,
    KH: tl.constexpr,
    KW: tl.constexpr,
    SH: tl.constexpr,
    SW: tl.constexpr,
    HAS_SHIFT: tl.constexpr,
    STATISTICS: tl.constexpr,
    EVEN_C: tl.constexpr,
    BP: tl.constexpr,
    BC: tl.constexpr,
):
    """Any kernel and stride: every output position gathers its KH * KW inputs, most of them from the caches."""
    C = UNITS * UNIT
    blocks = tl.cdiv(C, BC)
    pid = tl.program_id(0)
    c = (pid % blocks) * BC + tl.arange(0, BC)
    c_ok = (c < C) if not EVEN_C else (c >= 0)
    column = c_ok[None, :]
    p = (pid // blocks) * BP + tl.arange(0, BP)
    p_ok = p < N * HO * WO
    wo = p % WO
    ho = p // WO % HO
    n = (p // WO // HO).to(tl.int64)
    image = X + (n * (H * W * C))[:, None] + c[None, :]
    sums = tl.zeros((BP, BC), tl.float32)
    for i in range(KH):
        h = ho * SH + i * DH - PH
        for j in tl.static_range(KW):
            w = wo * SW + j * DW - PW
            ok = p_ok & within(h, H) & within(w, W)
            x = tl.load(image + ((h * W + w) * C)[:, None], mask=ok[:, None] & column, other=0.0).to(tl.float32)
            tap = tl.load(WEIGHT + c * (KH * KW) + i * KW + j, mask=c_ok, other=0.0).to(tl.float32)
            sums = tl.fma(x, tl.broadcast_to(tap[None, :], (BP, BC)), sums)
    if HAS_SHIFT:
        sums += tl.load(SHIFT + c, mask=c_ok, other=0.0).to(tl.float32)[None, :]
    out = Y + (n * (HO * WO * C))[:, None] + (((ho * WO + wo) * C)[:, None] + c[None, :])
    tl.store(out, sums.to(Y.dtype.element_ty), mask=p_ok[:, None] & column)
    if STATISTICS:
        around = load_around(AROUND, c, c_ok)[None, :]
        d = tl.where(p_ok[:, None], sums - around, 0.0)
        row = PART + (pid // blocks).to(tl.int64) * (2 * C) + c
        tl.store(row, tl.sum(d, 0), mask=c_ok)
        tl.store(row + C, tl.sum(d * d, 0), mask=c_ok)


@triton.jit(do_not_specialize=[*SIZES, "TILES"])
def gather_backward(
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
    DH,
    DW,
    PH,
    PW,
    TILES,
    UNIT: tl.constexpr,
    KH: tl.constexpr,
    KW: tl.constexpr,
    SH: tl.constexpr,
    SW: tl.constexpr,
    EVEN_C: tl.constexpr,
    BP: tl.constexpr,
    BC: tl.constexpr,
):
    """Both gradients of `gather_forward`: the dy that an input position gathers serves dx and the weight's gradient."""
    C = UNITS * UNIT
    blocks = tl.cdiv(C, BC)
    pid = tl.program_id(0)
    c = (pid % blocks) * BC + tl.arange(0, BC)
    c_ok = (c < C) if not EVEN_C else (c >= 0)
    column = c_ok[None, :]
    chunk = pid // blocks
    part = PART_WEIGHT + (chunk.to(tl.int64) * C + c) * (KH * KW)
    for tile in range(TILES):
        p = (chunk * TILES + tile) * BP + tl.arange(0, BP)
        p_ok = p < N * H * W
        w = p % W
        h = p // W % H
        n = (p // W // H).to(tl.int64)
        own = (n * (H * W * C))[:, None] + (((h * W + w) * C)[:, None] + c[None, :])
        x = tl.load(X + own, mask=p_ok[:, None] & column, other=0.0).to(tl.float32)
        image = DY + (n * (HO * WO * C))[:, None] + c[None, :]
        dx = tl.zeros((BP, BC), tl.float32)
        # Its own row of partial sums, started by the first tile.
        more = c_ok & (tl.zeros((BC,), tl.int32) + tile > 0)
        for i in range(KH):
            top = h + PH - i * DH
            ho = top // SH
            for j in tl.static_range(KW):
                side = w + PW - j * DW
                wo = side // SW
                ok = p_ok & (top >= 0) & (ho < HO) & (ho * SH == top) & (side >= 0) & (wo < WO) & (wo * SW == side)
                g = tl.load(image + ((ho * WO + wo) * C)[:, None], mask=ok[:, None] & column, other=0.0)
                g = g.to(tl.float32)
                tap = tl.load(WEIGHT + c * (KH * KW) + i * KW + j, mask=c_ok, other=0.0).to(tl.float32)
                dx = tl.fma(g, tl.broadcast_to(tap[None, :], (BP, BC)), dx)
                before = tl.load(part + i * KW + j, mask=more, other=0.0)
                tl.store(part + i * KW + j, before + tl.sum(g * x, 0), mask=c_ok)
        tl.store(DX + own, dx.to(DX.dtype.element_ty), mask=p_ok[:, None] & column)
        # One thread's partial sums are another's to read in the next tile.
        tl.debug_barrier()
