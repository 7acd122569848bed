"""convert_state_dict: weights find their place by what the layers are, not by what they are called."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TypeAlias, cast

import torch
from torch import Tensor, nn

from convblocks.convert.report import ConversionReport
from convblocks.introspect.tracing import trace

Source: TypeAlias = "nn.Module | Mapping[str, Tensor]"
Layer: TypeAlias = "dict[str, Tensor]"
Signature: TypeAlias = "tuple[tuple[str, tuple[int, ...]], ...]"
SETTINGS = ("stride", "padding", "dilation", "groups", "padding_mode", "eps", "num_groups")


def convert_state_dict(
    source: Source, target: nn.Module, *, input_size: Sequence[int] | None = None
) -> tuple[dict[str, Tensor], ConversionReport]:
    """Return the weights and buffers of `source` under the names of `target`, and a report of what did not match.

    A layer is what owns tensors: a convolution, a norm. Layers match by the names and shapes of their own tensors
    (`weight`, `running_mean`, ...), and among equals by their order. Where the two sides hold different numbers of
    equal layers the order proves nothing: then only layers of the same name match, and the others are listed. So the
    blocks of timm, torchvision and mmcv, a bare `nn.Sequential`, and networks of them load alike.

    Args:
        source: a module, or its `state_dict`.
        target: the module that is to hold the weights; it is not changed.
        input_size: shape of an input without the batch. With it, and a module as source, the order is that of the
            forward pass instead of that of the definition, and the outputs of both are compared on a random input.

    Returns:
        A state dict of the layers that matched, for `target.load_state_dict`, which refuses an incomplete one; and the
        report. With a module as source, settings that weights do not hold are compared too: stride, padding, eps.

    Raises:
        ValueError: `source` or `target` holds no tensors, a source that is no state dict, or one of them does not run
            on `input_size`.

    Examples:
        >>> import convblocks as cb
        >>> theirs = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8, eps=1e-3), nn.ReLU())
        >>> ours = cb.ConvNormAct(3, 8, 3, padding=1)
        >>> weights, report = convert_state_dict(theirs, ours)
        >>> ours.load_state_dict(weights)
        <All keys matched successfully>
        >>> print(report)
        2 layers matched, 0 missing, 0 unused
          differs bn: eps is 1e-05, and 0.001 in 1
    """
    theirs = _layers("source", _tensors(source), _order(source, input_size))
    ours = _layers("target", target.state_dict(), _order(target, input_size))
    report = ConversionReport()
    _match(theirs, ours, report)
    converted = {
        _key(name, part): tensor.detach().clone()
        for name, other in report.layers.items()
        for part, tensor in theirs[other].items()
    }
    # In the order of the target's own, as a reader compares them.
    converted = {key: converted[key] for key in target.state_dict() if key in converted}
    if isinstance(source, nn.Module):
        report.differences += _settings(source, target, report.layers)
        if input_size is not None and not (report.missing or report.unused):
            report.max_difference = _compare(source, target, converted, input_size)
    return converted, report


def _tensors(source: object) -> dict[str, Tensor]:
    if isinstance(source, nn.Module):
        return source.state_dict()
    items = dict(cast("Mapping[object, object]", source)) if isinstance(source, Mapping) else {}
    wrong = [key for key, value in items.items() if not isinstance(key, str) or not isinstance(value, Tensor)]
    if not isinstance(source, Mapping) or wrong:
        found = f"{wrong[0]!r} in it" if wrong else type(cast("object", source)).__name__
        raise ValueError(f"source must be an nn.Module or a state dict of names and tensors, got {found}")
    return cast("dict[str, Tensor]", items)


def _layers(role: str, tensors: Mapping[str, Tensor], order: Sequence[str]) -> dict[str, Layer]:
    """The tensors by the name of the layer that owns them, in the order of the forward pass where that is known."""
    if not tensors:
        raise ValueError(f"{role} holds no tensors: there are no weights to convert")
    found: defaultdict[str, Layer] = defaultdict(dict)
    for key, tensor in tensors.items():
        name, _, part = key.rpartition(".")
        found[name][part] = tensor
    known = [name for name in order if name in found]
    return {name: found[name] for name in (*known, *(name for name in found if name not in known))}


def _order(model: object, input_size: Sequence[int] | None) -> list[str]:
    if input_size is None or not isinstance(model, nn.Module):
        return []
    parameter = next((p for p in model.parameters() if p.is_floating_point()), None)
    graph = trace(model, [(1, *input_size)], [torch.float32 if parameter is None else parameter.dtype])
    if graph.error is not None:
        raise ValueError(f"{type(model).__name__} does not run on input_size={tuple(input_size)}: {graph.error}")
    return list(dict.fromkeys(call.name for call in graph.calls))


def _signature(layer: Layer) -> Signature:
    return tuple(sorted((part, tuple(tensor.shape)) for part, tensor in layer.items()))


def _match(theirs: Mapping[str, Layer], ours: Mapping[str, Layer], report: ConversionReport) -> None:
    kinds: defaultdict[Signature, tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))
    for side, layers in enumerate((theirs, ours)):
        for name, layer in layers.items():
            kinds[_signature(layer)][side].append(name)
    for signature, (sources, targets) in kinds.items():
        if len(sources) == len(targets):
            report.layers |= dict(zip(targets, sources, strict=True))
            continue
        same = set(sources) & set(targets)
        report.layers |= {name: name for name in targets if name in same}
        shown = ", ".join(f"{part} {tuple(shape)}" for part, shape in signature)
        why = f"the source has {len(sources)} layers of {shown}, the target {len(targets)}"
        report.missing |= {name: why for name in targets if name not in same}
        report.unused |= {name: why for name in sources if name not in same}
    report.layers = {name: report.layers[name] for name in ours if name in report.layers}


def _settings(source: nn.Module, target: nn.Module, layers: Mapping[str, str]) -> list[str]:
    """What matched layers do differently with the same weights."""
    found: list[str] = []
    for name, other in layers.items():
        one, two = target.get_submodule(name), source.get_submodule(other)
        for setting in SETTINGS:
            mine, theirs = getattr(one, setting, None), getattr(two, setting, None)
            if setting == "padding" and isinstance(mine, str) != isinstance(theirs, str):
                continue  # a rule on one side, numbers on the other: only the outputs tell
            if mine != theirs:
                found.append(f"{name or 'it'}: {setting} is {mine}, and {theirs} in {other or 'the source'}")
    return found


def _compare(source: nn.Module, target: nn.Module, weights: Mapping[str, Tensor], input_size: Sequence[int]) -> float:
    one, two = copy.deepcopy(target).eval(), copy.deepcopy(source).eval()
    one.load_state_dict(weights)
    like = next(iter(weights.values()))
    x = torch.randn(2, *input_size, generator=torch.Generator().manual_seed(0)).to(like)
    with torch.no_grad():
        mine, theirs = cast("Tensor", one(x)), cast("Tensor", two(x))
    if mine.shape != theirs.shape:
        raise ValueError(f"the target gives {tuple(mine.shape)}, the source {tuple(theirs.shape)}")
    return float((mine - theirs).abs().amax() / theirs.abs().amax().clamp(min=1e-30))


def _key(name: str, part: str) -> str:
    return f"{name}.{part}" if name else part
