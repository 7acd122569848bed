"""replace_stride_with_dilation: a denser map from the same weights, by the noble identity."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, cast

from torch import nn

from convblocks import geometry
from convblocks.introspect.graph import Graph, Node
from convblocks.introspect.layers import window_of
from convblocks.introspect.operations import bind
from convblocks.introspect.receptive_field import analyse
from convblocks.introspect.tracing import trace
from convblocks.surgery.identity import differences
from convblocks.surgery.plan import Change, Plan
from convblocks.surgery.pools import DilatedPool2d, EveryNth
from convblocks.surgery.report import Cost, SurgeryReport
from convblocks.surgery.sites import Model, image_size, put, short

POOLS = (nn.MaxPool2d, nn.AvgPool2d)
PADS = (nn.ZeroPad2d, nn.ConstantPad2d)
POOL_OPS = ("max_pool2d_with_indices", "avg_pool2d")


def replace_stride_with_dilation(
    model: Model, input_size: Sequence[int], output_stride: int, *, exact: bool = True
) -> tuple[Model, SurgeryReport]:
    """Return a copy of a network with a denser map at its end: late strides become dilation, weights stay.

    A stride that would take the map beyond `output_stride` becomes 1, and every kernel, pooling and padding after it is
    spread by what was left out (the noble identity). The new map holds the old one at every n-th position: that is
    checked by running both networks in float64, module by module, before the copy is handed out. What cannot be told to
    dilate is refused by its name: a stride or pooling in a plain function, reflected padding, a blur, an upsampling, a
    transposed convolution.

    Gates such as squeeze-and-excitation average the whole map, and a denser map has another average. Where the gate
    pools by an `nn.AdaptiveAvgPool2d(1)` it is made to see the old positions; other gates are refused, or left as they
    are with `exact=False`. A pooling right before the classifier averages the denser map: scores change a little.

    Args:
        model: any network of images; it is not changed.
        input_size: (channels, height, width) of an input.
        output_stride: input pixels between neighbouring units of the last map, such as 8 or 16.
        exact: refuse gates whose value would change.

    Returns:
        The copy, in the mode of the original, and a report with the cost before and after.

    Raises:
        ValueError: the network cannot have that output stride, a part of it cannot be dilated, or it does not run on
            `input_size`.

    Examples:
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3, 2, 1), nn.Conv2d(8, 4, 3))
        >>> dense, report = replace_stride_with_dilation(net, (3, 64, 64), 4)
        >>> report.before.last_map, report.after.last_map, dense[3].dilation
        ((4, 6, 6), (4, 12, 12), (2, 2))

    Source: F. Yu and V. Koltun, "Multi-scale context aggregation by dilated convolutions", 2016 (arXiv:1511.07122);
        L.-C. Chen et al., "Rethinking atrous convolution", 2017 (arXiv:1706.05587). P. P. Vaidyanathan, "Multirate
        systems and filter banks", 1993, for the identity.
    """
    image_size(input_size)
    geometry.integer("output_stride", output_stride, 1)
    analysis = analyse(model, input_size)
    plan = Plan(analysis, output_stride)
    plan.check(exact)
    dense = copy.deepcopy(model)
    before = Cost.of(model, input_size)
    report = SurgeryReport(before, before)
    _apply(dense, plan, report)
    graph = trace(dense, analysis.inputs.shapes, analysis.inputs.dtypes)
    _check_told(plan, graph)
    if graph.error is not None:
        where = graph.error_at or type(model).__name__
        raise ValueError(f"{where} does not run on a denser map: {graph.error}") from graph.error
    wrong = differences(model, dense, input_size, plan.exact_outputs())
    if wrong:
        raise ValueError(f"{wrong[0]} gives something else on a denser map: its operations cannot be dilated")
    report.after = Cost.of(dense, input_size)
    for name in plan.heads:
        report.notes.append(f"{name} averages a denser map: what follows it changes a little")
    if plan.gates:
        report.notes.append(f"not exact behind the gates {', '.join(plan.gates)}: they average a denser map")
    return dense, report


def _apply(model: nn.Module, plan: Plan, report: SurgeryReport) -> None:
    done: dict[tuple[str, bool], Any] = {}
    for number, node in enumerate(plan.graph.nodes):
        name = plan.graph.where(node)
        change = plan.changes.get(number)
        asked = (change.rate, change.keep) if change is not None else plan.pads.get(number)
        if asked is None:
            continue
        if done.setdefault((name, change is None), asked) != asked:
            raise ValueError(f"{name or 'forward'} would need two dilations: it is used twice, or holds two windows")
        module = model.get_submodule(name)
        if change is not None and not change.nothing:
            _dilate(model, name, module, node, change, report)
        elif change is not None and set(change.window.stride) != {1}:
            report.kept[name or node.op] = f"its stride {short(change.window.stride)} is within the output stride"
        elif number in plan.pads and isinstance(module, PADS):
            (left, right, top, bottom), (down, across) = module.padding, plan.pads[number]
            module.padding = (left * across, right * across, top * down, bottom * down)
            report.replaced[name] = f"padding times {short(plan.pads[number])}"
    for name, rate in plan.thinned.items():
        put(model, name, nn.Sequential(EveryNth(rate), model.get_submodule(name)))
        report.replaced[name] = f"sees one position in {short(rate)} along each axis"


def _dilate(model: nn.Module, name: str, module: nn.Module, node: Node, change: Change, report: SurgeryReport) -> None:
    window = change.window
    if node.op in POOL_OPS and type(module) in POOLS:
        pool = cast("nn.MaxPool2d | nn.AvgPool2d", module)
        plain = isinstance(pool, nn.MaxPool2d) and not pool.ceil_mode
        taps = zip(window.kernel, window.dilation, window.padding, strict=True)
        centred = all(2 * p == d * (k - 1) for k, d, p in taps)
        # PyTorch holds a pool's padding to half of its kernel, however far the taps stand apart.
        centred = centred and all(2 * p <= k for k, p in zip(window.kernel, change.padding, strict=True))
        if set(window.kernel) == {1} or not (plain and centred):
            put(model, name, DilatedPool2d(pool, change.rate, change.keep))
            report.replaced[name] = _text(change)
            return
    elif node.op in POOL_OPS:
        return
    _set(module, "stride", change.stride)
    _set(module, "dilation", change.dilation)
    padding = getattr(module, "padding", None)
    if isinstance(padding, int | tuple) and any(window.padding):
        _set(module, "padding", change.padding)
    report.replaced[name or node.op] = _text(change)


def _set(module: nn.Module, name: str, value: tuple[int, ...]) -> None:
    old = getattr(module, name, None)
    if isinstance(old, int) and len(set(value)) == 1:
        setattr(module, name, value[0])
    elif isinstance(old, int | tuple | list):
        setattr(module, name, value)


def _check_told(plan: Plan, graph: Graph) -> None:
    """Hold the new network's windows to the plan: a stride in a plain function does not change with an attribute."""
    told: defaultdict[str, list[Any]] = defaultdict(list)
    for node in graph.nodes:
        if (arguments := _arguments(graph, node)) is not None:
            told[graph.where(node)].append(arguments)
    finished = {call.name for call in graph.calls if call.outputs}
    ours = {call.name for call in graph.calls if isinstance(call.module, DilatedPool2d)}
    for number, node in enumerate(plan.graph.nodes):
        name = plan.graph.where(node)
        wanted = _wanted(plan, number, node)
        known = name in finished or graph.error is None or told[name]
        if wanted is not None and known and name not in ours and wanted not in told[name]:
            raise ValueError(
                f"{plan.label(node)} cannot be told to dilate: a plain function decides its stride or padding"
            )


def _wanted(plan: Plan, number: int, node: Node) -> tuple[Any, ...] | None:
    """Stride, padding and dilation that a window is to have, or the amounts of a padding."""
    if number in plan.changes:
        change = plan.changes[number]
        return change.stride, change.padding, change.dilation
    if number in plan.pads:
        down, across = plan.pads[number]
        factors = (across, across, down, down, 1, 1, 1, 1)
        amounts = cast("Sequence[int]", bind(node.func, node.args, node.kwargs)["pad"])
        return tuple(n * f for n, f in zip(amounts, factors, strict=False))
    return None


def _arguments(graph: Graph, node: Node) -> tuple[Any, ...] | None:
    if node.op == "constant_pad_nd":
        return tuple(bind(node.func, node.args, node.kwargs)["pad"])
    window = window_of(graph, node)
    if window is None or window.kind not in ("conv", "max pool", "avg pool"):
        return None
    return window.stride, window.padding, window.dilation


def _text(change: Change) -> str:
    parts: list[str] = []
    if not all(change.keep):
        parts.append(f"stride {short(change.window.stride)} -> {short(change.stride)}")
    if change.rate != (1, 1) and set(change.window.kernel) != {1}:
        parts.append(f"dilation {short(change.window.dilation)} -> times {short(change.rate)}")
    return ", ".join(parts) or "on a denser map"
