"""The numbers that registers of a GPU hold, and the instructions of PTX that compute with them, in NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np

Array: TypeAlias = "np.ndarray[Any, Any]"


class Fault(Exception):
    """What a GPU would stop at, or give any result for; or an instruction that is not known here."""


# A register holds bits, as unsigned integers; predicates are bool.


class Kind(NamedTuple):
    """How the bits in a register are a number and back. Of 16 bits, floats are computed in float32 and then rounded."""

    size: int
    read: Callable[[Array], Array]
    write: Callable[[Array], Array]


def _bits_of_bfloat16(x: Array) -> Array:
    bits = x.astype(np.float32).view(np.uint32)
    rounded = (bits + (0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(x), np.uint16(0x7FFF), rounded)


def _as(kind: str) -> Kind:
    dtype = np.dtype(kind)
    bits = np.dtype(f"u{dtype.itemsize}")
    return Kind(dtype.itemsize, lambda x: x.view(dtype), lambda x: x.astype(dtype, copy=False).view(bits))


KINDS = {f"{name}{8 * n}": _as(f"{kind}{n}") for name, kind in zip("bus", "uui", strict=True) for n in (1, 2, 4, 8)}
KINDS |= {
    "f64": _as("f8"),
    "f32": _as("f4"),
    "f16": Kind(2, lambda x: x.view(np.float16).astype(np.float32), lambda x: x.astype(np.float16).view(np.uint16)),
    "bf16": Kind(2, lambda x: (x.astype(np.uint32) << 16).view(np.float32), _bits_of_bfloat16),
    "pred": Kind(0, lambda x: x, lambda x: x.astype(bool, copy=False)),
}


def _pair(of: Kind) -> Kind:
    """Two of 16 bits in one register, the lower first."""

    def read(x: Array) -> Array:
        return of.read(np.stack((x.astype(np.uint16), (x >> 16).astype(np.uint16)), -1))

    def write(x: Array) -> Array:
        bits = of.write(x).astype(np.uint32)
        return bits[..., 1] << 16 | bits[..., 0]

    return Kind(4, read, write)


KINDS |= {f"{name}x2": _pair(KINDS[name]) for name in ("f16", "bf16")}


def bits_of(size: int) -> np.dtype[Any]:
    return np.dtype(f"u{size}" if size else "?")


# Instructions that compute: from the numbers of their operands to that of the result.


def _fma(a: Array, b: Array, c: Array) -> Array:
    # Of float32 the product is exact in float64; that the sum is rounded there first shows in a bit, once in 2 ** 29.
    wide = np.longdouble if a.dtype == np.float64 else np.float64
    return (a.astype(wide) * b + c).astype(a.dtype)


def _divide(a: Array, b: Array) -> Array:
    if a.dtype.kind == "f":
        return a / b
    # To zero. Divided by 0, a GPU gives anything.
    quotient = np.floor_divide(np.abs(a), np.abs(np.where(b == 0, 1, b)))
    return np.where(b == 0, -1, np.where((a < 0) != (b < 0), -quotient, quotient)).astype(a.dtype)


def _wider(x: Array) -> Array:
    return x.astype(f"{x.dtype.kind}{2 * x.itemsize}")


def _high(a: Array, b: Array) -> Array:
    if a.itemsize > 4:
        raise Fault("mul.hi of 64 bits is not known here")
    return (_wider(a) * _wider(b) >> 8 * a.itemsize).astype(a.dtype)


def _left(a: Array, n: Array) -> Array:
    return np.where(n < 8 * a.itemsize, a << (n % (8 * a.itemsize)).astype(a.dtype), 0).astype(a.dtype)


def _right(a: Array, n: Array) -> Array:
    most = 8 * a.itemsize - 1
    shifted = a >> np.minimum(n, most).astype(a.dtype)
    return shifted if a.dtype.kind == "i" else np.where(n > most, 0, shifted).astype(a.dtype)


def _funnel_left(a: Array, b: Array, n: Array) -> Array:
    both = b.astype(np.uint64) << 32 | a
    return ((both << (n & 31).astype(np.uint64)) >> 32).astype(np.uint32)


def _funnel_right(a: Array, b: Array, n: Array) -> Array:
    return ((b.astype(np.uint64) << 32 | a) >> (n & 31).astype(np.uint64)).astype(np.uint32)


def _extract(a: Array, first: Array, length: Array) -> Array:
    if a.itemsize > 4:
        raise Fault("bfe of 64 bits is not known here")
    rest = np.where(length & 255 == 0, 0, _wider(a) >> np.minimum(first & 255, 63).astype(np.int64).astype(a.dtype))
    spare = np.clip(64 - (length & 255).astype(np.int64), 0, 63)
    wide = rest.astype(np.int64 if a.dtype.kind == "i" else np.uint64)
    spare = spare.astype(wide.dtype)
    return (wide << spare >> spare).astype(a.dtype)


def _insert(a: Array, b: Array, first: Array, length: Array) -> Array:
    first, length = (np.minimum(x & 255, 32).astype(np.uint64) for x in (first, length))
    mask = ((np.uint64(1) << length) - np.uint64(1)) << first
    return (b & ~mask | a.astype(np.uint64) << first & mask).astype(np.uint32)


def _permute(a: Array, b: Array, chosen: Array) -> Array:
    both, out = b.astype(np.uint64) << 32 | a, np.zeros((1, 1), np.uint32)
    for k in range(4):
        which = chosen.astype(np.uint64) >> 4 * k & 15
        byte = both >> (which & 7) * 8 & 255
        byte = np.where(which & 8, np.where(byte & 128, 255, 0), byte)
        out = out | byte.astype(np.uint32) << 8 * k
    return out


def _look_up(a: Array, b: Array, c: Array, table: Array) -> Array:
    out = np.zeros((1, 1), np.uint32)
    for k in range(8):
        term = (a if k & 4 else ~a) & (b if k & 2 else ~b) & (c if k & 1 else ~c)
        out = out | np.where(table >> k & 1, term, 0).astype(np.uint32)
    return out


OPERATIONS: dict[str, Callable[..., Array]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "mul.hi": _high,
    "mul.wide": lambda a, b: _wider(a) * _wider(b),
    "mad": lambda a, b, c: a * b + c,
    "mad.hi": lambda a, b, c: _high(a, b) + c,
    "mad.wide": lambda a, b, c: _wider(a) * _wider(b) + c,
    "fma": _fma,
    "div": _divide,
    "div.full": np.divide,
    "div.approx": np.divide,
    "rem": lambda a, b: a - _divide(a, b) * b,
    "neg": np.negative,
    "abs": np.abs,
    # As C has them: a NaN is nothing.
    "min": np.fmin,
    "max": np.fmax,
    "min.NaN": np.minimum,
    "max.NaN": np.maximum,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
    "not": np.invert,
    "shl": _left,
    "shr": _right,
    "shf.l.wrap": _funnel_left,
    "shf.r.wrap": _funnel_right,
    "bfe": _extract,
    "bfi": _insert,
    "prmt": _permute,
    "lop3": _look_up,
    "selp": lambda a, b, p: np.where(p, a, b),
    "sqrt": np.sqrt,
    "sqrt.approx": np.sqrt,
    "rsqrt.approx": lambda a: 1 / np.sqrt(a),
    "rcp": lambda a: 1 / a,
    "rcp.approx": lambda a: 1 / a,
    "ex2.approx": np.exp2,
    "lg2.approx": np.log2,
    "tanh.approx": np.tanh,
    "cvta": lambda a: a,
}
# Operands after the result that are of another type than the instruction says; 2: of twice its width.
ODD = {
    **dict.fromkeys(("shl", "shr"), ("", "u32")),
    "bfe": ("", "u32", "u32"),
    "bfi": ("", "", "u32", "u32"),
    "selp": ("", "", "pred"),
    "mad.wide": ("", "", "2"),
}
# What changes nothing here: rounding to nearest is what NumPy does, and flushing of the smallest numbers is not shown.
PLAIN = {"rn", "lo", "ftz", "to", "global", "shared", "sync"}

COMPARISONS: dict[str, Callable[[Array, Array], Array]] = {
    "eq": np.equal,
    "ne": lambda a, b: (a != b) & (a == a) & (b == b),
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "lo": np.less,
    "ls": np.less_equal,
    "hi": np.greater,
    "hs": np.greater_equal,
    "num": lambda a, b: (a == a) & (b == b),
    "nan": lambda a, b: (a != a) | (b != b),
    # With u, true where one of them is no number.
    "equ": lambda a, b: ~((a < b) | (a > b)),
    "neu": np.not_equal,
    "ltu": lambda a, b: ~(a >= b),
    "leu": lambda a, b: ~(a > b),
    "gtu": lambda a, b: ~(a <= b),
    "geu": lambda a, b: ~(a < b),
}
COMBINATIONS = {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor}
TO_WHOLE = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}
