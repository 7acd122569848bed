"""replace_downsampling: dilated kernels in the place of strided convolutions and max-pools."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Literal, TypeAlias, cast, get_args

import torch
from torch import nn

from convblocks import geometry
from convblocks.deploy.flow import Flow
from convblocks.introspect.graph import Node
from convblocks.introspect.layers import Window
from convblocks.layers import DilatedDownsample
from convblocks.layers._arguments import IntPair, LayerFactory, choice, flag, pair
from convblocks.surgery.dense import low_rank
from convblocks.surgery.report import Cost, SurgeryReport
from convblocks.surgery.sites import (
    CONVS,
    Model,
    Select,
    by_kernel,
    check_called,
    image_size,
    obstacle,
    put,
    short,
    windows,
)

Kind: TypeAlias = Literal["conv", "max pool"]


def replace_downsampling(
    model: Model,
    input_size: Sequence[int],
    *,
    kinds: Sequence[Kind] = ("conv", "max pool"),
    dilation: IntPair = 2,
    separable: bool = False,
    norm_layer: LayerFactory = nn.BatchNorm2d,
    act_layer: LayerFactory = nn.ReLU,
    select: Select | None = None,
) -> tuple[Model, SurgeryReport]:
    """Return a copy of a network with `DilatedDownsample` in the place of strided convolutions and max-pools.

    Strides and the sizes of all maps stay; the kernels reach further. A convolution keeps its kernel size and its
    weights, its taps move apart, and the norm and activation after it stay what they are. A max-pool becomes a dilated
    3 x 3 convolution (or of the pool's own kernel, where that is larger), its norm and its activation; it starts by
    handing on the pixel in the middle. Either way the network computes something else and wants training.

    Args:
        model: any network of images; it is not changed.
        input_size: (channels, height, width) of an input.
        kinds: which to replace: `"conv"`, `"max pool"` or both.
        dilation: of the new kernels.
        separable: make each a depthwise and a pointwise convolution; the weights of dense ones are approximated as
            `replace_dense_conv` does.
        norm_layer: after the convolution that replaces a max-pool, as in `DilatedDownsample`.
        act_layer: likewise.
        select: called with the name and the module of each candidate; False leaves it as it is.

    Returns:
        The copy, in the mode of the original, and a report with the cost before and after. Every stride that stays is
        in `report.kept` with its reason: 1 x 1 kernels, average pools, strides in plain functions among them.

    Raises:
        ValueError: the network does not run on `input_size`, an argument is out of its range, or the network's own
            forward reads something of a module that the block has not, or calls it by another name.

    Examples:
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        >>> dilated, report = replace_downsampling(net, (3, 32, 32))
        >>> report.before.receptive_field, report.after.receptive_field, report.after.last_map
        ((5, 5), (13, 13), (8, 8, 8))
        >>> report.scratch
        ['2']
    """
    image_size(input_size)
    for kind in kinds:
        choice("kinds", kind, get_args(Kind))
    rates = pair("dilation", dilation, 1)
    flag("separable", separable)
    changed = copy.deepcopy(model)
    flow = Flow(changed, input_size)
    before = Cost.of(model, input_size)
    report = SurgeryReport(before, before)
    _keep_slices(flow, report)
    for node, window, name in windows(flow):
        if set(window.stride) == {1}:
            continue
        module = flow.module(node)
        why = _why_not(flow, node, window, kinds)
        if not why and select is not None and not select(name, cast("nn.Module", module)):
            why = "not selected"
        sizes = flow.graph.shapes[flow.input(node)][-2:], flow.graph.shapes[node.outputs[0]][-2:]
        least = 1 if window.kind == "conv" else 3
        kernel = (max(least, window.kernel[0]), max(least, window.kernel[1]))
        padding = None if why else _padding(*sizes, kernel, window.stride, rates)
        if not why and padding is None:
            why = f"no padding of dilation {short(rates)} gives its output size {short(sizes[1])}"
        if why or padding is None:
            report.kept[name] = why
            continue
        spread = f"stride {short(window.stride)}, dilation {short(window.dilation)} -> {short(rates)}"
        if isinstance(module, nn.Conv2d):
            block, what = _from_conv(module, padding, rates, separable and window.groups == 1)
            report.replaced[name] = f"{by_kernel(window.kernel)} convolution, {spread}, {what}"
        else:
            block = _from_pool(flow, node, window, kernel, padding, rates, separable, norm_layer, act_layer, changed)
            report.replaced[name] = f"{by_kernel(window.kernel)} max-pool -> {by_kernel(kernel)} convolution, {spread}"
            report.scratch.append(name)
        put(changed, name, block)
    check_called(changed, input_size, report.replaced)
    report.after = Cost.of(changed, input_size)
    if report.replaced:
        report.notes.append("the outputs are others now: train the network")
    return changed, report


def _why_not(flow: Flow, node: Node, window: Window, kinds: Sequence[Kind]) -> str:
    if window.kind == "avg pool":
        return "is an average pool"
    if window.kind not in kinds:
        return f"kinds={tuple(kinds)} leaves it out"
    if window.kind == "conv" and set(window.kernel) == {1}:
        return "a 1x1 kernel has no taps to spread"
    return obstacle(flow, node, (*CONVS, nn.MaxPool2d))


def _keep_slices(flow: Flow, report: SurgeryReport) -> None:
    """Name the strides that are slices in a forward."""
    for node in flow.graph.nodes:
        if node.op == "slice":
            arguments = flow.arguments(node)
            shape = flow.graph.shapes[flow.input(node)]
            if arguments["step"] != 1 and len(shape) == 4 and cast("int", arguments["dim"]) % 4 >= 2:
                report.kept[f"slice in {flow.graph.where(node) or 'forward'}"] = "is computed by a plain function"


def _padding(
    before: Sequence[int], after: Sequence[int], kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> tuple[int, int] | Literal["same"] | None:
    """The padding that gives the size wanted, "same" where that does."""
    if all(-(-n // s) == m for n, m, s in zip(before, after, stride, strict=True)):
        return "same"
    found: list[int] = []
    for n, m, k, s, d in zip(before, after, kernel, stride, dilation, strict=True):
        least = max(0, (m - 1) * s + geometry.effective_kernel_size(k, d) - n)
        half = -(-least // 2)
        if geometry.output_size(n, k, s, half, d) != m:
            return None
        found.append(half)
    return found[0], found[1]


def _from_conv(
    conv: nn.Conv2d, padding: tuple[int, int] | Literal["same"], rates: tuple[int, int], separable: bool
) -> tuple[DilatedDownsample, str]:
    block = DilatedDownsample(
        conv.in_channels,
        conv.out_channels,
        cast("tuple[int, int]", conv.kernel_size),
        cast("tuple[int, int]", conv.stride),
        padding,
        rates,
        1 if separable else conv.groups,
        False if conv.bias is None else None,
        conv.padding_mode,
        separable=separable,
        between="" if separable else None,
        after="",
        device=conv.weight.device,
        dtype=conv.weight.dtype,
    )
    last = cast("nn.Conv2d", block.get_submodule("conv_pw" if separable else "conv"))
    with torch.no_grad():
        if separable:
            what = f"keeps {low_rank(conv.weight.detach(), block):.0%} of its weights' sum of squares"
        else:
            last.weight.copy_(conv.weight)
            what = "keeps its weights"
        if conv.bias is not None:
            cast("nn.Parameter", last.bias).copy_(conv.bias)
    return block, what


def _from_pool(
    flow: Flow,
    node: Node,
    window: Window,
    kernel: tuple[int, int],
    padding: tuple[int, int] | Literal["same"],
    rates: tuple[int, int],
    separable: bool,
    norm_layer: LayerFactory,
    act_layer: LayerFactory,
    model: nn.Module,
) -> DilatedDownsample:
    channels = flow.graph.shapes[flow.input(node)][1]
    like = next(model.parameters(), torch.empty(0))
    block = DilatedDownsample(
        channels,
        channels,
        kernel,
        cast("tuple[int, int]", window.stride),
        padding,
        rates,
        separable=separable,
        between="" if separable else None,
        after="norm-act",
        norm_layer=norm_layer,
        act_layer=act_layer,
        device=like.device,
        dtype=like.dtype,
    )
    for part in block.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.dirac_(part.weight, part.groups)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
    return block
