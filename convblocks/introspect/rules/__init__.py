"""What every operation does to the labels of its operands, one small rule an operation."""

from convblocks.introspect.rules import interpolation, moves, pointwise, reductions, windows

__all__ = ["interpolation", "moves", "pointwise", "reductions", "windows"]
