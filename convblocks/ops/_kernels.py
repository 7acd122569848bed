"""The Triton kernels of a depthwise convolution; those of its gradients are in `_kernels_gradients`.

Images lie channels-last: element (n, h, w, c) at ((n * H + h) * W + w) * C + c.

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

from convblocks.ops._kernels_sums import enter, load_around

# Sizes vary from call to call: a kernel made for a size of 1 or for multiples of 16 would be no faster, and compiled
# anew for them, for seconds.
SIZES = ["N", "H", "W", "UNITS", "UNITS_O", "HO", "WO", "DH", "DW", "PH", "PW"]
ROLLING = [*SIZES, "ROWS", "STRIPS", "QUADS", "TILES"]
PITCHES = ["XN", "XH", "XW"]


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
def load_nine(WEIGHT, c, c_ok):
    """The taps of 3 x 3."""
    w00 = load_tap(WEIGHT, 0, 9, c, c_ok)
    w01 = load_tap(WEIGHT, 1, 9, c, c_ok)
    w02 = load_tap(WEIGHT, 2, 9, c, c_ok)
    w10 = load_tap(WEIGHT, 3, 9, c, c_ok)
    w11 = load_tap(WEIGHT, 4, 9, c, c_ok)
    w12 = load_tap(WEIGHT, 5, 9, c, c_ok)
    w20 = load_tap(WEIGHT, 6, 9, c, c_ok)
    w21 = load_tap(WEIGHT, 7, 9, c, c_ok)
    w22 = load_tap(WEIGHT, 8, 9, c, c_ok)
    return w00, w01, w02, w10, w11, w12, w20, w21, w22


@triton.jit
def share(C, STRIPS, EVEN_C: tl.constexpr, BC: tl.constexpr):
    """What this program of a rolling kernel works on: channels, which of them there are, its strip, its tiles."""
    blocks = tl.cdiv(C, BC)
    pid = tl.program_id(0)
    c = (pid % blocks) * BC + tl.arange(0, BC)
    c_ok = (c < C) if not EVEN_C else (c >= 0)
    return c, c_ok, (pid // blocks) % STRIPS, pid // blocks // STRIPS


@triton.jit
def within(index, size):
    return (index >= 0) & (index < size)


@triton.jit
def row_of_six(at, step, ok_a, ok_b, ok_c, ok_d, ok_e, ok_f, row, size, column):
    """Six neighbouring columns of one row; zeros where the row or a column lies outside."""
    # A condition on a scalar must have the block's shape: Triton's interpreter refuses to combine the two.
    ok = within(tl.zeros(ok_a.shape, tl.int32) + row, size)
    a = tl.load(at, mask=(ok_a & ok)[:, None] & column, other=0.0)
    b = tl.load(at + step, mask=(ok_b & ok)[:, None] & column, other=0.0)
    c = tl.load(at + 2 * step, mask=(ok_c & ok)[:, None] & column, other=0.0)
    d = tl.load(at + 3 * step, mask=(ok_d & ok)[:, None] & column, other=0.0)
    e = tl.load(at + 4 * step, mask=(ok_e & ok)[:, None] & column, other=0.0)
    f = tl.load(at + 5 * step, mask=(ok_f & ok)[:, None] & column, other=0.0)
    return a, b, c, d, e, f


@triton.jit
def three(a, b, c, w_a, w_b, w_c, sums):
    return tl.fma(c, w_c, tl.fma(b, w_b, tl.fma(a, w_a, sums)))


@triton.jit
def quad(tile, N, QUADS, DW, BU: tl.constexpr):
    """Where the units of a tile lie: whether there are such, image, first column of the four."""
    u = tile * BU + tl.arange(0, BU)
    w = (u % QUADS) // DW * (4 * DW) + (u % QUADS) % DW
    return u < N * QUADS, (u // QUADS).to(tl.int64), w


@triton.jit(do_not_specialize=[*ROLLING, *PITCHES])
def rows_forward(
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
    XN,
    XH,
    XW,
    ROWS,
    STRIPS,
    QUADS,
    TILES,
    UNIT: tl.constexpr,
    PART_OF: tl.constexpr,
    HAS_SHIFT: tl.constexpr,
    STATISTICS: tl.constexpr,
    EVEN_C: tl.constexpr,
    STAGES: tl.constexpr,
    RUN_ON: tl.constexpr,
    BU: tl.constexpr,
    BC: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    """3 x 3, stride 1: every input row is read once, and feeds the three output rows it belongs to.

    Output rows of one residue modulo DH need input rows of one residue, so a dilated kernel is an undilated one on
    every DH-th row. A program rolls down ROWS of them. Along the width a unit u is four columns w, w + DW, w + 2 DW and
    w + 3 DW of one residue modulo DW, which need six input columns where single ones need twelve: what is read twice
    comes from the L2 cache, whose bandwidth is little more than that of memory. Units run on from image to image, so
    that small images fill a block too. Where X is PART_OF a larger tensor, it is XN, XH and XW times UNIT elements from
    image to image, row to row and column to column. STATISTICS asks for the sums of y - AROUND and of its square, for a
    norm.
    """
    enter(OVERLAP)
    C = UNITS * UNIT
    if PART_OF:
        image, line, pixel = XN.to(tl.int64) * UNIT, XH * UNIT, XW * UNIT
    else:
        image, line, pixel = H * W * C, W * C, C
    c, c_ok, strip, chunk = share(C, STRIPS, EVEN_C, BC)
    first = (strip // DH) * ROWS * DH + strip % DH
    # Strips at the bottom have fewer rows.
    rows = tl.minimum(ROWS, tl.cdiv(HO - first, DH))
    start = 0
    if X.dtype.element_ty != tl.float32:
        # A first row above the image adds nothing; from tile to tile neither may the last row of the one before.
        # Float32 waits for memory longer than for this, and has no registers to spare.
        above = first < PH
        if RUN_ON:
            above = above & (first + (rows + 1) * DH - PH >= H)
        start = above.to(tl.int32)
    span = rows + 2 - start

    w00, w01, w02, w10, w11, w12, w20, w21, w22 = load_nine(WEIGHT, c, c_ok)
    zero = tl.zeros((BU, BC), tl.float32)
    column = c_ok[None, :]
    if HAS_SHIFT:
        shift = tl.load(SHIFT + c, mask=c_ok, other=0.0).to(tl.float32)[None, :]
    if STATISTICS:
        around = load_around(AROUND, c, c_ok)[None, :]
        plain = zero
        squares = zero

    for run in range(1 if RUN_ON else TILES):
        # Sums of the next output row (two taps already there) and of the one after it (one tap).
        p0 = zero
        p1 = zero
        p2 = zero
        p3 = zero
        q0 = zero
        q1 = zero
        q2 = zero
        q3 = zero
        for turn in tl.range(span * (TILES if RUN_ON else 1), num_stages=STAGES):
            k = start + (turn % span if RUN_ON else turn)
            tile = turn // span if RUN_ON else run
            u_ok, n, w = quad(chunk * TILES + tile, N, QUADS, DW, BU)
            left = w - PW
            ok_a = u_ok & within(left, W)
            ok_b = u_ok & within(left + DW, W)
            ok_c = u_ok & within(left + 2 * DW, W)
            ok_d = u_ok & within(left + 3 * DW, W)
            ok_e = u_ok & within(left + 4 * DW, W)
            ok_f = u_ok & within(left + 5 * DW, W)
            x_at = X + (n * image)[:, None] + ((left * pixel)[:, None] + c[None, :])
            y_at = Y + (n * (HO * WO * C))[:, None] + ((w * C)[:, None] + c[None, :])
            step = DW * C
            h = first + k * DH - PH
            ra, rb, rc, rd, re, rf = row_of_six(
                x_at + h * line, DW * pixel, ok_a, ok_b, ok_c, ok_d, ok_e, ok_f, h, H, column
            )
            xa = ra.to(tl.float32)
            xb = rb.to(tl.float32)
            xc = rc.to(tl.float32)
            xd = rd.to(tl.float32)
            xe = re.to(tl.float32)
            xf = rf.to(tl.float32)
            y0 = three(xa, xb, xc, w20, w21, w22, p0)
            y1 = three(xb, xc, xd, w20, w21, w22, p1)
            y2 = three(xc, xd, xe, w20, w21, w22, p2)
            y3 = three(xd, xe, xf, w20, w21, w22, p3)
            p0 = three(xa, xb, xc, w10, w11, w12, q0)
            p1 = three(xb, xc, xd, w10, w11, w12, q1)
            p2 = three(xc, xd, xe, w10, w11, w12, q2)
            p3 = three(xd, xe, xf, w10, w11, w12, q3)
            q0 = tl.fma(xc, w02, tl.fma(xb, w01, xa * w00))
            q1 = tl.fma(xd, w02, tl.fma(xc, w01, xb * w00))
            q2 = tl.fma(xe, w02, tl.fma(xd, w01, xc * w00))
            q3 = tl.fma(xf, w02, tl.fma(xe, w01, xd * w00))
            if HAS_SHIFT:
                y0 = y0 + shift
                y1 = y1 + shift
                y2 = y2 + shift
                y3 = y3 + shift
            done = u_ok & ((tl.zeros((BU,), tl.int32) + k) >= 2)
            ok_0 = done & (w < WO)
            ok_1 = done & (w + DW < WO)
            ok_2 = done & (w + 2 * DW < WO)
            ok_3 = done & (w + 3 * DW < WO)
            if STATISTICS:
                d0 = tl.where(ok_0[:, None], y0 - around, 0.0)
                d1 = tl.where(ok_1[:, None], y1 - around, 0.0)
                d2 = tl.where(ok_2[:, None], y2 - around, 0.0)
                d3 = tl.where(ok_3[:, None], y3 - around, 0.0)
                plain += (d0 + d1) + (d2 + d3)
                squares = tl.fma(d3, d3, tl.fma(d2, d2, tl.fma(d1, d1, tl.fma(d0, d0, squares))))
            out = y_at + (first + (k - 2) * DH) * WO * C
            tl.store(out, y0.to(Y.dtype.element_ty), mask=ok_0[:, None] & column)
            tl.store(out + step, y1.to(Y.dtype.element_ty), mask=ok_1[:, None] & column)
            tl.store(out + 2 * step, y2.to(Y.dtype.element_ty), mask=ok_2[:, None] & column)
            tl.store(out + 3 * step, y3.to(Y.dtype.element_ty), mask=ok_3[:, None] & column)
    if STATISTICS:
        row = PART + (chunk * STRIPS + strip).to(tl.int64) * (2 * C) + c
        tl.store(row, tl.sum(plain, 0), mask=c_ok)
        tl.store(row + C, tl.sum(squares, 0), mask=c_ok)


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
    OVERLAP: tl.constexpr,
):
    """Any kernel and stride: every output position gathers its KH * KW inputs, most of them from the caches."""
    enter(OVERLAP)
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
