"""The blocks that networks are built from."""

from convblocks.layers.blur import BlurDownsample
from convblocks.layers.conv import ConvNormAct
from convblocks.layers.downsample import DilatedDownsample
from convblocks.layers.head import GAPHead
from convblocks.layers.joint import JointDilatedDepthwise
from convblocks.layers.mixed import MixedDepthwise
from convblocks.layers.residual import Residual
from convblocks.layers.separable import DepthwiseSeparableConv

__all__ = [
    "BlurDownsample",
    "ConvNormAct",
    "DepthwiseSeparableConv",
    "DilatedDownsample",
    "GAPHead",
    "JointDilatedDepthwise",
    "MixedDepthwise",
    "Residual",
]
