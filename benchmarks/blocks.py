"""Our blocks beside what a user would take instead: `python -m benchmarks.blocks`.

Every way of every block is checked against float64 before it is timed; one whose numbers are wrong is reported as
wrong. Passes: "inference" is a forward pass in evaluation mode, "training" a forward and a backward pass. "share" is
the least bytes that must cross the edge of the block (the input read and the output written once; in training the
input read again, the output's gradient read, the input's written) over the time and over the bandwidth of a copy in the
same run. Modes: "eager" is calls from Python in a row; "cold" single calls with nothing in the L2 cache; "graph" the
same by replays of a CUDA graph.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any

from timm.layers.classifier import ClassifierHead
from timm.models._efficientnet_blocks import DepthwiseSeparableConv as TimmSeparable
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.ops import Conv2dNormActivation

from benchmarks import suite
from benchmarks.check import Data, Subject, parameter_dtype
from benchmarks.suite import Job
from convblocks import DepthwiseSeparableConv, DilatedDownsample, GAPHead, JointDilatedDepthwise

Shape = tuple[int, int, int, int]
Make = Callable[[], nn.Module]
# At least 64 MB of bfloat16, so that no L2 cache holds one; then the sizes of CIFAR networks, which it does hold.
LARGE: list[Shape] = [
    (512, 64, 32, 32),
    (128, 128, 56, 56),
    (512, 128, 32, 32),
    (128, 32, 112, 112),
    (128, 256, 28, 28),
]
SMALL: list[Shape] = [(128, 32, 32, 32), (128, 64, 16, 16), (128, 128, 8, 8)]
LAPTOP: list[Shape] = [(8, 64, 32, 32), (8, 128, 16, 16), (8, 256, 8, 8)]
QUICK: list[Shape] = [(2, 16, 8, 8)]


def like(ours: Make, other: Make) -> nn.Module:
    """Return `other` with the weights of `ours`: of one structure, their tensors are the same in the same order."""
    from_, to = ours(), other()
    to.load_state_dict(dict(zip(to.state_dict(), from_.state_dict().values(), strict=True)))
    return to


def pair(channels: int, out: int, stride: int = 1, dilation: int = 1) -> nn.Module:
    """Return torchvision's depthwise and pointwise convolution, each with norm and activation."""
    return nn.Sequential(
        Conv2dNormActivation(channels, channels, 3, stride, groups=channels, dilation=dilation),
        Conv2dNormActivation(channels, out, 1),
    )


def separable(shape: Shape, dilation: int) -> dict[str, Make]:
    c = shape[1]
    ours = functools.partial(DepthwiseSeparableConv, c, c, 3, padding=dilation, dilation=dilation)
    timm = functools.partial(TimmSeparable, c, c, dilation=dilation, noskip=True, pw_act=True)
    return {
        "convblocks": ours,
        "timm": lambda: like(ours, timm),
        "torchvision": lambda: like(ours, lambda: pair(c, c, dilation=dilation)),
    }


def residual(shape: Shape) -> dict[str, Make]:
    """Return blocks that end in a norm and add their input, as in MobileNetV2."""
    c = shape[1]
    ours = functools.partial(DepthwiseSeparableConv, c, c, 3, padding=1, after="norm", residual=True)
    return {"convblocks": ours, "timm": lambda: like(ours, lambda: TimmSeparable(c, c))}


def downsample(shape: Shape, split: bool) -> dict[str, Make]:
    c = shape[1]
    ours = functools.partial(DilatedDownsample, c, c, separable=split)
    strided = (lambda: pair(c, c, stride=2)) if split else (lambda: Conv2dNormActivation(c, c, 3, 2))
    pooled = nn.Sequential
    return {
        "convblocks": ours,
        "strided convolution": strided,
        "max-pool": lambda: nn.MaxPool2d(2),
        "convolution, max-pool": lambda: pooled(Conv2dNormActivation(c, c, 3), nn.MaxPool2d(2)),
    }


def valid(shape: Shape) -> dict[str, Make]:
    c, size = shape[1], shape[2]
    ours = functools.partial(DilatedDownsample.to_size, c, c, input_size=size, output_size=size // 2)
    return {"convblocks": ours, "strided convolution": lambda: Conv2dNormActivation(c, c, 3, 2)}


def joint(shape: Shape) -> dict[str, Make]:
    c = shape[1]
    ours = functools.partial(JointDilatedDepthwise, c, 2 * c, padding=2, depthwise_padding=1)
    dilated = functools.partial(Conv2dNormActivation, c, c, 3, dilation=2)
    return {
        "convblocks": ours,
        "torchvision": lambda: like(ours, lambda: nn.Sequential(dilated(), pair(c, 2 * c))),
        "dense convolutions": lambda: nn.Sequential(dilated(), Conv2dNormActivation(c, 2 * c, 3)),
    }


def head(shape: Shape) -> dict[str, Make]:
    c = shape[1]
    ours = functools.partial(GAPHead, c, 10)
    plain = functools.partial(nn.Sequential, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return {
        "convblocks": ours,
        "timm": lambda: like(ours, lambda: ClassifierHead(c, 10)),
        "torchvision": lambda: like(ours, lambda: plain(nn.Linear(c, 10))),
    }


def subjects(device: str, quick: bool) -> list[Subject]:
    """Return what is timed, in the order of what matters."""
    large, small = (QUICK, []) if quick else (LAPTOP, []) if device == "cpu" else (LARGE, SMALL)
    found: list[Subject] = []

    def add(name: str, shape: Shape, makers: dict[str, Make], rank: int) -> None:
        case = f"{name} {'x'.join(map(str, shape))}"
        found.extend(Subject(case, who, make, shape, rank) for who, make in makers.items())

    for i, shape in enumerate(large):
        add("DepthwiseSeparableConv", shape, separable(shape, 1), min(i, 2))
    for i, shape in enumerate(large[:2]):
        add("DepthwiseSeparableConv residual", shape, residual(shape), i)
        add("DilatedDownsample", shape, downsample(shape, split=False), i)
        add("DilatedDownsample separable", shape, downsample(shape, split=True), i)
        add("DilatedDownsample valid", shape, valid(shape), i)
        add("JointDilatedDepthwise", shape, joint(shape), i)
        add("GAPHead", shape, head(shape), i)
    for dilation in (2,) if quick or device == "cpu" else (2, 4, 8):
        add(f"DepthwiseSeparableConv dilation {dilation}", large[0], separable(large[0], dilation), 2)
    for shape in small:
        add("DepthwiseSeparableConv", shape, separable(shape, 1), 2)
    return found


def work(job: Job, data: Data) -> dict[str, Any]:
    """Return the least bytes that the block must move and its multiply-accumulates."""
    item, weights = data.x.element_size(), sum(p.nbytes for p in data.module.parameters())
    x, y = data.x.numel() * item, data.dy.numel() * item
    forward = {"bytes": x + y + weights, "macs": macs(data)}
    if job.direction == "inference":
        return forward
    return {"bytes": 3 * x + 2 * y + 3 * weights, "macs": 3 * forward["macs"]}


def macs(data: Data) -> int:
    """Return the multiply-accumulates of a forward pass."""
    with FlopCounterMode(display=False) as counter:
        module = suite.meta(data.module)
        module(data.x.to("meta", parameter_dtype(module, data.dtype)))
    return counter.get_total_flops() // 2


def main(arguments: Sequence[str] | None = None) -> int:
    return suite.main("blocks", __doc__ or "", ("inference", "training"), subjects, work, arguments)


if __name__ == "__main__":
    sys.exit(main())
