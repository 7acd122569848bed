"""BlurDownsample: the low-pass filter before a stride, so that a shift of the input is a shift of the output."""

from __future__ import annotations

from torch import Tensor, nn

from convblocks.layers._arguments import IntPair, pair


class BlurDownsample(nn.Module):
    """A binomial blur (1 2 1 along both axes) with a stride; the border is replicated.

    Two averages of 2 x 2 pixels, one after the other, are that filter: there is nothing to store, and it fits any
    number of channels.

    Args:
        stride: one integer or (height, width).

    Shape:
        - Input: (N, C, H, W)
        - Output: (N, C, ceil(H / stride), ceil(W / stride))

    Raises:
        ValueError: `stride` is below 1.

    Examples:
        >>> import torch
        >>> BlurDownsample(stride=2)(torch.ones(1, 8, 7, 7)).shape
        torch.Size([1, 8, 4, 4])

    Source: R. Zhang, "Making convolutional networks shift-invariant again", 2019 (arXiv:1904.11486).
    """

    def __init__(self, stride: IntPair = 2) -> None:
        super().__init__()
        self.pad = nn.ReplicationPad2d(1)
        self.average = nn.AvgPool2d(2, stride=1)
        self.downsample = nn.AvgPool2d(2, stride=pair("stride", stride, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Blur (N, C, H, W) and take every stride-th pixel."""
        return self.downsample(self.average(self.pad(x)))
