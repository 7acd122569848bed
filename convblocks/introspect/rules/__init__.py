"""What every operation does to the labels of its operands, one small rule an operation."""

from convblocks.introspect.rules import (
    indexing,
    interpolation,
    moves,
    norms,
    pads,
    parts,
    pointwise,
    products,
    recurrent,
    reductions,
    selected,
    shuffles,
    windows,
    writes,
)

__all__ = [
    "indexing",
    "interpolation",
    "moves",
    "norms",
    "pads",
    "parts",
    "pointwise",
    "products",
    "recurrent",
    "reductions",
    "selected",
    "shuffles",
    "windows",
    "writes",
]
