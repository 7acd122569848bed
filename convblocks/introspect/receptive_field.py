"""The receptive field of every layer of any network: size, jump, start, coverage, and the interval of every unit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from convblocks.introspect.analysis import Analysis
from convblocks.introspect.answers import ReceptiveField
from convblocks.introspect.inputs import InputSize, parse_inputs
from convblocks.introspect.stopped import StoppedField
from convblocks.introspect.tracer import ValueNeeded


def receptive_field(
    model: Callable[..., Any],
    input_size: InputSize,
    *,
    dtype: torch.dtype | None = None,
    channel_last: bool = False,
) -> ReceptiveField:
    """What the output of a network, and every layer on the way, sees of the input.

    The network runs on meta tensors: no weights are read, no map is allocated, and the network comes back as it was. It
    is run on its input size and on a larger input, where no border is in sight of the middle.

    Args:
        model: a module, or a bound method of one such as `model.forward_features`.
        input_size: `(channels, height, width)` without the batch; `(channels, length)` and
            `(channels, depth, height, width)` for one and three dimensions; a sequence of such for several inputs.
        dtype: element type of the input; by default that of the first floating parameter.
        channel_last: sizes are given, and the network takes its input, as `(height, width, channels)`.

    Returns:
        The field of the (first) output; `.layers["name"]` and `.outputs` give the others.

    Raises:
        ValueError: the network cannot run on `input_size`, or holds lazy, quantised or complex parts.

    Examples:
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, stride=2, padding=2, dilation=2))
        >>> receptive_field(net, (3, 32, 32))
        ReceptiveField(size=(7, 7), jump=(2, 2), start=(0, 0))
    """
    analysis = analyse(model, input_size, dtype=dtype, channel_last=channel_last)
    graph = analysis.native
    if isinstance(graph.error, ValueNeeded):
        return StoppedField(analysis, graph.error, graph.error_at)
    return ReceptiveField(analysis, graph.outputs[0], "output")


def analyse(
    model: Callable[..., Any], input_size: InputSize, *, dtype: torch.dtype | None = None, channel_last: bool = False
) -> Analysis:
    """Trace `model` and say in one sentence what is wrong if that fails."""
    # What torch.compile returns is compiled at its first call; the network in it has the same answers.
    model = getattr(model, "_orig_mod", None) or getattr(model, "_torchdynamo_orig_callable", None) or model
    analysis = Analysis(model, parse_inputs(model, input_size, dtype, channel_last=channel_last))
    graph = analysis.native
    if graph.error is not None and not isinstance(graph.error, ValueNeeded):
        where = f" in '{graph.error_at}'" if graph.error_at else ""
        batch = " (a batch of 1 goes before it)" if any(shape[1] == 1 for shape in analysis.inputs.shapes) else ""
        raise ValueError(
            f"the network does not run on input_size={tuple(input_size)}{batch}: "
            f"{type(graph.error).__name__}{where}: {graph.error}"
        ) from graph.error
    if graph.error is None and not graph.outputs:
        raise ValueError("the network returns no tensor")
    if not graph.nodes and not graph.copies:
        raise ValueError("the network is empty: nothing happens between its input and its output")
    return analysis
