"""Depthwise separable convolution on CUDA by Triton kernels, chosen over PyTorch's where that was measured to pay."""

from convblocks.ops._choice import Choice, at_work, backend, choice
from convblocks.ops._depthwise import depthwise_conv2d
from convblocks.ops._explain import explain
from convblocks.ops._norm_training import norm_choice, norm_training
from convblocks.ops._separable import depthwise_separable_conv2d, separable_choice
from convblocks.ops._stage import Stage
from convblocks.ops._training import separable_training, training_choice

__all__ = [
    "Choice",
    "Stage",
    "at_work",
    "backend",
    "choice",
    "depthwise_conv2d",
    "depthwise_separable_conv2d",
    "explain",
    "norm_choice",
    "norm_training",
    "separable_choice",
    "separable_training",
    "training_choice",
]
