"""What does nothing in evaluation: dropouts and identities are taken out, where nobody counts them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from torch import nn

from convblocks.deploy.flow import Flow, named_modules, replace
from convblocks.deploy.own import has_hooks
from convblocks.deploy.report import FusionReport

IDLE: tuple[type[nn.Module], ...] = (
    nn.Identity,
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.AlphaDropout,
    nn.FeatureAlphaDropout,
)


def drop_idle(model: nn.Module, input_size: Sequence[int], flow: Flow, report: FusionReport) -> None:
    """Take dropouts and identities out where only a container's own forward calls them; elsewhere leave an identity."""
    calls = flow.graph.calls
    callers: defaultdict[int, set[int]] = defaultdict(set)
    for call in calls:
        callers[id(call.module)].add(id(calls[call.parent].module) if call.parent >= 0 else 0)
    whole: dict[nn.Module, list[tuple[str, nn.Module]]] = {}
    gone: list[str] = []
    modules = named_modules(model)
    for name, module in modules:
        if not name or not isinstance(module, IDLE) or has_hooks(module):
            continue
        above, _, place = name.rpartition(".")
        parent = model.get_submodule(above)
        if not isinstance(module, nn.Identity):
            replace(model, name, nn.Identity())
            report.dropped.append(name)
        if type(parent) is nn.Sequential and len(parent) > 1 and callers[id(module)] == {id(parent)}:
            whole.setdefault(parent, _children(parent))
            delattr(parent, place)
            gone.append(name)
    if not whole or _same(model, input_size, flow):
        report.dropped = [name for name, _ in modules if name in {*gone, *report.dropped}]
        return
    # Something counts the parts of a container, or finds them by their place.
    for parent, children in whole.items():
        for place, _ in _children(parent):
            delattr(parent, place)
        for place, child in children:
            parent.add_module(place, nn.Identity() if isinstance(child, IDLE) else child)


def _children(parent: nn.Module) -> list[tuple[str, nn.Module]]:
    return [(name, child) for name, child in named_modules(parent) if name and "." not in name]


def _same(model: nn.Module, input_size: Sequence[int], before: Flow) -> bool:
    """Whether the network still does what it did, by the same weights."""
    try:
        flow = Flow(model, input_size)
    except ValueError:
        return False
    return flow.steps(before.names) == before.steps(flow.names) and flow.weights() == before.weights()
