"""Hold the field of a timm network to the gradient's, at both ends, of two neighbouring units of a strip."""

from __future__ import annotations

import math
from typing import Any

import timm
import torch
from oracle import middle_unit, positive

from convblocks.introspect.receptive_field import receptive_field

ATTENTION = ("bmm", "_softmax", "_safe_softmax", "baddbmm")


def build(name: str, **options: Any) -> torch.nn.Module:
    """The network without weights."""
    with torch.device("meta"):
        return timm.create_model(name, **options).eval()


def is_convolutional(operations: set[str]) -> bool:
    """Whether a network convolves and does not attend."""
    return "convolution" in operations and not any(op in operations or "attention" in op for op in ATTENTION)


def compare(name: str, *, largest: float = math.inf, **options: Any) -> dict[str, Any]:
    """What we say, what the gradient says, and whether they are equal; `largest` bounds the work of the oracle."""
    model = build(name, **options)
    size = tuple(model.default_cfg.get("input_size", (3, 224, 224)))
    field = receptive_field(model.forward_features, size)
    record: dict[str, Any] = {"model": name, **options, "input": size, "unknown": list(field.unknown)}
    local = field.local
    record |= {"size": local.size[1], "jump": local.jump[1], "start": local.start[1], "period": local.period[1]}
    record["global"] = field.is_global[1]
    operations = {node.op for node in field._analysis.native.nodes}
    record["convolutional"] = is_convolutional(operations) and len(field.shape) == 4
    if not record["convolutional"] or None in (record["size"], record["jump"], record["start"]):
        return record
    record["oracle"] = _oracle(name, options, record, largest)
    if isinstance(record["oracle"], dict):
        unit = record["oracle"]["unit"]
        expected = [_span(record, unit), _span(record, unit + 1)]
        record["expected"] = expected
        record["equal"] = record["oracle"]["spans"] == expected
    return record


def _span(record: dict[str, Any], unit: int) -> list[int]:
    centre = record["start"] + unit * record["jump"]
    return [round(centre - (record["size"] - 1) / 2), round(centre + (record["size"] - 1) / 2)]


def _oracle(name: str, options: dict[str, Any], record: dict[str, Any], largest: float) -> dict[str, Any] | str:
    jump, size, native = record["jump"], record["size"], record["input"][2]
    step = 32 if 32 % jump == 0 else int(32 * jump)
    length = native % step + step * math.ceil((1.1 * size + 10 * jump + 64) / step)
    model = positive(timm.create_model(name, **options))
    weight = sum(p.numel() for p in model.parameters()) ** 0.5
    for height in (64, 96, 160, native):
        if length * height * weight > largest:
            return "too large here"
        try:
            first, second, unit, places = middle_unit(
                model.forward_features, (1, record["input"][0], height, length), 1
            )
        except (RuntimeError, AssertionError, ValueError, IndexError) as error:
            reason = f"{type(error).__name__}: {error}"
            continue
        if first[0] == 0 or second[1] == length - 1:
            return f"the strip of {length} is too short: {first}, {second}"
        return {"spans": [list(first), list(second)], "unit": unit, "places": places, "length": length}
    return reason[:200]
