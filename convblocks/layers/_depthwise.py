"""The depthwise convolution of the blocks: an `nn.Conv2d` that asks `convblocks.ops` for a faster path on CUDA."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from convblocks.ops import Choice


class DepthwiseConv2d(nn.Conv2d):
    """`nn.Conv2d` with one filter a channel: the same parameters, numbers and text, on CUDA perhaps sooner."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # noqa: A002  (as nn.Conv2d)
        # What torch.fx hands over is no tensor: a symbolic trace holds PyTorch's own convolution.
        if not isinstance(cast("object", input), Tensor) or not input.is_cuda:
            return super()._conv_forward(input, weight, bias)
        from convblocks import ops

        if not ops.at_work():
            return super()._conv_forward(input, weight, bias)
        x, padding = self._padded(input)
        return ops.depthwise_conv2d(x, weight, bias, _two(self.stride), padding, _two(self.dilation))

    def choice(self, input: Tensor) -> Choice:  # noqa: A002  (as in forward)
        """Tell which path an input takes, and why."""
        from convblocks import ops

        x, padding = self._padded(input)
        return ops.choice(x, self.weight, self.bias, _two(self.stride), padding, _two(self.dilation))

    def _padded(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        if self.padding_mode == "zeros":
            return x, cast("tuple[int, int]", self.padding)
        return F.pad(x, self._reversed_padding_repeated_twice, mode=self.padding_mode), (0, 0)

    def _get_name(self) -> str:
        return "Conv2d"


def _two(value: tuple[int, ...]) -> tuple[int, int]:
    return value[0], value[1]
