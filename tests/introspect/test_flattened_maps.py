"""Labels of maps that views flatten, cut and turn, without putting them together, say what full arrays say."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from convblocks import receptive_field
from convblocks.introspect.answers import Field
from convblocks.introspect.arrays import NOTHING, common, shared
from convblocks.introspect.labels import Flattened, Labels, joined, least, least_of_run, reshaped, slices, union
from convblocks.introspect.rules.parts import crop

lengths = st.sampled_from([1, 2, 3, 4, 6])


def full(labels: Labels, shape: tuple[int, ...]) -> Tensor:
    """The array as if the labels varied along every dimension."""
    assert [n in (1, m) for n, m in zip(labels.lengths, shape, strict=True)] == [True] * len(shape)
    assert list(labels.data.shape[1:]) == labels.lengths
    return labels.data.expand(2, *shape)


@st.composite
def some_labels(draw: st.DrawFn, shape: tuple[int, ...]) -> Labels:
    """Labels that vary along some dimensions, put together or a concatenation, a few of them of what sees nothing."""
    torch.manual_seed(draw(st.integers(0, 99)))
    varies = [draw(st.booleans()) for _ in shape]
    wide = [n if v else 1 for n, v in zip(shape, varies, strict=True)]
    data = torch.randint(0, 99, (2, *wide), dtype=torch.int32)
    data[:, torch.rand(wide) < 0.1] = NOTHING
    dims = [dim for dim, n in enumerate(shape) if n > 1]
    if not dims or draw(st.booleans()):
        return Labels(data)
    dim = draw(st.sampled_from(dims))
    first = draw(st.integers(1, shape[dim] - 1))
    return joined(
        dim,
        [
            (crop(Labels(data), dim, part), n)
            for part, n in ((slice(0, first, 1), first), (slice(first, shape[dim], 1), shape[dim] - first))
        ],
    )


def some_shape(data: st.DataObject, count: int) -> tuple[int, ...]:
    """A shape of so many elements."""
    shape: list[int] = []
    while count > 1:
        length = data.draw(st.sampled_from([n for n in (2, 3, 4, 6, 12, 36) if count % n == 0] or [count]))
        shape.append(length)
        count //= length
    for _ in range(data.draw(st.integers(0, 2))):
        shape.insert(data.draw(st.integers(0, len(shape))), 1)
    return tuple(shape) or (1,)


def step(data: st.DataObject, labels: Labels, shape: tuple[int, ...], array: Tensor) -> tuple[Labels, Tensor]:
    """One operation on both."""
    ndim = len(shape)
    dim = data.draw(st.integers(0, ndim - 1))
    name = data.draw(
        st.sampled_from(
            ["view", "view", "view", "permute", "crop", "place", "least", "unsqueeze", "union", "flip", "tidy"]
        )
    )
    if name == "view":
        new = some_shape(data, math.prod(shape))
        return reshaped(labels, shape, new), array.reshape(2, *new)
    if name == "permute":
        order = data.draw(st.permutations(range(ndim)))
        return labels.permuted(order), array.permute(0, *(d + 1 for d in order))
    if name == "crop":
        start = data.draw(st.integers(0, shape[dim] - 1))
        stop = data.draw(st.integers(start + 1, shape[dim]))
        return crop(labels, dim, slice(start, stop, 1)), array.narrow(dim + 1, start, stop - start)
    if name == "place":
        place = data.draw(st.integers(0, shape[dim] - 1))
        here = place if labels.length(dim) > 1 else 0
        found = labels.at([here if d == dim else None for d in range(ndim)])
        return (found.without([dim]), array.select(dim + 1, place)) if ndim > 1 else (found, array.narrow(1, place, 1))
    if name == "least":
        dims = data.draw(st.lists(st.integers(0, ndim - 1), unique=True))
        return least(labels, dims), array.amin([d + 1 for d in dims], keepdim=True) if dims else array
    if name == "unsqueeze":
        return labels.unsqueezed([dim]), array.unsqueeze(dim + 1)
    if name == "flip":
        return labels.along(dim, lambda found, axis: found.flip(axis)), array.flip(dim + 1)
    if name == "tidy":
        return labels.tidied([dim]), array
    other = data.draw(some_labels(shape))
    other_shape = some_shape(data, math.prod(shape))
    there = reshaped(reshaped(other, shape, other_shape), other_shape, shape)
    merged = union((labels, there), ndim)
    assert merged is not None
    return merged, torch.minimum(array, full(other, shape))


@given(data=st.data())
def test_any_chain_of_views_and_merges_gives_what_full_arrays_give(data: st.DataObject) -> None:
    shape = data.draw(st.tuples(lengths, lengths, lengths, lengths))
    labels = data.draw(some_labels(shape))
    array = full(labels, shape)
    for _ in range(data.draw(st.integers(1, 8))):
        labels, array = step(data, labels, shape, array)
        shape = tuple(array.shape[1:])
        assert labels.lengths == [n if m > 1 else 1 for n, m in zip(shape, labels.lengths, strict=True)]
    assert torch.equal(full(labels, shape), array)
    assert {tuple(element) for part in slices(labels) for element in part.flatten(1).T.tolist()} == {
        tuple(element) for element in array.flatten(1).T.tolist()
    }


@given(data=st.data())
def test_a_run_of_places_is_merged_row_by_row(data: st.DataObject) -> None:
    shape = data.draw(st.tuples(lengths, lengths, lengths, lengths))
    labels = data.draw(some_labels(shape))
    flat = reshaped(labels, shape, (shape[0], math.prod(shape[1:])))
    start = data.draw(st.integers(0, math.prod(shape[1:]) - 1))
    count = data.draw(st.integers(1, math.prod(shape[1:]) - start))
    array = full(labels, shape).flatten(2)[:, :, start : start + count].amin(2, keepdim=True)
    assert torch.equal(full(least_of_run(flat, 1, start, count), (shape[0], 1)), array)


@given(first=st.lists(lengths, max_size=5), data=st.data())
def test_the_common_shape_merges_to_both(first: list[int], data: st.DataObject) -> None:
    second = some_shape(data, math.prod(first))
    found = common(tuple(first), second)
    ends = {math.prod(shape[: i + 1]) for shape in (first, second) for i in range(len(shape))} - {1}
    if found is None:
        assert any(b % a for a in ends for b in ends if a < b)
        return
    assert {math.prod(found[: i + 1]) for i in range(len(found))} == ends
    for shape in (first, second):
        runs = shared(shape, found)
        assert [math.prod(run) for run in runs] == list(shape)
        assert [n for run in runs for n in run] == list(found)


def test_rows_of_a_flattened_map_are_not_put_together() -> None:
    """What makes a table of a transformer affordable: 48 rows, and not 2,304 places by 2,304."""
    tokens = reshaped(Labels(torch.arange(96, dtype=torch.int32).reshape(2, 1, 48, 1, 1)), (1, 48, 48, 8), (1, 2304, 8))
    assert isinstance(tokens, Flattened)
    assert tokens.lengths == [1, 2304, 1]
    scores = union((tokens, tokens.permuted([0, 2, 1])), 3)
    assert scores is not None
    assert scores.lengths == [1, 2304, 2304]
    assert sum(part.numel() for part in slices(scores)) == 2 * 48 * 48
    back = reshaped(tokens, (1, 2304, 8), (1, 48, 48, 2, 4))
    assert not isinstance(back, Flattened)
    assert back.lengths == [1, 48, 1, 1, 1]


class Tokens(nn.Module):
    """Patches as tokens behind a class token, mixed by an attention, as vision transformers have them."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, 4)
        self.token = nn.Parameter(torch.zeros(1, 1, 8))
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.mlp = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat((self.token.expand(len(x), -1, -1), x), 1)
        x = x + self.attention(x, x, x)[0]
        return x + self.mlp(x)


def test_tokens_are_units_as_far_apart_as_their_patches() -> None:
    """They came out 4/14 of a pixel apart, in a pattern of 14, the first of them before the image."""
    field = receptive_field(Tokens(), (3, 32, 56)).layers["mlp"]
    assert (field.local.size, field.local.jump, field.local.start) == ((4, 4), (4, 4), (1.5, 1.5))
    assert field.local.period == (1, 1)
    assert field.size == (math.inf, math.inf)
    patch = receptive_field(Tokens(), (3, 32, 56)).layers["patches"]
    assert patch.interval(0, 3, 5) == ((12, 15), (20, 23))


def test_along_a_dimension_without_elements_nothing_is_seen() -> None:
    """Its labels, in one piece or in parts, ended the answer with an error of torch."""
    for network in (lambda x: x[..., :0] * 2, lambda x: torch.cat((x[:, :1, :, :0], 2 * x[:, 1:, :, :0]), 1)):
        field = receptive_field(network, (3, 8, 8))
        assert (field.size[1], field.at_most[1], field.unknown) == (0, 0, ())


@pytest.mark.parametrize("place", [0, 1, 20, 111])
def test_the_interval_of_a_token_is_that_of_its_place(place: int) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.Flatten(2))
    row, column = divmod(place, 14)
    field = receptive_field(model, (3, 32, 56))
    assert field.interval(0, place) == ((4 * row, 4 * row + 3), (4 * column, 4 * column + 3))


class Windows(nn.Module):
    """A layer within windows of 4 x 4, or among the places that a grid of 4 x 4 takes."""

    def __init__(self, grid: bool) -> None:
        super().__init__()
        self.grid = grid
        self.conv = nn.Conv2d(3, 8, 3, 2, 1)
        self.inner = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        cut = (4, -1) if self.grid else (-1, 4)
        x = x.unflatten(3, cut).unflatten(2, cut).permute(0, 2, 4, 3, 5, 1)
        return self.inner(x.flatten(3, 4).flatten(0, 2))


@pytest.mark.parametrize("grid", [False, True])
def test_a_unit_within_a_window_is_its_place_and_not_the_window(grid: bool) -> None:
    """What a layer within windows sees came out as what the window sees, or all windows do at one place."""
    layers = receptive_field(Windows(grid), (3, 64, 64)).layers
    inner, conv = layers["inner"].local, layers["conv"].local
    assert conv == Field((3, 3), (2, 2), (0, 0), (1, 1))
    assert inner == conv


@pytest.mark.parametrize(
    ("kernel", "stride", "window", "size", "jump"), [(7, 4, 4, 7, 4), (3, 1, 2, 3, 1), (1, 1, 2, 1, 1)]
)
def test_what_an_unfold_cuts_without_overlap_is_as_large_and_as_far_apart_as_before(kernel, stride, window, size, jump):
    cut = nn.Sequential(nn.Conv2d(3, 4, kernel, stride, kernel // 2), nn.Unfold(window, stride=window)).double()
    field = receptive_field(cut, (3, 64, 64))
    assert (field.size, field.jump) == ((size, size), (jump, jump))
    for parameter in cut.parameters():
        nn.init.ones_(parameter)
    x = torch.zeros(1, 3, 64, 64, dtype=torch.float64, requires_grad=True)
    y = cut(x)
    across = 64 // stride // window
    # A unit in the middle of the map, of the first place of its window.
    (gradient,) = torch.autograd.grad(y[0, 0, across // 2 * across + across // 2], x)
    seen = gradient[0].abs().sum(0) > 0
    assert (int(seen.any(0).sum()), int(seen.any(1).sum())) == (size, size)
