"""DepthwiseSeparableConv: one filter a channel, then a 1x1 convolution that mixes the channels."""

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
    describe,
    flag,
    pair,
    probability,
    sequence,
    sides,
)
from convblocks.layers._parts import Chain, convolution, needs_bias, present, stochastic_depth, tail
from convblocks.layers.blur import BlurDownsample

if TYPE_CHECKING:
    from convblocks.ops import Choice


class DepthwiseSeparableConv(Chain):
    """A depthwise convolution and a pointwise one, with a choice of what stands between and after them.

    ```
    depthwise k x k -> [between: norm -> act] -> pointwise 1 x 1 -> [after: norm -> act -> drop]   (+ input: residual)
    ```

    `between` and `after` name their parts in order, joined by "-"; "" is nothing. Placements in use:

    | between | after | where |
    |---|---|---|
    | norm-act | norm-act | MobileNetV1 |
    | norm-act | norm | MobileNetV2 (its inverted residual ends without activation) |
    | "" | norm | Xception, DeepLab |
    | "" | norm-act | depthwise and pointwise as one factorised convolution |
    | norm-act | "" | a bare pointwise at the end |

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: of the depthwise convolution: one integer or (height, width); 1 is allowed.
        stride: of the depthwise convolution.
        padding: an integer or pair as in `nn.Conv2d`; `"same"` for an output of ceil(n / stride) at every size;
            `"valid"` for none.
        dilation: of the depthwise convolution.
        bias: of both convolutions: True, False, or None: where no norm and no other convolution makes it superfluous.
        padding_mode: `"zeros"`, `"reflect"`, `"replicate"` or `"circular"`.
        depth_multiplier: filters a channel of the depthwise convolution.
        between: what stands between the two convolutions, of "norm", "act", "drop".
        after: what follows the pointwise convolution, likewise.
        norm_layer: a class, a `functools.partial` or None, as in `ConvNormAct`.
        act_layer: likewise.
        dropout: probability that an element is zeroed in training, wherever "drop" is named.
        anti_alias: where the stride is above 1, convolve at stride 1 and take the stride in a `BlurDownsample`.
        residual: add the input to the output; the shapes must allow it.
        drop_path: probability that a sample skips the block in training (stochastic depth); needs `residual`.
        device: where the parameters live.
        dtype: type of the parameters.

    Shape:
        - Input: (N, in_channels, H, W)
        - Output: (N, out_channels, H', W') with H' = floor((H + top + bottom - dilation * (kernel_size - 1) - 1) /
          stride) + 1

    Raises:
        ValueError: an argument is out of its range, `residual` where the shapes differ, `drop_path` without
            `residual`, or a `dropout` that has no place.

    Examples:
        >>> block = DepthwiseSeparableConv(32, 64, 3, stride=2, padding="same")
        >>> block(torch.zeros(1, 32, 15, 15)).shape
        torch.Size([1, 64, 8, 8])
        >>> sum(p.numel() for p in block.parameters()), 9 * 32 + 2 * 32 + 32 * 64 + 2 * 64
        (2528, 2528)

    Source: F. Chollet, "Xception", 2017 (arXiv:1610.02357); A. Howard et al., "MobileNets", 2017 (arXiv:1704.04861).
    """

    conv_dw: nn.Conv2d
    conv_pw: nn.Conv2d

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntPair,
        stride: IntPair = 1,
        padding: Padding = 0,
        dilation: IntPair = 1,
        bias: bool | None = None,
        padding_mode: PaddingMode = "zeros",
        *,
        depth_multiplier: int = 1,
        between: str = "norm-act",
        after: str = "norm-act-drop",
        norm_layer: LayerFactory = nn.BatchNorm2d,
        act_layer: LayerFactory = nn.ReLU,
        dropout: float = 0.0,
        anti_alias: bool = False,
        residual: bool = False,
        drop_path: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        shown = describe(DepthwiseSeparableConv.__init__, locals())
        super().__init__(
            separable_parts(
                in_channels,
                out_channels,
                kernel_size,
                stride,
                padding,
                dilation,
                bias,
                padding_mode,
                depth_multiplier=depth_multiplier,
                between=between,
                after=after,
                norm_layer=norm_layer,
                act_layer=act_layer,
                dropout=dropout,
                anti_alias=anti_alias,
                device=device,
                dtype=dtype,
            )
        )
        flag("residual", residual)
        if probability("drop_path", drop_path) and not residual:
            raise ValueError(f"drop_path={drop_path} needs residual=True: without it there is no path to fall back on")
        if residual:
            _check_residual(in_channels, out_channels, kernel_size, stride, padding, dilation)
        self.in_channels, self.out_channels, self._shown = in_channels, out_channels, shown
        self.residual = residual
        self.drop_path = drop_path

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (the name in nn.Sequential)
        """Apply the block to (N, in_channels, H, W)."""
        # What a sample skips is decided before the input is added.
        added = self.residual and not (self.training and self.drop_path)
        out = _fusion.fused(self, input, residual=added)
        if out is None:
            out = super().forward(input)
        elif added:
            return out
        return input + stochastic_depth(out, self.drop_path, self.training) if self.residual else out

    def fusion(self, input: Tensor) -> Choice:  # noqa: A002  (as in forward)
        """Tell whether one kernel computes the block for an input, without gradients, and why.

        `convblocks.ops.explain` asks this of a whole network.
        """
        return _fusion.choice(self, input)


def separable_parts(
    in_channels: int,
    out_channels: int,
    kernel_size: IntPair,
    stride: IntPair,
    padding: Padding,
    dilation: IntPair,
    bias: bool | None,
    padding_mode: PaddingMode,
    *,
    depth_multiplier: int = 1,
    between: str,
    after: str,
    norm_layer: LayerFactory,
    act_layer: LayerFactory,
    dropout: float,
    anti_alias: bool = False,
    device: torch.device | str | None,
    dtype: torch.dtype | None,
) -> OrderedDict[str, nn.Module]:
    """Return the children of a depthwise separable convolution in the order of the data flow."""
    geometry.integer("in_channels", in_channels, 1)
    geometry.integer("out_channels", out_channels, 1)
    middle = in_channels * geometry.integer("depth_multiplier", depth_multiplier, 1)
    flag("anti_alias", anti_alias)
    first, second = (
        sequence(name, value, ("norm", "act", "drop")) for name, value in (("between", between), ("after", after))
    )
    if probability("dropout", dropout) and "drop" not in first + second:
        raise ValueError(
            f"dropout={dropout} has no place: neither between={between!r} nor after={after!r} names 'drop'"
        )
    steps = pair("stride", stride, 1)
    blurred = anti_alias and steps != (1, 1)
    inner = tail(first, middle, norm_layer, act_layer, dropout, device, dtype)
    outer = tail(second, out_channels, norm_layer, act_layer, dropout, device, dtype)
    pad, conv_dw = convolution(
        in_channels,
        middle,
        kernel_size,
        1 if blurred else steps,
        padding,
        dilation,
        in_channels,
        needs_bias(bias, [*present(inner), "conv"]),
        padding_mode,
        device,
        dtype,
    )
    _, conv_pw = convolution(
        middle, out_channels, 1, 1, 0, 1, 1, needs_bias(bias, present(outer)), "zeros", device, dtype
    )
    blur = BlurDownsample(steps) if blurred else nn.Identity()
    return OrderedDict(
        {"pad": pad, "conv_dw": conv_dw}
        | {_NAMES[part] + "1": layer for part, layer in inner.items()}
        | {"blur": blur, "conv_pw": conv_pw}
        | {_NAMES[part] + "2": layer for part, layer in outer.items()}
    )


_NAMES = {"norm": "bn", "act": "act", "drop": "drop"}


def _check_residual(
    in_channels: int, out_channels: int, kernel_size: IntPair, stride: IntPair, padding: Padding, dilation: IntPair
) -> None:
    if in_channels != out_channels:
        raise ValueError(f"residual=True needs in_channels == out_channels, got {in_channels} and {out_channels}")
    if pair("stride", stride, 1) != (1, 1):
        raise ValueError(f"residual=True needs stride 1, got stride={stride}")
    kernel, rates = pair("kernel_size", kernel_size, 1), pair("dilation", dilation, 1)
    lost = [d * (k - 1) - sum(p) for k, d, p in zip(kernel, rates, sides(padding, kernel, rates), strict=True)]
    if any(lost):
        raise ValueError(
            f"residual=True needs a padding that keeps the size, such as 'same'; padding={padding!r} with "
            f"kernel_size={kernel_size} and dilation={dilation} changes (height, width) by {[-n for n in lost]}"
        )
