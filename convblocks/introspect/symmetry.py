"""Networks that treat height and width alike: what holds along one of the two holds along the other.

If exchanging the height and the width of the input exchanges two dimensions of every tensor, or what a view has made
one dimension of, and changes nothing else, the labels along the width are those along the height with these exchanged.
"""

from __future__ import annotations

from itertools import chain

from convblocks.introspect.graph import Graph
from convblocks.introspect.labels import Concatenation, Labels, Minimum, merge, reshaped
from convblocks.introspect.turning import turned
from convblocks.introspect.turns import FREE, Turn, resized, still


def exchanged(graph: Graph) -> dict[int, Turn] | None:
    """How the values turn whose dimensions change places if height and width of the input do; all others stay.

    None where that is not so, or not certain.
    """
    [value, *others] = graph.inputs
    *first, height, width = graph.shapes[value]
    if others or not first or height != width or width == 1:
        return None
    straight = still(graph.shapes[value])
    known = {value: Turn(straight.groups, (*straight.places[:-2], *reversed(straight.places[-2:])))}
    for node in graph.nodes:
        if not known.keys().isdisjoint(node.operands):
            found = turned(graph, node, known)
            if found is None:
                return None
            known.update(zip(node.outputs, found, strict=True))
    return {value: turn for value, turn in known.items() if turn.turns}


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
