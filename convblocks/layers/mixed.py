"""MixedDepthwise: depthwise kernels of several sizes side by side."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from convblocks import geometry
from convblocks.layers._arguments import IntPair, PaddingMode, describe, flag, pair
from convblocks.layers._parts import convolution


class MixedDepthwise(nn.Module):
    """Depthwise kernels of several sizes and dilations, each over its own share of the channels.

    ```
            +-> share 1: k1 x k1, dilation d1 -+
    split --+-> share 2: k2 x k2, dilation d2 -+--> concatenation
            +-> share 3: 1 x 1, passed through +
    ```

    A layer sees near and far at once, for fewer parameters than one large kernel over all channels. The map keeps its
    size. What mixes the channels, and what normalises them, comes after it.

    Args:
        in_channels: channels of the input, and of the output; at least one for each kernel.
        kernel_sizes: a kernel for each share of the channels: one integer or (height, width). 1 passes its channels
            through and has no parameters.
        dilations: distance between the taps of each kernel; None for 1 everywhere.
        bias: of every kernel; superfluous where a norm follows.
        padding_mode: `"zeros"`, `"reflect"`, `"replicate"` or `"circular"`.
        device: where the parameters live.
        dtype: type of the parameters.

    Shape:
        - Input: (N, in_channels, H, W)
        - Output: (N, in_channels, H, W); the shares differ by one channel at most, the first ones are the larger ones

    Raises:
        ValueError: an argument is out of its range, there are fewer channels than kernels, or `dilations` and
            `kernel_sizes` differ in length.

    Examples:
        >>> block = MixedDepthwise(48, (1, 3, 7, 7), (1, 1, 1, 3))
        >>> block(torch.zeros(1, 48, 32, 32)).shape
        torch.Size([1, 48, 32, 32])
        >>> sum(p.numel() for p in block.parameters()), 12 * (0 + 3 * 3 + 7 * 7 + 7 * 7)
        (1284, 1284)

    Source: M. Tan and Q. Le, "MixConv: mixed depthwise convolutional kernels", 2019 (arXiv:1907.09595); the share that
        is passed through is that of W. Yu et al., "InceptionNeXt", 2023 (arXiv:2303.16900).
    """

    def __init__(
        self,
        in_channels: int,
        kernel_sizes: Sequence[IntPair],
        dilations: Sequence[IntPair] | None = None,
        bias: bool = False,
        padding_mode: PaddingMode = "zeros",
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        shown = describe(MixedDepthwise.__init__, locals())
        super().__init__()
        kernels = _pairs("kernel_sizes", kernel_sizes)
        rates = [(1, 1)] * len(kernels) if dilations is None else _pairs("dilations", dilations)
        if len(rates) != len(kernels):
            raise ValueError(
                f"dilations must have one entry for each of the {len(kernels)} kernel_sizes, got {dilations!r}"
            )
        flag("bias", bias)
        if geometry.integer("in_channels", in_channels, 1) < len(kernels):
            raise ValueError(f"in_channels={in_channels} must be at least one for each of {len(kernels)} kernel_sizes")
        share, larger = divmod(in_channels, len(kernels))
        self.shares = [share + (number < larger) for number in range(len(kernels))]
        self.branches = nn.ModuleList()
        for channels, kernel, rate in zip(self.shares, kernels, rates, strict=True):
            pad, conv = convolution(
                channels, channels, kernel, 1, "same", rate, channels, bias, padding_mode, device, dtype
            )
            if kernel == (1, 1):
                conv = nn.Identity()
            self.branches.append(conv if isinstance(pad, nn.Identity) else nn.Sequential(pad, conv))
        self.in_channels = self.out_channels = in_channels
        self._shown = shown

    def forward(self, x: Tensor) -> Tensor:
        """Apply each kernel to its share of (N, in_channels, H, W)."""
        parts = torch.split(x, self.shares, 1)
        return torch.cat([branch(part) for branch, part in zip(self.branches, parts, strict=True)], 1)

    def extra_repr(self) -> str:
        """Show the arguments that differ from their defaults."""
        return self._shown


def _pairs(name: str, values: Sequence[IntPair]) -> list[tuple[int, int]]:
    if not isinstance(values, (tuple, list)) or not values:
        raise ValueError(f"{name} must be a sequence with an entry for each kernel, got {values!r}")
    return [pair(f"{name}[{number}]", value, 1) for number, value in enumerate(values)]
