"""What is taken over from the height to the width is what following the width itself says."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import reduce
from random import Random

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from convblocks.introspect import runs, symmetry
from convblocks.introspect.analysis import Analysis
from convblocks.introspect.arrays import LARGEST, TooLarge
from convblocks.introspect.labels import Labels
from convblocks.introspect.propagation import Local, propagate
from convblocks.introspect.receptive_field import analyse
from convblocks.introspect.runs import Grown
from convblocks.introspect.symmetry import exchanged

Step = Callable[[Tensor], Tensor]


def check(analysis: Analysis) -> bool:
    """Whether all of the width was taken over from the height; what was must be what following it gives."""
    height, width = analysis.axes
    along, found = ([*analysis.grown(axis), analysis.local(axis)] for axis in (height, width))
    images = [_check(analysis, run, other) for run, other in zip(found, along, strict=True)]
    return all(images)


def _check(analysis: Analysis, run: Grown, along: Grown) -> bool:
    policy = Local(run.length, analysis.native.shapes, analysis.length(run.axis), windows=run.policy.windows)
    expected = propagate(run.graph, run.axis, policy)
    assert run.policy.marks == policy.marks
    assert run.own.unknown == expected.unknown
    assert expected.labels.keys() == set(run.values())
    for value, labels in expected.labels.items():
        mine = run.labels(value)
        assert (mine.pooled, mine.lengths) == (labels.pooled, labels.lengths)
        assert same(mine, labels)
    assert run.like in (None, along)
    return run.is_image


def same(a: Labels, b: Labels) -> bool:
    """Whether labels are equal: at many places of those that would be too large to put together."""
    if math.prod(a.lengths) <= LARGEST:
        return a.data.equal(b.data)
    random = Random(0)
    places = [[random.randrange(length) for length in a.lengths] for _ in range(300)]
    try:
        return all(a.at(place).data.equal(b.at(place).data) for place in places)
    except TooLarge:
        return True


def ones(*shape: int) -> Tensor:
    return torch.ones(shape)


def convolved(x: Tensor, kernel: int = 3, **options: int) -> Tensor:
    return F.conv2d(x, ones(4, 4 // options.get("groups", 1), kernel, kernel), **options)


def selected(x: Tensor) -> Tensor:
    """Selective kernels: a softmax over branches that are stacked."""
    branches = torch.stack([convolved(x, padding=1), convolved(x, padding=2, dilation=2)], 1)
    weights = branches.sum(1).mean((2, 3)).reshape(1, 1, 4, 1, 1) * ones(1, 2, 1, 1, 1)
    return (branches * weights.softmax(1)).sum(1)


def ratio(x: Tensor) -> Tensor:
    gate = F.conv1d(x.mean((2, 3)).view(1, 1, 4), ones(1, 1, 3), padding=1).view(1, 4, 1, 1)
    return x * gate.sigmoid().expand_as(x)


def masked(x: Tensor) -> Tensor:
    return F.conv2d(x, ones(4, 4, 3, 3) * torch.tensor([[0.0, 1, 0], [1, 1, 1], [0, 1, 0]]), padding=1)


def tokens(x: Tensor) -> Tensor:
    return F.linear(x.flatten(2).transpose(1, 2), ones(4, 4))


def as_map(x: Tensor, like: Tensor) -> Tensor:
    return x.transpose(1, 2).reshape(like.shape)


def attended(x: Tensor, keys: Tensor) -> Tensor:
    """Two heads of two channels."""
    q, k, v = (F.linear(t, ones(4, 4)).view(*t.shape[:2], 2, 2).transpose(1, 2) for t in (x, keys, keys))
    return ((q @ k.transpose(2, 3)).softmax(3) @ v).transpose(1, 2).reshape(x.shape)


def in_windows(x: Tensor, size: tuple[int, int] = (4, 4), grid: bool = False, shift: int = 0) -> Tensor:
    """Attention within windows of a map with its channels last, or of the same place of every window."""
    rest = [-n % k for n, k in zip(x.shape[2:], size, strict=True)]
    y = F.pad(x.permute(0, 2, 3, 1), (0, 0, 0, rest[1], 0, rest[0]))
    y = y.roll((shift, shift), (1, 2)) if shift else y
    rows, columns = y.shape[1] // size[0], y.shape[2] // size[1]
    parts = y.view(y.shape[0], rows, size[0], columns, size[1], 4)
    order = (0, 2, 4, 1, 3, 5) if grid else (0, 1, 3, 2, 4, 5)
    windows = parts.permute(order).contiguous()
    shape = windows.shape
    flat = windows.view(-1, shape[3] * shape[4], 4)
    back = attended(flat, flat).view(shape)
    back = back.permute((0, 3, 1, 4, 2, 5) if grid else order).reshape(y.shape)
    back = back.roll((-shift, -shift), (1, 2)) if shift else back
    return x + F.pad(back.permute(0, 3, 1, 2), (0, -rest[1], 0, -rest[0]))


def reduced(x: Tensor) -> Tensor:
    """Places attend to those of a smaller map."""
    return x + as_map(attended(tokens(x), tokens(convolved(x, 2, stride=2))), x)


def of_channels(x: Tensor) -> Tensor:
    """Channels attend to channels, over all places."""
    y = tokens(x)
    return x + as_map((y.transpose(1, 2) @ y).softmax(2) @ y.transpose(1, 2), x).reshape(x.shape)


def fused(x: Tensor) -> Tensor:
    y = tokens(x).view(1, -1, 2, 2).transpose(1, 2)
    return x + as_map(F.scaled_dot_product_attention(y, y, y).transpose(1, 2).flatten(2), x)


def axial(x: Tensor) -> Tensor:
    """Every place attends to those of its row."""
    y = x.permute(0, 2, 3, 1).reshape(-1, x.shape[3], 4)
    return x + attended(y, y).view(1, *x.shape[2:], 4).permute(0, 3, 1, 2)


def unrolled(x: Tensor) -> Tensor:
    """Places in such an order that to pool is to take the largest of the first, the second quarter and so on."""
    y = x.view(1, 4, x.shape[2] // 2, 2, -1, 2).permute(0, 3, 5, 2, 4, 1).reshape(1, -1, 4)
    y = F.linear(y, ones(4, 4)).view(1, 4, -1, 4).amax(1)
    return F.interpolate(y.transpose(1, 2).reshape(1, 4, x.shape[2] // 2, -1), x.shape[2:])


def windows_by_channel(x: Tensor) -> Tensor:
    """Channels that see other windows each are weights of four places, two by two."""
    cross = torch.tensor([[0.0, 1, 0], [1, 1, 1], [0, 1, 0]])
    masks = torch.stack([ones(3, 3), cross, ones(3, 3), 1 - cross])[:, None]
    weights = F.conv2d(x, ones(4, 4, 3, 3) * masks, padding=1).flatten(2).transpose(1, 2)
    return x + as_map(weights @ F.adaptive_avg_pool2d(x, 2).flatten(2).transpose(1, 2), x)


ALIKE: dict[str, Step] = {
    "unrolled": unrolled,
    "channels last": lambda x: F.linear(x.permute(0, 2, 3, 1), ones(4, 4)).permute(0, 3, 1, 2),
    "places": lambda x: as_map(F.layer_norm(tokens(x) + torch.rand(x.shape[2] * x.shape[3], 4), (4,)), x),
    "mean of places": lambda x: x * tokens(x).mean(1).view(1, 4, 1, 1),
    "attention": lambda x: x + as_map(attended(tokens(x), tokens(x)), x),
    "attention to fewer": reduced,
    "fused attention": fused,
    "windows": in_windows,
    "shifted windows": lambda x: in_windows(x, shift=2),
    "grid": lambda x: in_windows(x, grid=True),
    "windows of windows": lambda x: in_windows(in_windows(x), (6, 6)),
    "channel attention": lambda x: x + (tokens(x).transpose(1, 2) @ tokens(x)).softmax(2).sum(2).view(1, 4, 1, 1),
    "patches": lambda x: F.interpolate(
        F.linear(
            x.view(1, 4, x.shape[2] // 2, 2, -1, 2).permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2), ones(4, 16)
        )
        .transpose(1, 2)
        .view(1, 4, x.shape[2] // 2, -1),
        x.shape[2:],
    ),
    "convolution": lambda x: convolved(x, padding=1),
    "stride": lambda x: convolved(x, stride=2, padding=1),
    "dilation": lambda x: convolved(x, padding=3, dilation=3),
    "even kernel": lambda x: convolved(x, 2),
    "depthwise": lambda x: convolved(x, 5, padding=2, groups=4),
    "transposed": lambda x: F.conv_transpose2d(x, ones(4, 4, 3, 3), stride=2, padding=1),
    "cross": masked,
    "maximum": lambda x: F.max_pool2d(x, 3, 2, 1),
    "average": lambda x: F.avg_pool2d(x, 2, 2, ceil_mode=True),
    "norm": lambda x: F.batch_norm(x, ones(4), ones(4), ones(4), ones(4)),
    "groups": lambda x: F.group_norm(x, 2, ones(4), ones(4)),
    "activation": F.hardswish,
    "in place": lambda x: (x + 1).relu_(),
    "residual": lambda x: x + convolved(x, padding=1),
    "squeeze": lambda x: x * convolved(x.mean((2, 3), keepdim=True), 1).sigmoid(),
    "vector": ratio,
    "selective": selected,
    "pyramid": lambda x: x + F.interpolate(convolved(F.max_pool2d(x, 2), padding=1), x.shape[2:], mode="nearest"),
    "bilinear": lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
    "pooled": lambda x: x + F.interpolate(F.adaptive_avg_pool2d(x, 1), x.shape[2:]),
    "parts": lambda x: torch.cat([convolved(x, padding=1)[:, :2], x[:, 2:]], 1),
    "chunks": lambda x: torch.cat([part + 1 for part in x.chunk(2, 1)][::-1], 1),
    "mean of channels": lambda x: x * x.mean(1, keepdim=True),
    "reflection": lambda x: F.pad(x, (2, 1, 2, 1), mode="reflect"),
    "zeros": lambda x: F.pad(x, (1, 0, 1, 0)),
    "groups of channels": lambda x: (x.view(1, 2, 2, *x.shape[2:]) + 1).view(x.shape),
}


def channels_as_rows(x: Tensor) -> Tensor:
    """Of channels one of which is nothing rows are made, of windows as high as there are channels."""
    n, c, h, w = x.shape
    hidden = x * torch.tensor([0.0, 1, 1, 1]).view(4, 1, 1)
    rows = hidden.view(n, c, h // 4, 4, w // 4, 4).amax((3, 5)).permute(0, 2, 1, 3).unsqueeze(1).unsqueeze(5)
    return (x.view(n, c, h // 4, 4, w // 4, 4) + rows).reshape(x.shape)


OTHERS: dict[str, Step] = {
    "channels as rows": channels_as_rows,
    "weights by channel": windows_by_channel,
    "axial attention": axial,
    "other windows": lambda x: in_windows(x, (4, 6)),
    "channels of places": of_channels,
    "windows along one": lambda x: in_windows(x, (4, x.shape[3])),
    "padding of channels last": lambda x: F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 0, 0)).permute(0, 3, 1, 2),
    "roll of channels last": lambda x: x.permute(0, 2, 3, 1).roll((1, 2), (1, 2)).permute(0, 3, 1, 2),
    "some places": lambda x: x + tokens(x)[:, :24].sum(1).view(1, 4, 1, 1),
    "one place": lambda x: x + tokens(x)[:, 5].view(1, 4, 1, 1),
    "a token more": lambda x: as_map(torch.cat([ones(1, 1, 4), tokens(x)], 1)[:, 1:], x),
    "another grid": lambda x: x + tokens(x).view(1, 2, -1, 4).sum(1, keepdim=True).mean(2).view(1, 4, 1, 1),
    "places by places": lambda x: x + (tokens(x) @ tokens(x).transpose(1, 2))[:, 0].mean(),
    "kernel": lambda x: F.conv2d(x, ones(4, 4, 1, 3), padding=(0, 1)),
    "stride": lambda x: F.interpolate(F.conv2d(x, ones(4, 4, 3, 3), stride=(2, 1), padding=1), x.shape[2:]),
    "dilation": lambda x: F.conv2d(x, ones(4, 4, 3, 3), padding=(1, 2), dilation=(1, 2)),
    "padding": lambda x: F.pad(x, (1, 1, 2, 0)),
    "average": lambda x: F.avg_pool2d(x, (1, 3), 1, (0, 1)),
    "roll": lambda x: x + x.roll(2, 2),
    "flip": lambda x: x + x.flip(3),
    "row of zeros": lambda x: x * (torch.arange(x.shape[3]) > 3),
    "map of zeros": lambda x: x * (torch.arange(x.shape[2] * x.shape[3]).view(x.shape[2:]) > 40),
    "masked kernel": lambda x: F.conv2d(x, ones(4, 4, 3, 3).tril(), padding=1),
    "exchange": lambda x: F.conv2d(x.transpose(2, 3), ones(4, 4, 1, 3), padding=(0, 1)),
    "columns": lambda x: x + x.mean(2, keepdim=True),
    "row maximum": lambda x: x + x.amax(3, keepdim=True),
    "largest of a column": lambda x: x + x.max(2, keepdim=True).values,
    "softmax": lambda x: x.softmax(3),
    "running sum": lambda x: x.cumsum(2),
    "places joined": lambda x: torch.cat([x, convolved(x, padding=1)], 3)[..., : x.shape[3]],
    "cut": lambda x: x[:, :, 1:, :-1],
    "written": lambda x: x.clone().index_fill_(2, torch.tensor([1]), 0.0),
    "pixels": lambda x: F.pixel_shuffle(x, 2).repeat(1, 4, 1, 1),
    "flattened": lambda x: x.flatten(2).roll(1, 2).view(x.shape),
    "rows as channels": lambda x: x + x[0, 0].sum(0),
    "rows of a map": lambda x: x + x.mean((0, 1)).sum(1),
}


@pytest.mark.parametrize("name", ALIKE)
def test_what_treats_both_alike_is_followed_along_one(name: str) -> None:
    assert check(analyse(lambda x: ALIKE[name](convolved(x, padding=1)), (4, 24, 24)))


@pytest.mark.parametrize("name", ALIKE)
def test_fields_are_those_of_both_followed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The order of the units of a sequence, in which rows come one after another, is not that of its mirror image."""

    def network(x: Tensor) -> Tensor:
        return convolved(ALIKE[name](convolved(x, padding=1)), padding=1)

    mine = analyse(network, (4, 24, 24))
    height, width = mine.axes
    assert mine.grown(width)[0].is_image
    fields = {value: mine.field(width, value) for value in mine.grown(height)[0].values()}
    monkeypatch.setattr(runs, "exchanged", lambda _: None)
    monkeypatch.setattr(runs, "square", lambda _: False)
    both = analyse(network, (4, 24, 24))
    assert both.grown(width)[0].like is None
    assert fields == {value: both.field(width, value) for value in both.grown(height)[0].values()}


def test_labels_that_cannot_be_mirrored_are_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise TooLarge([1])

    monkeypatch.setattr(runs, "mirrored", refuse)
    monkeypatch.setattr(symmetry, "mirrored", refuse)
    analysis = analyse(lambda x: in_windows(convolved(x, padding=1)), (4, 24, 24))
    run = analysis.grown(analysis.axes[1])[0]
    assert run.is_image
    check(analysis)
    assert run.like is None


@pytest.mark.parametrize("name", OTHERS)
def test_what_does_not_is_followed_along_both(name: str) -> None:
    analysis = analyse(lambda x: OTHERS[name](convolved(x, padding=1)), (4, 24, 24))
    assert exchanged(analysis.native) is None
    check(analysis)


@pytest.mark.parametrize(
    "steps",
    [
        # Channels side by side, with the places of patches made one dimension, of one image: a dimension of length 1.
        ["groups", "parts", "patches"],
        # What is unknown, and statistics of a norm that do not depend on the input.
        ["pooled", "written", "norm"],
    ],
)
def test_chains(steps: list[str]) -> None:
    found = {**ALIKE, **OTHERS}

    def network(x: Tensor) -> Tensor:
        return reduce(lambda x, step: found[step](x), steps, x)

    check(analyse(network, (4, 24, 24)))


def long_kernels(x: Tensor) -> Tensor:
    return F.conv2d(F.conv2d(x, ones(4, 4, 1, 5), padding=(0, 2)), ones(4, 4, 5, 1), padding=(2, 0))


def strips(x: Tensor) -> Tensor:
    return F.conv2d(x, ones(4, 4, 1, 7), padding=(0, 3)) + F.conv2d(x, ones(4, 4, 7, 1), padding=(3, 0))


def with_positions(x: Tensor) -> Tensor:
    """Windows that see their surroundings, by their rows and by their columns."""
    n, c, h, w = x.shape
    q = x.view(n, c, h // 4, 4, w // 4, 4).permute(0, 2, 4, 3, 5, 1).reshape(-1, 4, 4, c)
    around = F.pad(x, (1, 1, 1, 1)).unfold(2, 6, 4).unfold(3, 6, 4)
    keys = around.permute(0, 2, 3, 4, 5, 1).reshape(-1, 36, c)
    of_columns = (q @ ones(c, 6)).view(-1, 4, 1, 4, 6).expand(-1, -1, 6, -1, -1).permute(0, 1, 3, 2, 4)
    of_rows = (q.transpose(1, 2) @ ones(c, 6)).view(-1, 4, 1, 4, 6).expand(-1, -1, 6, -1, -1).permute(0, 3, 1, 4, 2)
    scores = q.reshape(-1, 16, c) @ keys.transpose(1, 2) + (of_columns + of_rows).reshape(-1, 16, 36)
    found = (scores.softmax(2) @ keys).view(n, h // 4, w // 4, 4, 4, c)
    return found.permute(0, 5, 1, 3, 2, 4).reshape(x.shape)


@pytest.mark.parametrize(("pair", "followed"), [(long_kernels, 2), (strips, 4), (with_positions, 0)])
def test_what_two_operations_do_to_both_together_is_followed_along_one(pair: Step, followed: int) -> None:
    """Of what comes behind them nothing is followed along the width; `followed` convolutions are."""

    def network(x: Tensor) -> Tensor:
        for _ in range(2):
            x = in_windows(convolved(F.relu(pair(convolved(x, padding=1))), padding=1))
        return x

    analysis = analyse(network, (4, 24, 24))
    assert exchanged(analysis.native) is None
    assert not check(analysis)
    run = analysis.grown(analysis.axes[1])[0]
    ops = [node.op for node in run.graph.nodes if set(node.outputs) & run.own.labels.keys()]
    assert not {"relu", "amax"} & set(ops)
    assert ops.count("convolution") == followed


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    steps=st.lists(st.sampled_from(sorted(ALIKE)), min_size=1, max_size=4),
    other=st.none() | st.tuples(st.sampled_from(sorted(OTHERS)), st.integers(0, 4)),
)
def test_networks_of_several_steps(steps: list[str], other: tuple[str, int] | None) -> None:
    chain = [ALIKE[name] for name in steps]
    if other is not None:
        chain.insert(other[1], OTHERS[other[0]])

    def network(x: Tensor) -> Tensor:
        for step in chain:
            x = step(x)
        return x

    try:
        network(torch.zeros(1, 4, 24, 24))
    except RuntimeError:
        return  # nothing is left of the map
    assert check(analyse(network, (4, 24, 24))) or other is not None


def test_an_image_as_high_as_it_is_wide_is_enlarged_to_one() -> None:
    """Its rows see farther than its columns."""
    analysis = analyse(lambda x: F.conv2d(x, ones(4, 4, 9, 1), padding=(4, 0)), (4, 24, 24))
    assert len({run.length for axis in analysis.axes for run in analysis.grown(axis)}) == 1


def test_an_input_that_is_not_square_is_followed_along_both() -> None:
    assert not check(analyse(nn.Conv2d(4, 4, 3), (4, 24, 32)))


def test_of_an_input_with_its_channels_last_height_and_width_are_other_dimensions() -> None:
    """Its width and its channels are as long, and the network is the same if those are exchanged."""
    analysis = analyse(lambda x: x + x.amax((2, 3), keepdim=True) + x.roll(1, 1), (4, 24, 24), channel_last=True)
    assert not check(analysis)
    assert analysis.native.shapes[0] == (1, 4, 24, 24)
