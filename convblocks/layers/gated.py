"""GatedPointwise: two pointwise convolutions with a gate between them."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from convblocks import geometry
from convblocks.layers._arguments import LayerFactory, describe
from convblocks.layers._parts import Chain, activation, norm


class GatedPointwise(Chain):
    """Pointwise convolutions that widen, gate and narrow the channels: a gated linear unit at every pixel.

    ```
                                       +-> value ------+
    pointwise 1 x 1 -> split in two ---+               * --> pointwise 1 x 1 -> [norm]
                                       +-> gate -> act +
    ```

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        hidden_channels: channels of value and of gate each; `in_channels` unless given. The block has
            3 * in_channels * hidden_channels weights where `out_channels` equals `in_channels`.
        norm_layer: what follows the second convolution: a class, a `functools.partial` or None, as in `ConvNormAct`.
        act_layer: what the gate passes through, likewise; None for a plain product.
        device: where the parameters live.
        dtype: type of the parameters.

    Shape:
        - Input: (N, in_channels, H, W)
        - Output: (N, out_channels, H, W)

    Raises:
        ValueError: an argument is out of its range.

    Examples:
        >>> block = GatedPointwise(16, 16, hidden_channels=24, norm_layer=None)
        >>> block(torch.zeros(1, 16, 8, 8)).shape
        torch.Size([1, 16, 8, 8])

    The first convolution has a bias; the second has one unless a norm follows.

    Source: N. Shazeer, "GLU variants improve transformer", 2020 (arXiv:2002.05202).
    """

    expand: nn.Conv2d
    act: nn.Module
    project: nn.Conv2d
    bn: nn.Module

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        hidden_channels: int | None = None,
        norm_layer: LayerFactory = nn.BatchNorm2d,
        act_layer: LayerFactory = nn.SiLU,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        shown = describe(GatedPointwise.__init__, locals())
        geometry.integer("in_channels", in_channels, 1)
        geometry.integer("out_channels", out_channels, 1)
        hidden = in_channels if hidden_channels is None else geometry.integer("hidden_channels", hidden_channels, 1)
        after = norm(norm_layer, out_channels, device, dtype)
        plain = isinstance(after, nn.Identity)
        super().__init__(
            OrderedDict(
                expand=nn.Conv2d(in_channels, 2 * hidden, 1, device=device, dtype=dtype),
                act=activation(act_layer, device, dtype),
                project=nn.Conv2d(hidden, out_channels, 1, bias=plain, device=device, dtype=dtype),
                bn=after,
            )
        )
        self.in_channels, self.out_channels, self._shown = in_channels, out_channels, shown

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (the name in nn.Sequential)
        """Apply the block to (N, in_channels, H, W)."""
        wide: Tensor = self.expand(input)
        value, gate = wide.chunk(2, 1)
        return self.bn(self.project(value * self.act(gate)))
