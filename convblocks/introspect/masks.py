"""Masks that are added to scores, or written into them: what they hide from a softmax is a matter of their values."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch
from torch import Tensor

HIDDEN = -1e4
"""The exponential of this is 0 in single precision: what is so much smaller than the rest has no weight. The -100 of
Swin's shifted windows leaves some."""

FILLS = frozenset({"masked_fill", "where", "full", "full_like", "new_full", "fill", "scalar_tensor", "index_fill"})
"""Operations that write a number which they are given."""

SCALES = frozenset({"mul", "sub", "div"})
"""What makes a mask of ones and zeros one of large numbers."""

MAKES = FILLS | SCALES
"""Operations that make such a mask of other tensors."""

MEETS = frozenset({"add", "sub", "baddbmm", "addmm", "where", "masked_fill", "fill", "index_fill", "copy", "minimum"})
"""Operations in which a mask and scores meet."""

BOUNDED = frozenset({"sin", "cos", "exp", "sigmoid", "tanh", "_softmax", "eq", "ne", "lt", "le", "gt", "ge", "sign"})
"""Operations whose result is no mask any more."""


def hides(tensor: Tensor) -> bool:
    """Whether a tensor with values holds one that hides."""
    return tensor.is_floating_point() and tensor.numel() > 0 and bool((tensor <= HIDDEN).any())


def makes_mask(op: str, arguments: Iterable[Any], masked: bool, depends: bool) -> bool:
    """Whether the result of an operation holds numbers that hide.

    Args:
        op: Name of the operation, without the underscore of its in-place form.
        arguments: What it is called with.
        masked: One of its tensors is such a mask.
        depends: One of its tensors depends on the input.
    """
    if masked:
        return op not in BOUNDED
    if op in FILLS:
        return any(number <= HIDDEN for number in _numbers(arguments))
    return op in SCALES and not depends and any(abs(number) >= -HIDDEN for number in _numbers(arguments))


def _numbers(tree: Iterable[Any]) -> Iterable[float]:
    for item in tree:
        if isinstance(item, (int, float)) and not isinstance(item, (bool, torch.SymInt, torch.SymFloat)):
            yield item
        elif isinstance(item, (list, tuple)):
            yield from _numbers(cast("Sequence[Any]", item))
