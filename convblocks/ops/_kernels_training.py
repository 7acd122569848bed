"""The Triton kernels of a whole block in training, beside those of its depthwise convolution in `_kernels`.

Between the convolutions a tensor is written once, before its norm: whoever reads it normalises and activates it again.
Here images are matrices of M positions by C (or O) channels. A 1 or 2 is for what follows the depthwise or the
pointwise convolution. Sums over positions go to one row a program of a buffer, added up afterwards: no atomics, the
same bits every time.
"""

# Triton's language has no types, and Triton itself need not be there to check the rest.
# pyright: basic, reportMissingImports=false, reportArgumentType=false, reportGeneralTypeIssues=false

from __future__ import annotations

import triton
import triton.language as tl

from convblocks.ops._kernels import activate
from convblocks.ops._kernels_separable import load_affine, tensor_float
from convblocks.ops._kernels_sums import enter, load_around

# As in `_kernels`: no kernel is made for one size of these.
POSITIONS = ["M", "UNITS", "UNITS_O", "TILES"]


@triton.jit
def slope(u, ACT: tl.constexpr):
    """The derivative of `activate`, with PyTorch's choice where there is none."""
    one = tl.full(u.shape, 1.0, tl.float32)
    if ACT == "relu":
        one = tl.where(u <= 0.0, 0.0, one)
    elif ACT == "relu6":
        one = tl.where((u <= 0.0) | (u >= 6.0), 0.0, one)
    elif ACT == "silu":
        s = tl.sigmoid(u)
        one = s * (1.0 + u * (1.0 - s))
    elif ACT == "gelu":
        one = 0.5 * (1.0 + tl.erf(u * 0.7071067811865476)) + u * tl.exp(-0.5 * u * u) * 0.3989422804014327
    elif ACT == "gelu_tanh":
        s = tl.sigmoid(1.5957691216057308 * (u + 0.044715 * u * u * u))
        one = s + u * s * (1.0 - s) * 1.5957691216057308 * (1.0 + 0.134145 * u * u)
    elif ACT == "hardswish":
        one = tl.where(u <= -3.0, 0.0, tl.where(u < 3.0, u * 0.3333333333333333 + 0.5, one))
    return one


@triton.jit
def _round(v, DTYPE: tl.constexpr):
    v = v.to(DTYPE)
    if tl.float32 == DTYPE:
        v = tensor_float(v)
    return v


@triton.jit
def _tile(index, M, C, c, c_ok, BP: tl.constexpr):
    """Offsets of one block of positions, and where they lie inside: the block's own is 64 bits wide."""
    p = index * BP + tl.arange(0, BP)
    inside = (tl.arange(0, BP) * C)[:, None] + c[None, :]
    return (index.to(tl.int64) * BP) * C + inside, (p < M)[:, None] & c_ok[None, :]


@triton.jit(do_not_specialize=POSITIONS)
def normalise(
    Y,
    MEAN,
    VARIANCE,
    WEIGHT,
    SHIFT,
    SKIP,
    OUT,
    M,
    UNITS,
    UNIT: tl.constexpr,
    HAS: tl.constexpr,
    HAS_SKIP: tl.constexpr,
    EPS: tl.constexpr,
    ACT: tl.constexpr,
    BP: tl.constexpr,
    BC: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    """Write activation(norm(y)), and SKIP added to it."""
    enter(OVERLAP)
    C = UNITS * UNIT
    c = tl.arange(0, BC)
    scale, shift = load_affine(MEAN, MEAN, VARIANCE, WEIGHT, SHIFT, EPS, HAS, c, c < C)
    at, ok = _tile(tl.program_id(0), M, C, c, c < C, BP)
    y = tl.load(Y + at, mask=ok, other=0.0).to(tl.float32)
    u = tl.fma(y, tl.broadcast_to(scale, y.shape), tl.broadcast_to(shift, y.shape))
    u = activate(u, ACT)
    if HAS_SKIP:
        u += tl.load(SKIP + at, mask=ok, other=0.0).to(tl.float32)
    tl.store(OUT + at, u.to(OUT.dtype.element_ty), mask=ok)


@triton.jit(do_not_specialize=POSITIONS)
def channel_sums(
    Y,
    AROUND,
    PART,
    M,
    UNITS,
    TILES,
    UNIT: tl.constexpr,
    STAGES: tl.constexpr,
    BP: tl.constexpr,
    BC: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    """What the statistics of a norm are made of: the sums of y - around and of its square."""
    enter(OVERLAP)
    C = UNITS * UNIT
    c = tl.arange(0, BC)
    c_ok = c < C
    around = load_around(AROUND, c, c_ok)[None, :]
    plain = tl.zeros((BP, BC), tl.float32)
    squares = tl.zeros((BP, BC), tl.float32)
    pid = tl.program_id(0)
    for tile in tl.range(TILES, num_stages=STAGES):
        at, ok = _tile(pid * TILES + tile, M, C, c, c_ok, BP)
        y = tl.load(Y + at, mask=ok, other=0.0).to(tl.float32)
        y = tl.where(ok, y - around, 0.0)
        plain += y
        squares = tl.fma(y, y, squares)
    row = PART + pid * (2 * C) + c
    tl.store(row, tl.sum(plain, 0), mask=c_ok)
    tl.store(row + C, tl.sum(squares, 0), mask=c_ok)


@triton.jit(do_not_specialize=POSITIONS)
def norm_sums(
    Y,
    DOUT,
    MEAN,
    VARIANCE,
    WEIGHT,
    SHIFT,
    PART,
    M,
    UNITS,
    TILES,
    UNIT: tl.constexpr,
    HAS: tl.constexpr,
    EPS: tl.constexpr,
    ACT: tl.constexpr,
    STAGES: tl.constexpr,
    BP: tl.constexpr,
    BC: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    """What the gradient of a norm needs of all positions: the sums of du and of du * (y - mean), u = norm(y)."""
    enter(OVERLAP)
    C = UNITS * UNIT
    c = tl.arange(0, BC)
    c_ok = c < C
    scale, shift = load_affine(MEAN, MEAN, VARIANCE, WEIGHT, SHIFT, EPS, HAS, c, c_ok)
    mean = tl.load(MEAN + c, mask=c_ok, other=0.0).to(tl.float32)[None, :]
    plain = tl.zeros((BP, BC), tl.float32)
    moved = tl.zeros((BP, BC), tl.float32)
    pid = tl.program_id(0)
    for tile in tl.range(TILES, num_stages=STAGES):
        at, ok = _tile(pid * TILES + tile, M, C, c, c_ok, BP)
        y = tl.load(Y + at, mask=ok, other=0.0).to(tl.float32)
        g = tl.load(DOUT + at, mask=ok, other=0.0).to(tl.float32)
        u = tl.fma(y, tl.broadcast_to(scale, y.shape), tl.broadcast_to(shift, y.shape))
        g *= slope(u, ACT)
        plain += g
        moved = tl.fma(g, y - mean, moved)
    row = PART + pid * (2 * C) + c
    tl.store(row, tl.sum(plain, 0), mask=c_ok)
    tl.store(row + C, tl.sum(moved, 0), mask=c_ok)


@triton.jit(do_not_specialize=POSITIONS)
def norm_backward(
    Y,
    DU,
    MEAN,
    VARIANCE,
    WEIGHT,
    SHIFT,
    FACTOR,
    DY,
    M,
    UNITS,
    UNIT: tl.constexpr,
    HAS: tl.constexpr,
    EPS: tl.constexpr,
    ACT: tl.constexpr,
    BP: tl.constexpr,
    BC: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    """Dy = du * FACTOR[0] + y * FACTOR[1] + FACTOR[2], which is what a norm's gradient comes to.

    With an activation DU is the gradient of what that gives, and du is made of it.
    """
    enter(OVERLAP)
    C = UNITS * UNIT
    c = tl.arange(0, BC)
    at, ok = _tile(tl.program_id(0), M, C, c, c < C, BP)
    y = tl.load(Y + at, mask=ok, other=0.0).to(tl.float32)
    du = tl.load(DU + at, mask=ok, other=0.0).to(tl.float32)
    if ACT != "":
        scale, shift = load_affine(MEAN, MEAN, VARIANCE, WEIGHT, SHIFT, EPS, HAS, c, c < C)
        u = tl.fma(y, tl.broadcast_to(scale, y.shape), tl.broadcast_to(shift, y.shape))
        du *= slope(u, ACT)
    of_du, of_y, alone = _load_factors(FACTOR, C, c, c < C)
    tl.store(DY + at, _from_factors(du, y, of_du, of_y, alone).to(DY.dtype.element_ty), mask=ok)


@triton.jit
def _load_factors(FACTOR, C, c, c_ok):
    of_du = tl.load(FACTOR + c, mask=c_ok, other=0.0)[None, :]
    of_y = tl.load(FACTOR + C + c, mask=c_ok, other=0.0)[None, :]
    alone = tl.load(FACTOR + 2 * C + c, mask=c_ok, other=0.0)[None, :]
    return of_du, of_y, alone


@triton.jit
def _from_factors(du, y, of_du, of_y, alone):
    inner = tl.fma(y, tl.broadcast_to(of_y, y.shape), tl.broadcast_to(alone, y.shape))
    return tl.fma(du, tl.broadcast_to(of_du, y.shape), inner)


@triton.jit(do_not_specialize=POSITIONS)
def pointwise_forward(
    Y1,
    POINT,
    MEAN,
    VARIANCE,
    WEIGHT,
    SHIFT,
    AROUND,
    Y2,
    PART,
    M,
    UNITS,
    UNITS_O,
    TILES,
    UNIT: tl.constexpr,
    UNIT_O: tl.constexpr,
    HAS: tl.constexpr,
    EPS: tl.constexpr,
    ACT: tl.constexpr,
    STATISTICS: tl.constexpr,
    STAGES: tl.constexpr,
    BP: tl.constexpr,
    BC: tl.constexpr,
    BO: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    """y2 = pointwise(activation(norm(y1))), and the sums of y2 - around and of its square for the next norm."""
    enter(OVERLAP)
    C = UNITS * UNIT
    O = UNITS_O * UNIT_O  # noqa: E741
    c = tl.arange(0, BC)
    c_ok = c < C
    o = tl.arange(0, BO)
    o_ok = o < O
    scale, shift = load_affine(MEAN, MEAN, VARIANCE, WEIGHT, SHIFT, EPS, HAS, c, c_ok)
    point = tl.load(POINT + o[None, :] * C + c[:, None], mask=c_ok[:, None] & o_ok[None, :], other=0.0)
    point = _round(point, Y1.dtype.element_ty)
    if STATISTICS:
        around = load_around(AROUND, o, o_ok)[None, :]
        plain = tl.zeros((BP, BO), tl.float32)
        squares = tl.zeros((BP, BO), tl.float32)
    pid = tl.program_id(0)
    for tile in tl.range(TILES, num_stages=STAGES):
        at, ok = _tile(pid * TILES + tile, M, C, c, c_ok, BP)
        y = tl.load(Y1 + at, mask=ok, other=0.0).to(tl.float32)
        u = tl.fma(y, tl.broadcast_to(scale, y.shape), tl.broadcast_to(shift, y.shape))
        z = tl.dot(_round(activate(u, ACT), Y1.dtype.element_ty), point, input_precision="tf32")
        at, ok = _tile(pid * TILES + tile, M, O, o, o_ok, BP)
        tl.store(Y2 + at, z.to(Y2.dtype.element_ty), mask=ok)
        if STATISTICS:
            z = tl.where(ok, z - around, 0.0)
            plain += z
            squares = tl.fma(z, z, squares)
    if STATISTICS:
        row = PART + pid * (2 * O) + o
        tl.store(row, tl.sum(plain, 0), mask=o_ok)
        tl.store(row + O, tl.sum(squares, 0), mask=o_ok)


@triton.jit(do_not_specialize=POSITIONS)
def pointwise_backward(
    Y1,
    Y2,
    DOUT,
    POINT,
    MEAN_1,
    VARIANCE_1,
    WEIGHT_1,
    SHIFT_1,
    MEAN_2,
    VARIANCE_2,
    WEIGHT_2,
    SHIFT_2,
    FACTOR_2,
    DU1,
    PART_POINT,
    PART,
    M,
    UNITS,
    UNITS_O,
    TILES,
    UNIT: tl.constexpr,
    UNIT_O: tl.constexpr,
    HAS_1: tl.constexpr,
    HAS_2: tl.constexpr,
    EPS_1: tl.constexpr,
    EPS_2: tl.constexpr,
    ACT_1: tl.constexpr,
    ACT_2: tl.constexpr,
    STAGES: tl.constexpr,
    BP: tl.constexpr,
    BC: tl.constexpr,
    BO: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    """From the gradient of the block's output: that of the pointwise weight, and du1 = d norm(y1) with its two sums."""
    enter(OVERLAP)
    C = UNITS * UNIT
    O = UNITS_O * UNIT_O  # noqa: E741
    c = tl.arange(0, BC)
    c_ok = c < C
    o = tl.arange(0, BO)
    o_ok = o < O
    scale_1, shift_1 = load_affine(MEAN_1, MEAN_1, VARIANCE_1, WEIGHT_1, SHIFT_1, EPS_1, HAS_1, c, c_ok)
    scale_2, shift_2 = load_affine(MEAN_2, MEAN_2, VARIANCE_2, WEIGHT_2, SHIFT_2, EPS_2, HAS_2, o, o_ok)
    mean = tl.load(MEAN_1 + c, mask=c_ok, other=0.0).to(tl.float32)[None, :]
    point = tl.load(POINT + o[:, None] * C + c[None, :], mask=o_ok[:, None] & c_ok[None, :], other=0.0)
    point = _round(point, Y1.dtype.element_ty)
    of_du, of_y, alone = _load_factors(FACTOR_2, O, o, o_ok)
    d_point = tl.zeros((BO, BC), tl.float32)
    plain = tl.zeros((BP, BC), tl.float32)
    moved = tl.zeros((BP, BC), tl.float32)
    pid = tl.program_id(0)
    for tile in tl.range(TILES, num_stages=STAGES):
        at, ok = _tile(pid * TILES + tile, M, O, o, o_ok, BP)
        y2 = tl.load(Y2 + at, mask=ok, other=0.0).to(tl.float32)
        g = tl.load(DOUT + at, mask=ok, other=0.0).to(tl.float32)
        u = tl.fma(y2, tl.broadcast_to(scale_2, y2.shape), tl.broadcast_to(shift_2, y2.shape))
        # A position past the last has a y of 0, which is no gradient of 0 behind a norm.
        dy2 = tl.where(ok, _from_factors(g * slope(u, ACT_2), y2, of_du, of_y, alone), 0.0)
        dy2 = _round(dy2, Y1.dtype.element_ty)
        at, ok = _tile(pid * TILES + tile, M, C, c, c_ok, BP)
        y1 = tl.load(Y1 + at, mask=ok, other=0.0).to(tl.float32)
        u = tl.fma(y1, tl.broadcast_to(scale_1, y1.shape), tl.broadcast_to(shift_1, y1.shape))
        z = _round(activate(u, ACT_1), Y1.dtype.element_ty)
        d_point = tl.dot(tl.trans(dy2), z, d_point, input_precision="tf32")
        du = tl.dot(dy2, point, input_precision="tf32") * slope(u, ACT_1)
        tl.store(DU1 + at, du.to(DU1.dtype.element_ty), mask=ok)
        plain += du
        moved = tl.fma(du, y1 - mean, moved)
    row = PART + pid * (2 * C) + c
    tl.store(row, tl.sum(plain, 0), mask=c_ok)
    tl.store(row + C, tl.sum(moved, 0), mask=c_ok)
    at = PART_POINT + pid.to(tl.int64) * O * C + o[:, None] * C + c[None, :]
    tl.store(at, d_point, mask=o_ok[:, None] & c_ok[None, :])
