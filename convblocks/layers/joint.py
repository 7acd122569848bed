"""JointDilatedDepthwise: a dilated convolution followed by a depthwise separable one."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn

from convblocks import geometry
from convblocks.layers._arguments import (
    IntPair,
    LayerFactory,
    Padding,
    PaddingMode,
    describe,
    pair,
    probability,
    sequence,
    sides,
)
from convblocks.layers._parts import Chain
from convblocks.layers.conv import ConvNormAct
from convblocks.layers.separable import DepthwiseSeparableConv


class JointDilatedDepthwise(Chain):
    """A dilated convolution looks far, a depthwise separable one after it widens the channels cheaply.

    ```
    dilated k x k -> norm -> act -> drop
        -> depthwise k x k -> [between: norm -> act] -> pointwise 1 x 1 -> [after: norm -> act -> drop]
    ```

    The paper leaves the dilation rates and the places of the norms open; the defaults here are this library's choice.
    Against a dense k x k in the place of the separable part, with 64 channels in the middle and 128 out, it saves
    9 * 64 * 128 - (9 * 64 + 64 * 128) = 64,960 parameters.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: of the dilated convolution, and so are `stride`, `padding` and `dilation`: one integer or (height,
            width).
        stride: likewise.
        padding: an integer or pair as in `nn.Conv2d`; `"same"` for an output of ceil(n / stride); `"valid"` for none.
        dilation: distance between the taps of the kernel.
        bias: of all three convolutions: True, False, or None: where nothing after it makes it superfluous.
        padding_mode: of both kernels: `"zeros"`, `"reflect"`, `"replicate"` or `"circular"`.
        mid_channels: channels between the dilated and the depthwise convolution; `in_channels` unless given.
        depthwise_kernel_size: of the depthwise convolution, and so are the next three.
        depthwise_stride: one integer or (height, width).
        depthwise_padding: as `padding`; None takes `padding` where that is a rule, and 0 where it is a number.
        depthwise_dilation: distance between the taps.
        order: the parts of the dilated convolution in their order, as in `ConvNormAct`.
        between: what stands between depthwise and pointwise, as in `DepthwiseSeparableConv`.
        after: what follows the pointwise convolution, likewise.
        norm_layer: a class, a `functools.partial` or None, as in `ConvNormAct`.
        act_layer: likewise.
        dropout: probability that an element is zeroed in training, wherever "drop" is named.
        device: where the parameters live.
        dtype: type of the parameters.

    Shape:
        - Input: (N, in_channels, H, W)
        - Output: (N, out_channels, H', W'), the formula of `nn.Conv2d` applied for the dilated convolution and then
          for the depthwise one

    Raises:
        ValueError: an argument is out of its range, or `dropout` has no place.

    Examples:
        >>> block = JointDilatedDepthwise(32, 128, padding=1, mid_channels=64, between="")
        >>> block(torch.zeros(1, 32, 8, 8)).shape
        torch.Size([1, 128, 4, 4])

    Source: W. Sun, X. Zhang and X. He, "Lightweight image classifier using dilated and depthwise separable
        convolutions", Journal of Cloud Computing 9:55, 2020.
    """

    dilated: ConvNormAct
    separable: DepthwiseSeparableConv

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntPair = 3,
        stride: IntPair = 1,
        padding: Padding = 0,
        dilation: IntPair = 2,
        bias: bool | None = None,
        padding_mode: PaddingMode = "zeros",
        *,
        mid_channels: int | None = None,
        depthwise_kernel_size: IntPair = 3,
        depthwise_stride: IntPair = 1,
        depthwise_padding: Padding | None = None,
        depthwise_dilation: IntPair = 1,
        order: str = "conv-norm-act-drop",
        between: str = "norm-act",
        after: str = "norm-act-drop",
        norm_layer: LayerFactory = nn.BatchNorm2d,
        act_layer: LayerFactory = nn.ReLU,
        dropout: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        shown = describe(JointDilatedDepthwise.__init__, locals())
        middle = in_channels if mid_channels is None else geometry.integer("mid_channels", mid_channels, 1)
        kernel = pair("depthwise_kernel_size", depthwise_kernel_size, 1)
        pair("depthwise_stride", depthwise_stride, 1)
        if depthwise_padding is None:
            depthwise_padding = padding if isinstance(padding, str) else 0
        sides(depthwise_padding, kernel, pair("depthwise_dilation", depthwise_dilation, 1), "depthwise_padding")
        in_dilated = "drop" in sequence("order", order, ("conv", "norm", "act", "drop"), required=("conv",))
        in_separable = any(
            "drop" in sequence(name, value, ("norm", "act", "drop"))
            for name, value in (("between", between), ("after", after))
        )
        if probability("dropout", dropout) and not (in_dilated or in_separable):
            raise ValueError(f"dropout={dropout} has no place: none of order, between and after names 'drop'")
        dilated = ConvNormAct(
            in_channels,
            middle,
            kernel_size,
            stride,
            padding,
            dilation,
            1,
            bias,
            padding_mode,
            norm_layer=norm_layer,
            act_layer=act_layer,
            order=order,
            dropout=dropout if in_dilated else 0.0,
            device=device,
            dtype=dtype,
        )
        separable = DepthwiseSeparableConv(
            middle,
            out_channels,
            depthwise_kernel_size,
            depthwise_stride,
            depthwise_padding,
            depthwise_dilation,
            bias,
            padding_mode,
            between=between,
            after=after,
            norm_layer=norm_layer,
            act_layer=act_layer,
            dropout=dropout if in_separable else 0.0,
            device=device,
            dtype=dtype,
        )
        super().__init__(OrderedDict({"dilated": dilated, "separable": separable}))
        self.in_channels, self.out_channels, self._shown = in_channels, out_channels, shown
