"""Networks that treat height and width alike: what holds along one of the two holds along the other.

If exchanging the height and the width of the input exchanges two dimensions of every tensor, or what a view has made
one dimension of, and changes nothing else, the labels along the width are those along the height with these exchanged.
Where that holds of some tensors alone, the labels of the others are followed along both.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import torch

from convblocks.introspect.graph import Graph, Node
from convblocks.introspect.labels import Concatenation, Flattened, Labels, Minimum, merge, reshaped, same
from convblocks.introspect.turning import turned
from convblocks.introspect.turns import FREE, Turn, read, resized, still


def exchanged(graph: Graph) -> dict[int, Turn] | None:
    """How the values turn whose dimensions change places if height and width of the input do; all others stay.

    None where that is not so, or not certain.
    """
    if not square(graph):
        return None
    value = graph.inputs[0]
    known = {value: _of_image(graph.shapes[value])}
    for node in graph.nodes:
        if not known.keys().isdisjoint(node.operands):
            found = turned(graph, node, known)
            if found is None:
                return None
            known.update(zip(node.outputs, found, strict=True))
    return {value: turn for value, turn in known.items() if turn.turns}


def square(graph: Graph) -> bool:
    """Whether the input is one image, as high as it is wide."""
    [value, *others] = graph.inputs
    *first, height, width = graph.shapes[value]
    return not others and bool(first) and height == width > 1


class Mirror:
    """Which labels along the width are the mirror image of those along the height, as one node after the other is met.

    It is so of what an operation that treats height and width alike makes of others of which it is so, and wherever the
    labels say so themselves: two operations may do together to both what each does to one. What comes behind follows
    from the labels alone, whatever was before.
    """

    def __init__(self, graph: Graph, along: dict[int, Labels]) -> None:
        self._graph, self._along = graph, along
        [value, *_] = graph.inputs
        self.turns = {value: _of_image(graph.shapes[value])}
        """How the values turn of which it is so."""
        self._done: dict[tuple[int, Turn], Labels] = {}

    def takes(self, node: Node) -> bool:
        """Whether it is so of the results of a node, as of what it depends on."""
        found = turned(self._graph, node, self.turns)
        self.turns.update(
            (value, turn) for value, turn in zip(node.outputs, found or (), strict=False) if value in self._along
        )
        return found is not None

    def image(self, value: int) -> Labels:
        """The labels of a value of which it is so."""
        return mirrored(self._along[value], self.turns[value], self._graph.shapes[value], self._done)

    def shows(self, value: int, labels: Labels, operands: Sequence[int]) -> bool:
        """Whether it is so of a value with these labels, made of others: what varies along each axis changes places.

        What is in several arrays, or what a view has made one dimension of, turns as one that it is made of if at all.
        """
        along, shape = self._along.get(value), self._graph.shapes[value]
        if along is None or along.pooled != labels.pooled:
            return False
        if any(isinstance(item, Flattened) or item.is_apart for item in (along, labels)):
            turns = [self.turns[other] for other in operands if other in self.turns]
            for turn in dict.fromkeys([turn for turn in turns if turn.shape == shape]):
                if same(mirrored(along, turn, shape, self._done), labels):
                    self.turns[value] = turn
                    return True
            return False
        if along.data.numel() != labels.data.numel() or not torch.equal(along.data.squeeze(), labels.data.squeeze()):
            return False
        rows, columns = ([dim for dim, n in enumerate(item.lengths) if n > 1] for item in (along, labels))
        places = {**dict(zip(rows, columns, strict=True)), **dict(zip(columns, rows, strict=True))}
        spelled = [((n, (places[dim], 0) if dim in places else None),) if n > 1 else () for dim, n in enumerate(shape)]
        turn = read(spelled)
        if turn is not None:
            self.turns[value] = turn
        return turn is not None


def _of_image(shape: Sequence[int]) -> Turn:
    """The turn of an image: height and width change places."""
    straight = still(tuple(shape))
    return Turn(straight.groups, (*straight.places[:-2], *reversed(straight.places[-2:])))


def mirrored(labels: Labels, turn: Turn, shape: tuple[int, ...], done: dict[tuple[int, Turn], Labels]) -> Labels:
    """Labels of a tensor of this shape after its turn; `done` keeps them by the identity of what was given."""
    key = id(labels), turn
    if key not in done:
        done[key] = _mirrored(labels, turn, shape, done)
    return done[key]


def _mirrored(labels: Labels, turn: Turn, shape: tuple[int, ...], done: dict[tuple[int, Turn], Labels]) -> Labels:
    if isinstance(labels, Minimum) and labels.terms:
        return labels.per_term(lambda term: mirrored(term, turn, shape, done))
    if isinstance(labels, Concatenation) and turn.stays(labels.dim):
        parts: list[tuple[Labels, int]] = []
        for item, length in labels.items:
            own = resized(turn, labels.dim, length)
            assert own is not None
            sizes = (*shape[: labels.dim], length, *shape[labels.dim + 1 :])
            parts.append((mirrored(item, own, sizes, done), length))
        return Concatenation(labels.dim, parts, labels.pooled)
    varying = [dim for dim, length in enumerate(labels.lengths) if length > 1]
    if all(turn.stays(dim) for dim in varying):
        return labels
    if turn.is_plain:
        others = [turn.partner(dim) for dim in range(len(shape))]
        return labels.permuted([dim if other is None else other for dim, other in enumerate(others)])
    fine = tuple(chain.from_iterable(turn.groups))
    places = [number if place == FREE else place for number, place in enumerate(turn.places)]
    apart = reshaped(labels, shape, fine).permuted(places)
    return merge(apart, fine, [len(group) for group in turn.groups])
