"""Depthwise convolution on CUDA by Triton kernels, chosen over PyTorch's where that was measured to pay."""

from convblocks.ops._choice import Choice, at_work, backend, choice, explain
from convblocks.ops._depthwise import depthwise_conv2d

__all__ = ["Choice", "at_work", "backend", "choice", "depthwise_conv2d", "explain"]
