"""replace_dense_conv: separable convolutions in the place of dense ones, as near to their weights as can be."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn

from convblocks import geometry
from convblocks.deploy.flow import Flow
from convblocks.introspect.cost import parameter_count
from convblocks.layers import DepthwiseSeparableConv
from convblocks.layers._arguments import Padding, choice
from convblocks.surgery.report import Cost, SurgeryReport
from convblocks.surgery.sites import CONVS, Model, Select, by_kernel, check_called, image_size, obstacle, put, windows


def replace_dense_conv(
    model: Model,
    input_size: Sequence[int],
    *,
    depth_multiplier: int = 1,
    init: Literal["low-rank", "scratch"] = "low-rank",
    select: Select | None = None,
) -> tuple[Model, SurgeryReport]:
    """Return a copy of a network with depthwise separable convolutions in the place of its dense ones.

    Every `nn.Conv2d` with a kernel above 1 and no groups becomes a `DepthwiseSeparableConv` of the same stride, padding
    and dilation with nothing between its two convolutions; the network's norms and activations stay. Its weights are
    the nearest to the dense ones that it can have: for each input channel, the filters of all output channels are
    approximated by `depth_multiplier` of them (a low-rank approximation, the best in the sum of squares). The network
    computes something else and wants training.

    Args:
        model: any network of images; it is not changed.
        input_size: (channels, height, width) of an input.
        depth_multiplier: filters a channel of the depthwise convolutions; more come closer and cost more.
        init: `"low-rank"` as above, or `"scratch"` for PyTorch's own initial weights.
        select: called with the name and the module of each dense convolution; False leaves it as it is.

    Returns:
        The copy, in the mode of the original, and a report with the cost before and after.

    Raises:
        ValueError: the network does not run on `input_size`, an argument is out of its range, or the network's own
            forward reads something of a convolution that a separable one has not, or calls it by another name.

    Examples:
        >>> net = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, stride=2, padding=1))
        >>> small, report = replace_dense_conv(net, (3, 32, 32), select=lambda name, conv: conv.in_channels > 3)
        >>> report.before.parameters, report.after.parameters, report.kept
        (19392, 3296, {'0': 'not selected'})

    Source: J. Guo et al., "Network decoupling: from regular to depthwise separable convolutions", 2018
        (arXiv:1808.05517).
    """
    image_size(input_size)
    geometry.integer("depth_multiplier", depth_multiplier, 1)
    choice("init", init, ("low-rank", "scratch"))
    changed = copy.deepcopy(model)
    flow = Flow(changed, input_size)
    before = Cost.of(model, input_size)
    report = SurgeryReport(before, before)
    for node, window, name in windows(flow):
        if window.kind != "conv" or set(window.kernel) == {1} or window.depthwise:
            continue
        why = obstacle(flow, node, CONVS)
        if not why and window.groups != 1:
            why = f"has {window.groups} groups"
        if not why and select is not None and not select(name, cast("nn.Module", flow.module(node))):
            why = "not selected"
        if why:
            report.kept[name] = why
            continue
        conv = cast("nn.Conv2d", flow.module(node))
        block = separable(conv, depth_multiplier)
        if parameter_count(block) >= parameter_count(conv):
            report.kept[name] = f"a separable one would have {parameter_count(block):,} parameters, not fewer"
            continue
        report.replaced[name] = f"{by_kernel(window.kernel)} kernel, {conv.in_channels} -> {conv.out_channels} channels"
        if init == "low-rank":
            share = low_rank(conv.weight.detach(), block)
            report.replaced[name] += f", keeps {share:.0%} of its weights' sum of squares"
        else:
            report.scratch.append(name)
        put(changed, name, block)
    check_called(changed, input_size, report.replaced)
    report.after = Cost.of(changed, input_size)
    if report.replaced:
        report.notes.append("the outputs are others now: train the network")
    return changed, report


def separable(conv: nn.Conv2d, depth_multiplier: int) -> DepthwiseSeparableConv:
    """Build the separable counterpart of a dense convolution, with initial weights of its own."""
    block = DepthwiseSeparableConv(
        conv.in_channels,
        conv.out_channels,
        cast("tuple[int, int]", conv.kernel_size),
        cast("tuple[int, int]", conv.stride),
        cast("Padding", conv.padding),
        cast("tuple[int, int]", conv.dilation),
        False if conv.bias is None else None,
        conv.padding_mode,
        depth_multiplier=depth_multiplier,
        between="",
        after="",
        device=conv.weight.device,
        dtype=conv.weight.dtype,
    )
    if conv.bias is not None:
        block.conv_pw.bias = nn.Parameter(conv.bias.detach().clone(), conv.bias.requires_grad)
    return block


def low_rank(weight: Tensor, block: nn.Module) -> float:
    """Give a separable block the weights nearest to dense ones, and return the share of the sum of squares they keep.

    Args:
        weight: (out_channels, in_channels, height, width).
        block: has `conv_dw` of `depth_multiplier` filters a channel and `conv_pw`.

    Returns:
        1 where the block does exactly what the dense convolution does.
    """
    conv_dw, conv_pw = (cast("nn.Conv2d", block.get_submodule(name)) for name in ("conv_dw", "conv_pw"))
    filters = weight.double().transpose(0, 1).flatten(2)  # (in, out, taps)
    count = conv_dw.out_channels // conv_dw.in_channels
    # The best basis of `count` filters for each input channel: leading eigenvectors of (taps, taps).
    # torch.linalg has no types.
    basis = cast("Tensor", torch.linalg.eigh(filters.mT @ filters)[1])  # pyright: ignore[reportUnknownMemberType]
    basis = basis[..., -count:]
    basis = torch.nn.functional.pad(basis, (count - basis.shape[-1], 0))
    mixing = filters @ basis  # (in, out, count)
    with torch.no_grad():
        conv_dw.weight.copy_(basis.mT.reshape(conv_dw.weight.shape))
        conv_pw.weight.copy_(mixing.transpose(0, 1).reshape(conv_pw.weight.shape))
    total = filters.square().sum()
    return float(mixing.square().sum() / total) if total else 1.0
