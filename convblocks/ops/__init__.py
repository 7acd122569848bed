"""Depthwise convolution on CUDA by Triton kernels, chosen over PyTorch's where that was measured to pay."""

from convblocks.ops._choice import Choice, backend, choice, explain
from convblocks.ops._depthwise import depthwise_conv2d

__all__ = ["Choice", "backend", "choice", "depthwise_conv2d", "explain"]
