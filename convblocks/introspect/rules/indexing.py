"""Places picked by lists of indices that do not depend on the input."""

from __future__ import annotations

from typing import Any

import torch

from convblocks.introspect.registry import Call, NoRule, Result, rule
from convblocks.introspect.sliding import gather


@rule("index_select")
def index_select(call: Call) -> Result:
    """Places of one dimension by a list that does not depend on the input."""
    labels = call.input
    dim: int = call["dim"] % call.ndim
    if call.of(call["index"]) is not None:
        raise NoRule("indices that depend on the input")
    if labels is None or labels.length(dim) == 1:
        return labels
    taps = call.constant(call["index"]).reshape(-1, 1) % call.shape[dim]
    return labels.along(dim, lambda data, axis: gather(data, axis - 1, taps))


@rule("index", "_unsafe_index")
def index(call: Call) -> Result:
    """Places by lists that do not depend on the input."""
    labels, indices = call.input, call["indices"]
    if any(call.of(ref) is not None for ref in indices if ref is not None):
        raise NoRule("indices that depend on the input")
    if labels is None:
        return None
    places: list[Any] = []
    sizes: list[int] = []
    for ref in indices:
        if ref is None:
            places.append(slice(None))
            sizes.append(-1)
            continue
        places.append(call.constant(ref))
        sizes.append(call.shape[len(sizes)])
    sizes += [-1] * (labels.ndim - len(sizes))
    # Feature by feature: lists apart from each other put their dimension in front of all others.
    return labels.map(lambda data: torch.stack([part.expand(sizes)[tuple(places)] for part in data]))
