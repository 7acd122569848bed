"""Integer arithmetic of convolution along one axis: sizes, paddings, dilations and coverage.

Every function takes and returns whole numbers, raises ValueError where there is no answer, and needs no torch. A block
with two axes asks once an axis. `padding` is one int for both ends of the axis, or a pair `(before, after)`.

Source: V. Dumoulin and F. Visin, "A guide to convolution arithmetic for deep learning", 2016 (arXiv:1603.07285).
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import NamedTuple, SupportsIndex

__all__ = [
    "Coverage",
    "coverage",
    "effective_kernel_size",
    "floor_padding",
    "output_size",
    "same_padding",
    "solve_dilation",
]


def integer(name: str, value: SupportsIndex, minimum: int) -> int:
    """Return `value` as an int of at least `minimum`, or raise a ValueError that names the argument."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool) or number < minimum:
        raise ValueError(f"{name} must be an integer >= {minimum}, got {value!r}")
    return number


def _total_padding(padding: int | tuple[int, int]) -> int:
    if not isinstance(padding, tuple):
        return 2 * integer("padding", padding, 0)
    if len(padding) != 2:
        raise ValueError(f"padding must be one integer or a pair (before, after), got {padding!r}")
    return sum(integer("padding", side, 0) for side in padding)


def effective_kernel_size(kernel_size: int, dilation: int = 1) -> int:
    """Return the pixels from the first tap of a dilated kernel to its last: `dilation * (kernel_size - 1) + 1`.

    Examples:
        >>> effective_kernel_size(3, dilation=8)
        17
    """
    return integer("dilation", dilation, 1) * (integer("kernel_size", kernel_size, 1) - 1) + 1


def output_size(
    size: int, kernel_size: int, stride: int = 1, padding: int | tuple[int, int] = 0, dilation: int = 1
) -> int:
    """Return the output size of a convolution.

    `floor((size + before + after - dilation * (kernel_size - 1) - 1) / stride) + 1`

    Raises:
        ValueError: the dilated kernel is larger than the padded input.

    Examples:
        >>> output_size(32, 3, stride=2, padding=2, dilation=2)
        16
    """
    extent = effective_kernel_size(kernel_size, dilation)
    padded = integer("size", size, 1) + _total_padding(padding)
    if padded < extent:
        raise ValueError(
            f"a kernel of {extent} pixels (kernel_size={kernel_size}, dilation={dilation}) does not fit into "
            f"{padded} (size={size}, padding={padding})"
        )
    return (padded - extent) // integer("stride", stride, 1) + 1


def same_padding(kernel_size: int, dilation: int = 1) -> tuple[int, int]:
    """Return the padding (before, after) that makes the output `ceil(size / stride)` for every size and every stride.

    The two sides add up to `dilation * (kernel_size - 1)`; where that is odd the larger half comes after.

    Examples:
        >>> same_padding(3, dilation=2), same_padding(4)
        ((2, 2), (1, 2))
    """
    return _halves(effective_kernel_size(kernel_size, dilation) - 1)


def floor_padding(kernel_size: int, stride: int, dilation: int = 1) -> tuple[int, int]:
    """Return the padding (before, after) that makes the output `floor(size / stride)` for every size >= stride.

    The two sides add up to `dilation * (kernel_size - 1) + 1 - stride`; where that is odd the larger half comes after.

    Raises:
        ValueError: the stride is larger than the dilated kernel, so that no padding of this kind exists.

    Examples:
        >>> floor_padding(3, stride=2), output_size(7, 3, stride=2, padding=(0, 1))
        ((0, 1), 3)
    """
    extent = effective_kernel_size(kernel_size, dilation)
    total = extent - integer("stride", stride, 1)
    if total < 0:
        raise ValueError(
            f"no padding gives floor(size / stride) when the stride is larger than the dilated kernel: stride={stride} "
            f"against {extent} pixels (kernel_size={kernel_size}, dilation={dilation})"
        )
    return _halves(total)


def solve_dilation(
    input_size: int, output_size: int, kernel_size: int = 3, stride: int = 1, padding: int | tuple[int, int] = 0
) -> int:
    """Return the smallest dilation that turns `input_size` into `output_size`.

    Without stride and padding it is `(input_size - output_size) / (kernel_size - 1)`; a stride leaves a range, of
    which the smallest dilation leaves the fewest gaps.

    Raises:
        ValueError: no whole dilation >= 1 does it; the message names the nearest sizes that can be had.

    Examples:
        >>> solve_dilation(32, 16), solve_dilation(18, 2)
        (8, 8)
        >>> solve_dilation(32, 15)
        Traceback (most recent call last):
        ValueError: no dilation turns input_size=32 into output_size=15 with kernel_size=3, stride=1, padding=0: \
dilation 8 gives 16, dilation 9 gives 14
    """
    padded = integer("input_size", input_size, 1) + _total_padding(padding)
    target = integer("output_size", output_size, 1)
    steps = integer("kernel_size", kernel_size, 1) - 1
    step = integer("stride", stride, 1)
    largest = padded - 1 - step * (target - 1)
    smallest = largest - step + 1
    what = (
        f"no dilation turns input_size={input_size} into output_size={output_size} with kernel_size={kernel_size}, "
        f"stride={stride}, padding={padding}"
    )
    if steps == 0:
        if smallest <= 0 <= largest:
            return 1
        raise ValueError(f"{what}: a kernel of one pixel does not change with its dilation")
    dilation = max(1, -(-smallest // steps))
    if dilation * steps <= largest:
        return dilation
    reachable = [
        f"dilation {d} gives {(padded - 1 - d * steps) // step + 1}"
        for d in (dilation - 1, dilation)
        if d >= 1 and d * steps < padded
    ]
    raise ValueError(f"{what}: {', '.join(reachable) or f'even dilation 1 needs {steps + 1} of {padded} pixels'}")


class Coverage(NamedTuple):
    """How many pixels of a receptive field reach the output.

    Attributes:
        reached: the input pixels that reach the output, along the axis.
        size: the receptive field, in input pixels.
    """

    reached: int
    size: int

    @property
    def ratio(self) -> float:
        """The share of the field that is seen; below 1 the stack of layers leaves gaps (gridding)."""
        return self.reached / self.size


def coverage(
    dilations: Sequence[int], kernel_size: int | Sequence[int] = 3, stride: int | Sequence[int] = 1
) -> Coverage:
    """Count exactly which pixels of its receptive field a stack of convolutions sees, first layer first.

    After a window of R pixels without gaps, a kernel of 3 leaves none exactly when its dilation is at most R. A stride
    multiplies the distance between the taps of the layers after it.

    Args:
        dilations: one dilation a layer.
        kernel_size: one for all layers, or one a layer.
        stride: likewise.

    Examples:
        >>> coverage([2, 4, 8]), coverage([1, 2, 4, 8])
        (Coverage(reached=15, size=29), Coverage(reached=31, size=31))
        >>> coverage([1, 1, 1, 8]).ratio < 1
        True

    Source: P. Wang et al., "Understanding convolution for semantic segmentation", 2018 (arXiv:1702.08502), names the
    gaps gridding; their rule of thumb for rates is not exact, so the pixels are counted here.
    """
    layers = len(dilations)
    if layers == 0:
        raise ValueError("dilations must hold at least one dilation, got an empty sequence")
    seen = 1
    jump = 1
    for dilation, taps, step in zip(
        dilations, _one_each("kernel_size", kernel_size, layers), _one_each("stride", stride, layers), strict=True
    ):
        distance = integer("dilations", dilation, 1) * jump
        shifted = 0
        for tap in range(integer("kernel_size", taps, 1)):
            shifted |= seen << (tap * distance)
        seen = shifted
        jump *= integer("stride", step, 1)
    return Coverage(reached=seen.bit_count(), size=seen.bit_length())


def _halves(total: int) -> tuple[int, int]:
    return total // 2, total - total // 2


def _one_each(name: str, value: int | Sequence[int], layers: int) -> Sequence[int]:
    if not isinstance(value, Sequence):
        return [value] * layers
    if len(value) != layers:
        raise ValueError(f"{name} must be one integer or one a layer ({layers}), got {value!r}")
    return value
