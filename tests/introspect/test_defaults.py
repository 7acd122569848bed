"""The answers do not depend on the default device of the caller, who may build models under another."""

from __future__ import annotations

import gc
from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import nn

from convblocks import receptive_field, summary
from convblocks.introspect.sliding import window_taps


def conv() -> nn.Module:
    return nn.Conv2d(3, 8, 3, stride=2, dilation=2)


def features() -> nn.Module:
    return nn.Sequential(*list(torchvision.models.resnet18().children())[:-2])


@pytest.mark.parametrize("build", [conv, features])
def test_under_another_default_device(build: Callable[[], nn.Module]) -> None:
    expected = receptive_field(build(), (3, 37, 41))
    rows = summary(build(), (3, 37, 41)).records()
    window_taps.cache_clear()
    with torch.device("meta"):
        field = receptive_field(build(), (3, 37, 41))
        assert repr(field) == repr(expected)
        assert field.interval(0, 0) == expected.interval(0, 0)
        assert field.coverage == expected.coverage
        assert summary(build(), (3, 37, 41)).records() == rows
    # No table that was made there is kept.
    assert repr(receptive_field(build(), (3, 37, 41))) == repr(expected)


def test_under_another_default_device_after_a_failure() -> None:
    expected = summary(conv(), (3, 37, 41)).records()
    window_taps.cache_clear()
    with pytest.raises(ValueError, match="does not run"):
        summary(conv(), (4, 37, 41))
    assert gc.isenabled()
    with torch.device("meta"):
        assert summary(conv(), (3, 37, 41)).records() == expected
