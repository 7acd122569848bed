"""Change what a network is made of: strides into dilation, pools into dilated kernels, dense kernels into separable."""

from convblocks.surgery.dense import replace_dense_conv
from convblocks.surgery.downsampling import replace_downsampling
from convblocks.surgery.report import Cost, SurgeryReport
from convblocks.surgery.stride import replace_stride_with_dilation

__all__ = [
    "Cost",
    "SurgeryReport",
    "replace_dense_conv",
    "replace_downsampling",
    "replace_stride_with_dilation",
]
