"""fuse: what makes inference cheap and changes no output: norms folded, 1x1 pairs merged, dropped what does nothing."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import cast

import torch
from torch import nn

from convblocks.deploy import branches, fold, places
from convblocks.deploy.flow import BATCH_NORMS, CONVOLUTIONS, NORMS, Flow, named_modules, replace
from convblocks.deploy.idle import drop_idle
from convblocks.deploy.report import FusionReport
from convblocks.introspect.graph import Node


def fuse(model: nn.Module, input_size: Sequence[int]) -> tuple[nn.Module, FusionReport]:
    """Return a copy of a network that gives the same output with fewer operations, and a report on what was done.

    - A batch norm is folded into the convolution or linear layer before it, or into the one after it where that is
      exact: where it pads no zeros. Between the two may stand averages, interpolation, views, concatenations and sums.
    - Branches that read the same input and are added become one convolution: a 1x1 beside a 3x3, a norm beside either.
    - A 1x1 convolution with nothing between it and the next one is merged into it, where that has no more parameters:
      the 1x1 depthwise and the pointwise of a separable block, for one.
    - Dropout and identities are taken out of `nn.Sequential`, and stay as identities elsewhere.

    What may be folded is read off the operations of one forward pass, not off the layout of the modules: it works on
    any network. A convolution whose output is read twice, shared weights, a norm used twice, hooks, parametrisations
    and layers with a forward of their own that does something else are left alone, with the reason in the report. The
    arithmetic is float64. The pass is of one image: a network that asks for the size of its batch to decide what it
    does is folded as it runs for one.

    Args:
        model: any network in evaluation mode; it is not changed.
        input_size: shape of an input without the batch, such as (3, 224, 224).

    Returns:
        The copy, and a report that prints as a table.

    Raises:
        ValueError: the network is in training mode (batch norm is no fixed function there), or does not run on
            `input_size`, or its forward pass asks for something that would go, such as attributes of a norm, and does
            something else without it.

    Examples:
        >>> import convblocks as cb
        >>> network = nn.Sequential(cb.ConvNormAct(3, 8, 3), cb.DepthwiseSeparableConv(8, 8, 3)).eval()
        >>> fused, report = fuse(network, (3, 16, 16))
        >>> report.folded, report.norms, any(isinstance(part, nn.BatchNorm2d) for part in fused.modules())
        (3, 3, False)

    Source: B. Jacob et al., "Quantization and training of neural networks for efficient integer-arithmetic-only
        inference", 2018 (arXiv:1712.05877), section 3.2, for the norm after a convolution; X. Ding et al., "RepVGG:
        making VGG-style ConvNets great again", 2021 (arXiv:2101.03697), section 3.3, for the branches.
    """
    training = [name or "the network itself" for name, module in named_modules(model) if module.training]
    if training:
        raise ValueError(f"model must be in evaluation mode, but {training[0]} is in training mode: call model.eval()")
    fused = _copied(model)
    report = FusionReport()
    with torch.no_grad():
        flow = Flow(fused, input_size)
        while _fold_norms(fused, flow, report) or branches.absorb(fused, flow, report):
            flow = _after_change(fused, input_size, flow)
        while _merge_one(fused, flow, report):
            flow = _after_change(fused, input_size, flow)
        drop_idle(fused, input_size, flow, report)
    return fused, report


def _copied(model: nn.Module) -> nn.Module:
    """A deep copy, also where hooks of the older weight norm or of pruning keep a weight that they compute."""
    memo: dict[int, object] = {}
    for module in model.modules():
        computed = [v for v in vars(module).values() if isinstance(v, torch.Tensor) and not v.is_leaf]
        memo |= {id(tensor): tensor.detach().clone() for tensor in computed}
    return copy.deepcopy(model, memo)


def _after_change(model: nn.Module, input_size: Sequence[int], before: Flow) -> Flow:
    cannot = (
        "the network cannot be fused: its forward pass reads attributes of a module that would go, such as the "
        "num_features of a norm, or calls it by another name"
    )
    try:
        flow = Flow(model, input_size)
    except ValueError as error:
        raise ValueError(f"{cannot}: {error}") from error
    if flow.steps(before.names) != before.steps(flow.names):
        raise ValueError(f"{cannot}: without it, other operations run")
    return flow


def _fold_norms(model: nn.Module, flow: Flow, report: FusionReport) -> bool:
    """Fold what can be; return whether that was any, for then another pass may find more."""
    before = report.folded
    report.kept.clear()
    reached: set[int] = set()
    for node in flow.graph.nodes:
        if node.op not in BATCH_NORMS:
            continue
        norm = flow.module(node)
        if not isinstance(norm, NORMS):
            report.keep(flow.graph.where(node) or "forward", "is computed by a function, not by a norm module")
        elif id(norm) not in reached:
            reached.add(id(norm))
            name, taken = flow.names[id(norm)], _fold(model, flow, node, norm)
            if isinstance(taken, str):
                report.keep(name, taken)
            else:
                report.fold(name, ", ".join(flow.names[id(layer)] for layer in taken))
    for name, module in named_modules(model):
        if isinstance(module, NORMS) and id(module) not in reached:
            report.keep(name, "is not used in the forward pass")
    return report.folded > before


def _fold(model: nn.Module, flow: Flow, node: Node, norm: fold.Norm) -> list[fold.Layer] | str:
    """Fold one norm; return the layers that took it, or the reason why none did."""
    obstacle = flow.obstacle(norm)
    if obstacle:
        return obstacle
    if norm.running_mean is None or norm.running_var is None:
        return "keeps no running statistics"
    if not flow.own_norm(node, norm):
        return "norms by other figures than its own"
    rest = _rest(flow, node, norm)
    if rest is None:
        return "does more than norm and then call its children"
    scale, shift = fold.affine(norm)
    found, put = places.before(flow, flow.input(node), scale, shift), fold.after
    if isinstance(found, str):
        why_not_before = found
        found, put = places.after(flow, node.outputs[0], scale, shift), fold.before
        if isinstance(found, str):
            return f"{why_not_before}; {found}"
        if any(flow.written_between(node, flow.input(node), place.layer) for place in found):
            return f"{why_not_before}; its input is written over before the convolution after it reads it"
    for place in found:
        put(*place)
    replace(model, flow.names[id(norm)], rest)
    return [place.layer for place in found]


def _rest(flow: Flow, node: Node, norm: nn.Module) -> nn.Module | None:
    """What a norm module does after its norm: nothing, or its children one after the other; None for anything else."""
    call = flow.graph.calls[node.call]
    own = [n for n in flow.graph.nodes[slice(*call.nodes)] if n.call == node.call]
    children = [c for c in flow.graph.calls if c.parent == node.call]
    if own != [node]:
        return None
    value = node.outputs[0]
    for child in children:
        if child.inputs != (value,) or len(child.outputs) != 1:
            return None
        value = child.outputs[0]
    if call.outputs != (value,):
        return None
    working = [child.module for child in children if child.outputs != child.inputs]
    return nn.Identity() if not working else working[0] if len(working) == 1 else nn.Sequential(*working)


def _merge_one(model: nn.Module, flow: Flow, report: FusionReport) -> bool:
    """Merge the first 1x1 convolution that can be into the one after it."""
    for node in flow.graph.nodes:
        if node.op not in CONVOLUTIONS:
            continue
        reader = flow.only_reader(node.outputs[0])
        if isinstance(reader, str) or reader.op not in CONVOLUTIONS or flow.input(reader) != node.outputs[0]:
            continue
        first, second = places.conv(flow, node), places.conv(flow, reader)
        if first is None or second is None or not _mergeable(flow, node, reader, first, second):
            continue
        fold.merge(first, second)
        report.merged.append((flow.names[id(first)], flow.names[id(second)]))
        replace(model, flow.names[id(first)], nn.Identity())
        return True
    return False


def _mergeable(flow: Flow, node: Node, reader: Node, first: fold.Conv, second: fold.Conv) -> bool:
    one, two = flow.arguments(node), flow.arguments(reader)
    pointwise = first.weight[0, 0].numel() == 1 and set(cast("Sequence[int]", one["stride"])) == {1}
    plain = not any(cast("Sequence[int]", one["padding"])) and not (one["transposed"] or two["transposed"])
    exact = first.bias is None or not any(cast("Sequence[int]", two["padding"]))
    before = sum(p.numel() for conv in (first, second) for p in conv.parameters(recurse=False))
    smaller = fold.merged_parameters(first, second) <= before
    same = not flow.written_between(node, flow.input(node), second)
    return pointwise and plain and exact and smaller and same and second.groups == 1
