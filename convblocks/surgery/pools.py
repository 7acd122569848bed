"""Pooling on a map whose neighbouring units stand `rate` positions apart."""

from __future__ import annotations

import functools
import operator
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convblocks.introspect.registry import spread

Pool = nn.MaxPool2d | nn.AvgPool2d
Pair = tuple[int, int]


class DilatedPool2d(nn.Module):
    """A max or average pooling taken apart by a rate, without its stride: the noble identity for pooling.

    With x a map and x' a finer one that holds x at every `rate`-th position, it holds pool(x) at every
    `rate * stride`-th position of its output, borders included.

    Args:
        pool: an `nn.MaxPool2d` or `nn.AvgPool2d`.
        rate: (height, width) of the input's units.
        keep: (height, width), whether the pooling keeps its stride along that axis.

    Shape:
        - Input: (N, C, H, W)
        - Output: (N, C, H', W') with H' = H wherever that agrees with the size that `pool` gives
    """

    def __init__(self, pool: Pool, rate: Pair, keep: tuple[bool, bool]) -> None:
        super().__init__()
        self.largest = isinstance(pool, nn.MaxPool2d)
        self.kernel_size = _two(pool.kernel_size)
        old_stride = _two(cast("int | Pair | None", pool.stride) or pool.kernel_size)
        self.padding = _two(pool.padding)
        self.old_dilation = _two(pool.dilation) if isinstance(pool, nn.MaxPool2d) else (1, 1)
        self.ceil_mode = pool.ceil_mode
        self.rate, self.old_stride = rate, old_stride
        self.stride: Pair = (old_stride[0] if keep[0] else 1, old_stride[1] if keep[1] else 1)
        self.count_include_pad = isinstance(pool, nn.AvgPool2d) and pool.count_include_pad
        self.divisor = pool.divisor_override if isinstance(pool, nn.AvgPool2d) else None

    def forward(self, x: Tensor) -> Tensor:
        """Pool (N, C, H, W)."""
        (top, bottom, height), (left, right, width) = (self._border(axis, x.shape[axis - 2]) for axis in (0, 1))
        if self.largest:
            padded = F.pad(x, (left, right, top, bottom), value=float("-inf"))
            steps = (self.old_dilation[0] * self.rate[0], self.old_dilation[1] * self.rate[1])
            return F.max_pool2d(padded, self.kernel_size, self.stride, 0, steps)
        total = self._sum(F.pad(x, (left, right, top, bottom)), (height, width))
        if self.divisor is not None:
            return total / self.divisor
        inside = torch.ones((1, 1, *x.shape[2:]), dtype=x.dtype, device=x.device)
        if self.count_include_pad:
            down, across = (p * r for p, r in zip(self.padding, self.rate, strict=True))
            inside = F.pad(inside, (across, across, down, down), value=1.0)
            top, bottom, left, right = 0, bottom - down, 0, right - across
        return total / self._sum(F.pad(inside, (left, right, top, bottom)), (height, width))

    def _border(self, axis: int, length: int) -> tuple[int, int, int]:
        """Padding before and after one axis (a crop where negative), and the size of the output."""
        rate, stride, old = self.rate[axis], self.stride[axis], self.old_stride[axis]
        before = self.padding[axis] * rate
        reach = self.old_dilation[axis] * rate * (self.kernel_size[axis] - 1)
        coarse = -(-length // rate)
        room = coarse + 2 * self.padding[axis] - reach // rate - 1
        old_size = room // old + 1
        if self.ceil_mode:
            old_size = -(-room // old) + 1
            if (old_size - 1) * old >= coarse + self.padding[axis]:
                old_size -= 1
        wide = rate * old // stride
        least, most = wide * (old_size - 1) + 1, wide * old_size
        natural = (length + 2 * before - reach - 1) // stride + 1
        kept = -(-length // stride)
        size = kept if least <= kept <= most else max(least, min(natural, most))
        return before, (size - 1) * stride + reach + 1 - length - before, size

    def _sum(self, x: Tensor, size: Pair) -> Tensor:
        height, width = ((n - 1) * s + 1 for n, s in zip(size, self.stride, strict=True))
        rows = (x.narrow(-2, i * self.rate[0], height) for i in range(self.kernel_size[0]))
        x = functools.reduce(operator.add, (row[..., :: self.stride[0], :] for row in rows))
        columns = (x.narrow(-1, i * self.rate[1], width) for i in range(self.kernel_size[1]))
        return functools.reduce(operator.add, (column[..., :: self.stride[1]] for column in columns))

    def extra_repr(self) -> str:
        """Show the window."""
        kind = "max" if self.largest else "avg"
        return f"{kind}, kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, rate={self.rate}"


class EveryNth(nn.Module):
    """Takes every n-th position of a map, the first one included: what a gate is to see of a denser map.

    Args:
        step: (height, width).

    Shape:
        - Input: (N, C, H, W)
        - Output: (N, C, ceil(H / step), ceil(W / step))
    """

    def __init__(self, step: Pair) -> None:
        super().__init__()
        self.step = step

    def forward(self, x: Tensor) -> Tensor:
        """Take positions of (N, C, H, W)."""
        return x[..., :: self.step[0], :: self.step[1]]

    def extra_repr(self) -> str:
        """Show the step."""
        return f"step={self.step}"


def _two(value: int | tuple[int, ...]) -> Pair:
    height, width = spread(value, 2)
    return height, width
