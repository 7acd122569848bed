"""A specification: what a network must keep, and the two that come ready."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, cast

from convblocks.introspect.inputs import as_whole
from convblocks.introspect.kinds import KINDS
from convblocks.introspect.summary import Summary


@dataclass(frozen=True, slots=True)
class Finding:
    """The answer to one requirement. `layer` names what decides, "" for the network as a whole."""

    rule: str
    passed: bool
    required: str
    measured: str
    layer: str = ""


Rule = Callable[[Summary], Finding]


@dataclass(frozen=True, kw_only=True)
class Requirements:
    """A specification; what is None is not asked for.

    Args:
        min_parameters: fewest parameters.
        max_parameters: most parameters.
        min_macs: fewest multiply-accumulates.
        max_macs: most multiply-accumulates.
        min_receptive_field: smallest field, in pixels, of the last layer before global pooling; on the smaller axis.
        max_receptive_field: largest field of that layer; on the larger axis.
        count_pooling: measure the field with the global pooling, as wide as the map is at this input size.
        min_coverage: least share of the field's pixels that reach the output.
        output_shape: without the batch, as `(10,)`.
        at_least: fewest layers of a kind, as `{"depthwise separable": 1}`. Kinds: "convolution", "depthwise",
            "depthwise separable", "dilated", "strided", "max pool", "average pool", "linear", "transposed".
        at_most: most layers of a kind, as `{"max pool": 0}`.
        global_pooling: True asks for a pooling of the whole map, False for none.
        linear_after_pooling: most fully connected layers (a 1x1 convolution of one place is one) between the global
            pooling and the map to the classes: 0 asks that the pooled features map straight to them.
        blocks: top-level children that do some work, in this order, by first letter and number: "C1C2C3C4O" asks for
            such as conv1, conv2, conv3, conv4 and output; others may stand between.
        rules: functions from a `Summary` to a `Finding`.
    """

    min_parameters: int | None = None
    max_parameters: int | None = None
    min_macs: int | None = None
    max_macs: int | None = None
    min_receptive_field: int | None = None
    max_receptive_field: int | None = None
    count_pooling: bool = False
    min_coverage: float | None = None
    output_shape: Sequence[int] | None = None
    at_least: Mapping[str, int] = field(default_factory=dict[str, int])
    at_most: Mapping[str, int] = field(default_factory=dict[str, int])
    global_pooling: bool | None = None
    linear_after_pooling: int | None = None
    blocks: str | None = None
    rules: Sequence[Rule] = ()

    def __post_init__(self) -> None:
        for name in ("at_least", "at_most"):
            _check_kinds(name, getattr(self, name))
        for spec in fields(self):
            if spec.name.startswith(("min_", "max_")):
                _check_number(spec.name, getattr(self, spec.name))
        for quantity in ("parameters", "macs", "receptive_field"):
            least, most = getattr(self, f"min_{quantity}"), getattr(self, f"max_{quantity}")
            if least is not None and most is not None and least > most:
                raise ValueError(f"min_{quantity} must not be above max_{quantity}, got {least!r} and {most!r}")
        if self.min_coverage is not None and self.min_coverage > 1:
            raise ValueError(f"min_coverage is a share, at most 1, got {self.min_coverage!r}")
        shape: Any = self.output_shape
        if shape is not None and not (isinstance(shape, Sequence) and all(map(as_whole, cast("Sequence[Any]", shape)))):
            raise ValueError(f"output_shape must be positive whole numbers, such as (10,), got {shape!r}")
        if self.global_pooling not in (None, True, False):
            raise ValueError(f"global_pooling must be True, False or None, got {self.global_pooling!r}")
        dense = self.linear_after_pooling
        if dense is not None and dense != 0 and as_whole(dense) is None:
            raise ValueError(f"linear_after_pooling must be a whole number from 0, got {dense!r}")
        if self.blocks is not None and not (isinstance(cast("Any", self.blocks), str) and block_names(self.blocks)):
            raise ValueError(f"blocks must be names such as C1C2C3C4O, got {self.blocks!r}")
        rules: Any = self.rules
        if not isinstance(rules, Sequence) or not all(map(callable, cast("Sequence[Any]", rules))):
            raise ValueError(f"rules must be functions from a Summary to a Finding, got {rules!r}")


def _check_kinds(name: str, counts: Any) -> None:
    if not isinstance(counts, Mapping):
        raise ValueError(f"{name} must be such as {{'dilated': 1}}, got {counts!r}")
    for kind, count in cast("Mapping[Any, Any]", counts).items():
        if kind not in KINDS:
            raise ValueError(f"{name} names no kind of layer: {kind!r}; known are {', '.join(sorted(KINDS))}")
        if not isinstance(count, int) or count < 0:
            raise ValueError(f"{name}[{kind!r}] must be a whole number from 0, got {count!r}")


def _check_number(name: str, value: Any) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)) or math.isnan(value):
        raise ValueError(f"{name} must be a number, got {value!r}")
    if value < 0:
        raise ValueError(f"{name} must not be negative, got {value!r}")


PRESETS: dict[str, Requirements] = {
    "cifar10-200k": Requirements(
        max_parameters=199_999,
        min_receptive_field=45,
        count_pooling=True,
        at_least={"depthwise separable": 1, "dilated": 1},
        at_most={"max pool": 0},
        global_pooling=True,
        output_shape=(10,),
    ),
    "cifar10-100k": Requirements(
        max_parameters=99_999,
        min_receptive_field=53,
        count_pooling=True,
        at_least={"depthwise separable": 2, "dilated": 1},
        at_most={"max pool": 0},
        global_pooling=True,
        linear_after_pooling=0,
        output_shape=(10,),
    ),
}
"""The two course assignments: under 200,000 parameters with a field over 44, and under 100,000 with one over 52 and no
layer between the pooling and the classes. Their authors count the global pooling in the field."""


def block_names(text: str) -> list[str]:
    """C1, C2 and O from "C1C2O"; empty where the text is no such list."""
    names: list[str] = []
    for letter in text:
        if letter.isalpha() and letter.isupper():
            names.append(letter)
        elif letter.isdigit() and names:
            names[-1] += letter
        else:
            return []
    return names
