"""Convolution building blocks for PyTorch."""

from convblocks import geometry
from convblocks.layers import (
    BlurDownsample,
    ConvNormAct,
    DepthwiseSeparableConv,
    DilatedDownsample,
    GAPHead,
    JointDilatedDepthwise,
    Residual,
)

__version__ = "0.1.0"

__all__ = [
    "BlurDownsample",
    "ConvNormAct",
    "DepthwiseSeparableConv",
    "DilatedDownsample",
    "GAPHead",
    "JointDilatedDepthwise",
    "Residual",
    "geometry",
]
