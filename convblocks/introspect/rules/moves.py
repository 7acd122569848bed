"""Operations that rearrange whole tensors: views, transposes, repeats, rolls. The labels move as the elements do."""

from __future__ import annotations

from convblocks.introspect.arrays import factors
from convblocks.introspect.labels import Flattened, reshaped
from convblocks.introspect.registry import Call, NoRule, Result, rule


@rule("view", "_unsafe_view", "_reshape_alias")
def view(call: Call) -> Result:
    """Elements keep their order."""
    labels, old, new = call.input, call.shape, call.out_shape()
    if labels is None:
        return None
    if labels.is_apart or isinstance(labels, Flattened):
        return reshaped(labels, old, new)
    # Rows and columns that have been one dimension, or windows and heads: along some of them nothing varies.
    cut = [dim for _, after in factors(old, new) if len(after) > 1 for dim in after]
    done = reshaped(labels, old, new)
    lengths = done.lengths
    varies = [dim for dim in cut if lengths[dim] > 1]
    return done.tidied(varies) if varies else done


@rule("alias", "detach", "_to_copy", "lift_fresh", "lift_fresh_copy")
def same(call: Call) -> Result:
    """Every element stays where it is."""
    return call.input


@rule("permute")
def permute(call: Call) -> Result:
    """Dimensions change places."""
    return call.input and call.input.permuted([dim % call.ndim for dim in call["dims"]])


def swapped(ndim: int, first: int, second: int) -> list[int]:
    """The order of dimensions of which two change places."""
    order = list(range(ndim))
    order[first], order[second] = second, first
    return order


@rule("transpose")
def transpose(call: Call) -> Result:
    """Two dimensions change places."""
    if call.ndim == 0:
        return call.input
    first, second = (call[name] % call.ndim for name in ("dim0", "dim1"))
    return call.input and call.input.permuted(swapped(call.ndim, first, second))


@rule("t")
def matrix_transpose(call: Call) -> Result:
    """Rows become columns."""
    return call.input if call.ndim < 2 else call.input and call.input.permuted([1, 0])


@rule("unsqueeze")
def unsqueeze(call: Call) -> Result:
    """A dimension of length 1 more."""
    return call.input and call.input.unsqueezed([call["dim"] % (call.ndim + 1)])


@rule("squeeze")
def squeeze(call: Call) -> Result:
    """Dimensions of length 1 fewer."""
    return call.input and reshaped(call.input, call.shape, call.out_shape())


@rule("expand")
def expand(call: Call) -> Result:
    """Broadcast elements are the same element."""
    return call.input and call.input.with_ndim(len(call.out_shape()))


@rule("repeat")
def repeat(call: Call) -> Result:
    """The tensor again and again."""
    labels = call.input
    if labels is None:
        return None
    labels = labels.with_ndim(len(call.out_shape()))
    times = [1, *(count if labels.length(dim) > 1 else 1 for dim, count in enumerate(call["repeats"]))]
    return labels.map(lambda data: data.repeat(times))


@rule("roll")
def roll(call: Call) -> Result:
    """Elements move round."""
    labels = call.input
    if labels is None:
        return None
    if not call["dims"]:
        raise NoRule("a roll of the flattened tensor")
    for shift, dim in zip(call["shifts"], call["dims"], strict=True):
        labels = labels.along(dim % call.ndim, lambda data, axis, shift=shift: data.roll(shift, axis))
    return labels


@rule("flip")
def flip(call: Call) -> Result:
    """Elements in the other order."""
    labels = call.input
    for dim in call["dims"]:
        labels = labels and labels.along(dim % call.ndim, lambda data, axis: data.flip(axis))
    return labels


@rule("rot90")
def rot90(call: Call) -> Result:
    """Quarter turns of two dimensions."""
    plane = [dim % call.ndim + 1 for dim in call["dims"]]
    return call.input and call.input.map(lambda data: data.rot90(call["k"], plane))


@rule("view_as_real")
def view_as_real(call: Call) -> Result:
    """Each number as two, along a new last dimension."""
    return call.input and call.input.map(lambda data: data.unsqueeze(-1))


@rule("view_as_complex")
def view_as_complex(call: Call) -> Result:
    """Two numbers as one."""
    return call.input and call.input.map(lambda data: data.amin(-1))


@rule("unfold")
def tensor_unfold(call: Call) -> Result:
    """Windows of one dimension, along a new last one."""
    labels = call.input
    if labels is None:
        return None
    dim, size = call["dimension"] % call.ndim, call["size"]
    if labels.length(dim) == 1:
        return labels.map(lambda data: data.unsqueeze(-1))
    return labels.map(lambda data: data.unfold(dim + 1, size, call["step"]))


@rule("diagonal")
def diagonal(call: Call) -> Result:
    """The diagonal of two dimensions."""
    first, second = call["dim1"] % call.ndim, call["dim2"] % call.ndim
    full = [call.shape[d] if d in (first, second) else -1 for d in range(call.ndim)]
    return call.input and call.input.map(
        lambda data: data.expand(-1, *full).diagonal(call["offset"], first + 1, second + 1)
    )
