"""Operations that take their elements from here or there, or from nowhere, as a constant says."""

from __future__ import annotations

import torch
from torch import Tensor

from convblocks.introspect.aliasing import Ref
from convblocks.introspect.arrays import NOTHING, affordable, compress, constant_along
from convblocks.introspect.constants import known
from convblocks.introspect.labels import Labels, union
from convblocks.introspect.registry import Call, NoRule, Result, rule
from convblocks.introspect.rules.pointwise import pointwise


def hidden(labels: Labels | None, where: Tensor | None, ndim: int) -> Labels | None:
    """What depends on nothing where a constant hides it."""
    if labels is None or where is None or not bool(where.any()):
        return labels
    labels = labels.with_ndim(ndim)
    where = where.reshape(*[1] * (ndim - where.ndim), *where.shape)
    for dim in range(ndim):
        if where.shape[dim] > 1 and constant_along(where, dim):
            where = where.narrow(dim, 0, 1)
    shape = [max(n, m) for n, m in zip(labels.lengths, where.shape, strict=True)]
    affordable(shape)
    data = labels.data.expand(labels.features, *shape).masked_fill(where, NOTHING)
    return Labels(compress(data, range(ndim)), labels.pooled)


@rule("mul")
def scaled(call: Call) -> Result:
    """Element by element; what is multiplied by a constant zero depends on nothing."""
    factors = call.node.args[:2]
    if any(not isinstance(item, Ref) and item == 0 for item in factors):
        call.ignore(*factors)
        return None
    refs = [item for item in factors if isinstance(item, Ref)]
    constants = [ref for ref in refs if call.of(ref) is None]
    if len(refs) != 2 or not constants:
        return pointwise(call)
    merged = union([call.of(ref) for ref in refs], len(call.out_shape()))
    return hidden(merged, call.zeros(constants[0]), len(call.out_shape()))


@rule("where")
def chosen(call: Call) -> Result:
    """Element by element, of one or of the other where the condition is a constant."""
    condition, ndim = call.node.args[0], len(call.out_shape())
    known_condition = known(call.graph, condition.value) if call.of(condition) is None else None
    if len(call.node.args) < 3 or known_condition is None:
        return pointwise(call)
    yes, no = (call.of(item) for item in call.node.args[1:3])
    return union((hidden(yes, ~known_condition.bool(), ndim), hidden(no, known_condition.bool(), ndim)), ndim)


@rule("masked_fill")
def filled(call: Call) -> Result:
    """The number where the mask is, where that is a constant."""
    mask, ndim = call["mask"], len(call.out_shape())
    places = known(call.graph, mask.value) if call.of(mask) is None else None
    value = call.of(call["value"])
    if places is None or value is not None:
        return pointwise(call)
    return hidden(call.input, places.bool(), ndim)


@rule("tril", "triu")
def triangle(call: Call) -> Result:
    """A part of every matrix is zero."""
    ones = torch.ones(call.shape[-2:], dtype=torch.bool)
    kept = ones.tril(call["diagonal"]) if call.node.op.startswith("tril") else ones.triu(call["diagonal"])
    return hidden(call.input, ~kept, call.ndim)


@rule("gather")
def picked(call: Call) -> Result:
    """Along one dimension every element has a place of its own, which does not depend on the input."""
    labels, dim = call.input, call["dim"] % max(call.ndim, 1)
    if call.of(call["index"]) is not None:
        raise NoRule("indices that depend on the input")
    if labels is None:
        return None
    index = call.constant(call["index"])
    affordable(call.shape)
    wide = [n if d == dim else m for d, (n, m) in enumerate(zip(call.shape, index.shape, strict=True))]
    # Along the other dimensions the index may be the shorter one.
    cut = labels.data[(slice(None), *(slice(max(n, 1)) for n in wide))].expand(labels.features, *wide)
    data = cut.gather(dim + 1, index.expand(labels.features, *index.shape))
    return Labels(compress(data, range(call.ndim)), labels.pooled)
