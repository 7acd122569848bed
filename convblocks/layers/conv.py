"""ConvNormAct: a convolution with its norm, activation and dropout, in any order."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn

from convblocks import geometry
from convblocks.layers._arguments import IntPair, LayerFactory, Padding, PaddingMode, describe, probability, sequence
from convblocks.layers._parts import Chain, convolution, needs_bias, present, tail


class ConvNormAct(Chain):
    """A convolution followed, or preceded, by norm, activation and dropout.

    ```
    conv -> norm -> act -> drop        (order="conv-norm-act-drop", the default)
    norm -> act -> conv                (order="norm-act-conv", pre-activation)
    ```

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: one integer or (height, width).
        stride: likewise.
        padding: an integer or pair as in `nn.Conv2d`; `"same"` for an output of ceil(n / stride) at every size, stride,
            dilation and kernel; `"valid"` for none.
        dilation: distance between the taps of the kernel.
        groups: as in `nn.Conv2d`; must divide both channel counts.
        bias: True, False, or None: a bias unless a norm follows the convolution.
        padding_mode: `"zeros"`, `"reflect"`, `"replicate"` or `"circular"`.
        norm_layer: a class, a `functools.partial` or None: `nn.BatchNorm2d`, `partial(nn.GroupNorm, 8)`, or
            `nn.LayerNorm`, which normalises over channels.
        act_layer: a class, a `functools.partial` or None.
        order: the parts in their order, joined by "-": "conv" and any of "norm", "act", "drop". What it leaves out is
            absent.
        dropout: probability that an element is zeroed in training.
        device: where the parameters live.
        dtype: type of the parameters.

    Shape:
        - Input: (N, in_channels, H, W)
        - Output: (N, out_channels, H', W') with H' = floor((H + top + bottom - dilation * (kernel_size - 1) - 1) /
          stride) + 1

    Raises:
        ValueError: an argument is out of its range, or `dropout` has no place in `order`.

    Examples:
        >>> block = ConvNormAct(3, 16, 3, padding="same", act_layer=torch.nn.SiLU)
        >>> block(torch.zeros(1, 3, 32, 32)).shape
        torch.Size([1, 16, 32, 32])
    """

    conv: nn.Conv2d

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntPair,
        stride: IntPair = 1,
        padding: Padding = 0,
        dilation: IntPair = 1,
        groups: int = 1,
        bias: bool | None = None,
        padding_mode: PaddingMode = "zeros",
        *,
        norm_layer: LayerFactory = nn.BatchNorm2d,
        act_layer: LayerFactory = nn.ReLU,
        order: str = "conv-norm-act-drop",
        dropout: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        shown = describe(ConvNormAct.__init__, locals())
        geometry.integer("in_channels", in_channels, 1)
        geometry.integer("out_channels", out_channels, 1)
        parts = sequence("order", order, ("conv", "norm", "act", "drop"), required=("conv",))
        if probability("dropout", dropout) and "drop" not in parts:
            raise ValueError(f"dropout={dropout} has no place: order={order!r} does not name 'drop'")
        at = parts.index("conv")
        width = in_channels if "norm" in parts[:at] else out_channels
        others = tail([p for p in parts if p != "conv"], width, norm_layer, act_layer, dropout, device, dtype)
        follow = present({name: others[name] for name in parts[at + 1 :]})
        pad, conv = convolution(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            needs_bias(bias, follow),
            padding_mode,
            device,
            dtype,
        )
        children: OrderedDict[str, nn.Module] = OrderedDict()
        for part in (*parts, *(name for name in others if name not in parts)):
            if part == "conv":
                children |= {"pad": pad, "conv": conv}
            else:
                children["bn" if part == "norm" else part] = others[part]
        super().__init__(children)
        self.in_channels, self.out_channels, self._shown = in_channels, out_channels, shown
