"""Rows merged with columns, as the scores of an attention are: more elements than both have together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce

import torch
from torch import Tensor

from convblocks.introspect.arrays import affordable
from convblocks.introspect.labels.plain import Identity, Labels


class Minimum(Labels):
    """The elementwise minimum of labels that vary along different dimensions; put together it is an array alone."""

    __slots__ = ("_terms",)

    def __init__(self, terms: tuple[Labels, ...], pooled: bool = False) -> None:
        super().__init__(None, pooled)
        self._terms = terms

    @property
    def terms(self) -> tuple[Labels, ...]:
        """The labels of which it is the minimum; none once it is put together."""
        return self._terms

    @property
    def is_apart(self) -> bool:
        """See `Labels`."""
        return bool(self._terms)

    def per_term(self, function: Callable[[Labels], Labels]) -> Minimum:
        """Treat every term alike; what is done must not merge dimensions along which they differ."""
        return Minimum(tuple([function(term) for term in self._terms]), self.pooled)

    def _put_together(self) -> Tensor:
        affordable(self.lengths)
        array = reduce(torch.minimum, [term.data for term in self._terms])
        self._terms = ()
        return array

    def _identify(self) -> Identity:
        if not self._terms:
            return super()._identify()
        return ("least", *(term.identity for term in self._terms), self.pooled)

    def some(self) -> Tensor:
        """See `Labels`."""
        return self._terms[0].some() if self._terms else self.data

    def _measure(self) -> list[int]:
        return list(map(max, *[term.lengths for term in self._terms]))

    def as_pooled(self) -> Labels:
        """See `Labels`."""
        if not self._terms:
            return super().as_pooled()
        return Minimum(tuple([term.as_pooled() for term in self._terms]), True)

    def narrow(self, dim: int, start: int, count: int) -> Labels:
        """See `Labels`."""
        if not self._terms or self.length(dim) == 1 or count == self.length(dim):
            return super().narrow(dim, start, count)
        return self.per_term(lambda term: term.narrow(dim, start, count))

    def at(self, places: Sequence[int | None]) -> Labels:
        """See `Labels`."""
        return self.per_term(lambda term: term.at(places)) if self._terms else super().at(places)

    def element(self, places: Sequence[int]) -> list[int]:
        """See `Labels`."""
        if not self._terms:
            return super().element(places)
        return list(map(min, *[term.element(places) for term in self._terms]))

    def permuted(self, order: Sequence[int]) -> Labels:
        """See `Labels`."""
        return self.per_term(lambda term: term.permuted(order)) if self._terms else super().permuted(order)

    def without(self, dims: Sequence[int]) -> Labels:
        """See `Labels`."""
        return self.per_term(lambda term: term.without(dims)) if self._terms else super().without(dims)

    def unsqueezed(self, places: Sequence[int]) -> Labels:
        """See `Labels`."""
        return self.per_term(lambda term: term.unsqueezed(places)) if self._terms else super().unsqueezed(places)
