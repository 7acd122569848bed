"""A shortcut gives what torch gives on the meta device: shape, strides and element type."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from convblocks.introspect.meta import ACTIVATIONS, SHORTCUTS, run

aten = torch.ops.aten


def tensor(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


LAYOUTS = {
    "contiguous": tensor(2, 4, 6, 8),
    "channels last": tensor(2, 4, 6, 8).to(memory_format=torch.channels_last),
    "every other channel": tensor(2, 8, 6, 8)[:, ::2],
    "permuted": tensor(2, 6, 8, 4).permute(0, 3, 1, 2),
    "expanded": tensor(1, 4, 1, 8).expand(2, 4, 6, 8),
    "half": tensor(2, 4, 6, 8, dtype=torch.float16),
    "integers": tensor(2, 4, 6, 8, dtype=torch.int64),
    "one place": tensor(2, 4, 1, 1),
    "one dimension": tensor(4),
}


def describe(result: Any) -> Any:
    if isinstance(result, (tuple, list)):
        return [describe(item) for item in result]
    return tuple(result.shape), result.stride(), result.dtype, result.device.type


def outcome(function: Any, *args: Any) -> Any:
    try:
        return describe(function(*args))
    except (RuntimeError, ValueError):
        return "refused"


def same(func: Any, *args: Any) -> None:
    assert outcome(lambda: run(func, args, {})) == outcome(lambda: func(*args))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name: str, layout: str) -> None:
    x = LAYOUTS[layout]
    same(getattr(aten, name).default, x)
    if layout != "expanded" and x.is_floating_point():
        same(getattr(aten, f"{name}_").default, x)


@pytest.mark.parametrize("second", LAYOUTS)
@pytest.mark.parametrize("first", LAYOUTS)
@pytest.mark.parametrize("func", [aten.add.Tensor, aten.mul.Tensor, aten.add_.Tensor, aten.mul_.Tensor])
def test_sums_and_products(func: Any, first: str, second: str) -> None:
    same(func, LAYOUTS[first].clone(), LAYOUTS[second])
    same(func, LAYOUTS[first].clone(), 2.0)


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name not in ("integers", "one dimension")])
@pytest.mark.parametrize("training", [False, True])
def test_batch_norm(layout: str, training: bool) -> None:
    four = tensor(4)
    same(aten.native_batch_norm.default, LAYOUTS[layout], four, four, four, four, training, 0.1, 1e-5)
    same(aten.native_batch_norm.default, LAYOUTS[layout], None, None, four, four, training, 0.1, 1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(8,), (6, 8), (5,)])
def test_layer_norm(layout: str, shape: tuple[int, ...]) -> None:
    weight = tensor(*shape, dtype=LAYOUTS[layout].dtype)
    same(aten.native_layer_norm.default, LAYOUTS[layout], shape, weight, weight, 1e-5)


@pytest.mark.parametrize("shapes", [((5,), (3, 4), (4, 5)), ((5,), (3, 4), (3, 5)), ((1,), (3, 4), (4, 5))])
def test_addmm(shapes: tuple[tuple[int, ...], ...]) -> None:
    same(aten.addmm.default, *(tensor(*shape) for shape in shapes))
    same(aten.addmm.default, tensor(*shapes[0], dtype=torch.float64), *(tensor(*shape) for shape in shapes[1:]))


def test_every_shortcut_is_tested() -> None:
    unary = {getattr(aten, name + end).default for name in ACTIVATIONS for end in ("", "_")}
    assert set(SHORTCUTS) - unary == {
        aten.add.Tensor,
        aten.mul.Tensor,
        aten.add_.Tensor,
        aten.mul_.Tensor,
        aten.native_batch_norm.default,
        aten.native_layer_norm.default,
        aten.addmm.default,
    }
