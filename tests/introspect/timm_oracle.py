"""Hold the field of a timm network to the gradient's, at both ends, of two neighbouring units of a strip.

Where the fields of a map alternate, of two neighbours among the units that are alike.
"""

from __future__ import annotations

import math
from typing import Any

import timm
import torch
from oracle import middle_unit, positive
from torch.overrides import TorchFunctionMode

from convblocks.introspect.graph import Graph
from convblocks.introspect.receptive_field import ReceptiveField, receptive_field

PRODUCTS = ("mm", "bmm", "addmm", "baddbmm", "matmul", "mv", "dot")


def build(name: str, **options: Any) -> torch.nn.Module:
    """The network without weights."""
    with torch.device("meta"):
        return timm.create_model(name, **options).eval()


class _Unfilled(TorchFunctionMode):
    """Leaves out the random initialisation, which takes longer than the gradient."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__name__", "") in ("normal_", "uniform_", "erfinv_", "trunc_normal_", "orthogonal_"):
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


def is_convolutional(graph: Graph) -> bool:
    """Whether a network convolves, neither recurs nor multiplies two matrices that both depend on the input.

    Attention does the latter.
    """
    if any(isinstance(call.module, torch.nn.RNNBase) for call in graph.calls):
        return False
    return any(node.op == "convolution" for node in graph.nodes) and not any(
        "attention" in node.op or (node.op in PRODUCTS and sum(graph.depends[value] for value in node.operands) > 1)
        for node in graph.nodes
    )


def answer(name: str, **options: Any) -> dict[str, Any]:
    """What we say of the map that the network makes."""
    model = build(name, **options)
    size = tuple(model.default_cfg.get("input_size", (3, 224, 224)))
    field: ReceptiveField = receptive_field(model.forward_features, size)
    local = field.local
    return {
        "model": name,
        **options,
        "input": list(size),
        "map": list(field.shape),
        "size": local.size[1],
        "jump": local.jump[1],
        "start": local.start[1],
        "period": local.period[1],
        "global": field.is_global[1],
        "unknown": list(field.unknown),
        "convolutional": is_convolutional(field._analysis.native) and len(field.shape) == 4,
    }


def gradient(record: dict[str, Any], **options: Any) -> dict[str, Any]:
    """What the gradient says: the spans of two neighbouring units in the middle of a strip.

    Raises:
        ValueError: no strip could be run, or the gradient covers all of the longest one.
    """
    # Where we have no answer, the strip is as long as for a deep network.
    size, jump = record["size"] or 2000, record["jump"] or 32
    period = record["period"] or 1
    native = record["input"][2]
    # The strip differs from the native size by whole periods, and an even number of them: resampling to the size of an
    # odd map is not by two, and a map that does not divide into patches of 2 x 2 is resampled to one that does.
    step = 2 * period * (32 if 32 % jump == 0 else math.ceil(32 * jump))
    with _Unfilled():
        model = positive(timm.create_model(record["model"], **options))
    reason = ""
    heights = [32, 64, 96, 160, native]
    for factor in (1, 2, 4):
        length = native % step + step * math.ceil(factor * (1.1 * size + 10 * jump + 64) / step)
        for height in list(heights):
            try:
                shape = (1, record["input"][0], height, length)
                first, second, unit, places = middle_unit(model.forward_features, shape, 1, period)
            except (RuntimeError, AssertionError, ValueError, IndexError) as error:
                if "allocate memory" in str(error):
                    raise
                reason = f"{type(error).__name__}: {error}"[:200]
                heights.remove(height)
                continue
            if first[0] > 0 and second[1] < length - 1:
                return {
                    "spans": [list(first), list(second)],
                    "unit": unit,
                    "period": period,
                    "places": places,
                    "strip": [height, length],
                }
            reason = f"the gradient covers all of a strip of {length}, through gates that it cannot cut"
            break
    raise ValueError(reason)


def judge(record: dict[str, Any]) -> None:
    """Note whether our answer is the gradient's."""
    found = record.get("gradient")
    if not record["convolutional"]:
        record["status"] = "not convolutional"
    elif record["unknown"]:
        record["status"] = "unknown"
    elif found is None:
        record["status"] = "not compared"
    else:
        expected = [_span(record, found["unit"]), _span(record, found["unit"] + found.get("period", 1))]
        record["status"] = "equal" if expected == found["spans"] else "different"
        if record["status"] == "different":
            record["expected"] = expected


def compare(name: str, **options: Any) -> dict[str, Any]:
    """What we say, what the gradient says, and whether they are equal."""
    record = answer(name, **options)
    if record["convolutional"]:
        record["gradient"] = gradient(record, **options)
    judge(record)
    return record | {"equal": record["status"] == "equal"}


def _span(record: dict[str, Any], unit: int) -> list[int] | None:
    if None in (record["size"], record["jump"], record["start"]):
        return None
    centre, reach = record["start"] + unit * record["jump"], (record["size"] - 1) / 2
    return [round(centre - reach), round(centre + reach)]
