"""The grouped convolutions of the blocks: right where those of PyTorch are not, and on CUDA perhaps faster."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from convblocks.ops import Choice


class GroupedConv2d(nn.Conv2d):
    """`nn.Conv2d` with groups: the same parameters and text, and the gradient of a dilated kernel in bfloat16 right.

    On a CPU that multiplies bfloat16, oneDNN's gradient of a dilated, grouped kernel holds unwritten memory where the
    map is some 30 pixels wide or more and the layout channels_last (seen with torch 2.6 and 2.15, at any batch size,
    from 4 groups on). float32 has another kernel.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # noqa: A002  (as nn.Conv2d)
        if not self._garbled(input):
            return super()._conv_forward(input, weight, bias)
        with torch.autocast("cpu", enabled=False):
            wide = None if bias is None else bias.float()
            return super()._conv_forward(input.float(), weight.float(), wide).to(torch.bfloat16)

    def _garbled(self, x: Tensor) -> bool:
        # What torch.fx hands over is no tensor: a symbolic trace holds PyTorch's own convolution.
        if not isinstance(cast("object", x), Tensor) or x.device.type != "cpu" or set(self.dilation) == {1}:
            return False
        low = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        return low == torch.bfloat16 and torch.is_grad_enabled() and self.weight.requires_grad

    def _get_name(self) -> str:
        return "Conv2d"


class DepthwiseConv2d(GroupedConv2d):
    """`nn.Conv2d` with one filter a channel: the same parameters, numbers and text, on CUDA perhaps sooner."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # noqa: A002  (as nn.Conv2d)
        # As above, for what torch.fx hands over.
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


def _two(value: tuple[int, ...]) -> tuple[int, int]:
    return value[0], value[1]
