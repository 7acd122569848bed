"""DilatedDownsample: a dilated kernel in the place of a strided convolution or a max-pool."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from convblocks import geometry
from convblocks.layers import _fusion
from convblocks.layers._arguments import (
    IntPair,
    LayerFactory,
    Padding,
    PaddingMode,
    choice,
    describe,
    flag,
    pair,
    sides,
)
from convblocks.layers._parts import Chain
from convblocks.layers.conv import ConvNormAct
from convblocks.layers.separable import separable_parts

if TYPE_CHECKING:
    from typing_extensions import Self

    from convblocks.ops import Choice


class DilatedDownsample(Chain):
    """Makes the map smaller with a dilated kernel, in one of three ways.

    | way | arguments | sizes | jump |
    |---|---|---|---|
    | in the place of `MaxPool2d(2)` | the defaults: `stride=2, padding="same", dilation=2` | 32 -> 16 -> 8 | doubles |
    | valid, without a stride | `stride=1, padding=0`, dilation 1, 2, 4, 8 | 32 -> 30 -> 26 -> 18 -> 2 | stays |
    | partly padded | `stride=1, padding=1, dilation=2` | 8 -> 6 | stays |

    ```
    dilated k x k -> norm -> act -> drop                                          (dense, the default)
    dilated depthwise k x k -> [between] -> pointwise 1 x 1 -> norm -> act -> drop   (separable=True)
    ```

    A dilated kernel reads few of the pixels it spans: with stride and dilation both 2 it sees every other row and
    column only. Let an ordinary convolution stand before it, whose outputs have seen their neighbours;
    `convblocks.geometry.coverage` counts what a stack of layers leaves out.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: one integer or (height, width).
        stride: likewise.
        padding: an integer or pair as in `nn.Conv2d`; `"same"` for an output of ceil(n / stride); `"valid"` for none.
        dilation: distance between the taps of the kernel.
        groups: as in `nn.Conv2d`, of the dense form; `groups=in_channels` is a depthwise convolution without a
            pointwise one.
        bias: True, False, or None: no bias where a norm follows.
        padding_mode: `"zeros"`, `"reflect"`, `"replicate"` or `"circular"`.
        separable: a depthwise convolution and a pointwise one in the place of the dense kernel.
        between: with `separable`, what stands between the two, as in `DepthwiseSeparableConv`; "norm-act" unless given.
        after: what follows the last convolution: "norm", "act", "drop" in any order, joined by "-".
        norm_layer: a class, a `functools.partial` or None, as in `ConvNormAct`.
        act_layer: likewise.
        dropout: probability that an element is zeroed in training, wherever "drop" is named.
        device: where the parameters live.
        dtype: type of the parameters.

    Shape:
        - Input: (N, in_channels, H, W)
        - Output: (N, out_channels, H', W') with H' = floor((H + top + bottom - dilation * (kernel_size - 1) - 1) /
          stride) + 1

    Raises:
        ValueError: an argument is out of its range, the arguments do not make the map smaller along both axes, or
            `between` or `groups` is given to the form that has no use for it.

    Examples:
        >>> DilatedDownsample(16, 32)(torch.zeros(1, 16, 32, 32)).shape
        torch.Size([1, 32, 16, 16])
        >>> half = DilatedDownsample.to_size(16, 32, input_size=32, output_size=16)
        >>> half.conv.dilation, half(torch.zeros(1, 16, 32, 32)).shape
        ((8, 8), torch.Size([1, 32, 16, 16]))

    Source: F. Yu and V. Koltun, "Multi-scale context aggregation by dilated convolutions", 2016 (arXiv:1511.07122). A
        dilated kernel as the only means of downsampling: the `era_s9` and `eva8_s6` networks of `examples/cifar10`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntPair = 3,
        stride: IntPair = 2,
        padding: Padding = "same",
        dilation: IntPair = 2,
        groups: int = 1,
        bias: bool | None = None,
        padding_mode: PaddingMode = "zeros",
        *,
        separable: bool = False,
        between: str | None = None,
        after: str = "norm-act-drop",
        norm_layer: LayerFactory = nn.BatchNorm2d,
        act_layer: LayerFactory = nn.ReLU,
        dropout: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        shown = describe(DilatedDownsample.__init__, locals())
        flag("separable", separable)
        children: OrderedDict[str, nn.Module]
        if separable:
            if groups != 1:
                raise ValueError(
                    f"groups={groups} has no use with separable=True: the depthwise groups are its channels"
                )
            children = separable_parts(
                in_channels,
                out_channels,
                kernel_size,
                stride,
                padding,
                dilation,
                bias,
                padding_mode,
                between="norm-act" if between is None else between,
                after=after,
                norm_layer=norm_layer,
                act_layer=act_layer,
                dropout=dropout,
                device=device,
                dtype=dtype,
            )
        else:
            if between is not None:
                raise ValueError(f"between={between!r} has no use with separable=False: there is one convolution")
            dense = ConvNormAct(
                in_channels,
                out_channels,
                kernel_size,
                stride,
                padding,
                dilation,
                groups,
                bias,
                padding_mode,
                norm_layer=norm_layer,
                act_layer=act_layer,
                order=f"conv-{after}" if after else "conv",
                dropout=dropout,
                device=device,
                dtype=dtype,
            )
            children = OrderedDict(dense.named_children())
        super().__init__(children)
        _check_smaller(kernel_size, stride, padding, dilation)
        self.in_channels, self.out_channels, self._shown = in_channels, out_channels, shown

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (the name in nn.Sequential)
        """Apply the block to (N, in_channels, H, W)."""
        out = _fusion.fused(self, input)
        return super().forward(input) if out is None else out

    def fusion(self, input: Tensor) -> Choice:  # noqa: A002  (as in forward)
        """Tell whether one kernel computes the block for an input, without gradients, and why."""
        return _fusion.choice(self, input)

    @classmethod
    def to_size(
        cls,
        in_channels: int,
        out_channels: int,
        kernel_size: IntPair = 3,
        stride: IntPair = 1,
        padding: Padding = 0,
        groups: int = 1,
        bias: bool | None = None,
        padding_mode: PaddingMode = "zeros",
        *,
        input_size: IntPair,
        output_size: IntPair,
        separable: bool = False,
        between: str | None = None,
        after: str = "norm-act-drop",
        norm_layer: LayerFactory = nn.BatchNorm2d,
        act_layer: LayerFactory = nn.ReLU,
        dropout: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Self:
        """Build the block whose dilation turns `input_size` into `output_size`.

        It takes the smallest such dilation along each axis, and fits that input size: without a stride, another input
        loses the same number of pixels, not the same share.

        Args:
            in_channels: as in the class, and so are the others that are not listed here.
            out_channels: channels of the output.
            kernel_size: at least 2; one integer or (height, width).
            stride: 1 keeps the jump of the receptive field.
            padding: an integer, a pair or `"valid"`; `"same"` has a size of its own, whatever the dilation.
            groups: as in the class.
            bias: as in the class.
            padding_mode: as in the class.
            input_size: height and width of the input, one integer or a pair.
            output_size: the height and width wanted.
            separable: as in the class.
            between: as in the class.
            after: as in the class.
            norm_layer: as in the class.
            act_layer: as in the class.
            dropout: as in the class.
            device: as in the class.
            dtype: as in the class.

        Raises:
            ValueError: no whole dilation does it; the message names the nearest sizes that can be had.
        """
        if isinstance(padding, str):
            choice("padding", padding, ("same", "valid"))
        if padding == "same":
            raise ValueError(
                "padding='same' gives ceil(input_size / stride) at every dilation; give a number or 'valid'"
            )
        kernel, steps = pair("kernel_size", kernel_size, 1), pair("stride", stride, 1)
        before, wanted = pair("input_size", input_size, 1), pair("output_size", output_size, 1)
        around = sides(padding, kernel, (1, 1))
        height, width = (
            geometry.solve_dilation(n, m, k, s, p[0])
            for n, m, k, s, p in zip(before, wanted, kernel, steps, around, strict=True)
        )
        return cls(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            (height, width),
            groups,
            bias,
            padding_mode,
            separable=separable,
            between=between,
            after=after,
            norm_layer=norm_layer,
            act_layer=act_layer,
            dropout=dropout,
            device=device,
            dtype=dtype,
        )


def _check_smaller(kernel_size: IntPair, stride: IntPair, padding: Padding, dilation: IntPair) -> None:
    kernel, rates = pair("kernel_size", kernel_size, 1), pair("dilation", dilation, 1)
    steps = pair("stride", stride, 1)
    for axis, k, d, s, p in zip(("height", "width"), kernel, rates, steps, sides(padding, kernel, rates), strict=True):
        if s == 1 and sum(p) >= d * (k - 1):
            raise ValueError(
                f"DilatedDownsample must make the map smaller, but stride=1, padding={padding!r}, kernel_size={k}, "
                f"dilation={d} keep or enlarge its {axis}: use a stride, a larger dilation or less padding"
            )
