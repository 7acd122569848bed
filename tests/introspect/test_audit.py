"""Specifications: the two assignments on the five networks, every requirement met and broken, and bad ones."""

from __future__ import annotations

import networks
import pytest
from torch import Tensor, nn

from convblocks.introspect.audit import AuditFailed, audit
from convblocks.introspect.requirements import Finding, Requirements
from convblocks.introspect.summary import Summary


def small() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.Conv2d(8, 8, 3, groups=8, dilation=2),
        nn.Conv2d(8, 16, 1),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 16, 3, stride=2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 12),
        nn.Linear(12, 10),
    )


@pytest.mark.parametrize(
    ("name", "preset", "broken"),
    [
        ("era_s9", "cifar10-200k", []),
        ("net4", "cifar10-200k", []),
        ("eva8_s6", "cifar10-200k", []),
        ("twelve_layer", "cifar10-200k", []),
        ("late_100k", "cifar10-100k", [("dense layers after pooling", "output.hidden")]),
        ("eva8_s6", "cifar10-100k", []),
        ("era_s9", "cifar10-100k", [("parameters", ""), ("receptive field with pooling", "output.fc")]),
    ],
)
def test_assignments(name: str, preset: str, broken: list[tuple[str, str]]) -> None:
    result = audit(getattr(networks, name)(), (3, 32, 32), preset)
    assert [(f.rule, f.layer) for f in result.findings if not f.passed] == broken
    assert result.passed is (not broken)


@pytest.mark.parametrize(
    ("kept", "broken"),
    [
        ({"max_parameters": 4000}, {"max_parameters": 100}),
        ({"min_parameters": 100}, {"min_parameters": 10**6}),
        ({"max_macs": 10**7}, {"max_macs": 10}),
        ({"min_receptive_field": 12}, {"min_receptive_field": 13}),
        ({"max_receptive_field": 12}, {"max_receptive_field": 11}),
        ({"output_shape": (10,)}, {"output_shape": (12,)}),
        ({"at_least": {"depthwise separable": 1}}, {"at_least": {"depthwise separable": 2}}),
        ({"at_least": {"dilated": 1}}, {"at_most": {"dilated": 0}}),
        ({"at_least": {"strided": 1}}, {"at_most": {"strided": 0}}),
        ({"at_most": {"max pool": 1}}, {"at_most": {"max pool": 0}}),
        ({"at_least": {"linear": 2}}, {"at_least": {"linear": 3}}),
        ({"at_least": {"convolution": 4}}, {"at_most": {"convolution": 3}}),
        ({"at_least": {"depthwise": 1}}, {"at_least": {"transposed": 1}}),
        ({"global_pooling": True}, {"global_pooling": False}),
        ({"linear_after_pooling": 1}, {"linear_after_pooling": 0}),
        (
            {"rules": [lambda table: Finding("x", table.macs > 0, "", "")]},
            {"rules": [lambda t: Finding("x", False, "", "")]},
        ),
    ],
)
def test_every_requirement_kept_and_broken(kept: dict[str, object], broken: dict[str, object]) -> None:
    assert audit(small(), (3, 32, 32), Requirements(**kept)).passed
    failed = audit(small(), (3, 32, 32), Requirements(**broken))
    assert not failed.passed
    with pytest.raises(AuditFailed, match="FAIL"):
        failed.raise_if_failed()


def test_coverage() -> None:
    gridded = nn.Sequential(nn.Conv2d(3, 4, 3, dilation=2), nn.Conv2d(4, 4, 3, dilation=4))
    assert audit(gridded, (3, 32, 32), Requirements(min_coverage=0.28)).passed
    result = audit(gridded, (3, 32, 32), Requirements(min_coverage=0.3))
    assert [(f.passed, f.measured, f.layer) for f in result.findings] == [(False, "29.0%", "1")]


class Gated(nn.Module):
    """A separable convolution with squeeze-and-excitation between its halves, and a convolution after it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_dw, self.conv_pw = nn.Conv2d(3, 3, 3, groups=3), nn.Conv2d(3, 8, 1)
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(3, 3, 1), nn.Sigmoid())
        self.last = nn.Conv2d(8, 8, 5)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_dw(x)
        return self.head(self.last(self.conv_pw(x * self.gate(x))))


def test_gates_are_not_the_pooling_of_the_head() -> None:
    """The field and the coverage once were those of the layer before the first gate, and no layer was separable."""
    asked = Requirements(
        min_receptive_field=8, min_coverage=1, at_least={"depthwise separable": 1}, global_pooling=True
    )
    found = [(f.rule, f.passed, f.measured, f.layer) for f in audit(Gated(), (3, 32, 32), asked).findings]
    assert found == [
        ("receptive field", False, "7", "last"),
        ("coverage", True, "100.0%", "last"),
        ("depthwise separable layers", True, "1", "conv_dw"),
        ("global pooling", True, "yes", "head.0"),
    ]
    without = Gated()
    without.head = nn.Sequential()
    [finding] = audit(without, (3, 32, 32), Requirements(global_pooling=True)).findings
    assert (finding.passed, finding.measured) == (False, "none")


def test_blocks() -> None:
    assert audit(networks.era_s9(), (3, 32, 32), Requirements(blocks="C1C2C3C4O")).passed
    result = audit(networks.era_s9(), (3, 32, 32), Requirements(blocks="C1C2C3C4C5O"))
    assert [f.layer for f in result.findings] == ["no C5"]


def test_rules_see_the_summary() -> None:
    def few_rows(table: Summary) -> Finding:
        return Finding("rows", len(table.layers) < 5, "< 5", str(len(table.layers)))

    assert not audit(small(), (3, 32, 32), Requirements(rules=[few_rows])).passed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"at_least": {"max-pool": 1}}, "at_least names no kind of layer: 'max-pool'"),
        ({"at_most": {"dilated": -1}}, "whole number from 0"),
        ({"max_parameters": -1}, "max_parameters must not be negative"),
        ({"min_coverage": 90}, "min_coverage is a share"),
        ({"blocks": "four"}, "blocks must be names"),
    ],
)
def test_what_is_no_requirement(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Requirements(**arguments)


def test_unknown_preset() -> None:
    with pytest.raises(ValueError, match="names no preset: 'x'; known are cifar10-200k"):
        audit(small(), (3, 32, 32), "x")
