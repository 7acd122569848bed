"""Whether a network keeps a specification: pass and fail, with the value measured and the layer that decides."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import Any, cast

import torch

from convblocks.introspect.answers import ReceptiveField
from convblocks.introspect.inputs import InputSize
from convblocks.introspect.kinds import after_pooling, blocks_of, layers_of_kind
from convblocks.introspect.layer_table import by_axis
from convblocks.introspect.layers import Layer, geometry_rows
from convblocks.introspect.receptive_field import analyse
from convblocks.introspect.requirements import PRESETS, Finding, Requirements, block_names
from convblocks.introspect.summary import Summary
from convblocks.introspect.tables import Column, Table


class AuditFailed(AssertionError):
    """A network breaks its specification; the message is the table."""


class Audit:
    """The findings of an audit; print it."""

    def __init__(self, findings: Sequence[Finding]) -> None:
        self.findings = list(findings)

    @property
    def passed(self) -> bool:
        """Whether every requirement is met."""
        return all(finding.passed for finding in self.findings)

    def raise_if_failed(self) -> None:
        """Raise `AuditFailed` with the table unless every requirement is met."""
        if not self.passed:
            raise AuditFailed(f"the network breaks its specification\n{self.text(120)}")

    def table(self) -> Table:
        """The findings as strings."""
        titles = {"requirement": 12, "": 0, "required": 10, "measured": 12, "decided by": 10}
        columns = [Column(title, right=False, least=least) for title, least in titles.items()]
        rows = [[f.rule, "pass" if f.passed else "FAIL", f.required, f.measured, f.layer] for f in self.findings]
        failed = sum(not finding.passed for finding in self.findings)
        return Table(columns, rows, [f"{failed} of {len(rows)} failed" if failed else f"all {len(rows)} passed"])

    def records(self) -> list[dict[str, Any]]:
        """One dictionary a requirement."""
        return [{spec.name: getattr(finding, spec.name) for spec in fields(finding)} for finding in self.findings]

    def text(self, width: int | None = None) -> str:
        """The table in `width` columns, by default those of the terminal."""
        return self.table().text(width)

    def markdown(self) -> str:
        """The table in Markdown."""
        return self.table().markdown()

    def __str__(self) -> str:
        return self.text()

    def __repr__(self) -> str:
        return f"Audit({'passed' if self.passed else 'FAILED'}, {len(self.findings)} requirements)"


def audit(
    model: Callable[..., Any],
    input_size: InputSize,
    requirements: Requirements | str,
    *,
    dtype: torch.dtype | None = None,
    channel_last: bool = False,
) -> Audit:
    """Hold a network to a specification.

    Args:
        model: a module, or a bound method of one.
        input_size: `(channels, height, width)` without the batch.
        requirements: a `Requirements`, or the name of a preset: "cifar10-200k", "cifar10-100k".
        dtype: element type of the input.
        channel_last: the network takes `(height, width, channels)`.

    Returns:
        An `Audit`; `.passed`, `.raise_if_failed()`, or print it.

    Raises:
        ValueError: no preset of that name; the network cannot run on `input_size`.

    Examples:
        >>> from torch import nn
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
        >>> result = audit(net, (3, 32, 32), Requirements(max_parameters=1000, min_receptive_field=5))
        >>> [(finding.rule, finding.passed, finding.measured) for finding in result.findings]
        [('parameters', True, '314'), ('receptive field', False, '3')]
    """
    if isinstance(requirements, str):
        if requirements not in PRESETS:
            raise ValueError(f"requirements names no preset: {requirements!r}; known are {', '.join(PRESETS)}")
        requirements = PRESETS[requirements]
    if not isinstance(cast("Any", requirements), Requirements):
        raise ValueError(f"requirements must be a Requirements or the name of a preset, got {requirements!r}")
    table = Summary(analyse(model, input_size, dtype=dtype, channel_last=channel_last), None)
    findings = _findings(table, requirements)
    stopped = table.analysis.native.error
    if stopped is not None:
        findings = [_of_a_part(finding, str(stopped)) for finding in findings]
    return Audit(findings)


def _of_a_part(finding: Finding, reason: str) -> Finding:
    """What a network keeps up to where it cannot be followed says nothing of the rest; its parameters are all known."""
    if not finding.passed or finding.rule == "parameters":
        return finding
    return replace(finding, passed=False, measured=f"unknown: {reason}")


def _findings(table: Summary, wanted: Requirements) -> list[Finding]:
    rows = geometry_rows(table.analysis, merged=False)
    found: list[Finding] = []
    found += _bounds("parameters", table.parameters, wanted.min_parameters, wanted.max_parameters)
    found += _bounds("MACs", table.macs, wanted.min_macs, wanted.max_macs)
    found += _receptive_field(table, rows, wanted)
    if wanted.min_coverage is not None:
        found.append(_coverage(table, rows, wanted.min_coverage))
    if wanted.output_shape is not None:
        shape = table.output_shapes[0][1:] if table.output_shapes else ()
        asked = tuple(wanted.output_shape)
        found.append(Finding("output shape", shape == asked, _shape(asked), _shape(shape)))
    for kind, least in wanted.at_least.items():
        names = layers_of_kind(table, rows, kind)
        found.append(Finding(f"{kind} layers", len(names) >= least, f">= {least}", str(len(names)), _names(names)))
    for kind, most in wanted.at_most.items():
        names = layers_of_kind(table, rows, kind)
        found.append(Finding(f"{kind} layers", len(names) <= most, f"<= {most}", str(len(names)), _names(names[most:])))
    if wanted.global_pooling is not None:
        whole = _head_pools(table, rows) + _covering_pools(rows)
        asked = "yes" if wanted.global_pooling else "none"
        has = bool(whole)
        found.append(
            Finding("global pooling", has == wanted.global_pooling, asked, "yes" if has else "none", _names(whole))
        )
    if wanted.linear_after_pooling is not None:
        dense = after_pooling(table)
        # The last of them is the map to the classes itself.
        extra, most = max(0, len(dense) - 1), wanted.linear_after_pooling
        found.append(
            Finding(
                "dense layers after pooling",
                extra <= most,
                f"<= {most}",
                str(extra),
                _names(dense[:-1][most:]),
            )
        )
    if wanted.blocks is not None:
        found.append(_blocks(table, wanted.blocks))
    for rule in wanted.rules:
        finding = rule(table)
        if not isinstance(cast("Any", finding), Finding):
            raise ValueError(f"rules must return a Finding, got {finding!r} of {rule!r}")
        found.append(finding)
    return found


def _bounds(rule: str, value: int, least: int | None, most: int | None) -> list[Finding]:
    if least is None and most is None:
        return []
    required = _range(least, most)
    passed = (least is None or value >= least) and (most is None or value <= most)
    return [Finding(rule, passed, required, f"{value:,}")]


def _range(least: int | None, most: int | None) -> str:
    bounds = [] if least is None else [f">= {least:,}"]
    return " and ".join(bounds if most is None else [*bounds, f"<= {most:,}"])


def _covering_pools(rows: Sequence[Layer]) -> list[str]:
    """Poolings whose window is the whole map, though it is given as a number."""
    return [
        row.name or row.type
        for row in rows
        if row.window
        and row.window.kind in ("avg pool", "max pool")
        and row.window.kernel == row.input_shape[-len(row.window.kernel) :]
    ]


def _head_pools(table: Summary, rows: Sequence[Layer]) -> list[str]:
    """Global poolings after the last map, where the output has no position: others are gates, or give way to a map."""
    outputs = table.analysis.native.outputs
    if not outputs or not ReceptiveField(table.analysis, outputs[0]).is_pooled:
        return []
    last = _last_before_pooling(rows)
    after = rows if last is None else rows[rows.index(last) + 1 :]
    return [row.name or row.type for row in after if row.window and row.window.kind == "global pool"]


def _last_before_pooling(rows: Sequence[Layer]) -> Layer | None:
    """The last layer whose units have a position, and that no pooling of the whole map given as a number precedes.

    What follows the pooling of the head has none, and neither have the gates of squeeze-and-excitation on the way.
    """
    covering = set(_covering_pools(rows))
    kept: Layer | None = None
    for row in rows:
        if (row.name or row.type) in covering:
            break
        if row.field is None or not row.field.is_pooled:
            kept = row
    return kept


def _receptive_field(table: Summary, rows: Sequence[Layer], wanted: Requirements) -> list[Finding]:
    least, most = wanted.min_receptive_field, wanted.max_receptive_field
    if least is None and most is None:
        return []
    layer = rows[-1] if wanted.count_pooling and rows else _last_before_pooling(rows)
    size = layer.field.local.size if layer is not None and layer.field is not None else (1,)
    unknown = layer.field.unknown if layer is not None and layer.field is not None else ()
    required = _range(least, most)
    name = (layer.name or layer.type) if layer is not None else ""
    rule = "receptive field with pooling" if wanted.count_pooling else "receptive field"
    if None in size:
        return [Finding(rule, False, required, "unknown" + (f": {unknown[0]}" if unknown else ""), name)]
    known = [value for value in size if value is not None]
    passed = (least is None or min(known) >= least) and (most is None or max(known) <= most)
    return [Finding(rule, passed, required, by_axis(size), name)]


def _coverage(table: Summary, rows: Sequence[Layer], least: float) -> Finding:
    layer = _last_before_pooling(rows)
    share = layer.field.coverage if layer is not None and layer.field is not None else None
    name = (layer.name or layer.type) if layer is not None else ""
    measured = "unknown" if share is None else f"{share:.1%}"
    return Finding("coverage", share is not None and share >= least, f">= {least:.1%}", measured, name)


def _blocks(table: Summary, text: str) -> Finding:
    """Every asked name stands for the next top-level child with its first letter and its number."""
    has = blocks_of(table)
    left = iter(has)
    for asked in block_names(text):
        if not any(_stands_for(asked, name) for name in left):
            return Finding("blocks", False, text, _names(has, 12), f"no {asked}")
    return Finding("blocks", True, text, _names(has, 12))


def _stands_for(asked: str, name: str) -> bool:
    digits = name[len(name.rstrip("0123456789")) :]
    return name[:1].lower() == asked[0].lower() and digits == asked[1:]


def _shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def _names(names: Sequence[str], most: int = 3) -> str:
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown
