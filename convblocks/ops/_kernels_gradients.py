"""The gradients of a depthwise convolution; what `_kernels` says of its kernels holds here too."""

# Triton's language has no types, and Triton itself need not be there to check the rest.
# pyright: basic, reportMissingImports=false, reportArgumentType=false, reportGeneralTypeIssues=false

from __future__ import annotations

import triton
import triton.language as tl

from convblocks.ops._kernels import ROLLING, SIZES, load_nine, quad, row_of_six, share, three, within


@triton.jit
def _row_of_four(at, step, ok_0, ok_1, ok_2, ok_3, row, size, column):
    ok = within(tl.zeros(ok_0.shape, tl.int32) + row, size)
    a = tl.load(at, mask=(ok_0 & ok)[:, None] & column, other=0.0)
    b = tl.load(at + step, mask=(ok_1 & ok)[:, None] & column, other=0.0)
    c = tl.load(at + 2 * step, mask=(ok_2 & ok)[:, None] & column, other=0.0)
    d = tl.load(at + 3 * step, mask=(ok_3 & ok)[:, None] & column, other=0.0)
    return a, b, c, d


@triton.jit
def store_four(at, step, y_0, y_1, y_2, y_3, ok_0, ok_1, ok_2, ok_3, ok, column):
    tl.store(at, y_0.to(at.dtype.element_ty), mask=(ok_0 & ok)[:, None] & column)
    tl.store(at + step, y_1.to(at.dtype.element_ty), mask=(ok_1 & ok)[:, None] & column)
    tl.store(at + 2 * step, y_2.to(at.dtype.element_ty), mask=(ok_2 & ok)[:, None] & column)
    tl.store(at + 3 * step, y_3.to(at.dtype.element_ty), mask=(ok_3 & ok)[:, None] & column)


@triton.jit
def _own(tile, N, QUADS, H, W, DW, C, c, BU: tl.constexpr):
    """What `quad` tells of a tile, which of the four columns there are, and where the first lies in x."""
    u_ok, n, w = quad(tile, N, QUADS, DW, BU)
    at = (n * (H * W * C))[:, None] + ((w * C)[:, None] + c[None, :])
    return u_ok, n, w, u_ok & (w < W), u_ok & (w + DW < W), u_ok & (w + 2 * DW < W), u_ok & (w + 3 * DW < W), at


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
    QUADS,
    TILES,
    UNIT: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    EVEN_C: tl.constexpr,
    STAGES: tl.constexpr,
    RUN_ON: tl.constexpr,
    BU: tl.constexpr,
    BC: tl.constexpr,
):
    """Both gradients of `rows_forward` in one pass over x and dy; needs PH <= DH and PW <= DW.

    dx[h, w] = sum over i, j of weight[i, j] * dy[h + PH - i * DH, w + PW - j * DW], and the same products of dy with
    x[h, w] instead of the weight, summed over all h and w, are the gradient of the weight. It rolls down rows of dx.
    """
    C = UNITS * UNIT
    c, c_ok, strip, chunk = share(C, STRIPS, EVEN_C, BC)
    first = (strip // DH) * ROWS * DH + strip % DH
    rows = tl.minimum(ROWS, tl.cdiv(H - first, DH))
    start = 0
    span = rows + 2
    if not RUN_ON:
        # A round whose row of dy lies above the first or below the last adds nothing. What else it does is done outside
        # the loop: fetch the first row of x, write the last row of dx. Strips below the image have no rows at all.
        start = ((rows > 0) & (first + PH < 2 * DH)).to(tl.int32)
        last = ((rows > 0) & (first + (rows - 1) * DH + PH >= HO)).to(tl.int32)
        span = rows + 2 - start - last

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
        p0 = zero
        p1 = zero
        p2 = zero
        p3 = zero
        q0 = zero
        q1 = zero
        q2 = zero
        q3 = zero
        # x of the two rows above the one that k reaches. Each starts from a zero of its own: what a loop hands on from
        # one name to another, Triton takes for unchanged where both began as one and the same value.
        x00 = tl.zeros((BU, BC), tl.float32)
        x01 = tl.zeros((BU, BC), tl.float32)
        x02 = tl.zeros((BU, BC), tl.float32)
        x03 = tl.zeros((BU, BC), tl.float32)
        if RUN_ON:
            x10 = tl.zeros((BU, BC), tl.float32)
            x11 = tl.zeros((BU, BC), tl.float32)
            x12 = tl.zeros((BU, BC), tl.float32)
            x13 = tl.zeros((BU, BC), tl.float32)
        else:
            _, _, _, own_0, own_1, own_2, own_3, here = _own(chunk * TILES + run, N, QUADS, H, W, DW, C, c, BU)
            # The loop's own rows are on their way before this one is waited for.
            x10, x11, x12, x13 = _row_of_four(
                X + here + first * W * C, DW * C, own_0, own_1, own_2, own_3, 0, start, column
            )
            x10 = x10.to(tl.float32)
            x11 = x11.to(tl.float32)
            x12 = x12.to(tl.float32)
            x13 = x13.to(tl.float32)
        for turn in tl.range(span * (TILES if RUN_ON else 1), num_stages=STAGES):
            k = turn % span if RUN_ON else start + turn
            tile = turn // span if RUN_ON else run
            u_ok, n, w, ok_0, ok_1, ok_2, ok_3, own = _own(chunk * TILES + tile, N, QUADS, H, W, DW, C, c, BU)
            left = w + PW - 2 * DW
            ok_a = u_ok & within(left, WO)
            ok_b = u_ok & within(left + DW, WO)
            ok_c = u_ok & within(left + 2 * DW, WO)
            ok_d = u_ok & within(left + 3 * DW, WO)
            ok_e = u_ok & within(left + 4 * DW, WO)
            ok_f = u_ok & within(left + 5 * DW, WO)
            g_at = DY + (n * (HO * WO * C))[:, None] + ((left * C)[:, None] + c[None, :])
            step = DW * C
            h = first + k * DH
            g_row = h + PH - 2 * DH
            ra, rb, rc, rd, re, rf = row_of_six(
                g_at + g_row * WO * C, step, ok_a, ok_b, ok_c, ok_d, ok_e, ok_f, g_row, HO, column
            )
            r0, r1, r2, r3 = _row_of_four(X + own + h * W * C, step, ok_0, ok_1, ok_2, ok_3, k, rows, column)
            ga = ra.to(tl.float32)
            gb = rb.to(tl.float32)
            gc = rc.to(tl.float32)
            gd = rd.to(tl.float32)
            ge = re.to(tl.float32)
            gf = rf.to(tl.float32)
            x20 = r0.to(tl.float32)
            x21 = r1.to(tl.float32)
            x22 = r2.to(tl.float32)
            x23 = r3.to(tl.float32)
            y0 = three(gc, gb, ga, w00, w01, w02, p0)
            y1 = three(gd, gc, gb, w00, w01, w02, p1)
            y2 = three(ge, gd, gc, w00, w01, w02, p2)
            y3 = three(gf, ge, gd, w00, w01, w02, p3)
            p0 = three(gc, gb, ga, w10, w11, w12, q0)
            p1 = three(gd, gc, gb, w10, w11, w12, q1)
            p2 = three(ge, gd, gc, w10, w11, w12, q2)
            p3 = three(gf, ge, gd, w10, w11, w12, q3)
            q0 = tl.fma(ga, w22, tl.fma(gb, w21, gc * w20))
            q1 = tl.fma(gb, w22, tl.fma(gc, w21, gd * w20))
            q2 = tl.fma(gc, w22, tl.fma(gd, w21, ge * w20))
            q3 = tl.fma(gd, w22, tl.fma(ge, w21, gf * w20))
            d00 = four(x00, x01, x02, x03, gc, gd, ge, gf, d00)
            d01 = four(x00, x01, x02, x03, gb, gc, gd, ge, d01)
            d02 = four(x00, x01, x02, x03, ga, gb, gc, gd, d02)
            d10 = four(x10, x11, x12, x13, gc, gd, ge, gf, d10)
            d11 = four(x10, x11, x12, x13, gb, gc, gd, ge, d11)
            d12 = four(x10, x11, x12, x13, ga, gb, gc, gd, d12)
            d20 = four(x20, x21, x22, x23, gc, gd, ge, gf, d20)
            d21 = four(x20, x21, x22, x23, gb, gc, gd, ge, d21)
            d22 = four(x20, x21, x22, x23, ga, gb, gc, gd, d22)
            if HAS_BIAS:
                # Each row of dy is the middle one of one program alone, each column of one unit.
                k_u = tl.zeros((BU,), tl.int32) + k
                middle = ((k_u >= 1) & (k_u <= rows)).to(tl.float32)
                bias = tl.fma(gb, (middle * ok_0.to(tl.float32))[:, None], bias)
                bias = tl.fma(gc, (middle * ok_1.to(tl.float32))[:, None], bias)
                bias = tl.fma(gd, (middle * ok_2.to(tl.float32))[:, None], bias)
                bias = tl.fma(ge, (middle * ok_3.to(tl.float32))[:, None], bias)
            # An addition each, since Triton gives up prefetching in a loop that hands a value on over two rounds.
            x00 = x10 + 0.0
            x01 = x11 + 0.0
            x02 = x12 + 0.0
            x03 = x13 + 0.0
            x10 = x20
            x11 = x21
            x12 = x22
            x13 = x23
            done = (tl.zeros((BU,), tl.int32) + k) >= 2
            out = DX + own + (first + (k - 2) * DH) * W * C
            store_four(out, step, y0, y1, y2, y3, ok_0, ok_1, ok_2, ok_3, done, column)
        if not RUN_ON:
            done = (tl.zeros((BU,), tl.int32) + last) > 0
            out = DX + here + (first + (rows - 1) * DH) * W * C
            store_four(out, DW * C, p0, p1, p2, p3, own_0, own_1, own_2, own_3, done, column)

    line = (chunk * STRIPS + strip).to(tl.int64) * C + c
    part = PART_WEIGHT + line * 9
    store_nine(part, d00, d01, d02, d10, d11, d12, d20, d21, d22, c_ok)
    if HAS_BIAS:
        tl.store(PART_BIAS + line, tl.sum(bias, 0), mask=c_ok)


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
