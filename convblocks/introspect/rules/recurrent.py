"""Recurrent layers, each one operation: a state that runs along the sequence, forwards or both ways."""

from __future__ import annotations

from collections.abc import Sequence

from convblocks.introspect.aliasing import Ref
from convblocks.introspect.labels import Labels, joined, union
from convblocks.introspect.registry import Call, NoRule, Result, rule


@rule("lstm", "gru", "rnn_tanh", "rnn_relu")
def recurrent(call: Call) -> Result:
    """Step t reads those before it, and those after it too where it runs both ways; the last states read them all."""
    steps, batch = (1, 0) if call["batch_first"] else (0, 1)
    start = _initial(call, call["hx"], batch)
    x = call.input
    if x is None and start is None:
        return None
    x = union((x and call.reduce(x, [2]), start), 3)
    assert x is not None
    last = call.reduce(x, [steps])
    if batch == 0:
        last = last.permuted([1, 0, 2])
    for _ in range(call["num_layers"]):
        x = call.reduce(x, [2])
        x = _both_ways(call, x, steps) if call["bidirectional"] else call.scan(x, steps)
    return [x, *[last] * (len(call.node.outputs) - 1)]


def _initial(call: Call, refs: Ref | Sequence[Ref], batch: int) -> Labels | None:
    """What the initial states depend on: (layers, batch, features), of which only the batch is kept apart."""
    found = [call.of(ref) for ref in ([refs] if isinstance(refs, Ref) else refs)]
    if any(labels is not None and labels.length(0) > 1 for labels in found):
        raise NoRule("initial states that depend on other parts of the input each")
    start = union([labels and call.reduce(labels, [0, 2]) for labels in found], 3)
    return start if start is None or batch == 1 else start.permuted([1, 0, 2])


def _both_ways(call: Call, x: Labels, steps: int) -> Labels:
    if not call.policy.exact_borders:
        # Whoever reads both halves reads the whole sequence.
        return call.reduce(x, [steps])
    half = call.out_shape()[2] // 2
    return joined(2, [(call.scan(x, steps), half), (call.scan(x, steps, backwards=True), half)])
