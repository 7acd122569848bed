"""BlurDownsample: the low-pass filter before a stride, so that a shift of the input is a shift of the output."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from convblocks import geometry
from convblocks.layers._arguments import IntPair, pair


class BlurDownsample(nn.Module):
    """A depthwise binomial blur (1 2 1 along both axes) with a stride; the border is replicated.

    The filter is a buffer that no state_dict holds, so that switching it on keeps the keys of a network.

    Args:
        channels: channels of the input and of the output.
        stride: one integer or (height, width).
        device: where the filter lives.
        dtype: type of the filter.

    Shape:
        - Input: (N, channels, H, W)
        - Output: (N, channels, ceil(H / stride), ceil(W / stride))

    Raises:
        ValueError: `channels` or `stride` is below 1.

    Example:
        >>> BlurDownsample(8, stride=2)(torch.ones(1, 8, 7, 7)).shape
        torch.Size([1, 8, 4, 4])

    Source: R. Zhang, "Making convolutional networks shift-invariant again", 2019 (arXiv:1904.11486).
    """

    kernel: Tensor

    def __init__(
        self,
        channels: int,
        stride: IntPair = 2,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.in_channels = self.out_channels = geometry.integer("channels", channels, 1)
        self.stride = pair("stride", stride, 1)
        row = torch.tensor([0.25, 0.5, 0.25], device=device, dtype=dtype)
        self.register_buffer("kernel", torch.outer(row, row).expand(channels, 1, 3, 3).clone(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Blur (N, C, H, W) and take every stride-th pixel."""
        padded = F.pad(x, (1, 1, 1, 1), mode="replicate")
        return F.conv2d(padded, self.kernel.to(x.dtype), stride=self.stride, groups=self.in_channels)

    def extra_repr(self) -> str:
        """Show the channels and the stride."""
        return f"{self.in_channels}, stride={self.stride}"
