"""Residual: x + f(x)."""

from __future__ import annotations

from torch import Tensor, nn

from convblocks.layers._arguments import is_module, probability
from convblocks.layers._parts import stochastic_depth


class Residual(nn.Module):
    """Adds the input of a module to its output.

    Args:
        fn: the module; its output must have the shape of its input.
        drop_path: probability that a sample skips `fn` in training (stochastic depth).

    Shape:
        - Input: whatever `fn` takes
        - Output: the same shape

    Raises:
        ValueError: `fn` is no module or `drop_path` no probability; in forward, the shapes differ (torch would
            broadcast some of them in silence).

    Examples:
        >>> import torch
        >>> block = Residual(nn.Conv2d(8, 8, 3, padding=1))
        >>> block(torch.zeros(1, 8, 5, 5)).shape
        torch.Size([1, 8, 5, 5])
        >>> Residual(nn.Conv2d(8, 8, 3))(torch.zeros(1, 8, 5, 5))
        Traceback (most recent call last):
        ValueError: Residual: fn turned (1, 8, 5, 5) into (1, 8, 3, 3); x + fn(x) needs equal shapes

    Source: K. He et al., "Deep residual learning for image recognition", 2016 (arXiv:1512.03385).
    """

    def __init__(self, fn: nn.Module, *, drop_path: float = 0.0) -> None:
        super().__init__()
        if not is_module(fn):
            raise ValueError(f"fn must be an nn.Module, got {fn!r}")
        self.drop_path = probability("drop_path", drop_path)
        self.fn = fn
        channels = (getattr(part, "in_channels", None) for part in fn.modules())
        self.in_channels: int | None = next((count for count in channels if isinstance(count, int)), None)
        self.out_channels = self.in_channels

    def forward(self, x: Tensor) -> Tensor:
        """Return x + fn(x)."""
        y: Tensor = self.fn(x)
        if y.shape != x.shape:
            raise ValueError(
                f"Residual: fn turned {tuple(x.shape)} into {tuple(y.shape)}; x + fn(x) needs equal shapes"
            )
        return x + stochastic_depth(y, self.drop_path, self.training)

    def extra_repr(self) -> str:
        """Show the drop_path rate where there is one."""
        return f"drop_path={self.drop_path}" if self.drop_path else ""
