"""Labels as one array, and what can be done to labels of any kind."""

# What torch leaves without types.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from convblocks.introspect.arrays import NOTHING, compress

Identity = tuple[Any, ...]
"""What tells arrays of labels apart: memory, shape, strides, and whether they are pooled; of those that are not put
together, what tells apart what they are made of."""


class Labels:
    """Label array of one tensor along one input axis.

    `pooled` says that the tensor no longer has a position along the axis: every element has gathered the whole of it.
    """

    __slots__ = ("_array", "_identity", "_lengths", "pooled")

    def __init__(self, data: Tensor | None, pooled: bool = False) -> None:
        self._array, self.pooled = data, pooled
        self._lengths: list[int] | None = None
        self._identity: Identity | None = None

    @property
    def data(self) -> Tensor:
        """The array, put together if it was not."""
        if self._array is None:
            self._array = self._put_together()
        return self._array

    def _put_together(self) -> Tensor:
        raise NotImplementedError

    @property
    def terms(self) -> tuple[Labels, ...]:
        """What is merged elementwise to these labels; nothing where there is an array."""
        return ()

    @property
    def is_apart(self) -> bool:
        """Whether these are several arrays of the same tensor, or of parts of it."""
        return False

    @property
    def identity(self) -> Identity:
        """Equal for labels that show one array in one way, as those do that views and gates lead through a block."""
        if self._identity is None:
            self._identity = self._identify()
        return self._identity

    def _identify(self) -> Identity:
        data = self.data
        shape = data.shape
        # Steps along what has one place say nothing.
        steps = [step if n > 1 else 0 for n, step in zip(shape, data.stride(), strict=True)]
        return (data.data_ptr(), shape, *steps, self.pooled)

    @property
    def features(self) -> int:
        """Length of the leading dimension of the array."""
        return self.some().shape[0]

    @property
    def dtype(self) -> torch.dtype:
        """Element type of the array."""
        return self.some().dtype

    def some(self) -> Tensor:
        """An array of the same features and type: a part of the labels, if they are not put together."""
        return self.data

    @property
    def lengths(self) -> list[int]:
        """Length of the array along every dimension of the tensor: 1 where the labels do not vary."""
        # Asked for at every step, and of a concatenation by going through its parts.
        if self._lengths is None:
            self._lengths = self._measure() if self._array is None else list(self._array.shape[1:])
        return self._lengths

    def _measure(self) -> list[int]:
        raise NotImplementedError

    @property
    def ndim(self) -> int:
        """Number of dimensions of the tensor."""
        return len(self.lengths)

    def length(self, dim: int) -> int:
        """Length along one dimension of the tensor."""
        return self.lengths[dim]

    def as_pooled(self) -> Labels:
        """The same labels of a tensor that has no position left."""
        return Labels(self.data, True)

    def blank(self, ndim: int) -> Labels:
        """Labels of the same kind, of a tensor of so many dimensions that depends on nothing."""
        return Labels(self.some().new_full((self.features, *[1] * ndim), NOTHING), self.pooled)

    def map(self, function: Callable[[Tensor], Tensor]) -> Labels:
        """The same labels after a rearrangement of the array."""
        return Labels(function(self.data), self.pooled)

    def tidied(self, dims: Sequence[int]) -> Labels:
        """Dimensions along which nothing varies any more shortened to 1."""
        return self.map(lambda data: compress(data, dims))

    def along(self, dim: int, function: Callable[[Tensor, int], Tensor]) -> Labels:
        """The same labels after a change of the array along one dimension: of rows, if it is made of those alone.

        `function` takes an array and the number of its dimension.
        """
        return self.map(lambda data: function(data, dim + 1))

    def narrow(self, dim: int, start: int, count: int) -> Labels:
        """A run of `count` places along a dimension."""
        if self.length(dim) == 1 or count == self.length(dim):
            return self
        return self.along(dim, lambda data, axis: data.narrow(axis, start, count))

    def at(self, places: Sequence[int | None]) -> Labels:
        """The labels at one place of every dimension of which one is given; these stay with length 1."""
        chosen = [
            slice(None) if place is None or n == 1 else slice(place, place + 1)
            for place, n in zip(places, self.lengths, strict=True)
        ]
        return self.map(lambda data: data[(slice(None), *chosen)])

    def element(self, places: Sequence[int]) -> list[int]:
        """The features of one element."""
        chosen = [place if n > 1 else 0 for place, n in zip(places, self.lengths, strict=True)]
        return cast("list[int]", self.data[(slice(None), *chosen)].tolist())

    def permuted(self, order: Sequence[int]) -> Labels:
        """As a permutation of the dimensions of the tensor leaves them."""
        return self.map(lambda data: data.permute(0, *[dim + 1 for dim in order]))

    def without(self, dims: Sequence[int]) -> Labels:
        """Dimensions of length 1 taken away."""
        kept = [n for dim, n in enumerate(self.lengths) if dim not in dims]
        return self.map(lambda data: data.reshape(data.shape[0], *kept))

    def unsqueezed(self, places: Sequence[int]) -> Labels:
        """With new dimensions of length 1, that are the dimensions `places` of the result."""
        lengths = iter(self.lengths)
        sizes = [1 if dim in places else next(lengths) for dim in range(self.ndim + len(places))]
        return self.map(lambda data: data.reshape(data.shape[0], *sizes))

    def with_ndim(self, ndim: int) -> Labels:
        """Broadcast to a tensor with more dimensions, as PyTorch does: new ones in front."""
        return self.unsqueezed(range(ndim - self.ndim)) if ndim > self.ndim else self
