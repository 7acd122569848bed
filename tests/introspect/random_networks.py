"""Random networks for hypothesis: every step is a function of a tensor, and fits whatever tensor it is given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor

Step = Callable[[Tensor], Tensor]


def _weight(*shape: int) -> Tensor:
    count = 1
    for n in shape[1:]:
        count *= n
    return torch.full(shape, 1.0 / count, dtype=torch.float64)


@dataclass(frozen=True)
class Network:
    """A chain of steps with the text that tells what it is."""

    steps: tuple[Step, ...]
    text: str

    def __call__(self, x: Tensor) -> Tensor:
        for step in self.steps:
            x = step(x)
        return x

    def __repr__(self) -> str:
        return self.text


def _meta(weight: Tensor, x: Tensor) -> Tensor:
    return weight.to(x.device) if not x.is_meta else weight


def convolution(
    out: int,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
) -> Step:
    def step(x: Tensor) -> Tensor:
        channels = x.shape[1]
        g = groups if channels % groups == 0 and out % groups == 0 else 1
        need = [d * (k - 1) + 1 - 2 * p for d, k, p in zip(dilation, kernel, padding, strict=True)]
        if any(n < m for n, m in zip(x.shape[2:], need, strict=True)):
            return x
        return F.conv2d(x, _weight(out, channels // g, *kernel), None, stride, padding, dilation, g)

    return step


def depthwise(kernel: int, dilation: int) -> Step:
    def step(x: Tensor) -> Tensor:
        return F.conv2d(
            x, _weight(x.shape[1], 1, kernel, kernel), None, 1, dilation * (kernel // 2), dilation, x.shape[1]
        )

    return step


def transposed(out: int, kernel: int, stride: int, padding: int, extra: int, limit: int = 40) -> Step:
    def step(x: Tensor) -> Tensor:
        if max(x.shape[2:]) * stride > limit:
            return x
        p = min(padding, kernel - 1)
        if (min(x.shape[2:]) - 1) * stride - 2 * p + kernel <= 0:
            return x
        return F.conv_transpose2d(x, _weight(x.shape[1], out, kernel, kernel), None, stride, p, min(extra, stride - 1))

    return step


def pooling(kind: str, kernel: tuple[int, int], stride: int, ceil_mode: bool, pad: bool) -> Step:
    def step(x: Tensor) -> Tensor:
        if any(n < k for n, k in zip(x.shape[2:], kernel, strict=True)):
            return x
        padding = tuple(k // 2 if pad else 0 for k in kernel)
        if kind == "max":
            return F.max_pool2d(x, kernel, stride, padding, 1, ceil_mode)
        return F.avg_pool2d(x, kernel, stride, padding, ceil_mode)

    return step


def padded(left: int, right: int, top: int, bottom: int, mode: str) -> Step:
    def step(x: Tensor) -> Tensor:
        amount = (left, right, top, bottom)
        if mode == "constant":
            return F.pad(x, amount)
        least = min(x.shape[2:])
        if mode in ("reflect", "circular") and max(amount) >= least:
            return x
        return F.pad(x, tuple(max(0, n) for n in amount), mode=mode)

    return step


def cropped(left: int, right: int, step_size: int) -> Step:
    def step(x: Tensor) -> Tensor:
        if min(x.shape[2:]) <= left + right + 1:
            return x
        return x[:, :, left : x.shape[2] - right : step_size, right : x.shape[3] - left]

    return step


def upsampled(mode: str, scale: int, align: bool) -> Step:
    def step(x: Tensor) -> Tensor:
        if max(x.shape[2:]) * scale > 40:
            return x
        if mode == "nearest":
            return F.interpolate(x, scale_factor=scale)
        return F.interpolate(x, scale_factor=scale, mode="bilinear", align_corners=align)

    return step


def resized(height: int, width: int, mode: str) -> Step:
    def step(x: Tensor) -> Tensor:
        return F.interpolate(x, size=(height, width), mode=mode)

    return step


def shuffled(up: bool) -> Step:
    def step(x: Tensor) -> Tensor:
        if x.numel() == 0:
            # torch 2.14 gives an empty map another shape on meta than with data.
            return x
        if up:
            return F.pixel_shuffle(x, 2) if x.shape[1] % 4 == 0 and max(x.shape[2:]) <= 20 else x
        return F.pixel_unshuffle(x, 2) if all(n % 2 == 0 for n in x.shape[2:]) and x.shape[1] <= 16 else x

    return step


def split_and_write(kind: int) -> Step:
    """Channel splits, views, and writes in place."""

    def step(x: Tensor) -> Tensor:
        half = x.shape[1] // 2
        if kind == 0 and half:
            a, b = x.split([half, x.shape[1] - half], 1)
            return torch.cat((F.avg_pool2d(b, 3, 1, 1), a), 1)
        if kind == 1 and half:
            y = x.clone()
            y[:, :half] = F.avg_pool2d(x, 3, 1, 1)[:, :half]
            return y
        if kind == 2:
            y = x.clone()
            row = y[:, :, 0]
            row.add_(y[:, :, -1])
            return y.relu_()
        if kind == 3:
            y = torch.zeros_like(x)
            y[:, :, 1:].add_(x[:, :, :-1])
            return y + x
        if kind == 4 and x.shape[1] % 2 == 0:
            n, c, h, w = x.shape
            return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        if kind == 5:
            flat = x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])
            mixed = F.linear(flat, _weight(4, x.shape[1]))
            return mixed.view(x.shape[0], x.shape[2], x.shape[3], 4).permute(0, 3, 1, 2)
        if kind == 6:
            y = x.clone()
            a, b = y[:, : max(1, half)], y[:, half:]
            a.mul_(0.5).add_(x[:, : a.shape[1]].flip(3))
            return torch.cat((y, b), 1)[:, : x.shape[1]]
        if kind == 7:
            return x.roll((1, -2), (2, 3))
        if kind == 8:
            return F.avg_pool2d(x.transpose(2, 3), (1, 3), 1, (0, 1))
        return F.relu(x) + 1

    return step


def gated() -> Step:
    def step(x: Tensor) -> Tensor:
        return x * torch.sigmoid(x.mean((2, 3), keepdim=True))

    return step


def branched(branches: tuple[Network, ...], join: str) -> Step:
    """All branches brought to the size of the smallest and joined."""

    def step(x: Tensor) -> Tensor:
        outs = [branch(x) for branch in branches]
        height, width = (min(y.shape[d] for y in outs) for d in (2, 3))
        outs = [y[:, :, (y.shape[2] - height) // 2 :, (y.shape[3] - width) // 2 :][:, :, :height, :width] for y in outs]
        if join == "cat":
            return torch.cat(outs, 1)
        channels = min(y.shape[1] for y in outs)
        total = outs[0][:, :channels]
        for y in outs[1:]:
            total = total + y[:, :channels]
        return total

    return step


def _named(factory: Callable[..., Step], *arguments: st.SearchStrategy[object]) -> st.SearchStrategy[tuple[Step, str]]:
    return st.tuples(*arguments).map(lambda chosen: (factory(*chosen), f"{factory.__name__}{chosen}"))


_pair = lambda low, high: st.tuples(st.integers(low, high), st.integers(low, high))  # noqa: E731

SIMPLE = st.one_of(
    _named(
        convolution,
        st.sampled_from([2, 4, 6]),
        _pair(1, 4),
        _pair(1, 3),
        _pair(0, 2),
        _pair(1, 3),
        st.sampled_from([1, 2]),
    ),
    _named(
        convolution,
        st.sampled_from([2, 4, 6]),
        _pair(1, 3),
        _pair(1, 1),
        _pair(1, 1),
        _pair(1, 2),
        st.sampled_from([1, 2]),
    ),
    _named(depthwise, st.sampled_from([3, 5]), st.integers(1, 2)),
    _named(
        transposed, st.sampled_from([2, 4]), st.integers(1, 4), st.integers(1, 3), st.integers(0, 2), st.integers(0, 1)
    ),
    _named(pooling, st.sampled_from(["max", "avg"]), _pair(2, 3), st.integers(1, 3), st.booleans(), st.booleans()),
    _named(padded, *[st.integers(-1, 3)] * 4, st.sampled_from(["constant", "reflect", "replicate", "circular"])),
    _named(cropped, st.integers(0, 2), st.integers(0, 2), st.integers(1, 2)),
    _named(upsampled, st.sampled_from(["nearest", "bilinear"]), st.integers(2, 3), st.booleans()),
    _named(resized, st.integers(3, 15), st.integers(3, 15), st.sampled_from(["nearest", "bilinear", "nearest-exact"])),
    _named(shuffled, st.booleans()),
    _named(split_and_write, st.integers(0, 9)),
    _named(gated),
)


def _chain(steps: list[tuple[Step, str]]) -> Network:
    return Network(tuple(step for step, _ in steps), " > ".join(text for _, text in steps) or "nothing")


def _branching(children: st.SearchStrategy[tuple[Step, str]]) -> st.SearchStrategy[tuple[Step, str]]:
    branch = st.lists(children, max_size=4).map(_chain)
    return st.tuples(st.lists(branch, min_size=2, max_size=3), st.sampled_from(["cat", "add"])).map(
        lambda chosen: (branched(tuple(chosen[0]), chosen[1]), f"{chosen[1]}[{' | '.join(map(repr, chosen[0]))}]")
    )


NETWORKS = st.lists(st.one_of(SIMPLE, SIMPLE, SIMPLE, _branching(SIMPLE)), min_size=1, max_size=12).map(_chain)

INVARIANT = st.one_of(
    _named(
        convolution,
        st.sampled_from([2, 4]),
        _pair(1, 4),
        _pair(1, 2),
        _pair(0, 2),
        _pair(1, 3),
        st.sampled_from([1, 2]),
    ),
    _named(depthwise, st.sampled_from([3, 5]), st.integers(1, 2)),
    _named(transposed, st.just(2), st.integers(1, 4), st.integers(1, 2), st.integers(0, 2), st.just(0), st.just(10**6)),
    _named(pooling, st.sampled_from(["max", "avg"]), _pair(2, 3), st.integers(1, 2), st.booleans(), st.booleans()),
    _named(split_and_write, st.sampled_from([0, 1, 4, 5, 9])),
)
"""Steps that do the same everywhere and at any size of the input."""

INVARIANT_NETWORKS = st.lists(st.one_of(INVARIANT, INVARIANT, _branching(INVARIANT)), min_size=1, max_size=6).map(
    _chain
)
