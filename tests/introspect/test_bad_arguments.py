"""One clear ValueError for what is no model, size, tile, picture or specification; most once were an AttributeError."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from convblocks.introspect.audit import audit
from convblocks.introspect.plotting import plot_receptive_field
from convblocks.introspect.receptive_field import receptive_field
from convblocks.introspect.requirements import Requirements
from convblocks.introspect.summary import summary
from convblocks.introspect.tiling import halo, tiled

CONV = nn.Conv2d(3, 4, 3, padding=1).eval()
SIZE = (3, 16, 16)
X = torch.rand(1, *SIZE)
QUESTIONS = (receptive_field, summary, halo, plot_receptive_field, lambda m, s: audit(m, s, Requirements(max_macs=1)))


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize(
    ("model", "size", "message"),
    [
        (None, SIZE, "model must be an nn.Module or a callable, got NoneType"),
        (nn.Conv2d, SIZE, "model must be an nn.Module or a callable, got the class Conv2d: build one of it"),
        (CONV.state_dict(), SIZE, "model must be an nn.Module or a callable, got OrderedDict"),
        (CONV, (1, *SIZE), r"input_size=\(1, 3, 16, 16\) \(a batch of 1 goes before it\): RuntimeError"),
        (CONV, X, r"input_size must be .* got a Tensor of shape \(1, 3, 16, 16\)"),
        (CONV, np.array(SIZE), r"input_size must be .* got a ndarray of shape \(3,\)"),
        (CONV, (3, np.float64(16), 16), "all positive whole numbers"),
        (CONV, (3, np.int64(-16), 16), "all positive whole numbers"),
    ],
)
def test_what_is_no_model_or_size(question: Callable[..., Any], model: Any, size: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        question(model, size)


@pytest.mark.parametrize("size", [tuple(np.array(SIZE)), torch.Size(SIZE), list(SIZE), [SIZE]])
def test_sizes_of_other_types(size: Any) -> None:
    assert receptive_field(CONV, size).size == (3, 3)


def two_maps(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return CONV(x), CONV(x)


@pytest.mark.parametrize(
    ("model", "x", "tile", "message"),
    [
        *((CONV, X, tile, "tile must be one positive whole number or 2") for tile in (0, -8, 8.0, None, "8", True)),
        *((CONV, X, tile, "tile must be one positive whole number or 2") for tile in ((8, 8, 8), (8, "8"), (8, 0))),
        (CONV, None, 8, r"x must be a tensor \(N, C, \*spatial\), got None"),
        (CONV, X.numpy(), 8, r"x must be a tensor .* got a ndarray of shape \(1, 3, 16, 16\)"),
        (CONV, X[0, 0], 8, r"x must be a tensor .* got a Tensor of shape \(16, 16\)"),
        (two_maps, X, 8, "model must give one map, got 2: wrap it"),
        # Tiles would be normed by their own statistics: another result, in silence.
        (nn.Sequential(CONV, nn.BatchNorm2d(4)), X, 8, "must be in evaluation mode, got BatchNorm2d '1'"),
        (nn.Sequential(CONV, nn.Dropout()), X, 8, "must be in evaluation mode, got Dropout '1'"),
    ],
)
def test_what_cannot_be_tiled(model: Any, x: Any, tile: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiled(model, x, tile=tile)


def test_tiles_of_numpy() -> None:
    assert torch.allclose(tiled(CONV, X, tile=(np.int64(8), 8)), CONV(X), atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_parameters": "x"}, "max_parameters must be a number, got 'x'"),
        ({"max_macs": float("nan")}, "max_macs must be a number, got nan"),
        ({"min_macs": True}, "min_macs must be a number, got True"),
        ({"min_parameters": 9, "max_parameters": 5}, "min_parameters must not be above max_parameters, got 9 and 5"),
        ({"output_shape": 10}, r"output_shape must be positive whole numbers, such as \(10,\), got 10"),
        ({"output_shape": (10, "a")}, "output_shape must be"),
        ({"at_least": ["dilated"]}, "at_least must be such as {'dilated': 1}"),
        ({"global_pooling": "yes"}, "global_pooling must be True, False or None, got 'yes'"),
        ({"linear_after_pooling": -1}, "linear_after_pooling must be a whole number from 0, got -1"),
        ({"linear_after_pooling": "a"}, "linear_after_pooling must be a whole number from 0, got 'a'"),
        ({"blocks": 3}, "blocks must be names such as C1C2C3C4O, got 3"),
        ({"rules": 3}, "rules must be functions"),
        ({"rules": [3]}, "rules must be functions"),
    ],
)
def test_what_is_no_requirement(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Requirements(**arguments)


@pytest.mark.parametrize("requirements", [None, {"max_macs": 1}, []])
def test_what_is_no_specification(requirements: Any) -> None:
    with pytest.raises(ValueError, match="requirements must be a Requirements or the name of a preset"):
        audit(CONV, SIZE, requirements)


def test_a_rule_that_returns_no_finding() -> None:
    with pytest.raises(ValueError, match="rules must return a Finding, got True"):
        audit(CONV, SIZE, Requirements(rules=[lambda table: True]))


@pytest.mark.parametrize(
    ("question", "message"),
    [
        (lambda: receptive_field(CONV, SIZE, dtype="float32"), "dtype must be a torch.dtype, .* got 'float32'"),
        (lambda: summary(CONV, SIZE, depth=1.5), "depth must be a whole number from 0 .* got 1.5"),
        (lambda: summary(CONV, SIZE, depth=-1), "depth must be a whole number from 0 .* got -1"),
        (lambda: summary(CONV, SIZE).text(0), "width must be a whole number from 1, got 0"),
        (lambda: receptive_field(CONV, SIZE).interval(1.5, 2), r"unit must be an index into \(16, 16\)"),
        (lambda: receptive_field(CONV, SIZE).interval((1, 2)), r"unit must be an index into \(16, 16\)"),
        (lambda: plot_receptive_field(CONV, SIZE, image=X), "image must be a tensor"),
        (lambda: plot_receptive_field(CONV, SIZE, image=np.zeros((16, 16))), "image must be a tensor"),
        (lambda: plot_receptive_field(CONV, SIZE, layer=3), "no layer 3"),
    ],
)
def test_other_arguments(question: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        question()
