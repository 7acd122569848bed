"""The Triton kernels of a whole depthwise separable block in inference; the names are those of `_kernels`.

O is for the channels of the output, and a 1 or a 2 at the end for what follows the depthwise or the pointwise
convolution. Between the two nothing leaves the chip: a block of positions by all channels goes from registers into the
tensor cores.
"""

# Triton's language has no types, and Triton itself need not be there to check the rest.
# pyright: basic, reportMissingImports=false, reportArgumentType=false, reportGeneralTypeIssues=false

from __future__ import annotations

import triton
import triton.language as tl

from convblocks.ops._kernels import ROLLING, SIZES, activate, load_tap, quad, row_of_six, three, within
from convblocks.ops._kernels_sums import enter


@triton.jit
def load_affine(CONV_BIAS, MEAN, VARIANCE, WEIGHT, SHIFT, EPS: tl.constexpr, HAS: tl.constexpr, c, c_ok):
    """Return what a convolution's bias and a norm after it make of v: v * scale + shift.

    HAS says what there is: 1 the convolution's bias, 2 a norm, 4 the norm's weight, 8 its bias.
    """
    scale = tl.full(c.shape, 1.0, tl.float32)
    shift = tl.zeros(c.shape, tl.float32)
    if HAS & 1:
        shift = tl.load(CONV_BIAS + c, mask=c_ok, other=0.0).to(tl.float32)
    if HAS & 2:
        scale = 1.0 / tl.sqrt_rn(tl.load(VARIANCE + c, mask=c_ok, other=1.0).to(tl.float32) + EPS)
        if HAS & 4:
            scale *= tl.load(WEIGHT + c, mask=c_ok, other=0.0).to(tl.float32)
        shift = (shift - tl.load(MEAN + c, mask=c_ok, other=0.0).to(tl.float32)) * scale
        if HAS & 8:
            shift += tl.load(SHIFT + c, mask=c_ok, other=0.0).to(tl.float32)
    return scale[None, :], shift[None, :]


@triton.jit
def tensor_float(v):
    """Round float32 to the 10 bits that tensor cores keep of it: they cut the others off."""
    bits = v.to(tl.int32, bitcast=True)
    rounded = ((bits + 0x1000) & -0x2000).to(tl.float32, bitcast=True)
    return tl.where(tl.abs(v) <= 3.0e38, rounded, v)


@triton.jit
def load_point(POINT, c, c_ok, C, o, o_ok, DTYPE: tl.constexpr):
    """The pointwise weight, (O, C) in memory, as (C, O)."""
    weight = tl.load(POINT + o[None, :] * C + c[:, None], mask=c_ok[:, None] & o_ok[None, :], other=0.0).to(DTYPE)
    if tl.float32 == DTYPE:
        weight = tensor_float(weight)
    return weight


@triton.jit
def pointwise(y, point, scale, shift, HAS: tl.constexpr, ACT: tl.constexpr):
    y = y.to(point.dtype)
    if point.dtype == tl.float32:
        y = tensor_float(y)
    z = tl.dot(y, point, input_precision="tf32")
    if HAS & 2:
        z = tl.fma(z, tl.broadcast_to(scale, z.shape), tl.broadcast_to(shift, z.shape))
    elif HAS & 1:
        z += shift
    return activate(z, ACT)


@triton.jit
def pointwise_across(y, point, scale, shift, HAS: tl.constexpr, ACT: tl.constexpr):
    """`pointwise`, with the channels along the rows of the product.

    A thread has two of them there, or some more: scale and shift take few registers. The weight is read by the tensor
    cores themselves where they can (compute capability 9.0, from 64 channels), and costs none.
    """
    if point.dtype == tl.float32:
        y = tensor_float(y)
    z = tl.dot(point.T, y.T, input_precision="tf32")
    if HAS & 2:
        z = tl.fma(z, tl.broadcast_to(scale.T, z.shape), tl.broadcast_to(shift.T, z.shape))
    elif HAS & 1:
        z += shift.T
    return activate(z, ACT).T


@triton.jit
def side_by_side(a, b, c, d, SPREAD: tl.constexpr):
    """Four columns of (BU, BC) as (4 * BU, BC), in an order of rows for `one_by_one` to undo.

    The order goes by the layouts that Triton's compiler makes of it, which lays threads along the last axes. SPREAD is
    the units that they reach: a thread then has few channels of many units, and all four columns of them in its own
    registers, so that putting them together moves nothing.
    """
    BU: tl.constexpr = a.shape[0]
    BC: tl.constexpr = a.shape[1]
    j = tl.arange(0, 4)[:, None, None]
    low = tl.where(j == 0, a[None, :, :], b[None, :, :])
    high = tl.where(j == 2, c[None, :, :], d[None, :, :])
    four = tl.where(j < 2, low, high)
    return four.reshape(4, BU // SPREAD, SPREAD, BC).permute(1, 0, 2, 3).reshape(4 * BU, BC)


@triton.jit
def one_by_one(z, SPREAD: tl.constexpr):
    """From the order of `side_by_side` to column after column."""
    BU: tl.constexpr = z.shape[0] // 4
    BO: tl.constexpr = z.shape[1]
    return z.reshape(BU // SPREAD, 4, SPREAD, BO).permute(1, 0, 2, 3).reshape(4 * BU, BO)


@triton.jit
def quad_by_column(tile, N, QUADS, DW, BU: tl.constexpr):
    """`quad` for every column of a unit: all the first ones, all the second ones and so on."""
    r = tl.arange(0, 4 * BU)
    u = tile * BU + r % BU
    w = (u % QUADS) // DW * (4 * DW) + (u % QUADS) % DW + r // BU * DW
    return u < N * QUADS, (u // QUADS).to(tl.int64), w


@triton.jit(do_not_specialize=ROLLING)
def rows_separable(
    X,
    WEIGHT,
    POINT,
    BIAS_1,
    MEAN_1,
    VARIANCE_1,
    WEIGHT_1,
    SHIFT_1,
    BIAS_2,
    MEAN_2,
    VARIANCE_2,
    WEIGHT_2,
    SHIFT_2,
    Y,
    N,
    H,
    W,
    UNITS,
    UNITS_O,
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
    UNIT_O: tl.constexpr,
    HAS_1: tl.constexpr,
    HAS_2: tl.constexpr,
    EPS_1: tl.constexpr,
    EPS_2: tl.constexpr,
    ACT_1: tl.constexpr,
    ACT_2: tl.constexpr,
    SKIP: tl.constexpr,
    EVEN_C: tl.constexpr,
    EVEN_O: tl.constexpr,
    STAGES: tl.constexpr,
    SPREAD: tl.constexpr,
    BU: tl.constexpr,
    BC: tl.constexpr,
    BO: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    """`rows_forward` with the rest of the block behind it: the same units, strips and tiles.

    The loop is a pipeline: rows are copied into shared memory while earlier ones are worked on. The four columns go
    through the tensor cores together: what waits there, and for the other warps, does so once a row. SKIP asks for X to
    be added to the result, which has its shape.
    """
    enter(OVERLAP)
    C = UNITS * UNIT
    O = UNITS_O * UNIT_O  # noqa: E741
    pid = tl.program_id(0)
    c = tl.arange(0, BC)
    c_ok = (c < C) if not EVEN_C else (c >= 0)
    o = tl.arange(0, BO)
    o_ok = (o < O) if not EVEN_O else (o >= 0)
    strip = pid % STRIPS
    chunk = pid // STRIPS
    first = (strip // DH) * ROWS * DH + strip % DH
    # Strips at the bottom have fewer rows.
    rows = tl.minimum(ROWS, tl.cdiv(HO - first, DH))

    scale_1, shift_1 = load_affine(BIAS_1, MEAN_1, VARIANCE_1, WEIGHT_1, SHIFT_1, EPS_1, HAS_1, c, c_ok)
    scale_2, shift_2 = load_affine(BIAS_2, MEAN_2, VARIANCE_2, WEIGHT_2, SHIFT_2, EPS_2, HAS_2, o, o_ok)
    # The first scale goes into the taps, and the sums start at the first shift: neither costs anything an element.
    w00 = load_tap(WEIGHT, 0, 9, c, c_ok) * scale_1
    w01 = load_tap(WEIGHT, 1, 9, c, c_ok) * scale_1
    w02 = load_tap(WEIGHT, 2, 9, c, c_ok) * scale_1
    w10 = load_tap(WEIGHT, 3, 9, c, c_ok) * scale_1
    w11 = load_tap(WEIGHT, 4, 9, c, c_ok) * scale_1
    w12 = load_tap(WEIGHT, 5, 9, c, c_ok) * scale_1
    w20 = load_tap(WEIGHT, 6, 9, c, c_ok) * scale_1
    w21 = load_tap(WEIGHT, 7, 9, c, c_ok) * scale_1
    w22 = load_tap(WEIGHT, 8, 9, c, c_ok) * scale_1
    point = load_point(POINT, c, c_ok, C, o, o_ok, X.dtype.element_ty)
    zero = tl.zeros((BU, BC), tl.float32)
    start = tl.broadcast_to(shift_1, (BU, BC))
    column = c_ok[None, :]

    for tile in range(TILES):
        u_ok, n, w = quad(chunk * TILES + tile, N, QUADS, DW, BU)
        left = w - PW
        ok_a = u_ok & within(left, W)
        ok_b = u_ok & within(left + DW, W)
        ok_c = u_ok & within(left + 2 * DW, W)
        ok_d = u_ok & within(left + 3 * DW, W)
        ok_e = u_ok & within(left + 4 * DW, W)
        ok_f = u_ok & within(left + 5 * DW, W)
        z_ok, n_z, w_z = quad_by_column(chunk * TILES + tile, N, QUADS, DW, BU)
        ok_z = z_ok & (w_z < WO)
        x_at = X + (n * (H * W * C))[:, None] + ((left * C)[:, None] + c[None, :])
        z_at = (n_z * (HO * WO * O))[:, None] + ((w_z * O)[:, None] + o[None, :])
        y_at = Y + z_at
        if SKIP:
            s_at = X + z_at
        p0 = zero
        p1 = zero
        p2 = zero
        p3 = zero
        q0 = zero
        q1 = zero
        q2 = zero
        q3 = zero
        for k in tl.range(rows + 2, num_stages=STAGES):
            h = first + k * DH - PH
            ra, rb, rc, rd, re, rf = row_of_six(
                x_at + h * W * C, DW * C, ok_a, ok_b, ok_c, ok_d, ok_e, ok_f, h, H, column
            )
            xa = ra.to(tl.float32)
            xb = rb.to(tl.float32)
            xc = rc.to(tl.float32)
            xd = rd.to(tl.float32)
            xe = re.to(tl.float32)
            xf = rf.to(tl.float32)
            # The last column first, each to its end: by what compilers make of it, the fewest registers.
            y3 = activate(three(xd, xe, xf, w20, w21, w22, p3), ACT_1).to(point.dtype)
            p3 = three(xd, xe, xf, w10, w11, w12, q3)
            q3 = three(xd, xe, xf, w00, w01, w02, start)
            y2 = activate(three(xc, xd, xe, w20, w21, w22, p2), ACT_1).to(point.dtype)
            p2 = three(xc, xd, xe, w10, w11, w12, q2)
            q2 = three(xc, xd, xe, w00, w01, w02, start)
            y1 = activate(three(xb, xc, xd, w20, w21, w22, p1), ACT_1).to(point.dtype)
            p1 = three(xb, xc, xd, w10, w11, w12, q1)
            q1 = three(xb, xc, xd, w00, w01, w02, start)
            y0 = activate(three(xa, xb, xc, w20, w21, w22, p0), ACT_1).to(point.dtype)
            p0 = three(xa, xb, xc, w10, w11, w12, q0)
            q0 = three(xa, xb, xc, w00, w01, w02, start)
            y = side_by_side(y0, y1, y2, y3, SPREAD)
            z = pointwise_across(y, point, scale_2, shift_2, HAS_2, ACT_2).to(Y.dtype.element_ty)
            z = one_by_one(z, SPREAD)
            here = (ok_z & ((tl.zeros((4 * BU,), tl.int32) + k) >= 2))[:, None] & o_ok[None, :]
            row = (first + (k - 2) * DH) * WO * O
            if SKIP:
                # Rounded once before, as the modules do, and half as much to be moved into its place.
                skip = tl.load(s_at + row, mask=here, other=0.0)
                z = (z.to(tl.float32) + skip.to(tl.float32)).to(Y.dtype.element_ty)
            tl.store(y_at + row, z, mask=here)


@triton.jit(do_not_specialize=SIZES)
def gather_separable(
    X,
    WEIGHT,
    POINT,
    BIAS_1,
    MEAN_1,
    VARIANCE_1,
    WEIGHT_1,
    SHIFT_1,
    BIAS_2,
    MEAN_2,
    VARIANCE_2,
    WEIGHT_2,
    SHIFT_2,
    Y,
    N,
    H,
    W,
    UNITS,
    UNITS_O,
    HO,
    WO,
    DH,
    DW,
    PH,
    PW,
    UNIT: tl.constexpr,
    UNIT_O: tl.constexpr,
    KH: tl.constexpr,
    KW: tl.constexpr,
    SH: tl.constexpr,
    SW: tl.constexpr,
    HAS_1: tl.constexpr,
    HAS_2: tl.constexpr,
    EPS_1: tl.constexpr,
    EPS_2: tl.constexpr,
    ACT_1: tl.constexpr,
    ACT_2: tl.constexpr,
    SKIP: tl.constexpr,
    EVEN_C: tl.constexpr,
    EVEN_O: tl.constexpr,
    BP: tl.constexpr,
    BC: tl.constexpr,
    BO: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    """`gather_forward` with the rest of the block behind it, for any kernel and stride; SKIP as in `rows_separable`."""
    enter(OVERLAP)
    C = UNITS * UNIT
    O = UNITS_O * UNIT_O  # noqa: E741
    c = tl.arange(0, BC)
    c_ok = (c < C) if not EVEN_C else (c >= 0)
    column = c_ok[None, :]
    o = tl.arange(0, BO)
    o_ok = (o < O) if not EVEN_O else (o >= 0)
    p = tl.program_id(0) * BP + tl.arange(0, BP)
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
    scale, shift = load_affine(BIAS_1, MEAN_1, VARIANCE_1, WEIGHT_1, SHIFT_1, EPS_1, HAS_1, c, c_ok)
    y = tl.fma(sums, tl.broadcast_to(scale, (BP, BC)), tl.broadcast_to(shift, (BP, BC)))
    scale, shift = load_affine(BIAS_2, MEAN_2, VARIANCE_2, WEIGHT_2, SHIFT_2, EPS_2, HAS_2, o, o_ok)
    point = load_point(POINT, c, c_ok, C, o, o_ok, X.dtype.element_ty)
    z = pointwise(activate(y, ACT_1), point, scale, shift, HAS_2, ACT_2)
    at = (n * (HO * WO * O))[:, None] + (((ho * WO + wo) * O)[:, None] + o[None, :])
    ok = p_ok[:, None] & o_ok[None, :]
    if SKIP:
        z += tl.load(X + at, mask=ok, other=0.0).to(tl.float32)
    tl.store(Y + at, z.to(Y.dtype.element_ty), mask=ok)
