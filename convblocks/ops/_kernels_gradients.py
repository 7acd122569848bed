"""The gradients of a depthwise convolution; what `_kernels` says of its kernels holds here too."""

# Triton's language has no types, and Triton itself need not be there to check the rest.
# pyright: basic, reportMissingImports=false, reportArgumentType=false, reportGeneralTypeIssues=false

from __future__ import annotations

import triton
import triton.language as tl

from convblocks.ops._kernels import PITCHES, ROLLING, SIZES, load_nine, quad, share, three, within
from convblocks.ops._kernels_sums import enter


@triton.jit
def _load_column(at, ok, column):
    return tl.load(at, mask=ok[:, None] & column, other=0.0)


@triton.jit
def _row_of_four(at, step, ok_0, ok_1, ok_2, ok_3, column):
    """Four neighbouring columns, from step to step: the multiples of one would take registers."""
    a = _load_column(at, ok_0, column)
    at += step
    b = _load_column(at, ok_1, column)
    at += step
    c = _load_column(at, ok_2, column)
    at += step
    d = _load_column(at, ok_3, column)
    return a, b, c, d


@triton.jit
def _row_of_dy(DY, u_ok, n, w, row, HO, WO, C, DW, PW, c, column):
    """The six columns of a row of dy that reach the four of a unit; zeros where they lie outside."""
    left = w + PW - 2 * DW
    # A condition on a scalar must have the block's shape: Triton's interpreter refuses to combine the two.
    ok = u_ok & within(tl.zeros(u_ok.shape, tl.int32) + row, HO)
    at = DY + (n * (HO * WO * C))[:, None] + ((left * C)[:, None] + c[None, :])
    at += row * WO * C
    step = DW * C
    a = _load_column(at, ok & within(left, WO), column)
    at += step
    b = _load_column(at, ok & within(left + DW, WO), column)
    at += step
    c = _load_column(at, ok & within(left + 2 * DW, WO), column)
    at += step
    d = _load_column(at, ok & within(left + 3 * DW, WO), column)
    at += step
    e = _load_column(at, ok & within(left + 4 * DW, WO), column)
    at += step
    f = _load_column(at, ok & within(left + 5 * DW, WO), column)
    return a, b, c, d, e, f


@triton.jit
def store_four(at, step, y_0, y_1, y_2, y_3, ok_0, ok_1, ok_2, ok_3, column):
    tl.store(at, y_0.to(at.dtype.element_ty), mask=ok_0[:, None] & column)
    at += step
    tl.store(at, y_1.to(at.dtype.element_ty), mask=ok_1[:, None] & column)
    at += step
    tl.store(at, y_2.to(at.dtype.element_ty), mask=ok_2[:, None] & column)
    at += step
    tl.store(at, y_3.to(at.dtype.element_ty), mask=ok_3[:, None] & column)


@triton.jit
def _bits(a, b, c, d, e, f):
    """Six columns as whole numbers, bit for bit.

    Triton gives up prefetching in a loop that hands a value on over two rounds, but not where it becomes another.
    """
    a, b = a.to(tl.float32).to(tl.int32, bitcast=True), b.to(tl.float32).to(tl.int32, bitcast=True)
    c, d = c.to(tl.float32).to(tl.int32, bitcast=True), d.to(tl.float32).to(tl.int32, bitcast=True)
    e, f = e.to(tl.float32).to(tl.int32, bitcast=True), f.to(tl.float32).to(tl.int32, bitcast=True)
    return a, b, c, d, e, f


@triton.jit
def _floats(a, b, c, d, e, f):
    """What `_bits` made whole numbers."""
    a, b = a.to(tl.float32, bitcast=True), b.to(tl.float32, bitcast=True)
    c, d = c.to(tl.float32, bitcast=True), d.to(tl.float32, bitcast=True)
    e, f = e.to(tl.float32, bitcast=True), f.to(tl.float32, bitcast=True)
    return a, b, c, d, e, f


@triton.jit
def _add_products(x, a, b, c, d_0, d_1, d_2):
    """What a column of x adds to the gradients of a row of taps, by the three of dy that it reached."""
    return tl.fma(x, c, d_0), tl.fma(x, b, d_1), tl.fma(x, a, d_2)


@triton.jit
def _again(C, line, EVEN_C: tl.constexpr, BC: tl.constexpr):
    """The channels of `share` once more: kept from there to the end, they would take registers."""
    c = (tl.program_id(0) - line * tl.cdiv(C, BC)) * BC + tl.arange(0, BC)
    return c, (c < C) if not EVEN_C else (c >= 0)


@triton.jit
def store_nine(part, d00, d01, d02, d10, d11, d12, d20, d21, d22, c_ok):
    tl.store(part + 0, tl.sum(d00, 0), mask=c_ok)
    tl.store(part + 1, tl.sum(d01, 0), mask=c_ok)
    tl.store(part + 2, tl.sum(d02, 0), mask=c_ok)
    tl.store(part + 3, tl.sum(d10, 0), mask=c_ok)
    tl.store(part + 4, tl.sum(d11, 0), mask=c_ok)
    tl.store(part + 5, tl.sum(d12, 0), mask=c_ok)
    tl.store(part + 6, tl.sum(d20, 0), mask=c_ok)
    tl.store(part + 7, tl.sum(d21, 0), mask=c_ok)
    tl.store(part + 8, tl.sum(d22, 0), mask=c_ok)


@triton.jit
def four(x_0, x_1, x_2, x_3, g_0, g_1, g_2, g_3, sums):
    return tl.fma(x_3, g_3, tl.fma(x_2, g_2, tl.fma(x_1, g_1, tl.fma(x_0, g_0, sums))))


@triton.jit(do_not_specialize=[*ROLLING, *PITCHES])
def rows_backward(
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
    HO,
    WO,
    DH,
    DW,
    PH,
    PW,
    XN,
    XH,
    XW,
    ROWS,
    STRIPS,
    QUADS,
    TILES,
    UNIT: tl.constexpr,
    PART_OF: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_SKIP: tl.constexpr,
    EVEN_C: tl.constexpr,
    STAGES: tl.constexpr,
    RUN_ON: tl.constexpr,
    BU: tl.constexpr,
    BC: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    """Both gradients of `rows_forward` in one pass over x and dy; needs PH <= DH and PW <= DW.

    dx[h, w] = sum over i, j of weight[i, j] * dy[h + PH - i * DH, w + PW - j * DW], and the same products of dy with
    x[h, w] instead of the weight, summed over all h and w, are the gradient of the weight. It rolls down rows of dx.

    A row of dx is made of three of dy, at whose first and second the two before it have been: a thread holds these, and
    no sums of rows that are not done yet, nor x of rows above, which would take a third more registers. X and DX may
    both be PART_OF a larger tensor, as in `rows_forward`. DSKIP, which lies as they do, is the gradient of x by another
    way, and is added to dx.
    """
    enter(OVERLAP)
    C = UNITS * UNIT
    if PART_OF:
        image, line, pixel = XN.to(tl.int64) * UNIT, XH * UNIT, XW * UNIT
    else:
        image, line, pixel = H * W * C, W * C, C
    c, c_ok, strip, chunk = share(C, STRIPS, EVEN_C, BC)
    first = (strip // DH) * ROWS * DH + strip % DH
    rows = tl.minimum(ROWS, tl.cdiv(H - first, DH))
    # A strip begins with two rows of dy alone: rounds of their own only where one tile runs on into the next.
    before = 2 if RUN_ON else 0
    span = rows + before
    top = first - before * DH

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

    for run in range(1 if RUN_ON else TILES):
        if RUN_ON:
            ta = tl.zeros((BU, BC), tl.float32)
            tb = tl.zeros((BU, BC), tl.float32)
            tc = tl.zeros((BU, BC), tl.float32)
            td = tl.zeros((BU, BC), tl.float32)
            te = tl.zeros((BU, BC), tl.float32)
            tf = tl.zeros((BU, BC), tl.float32)
            ba = tl.zeros((BU, BC), tl.float32)
            bb = tl.zeros((BU, BC), tl.float32)
            bc = tl.zeros((BU, BC), tl.float32)
            bd = tl.zeros((BU, BC), tl.float32)
            be = tl.zeros((BU, BC), tl.float32)
            bf = tl.zeros((BU, BC), tl.float32)
        else:
            # The loop's own rows are on their way before these are waited for.
            u_ok, n, w = quad(chunk * TILES + run, N, QUADS, DW, BU)
            reach = first + PH - 2 * DH
            ta, tb, tc, td, te, tf = _row_of_dy(DY, u_ok, n, w, reach, HO, WO, C, DW, PW, c, column)
            ba, bb, bc, bd, be, bf = _row_of_dy(DY, u_ok, n, w, reach + DH, HO, WO, C, DW, PW, c, column)
            ba = ba.to(tl.float32)
            bb = bb.to(tl.float32)
            bc = bc.to(tl.float32)
            bd = bd.to(tl.float32)
            be = be.to(tl.float32)
            bf = bf.to(tl.float32)
        # Of three rows, the columns of the first as bits.
        fa, fb, fc, fd, fe, ff = _bits(ta, tb, tc, td, te, tf)
        for turn in tl.range(span * (TILES if RUN_ON else 1), num_stages=STAGES):
            k = turn % span if RUN_ON else turn
            tile = turn // span if RUN_ON else run
            u_ok, n, w = quad(chunk * TILES + tile, N, QUADS, DW, BU)
            h = top + k * DH
            ra, rb, rc, rd, re, rf = _row_of_dy(DY, u_ok, n, w, h + PH, HO, WO, C, DW, PW, c, column)
            if RUN_ON:
                u_ok = u_ok & ((tl.zeros((BU,), tl.int32) + k) >= before)
            ok_0 = u_ok & (w < W)
            ok_1 = u_ok & (w + DW < W)
            ok_2 = u_ok & (w + 2 * DW < W)
            ok_3 = u_ok & (w + 3 * DW < W)
            own = (n * image)[:, None] + ((w * pixel)[:, None] + c[None, :])
            r0, r1, r2, r3 = _row_of_four(X + own + h * line, DW * pixel, ok_0, ok_1, ok_2, ok_3, column)
            if HAS_SKIP:
                s0, s1, s2, s3 = _row_of_four(DSKIP + own + h * line, DW * pixel, ok_0, ok_1, ok_2, ok_3, column)
            aa, ab, ac, ad, ae, af = _floats(fa, fb, fc, fd, fe, ff)
            ga = ra.to(tl.float32)
            gb = rb.to(tl.float32)
            gc = rc.to(tl.float32)
            gd = rd.to(tl.float32)
            ge = re.to(tl.float32)
            gf = rf.to(tl.float32)
            # Column by column, which leaves least of them at a time.
            x = r0.to(tl.float32)
            y0 = tl.fma(ac, w20, s0.to(tl.float32)) if HAS_SKIP else ac * w20
            y0 = tl.fma(aa, w22, tl.fma(ab, w21, y0))
            y0 = three(gc, gb, ga, w00, w01, w02, three(bc, bb, ba, w10, w11, w12, y0))
            d20, d21, d22 = _add_products(x, aa, ab, ac, d20, d21, d22)
            d10, d11, d12 = _add_products(x, ba, bb, bc, d10, d11, d12)
            d00, d01, d02 = _add_products(x, ga, gb, gc, d00, d01, d02)
            x = r1.to(tl.float32)
            y1 = tl.fma(ad, w20, s1.to(tl.float32)) if HAS_SKIP else ad * w20
            y1 = tl.fma(ab, w22, tl.fma(ac, w21, y1))
            y1 = three(gd, gc, gb, w00, w01, w02, three(bd, bc, bb, w10, w11, w12, y1))
            d20, d21, d22 = _add_products(x, ab, ac, ad, d20, d21, d22)
            d10, d11, d12 = _add_products(x, bb, bc, bd, d10, d11, d12)
            d00, d01, d02 = _add_products(x, gb, gc, gd, d00, d01, d02)
            x = r2.to(tl.float32)
            y2 = tl.fma(ae, w20, s2.to(tl.float32)) if HAS_SKIP else ae * w20
            y2 = tl.fma(ac, w22, tl.fma(ad, w21, y2))
            y2 = three(ge, gd, gc, w00, w01, w02, three(be, bd, bc, w10, w11, w12, y2))
            d20, d21, d22 = _add_products(x, ac, ad, ae, d20, d21, d22)
            d10, d11, d12 = _add_products(x, bc, bd, be, d10, d11, d12)
            d00, d01, d02 = _add_products(x, gc, gd, ge, d00, d01, d02)
            x = r3.to(tl.float32)
            y3 = tl.fma(af, w20, s3.to(tl.float32)) if HAS_SKIP else af * w20
            y3 = tl.fma(ad, w22, tl.fma(ae, w21, y3))
            y3 = three(gf, ge, gd, w00, w01, w02, three(bf, be, bd, w10, w11, w12, y3))
            d20, d21, d22 = _add_products(x, ad, ae, af, d20, d21, d22)
            d10, d11, d12 = _add_products(x, bd, be, bf, d10, d11, d12)
            d00, d01, d02 = _add_products(x, gd, ge, gf, d00, d01, d02)
            if HAS_BIAS:
                # Each row of dy is the middle one of one program alone, each column of one unit.
                bias = tl.fma(bb, ok_0.to(tl.float32)[:, None], bias)
                bias = tl.fma(bc, ok_1.to(tl.float32)[:, None], bias)
                bias = tl.fma(bd, ok_2.to(tl.float32)[:, None], bias)
                bias = tl.fma(be, ok_3.to(tl.float32)[:, None], bias)
            store_four(DX + own + h * line, DW * pixel, y0, y1, y2, y3, ok_0, ok_1, ok_2, ok_3, column)
            fa, fb, fc, fd, fe, ff = _bits(ba, bb, bc, bd, be, bf)
            ba = ga
            bb = gb
            bc = gc
            bd = gd
            be = ge
            bf = gf

    sums = chunk * STRIPS + strip
    c, c_ok = _again(C, sums, EVEN_C, BC)
    sums = sums.to(tl.int64) * C + c
    store_nine(PART_WEIGHT + sums * 9, d00, d01, d02, d10, d11, d12, d20, d21, d22, c_ok)
    if HAS_BIAS:
        tl.store(PART_BIAS + sums, tl.sum(bias, 0), mask=c_ok)


@triton.jit(do_not_specialize=[*SIZES, "TILES"])
def gather_backward(
    X,
    WEIGHT,
    DY,
    DSKIP,
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
    HAS_SKIP: tl.constexpr,
    EVEN_C: tl.constexpr,
    BP: tl.constexpr,
    BC: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    """Both gradients of `gather_forward`: the dy that an input position gathers serves dx and the weight's gradient."""
    enter(OVERLAP)
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
        if HAS_SKIP:
            dx += tl.load(DSKIP + own, mask=p_ok[:, None] & column, other=0.0).to(tl.float32)
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
