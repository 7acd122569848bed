"""A tensor made from nothing on the meta device is as torch makes it: shape, strides and element type."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_meta import outcome

from convblocks.introspect.meta.factories import FACTORIES, make

aten = torch.ops.aten
RANGES = {1: aten.arange.default, 2: aten.arange.start, 3: aten.arange.start_step}
NUMBERS = st.integers(-9, 9) | st.floats(-9, 9, width=32).map(lambda x: round(x, 2))
DTYPES = st.sampled_from([None, torch.float32, torch.float16, torch.int32])


def same(func: Any, args: tuple[Any, ...], dtype: torch.dtype | None, device: str = "meta") -> None:
    options = {"dtype": dtype, "layout": None, "device": torch.device(device), "pin_memory": False}
    assert func in FACTORIES
    assert outcome(lambda: make(func, args, options)) == outcome(lambda: func(*args, **options))


@given(st.lists(NUMBERS, min_size=1, max_size=3), DTYPES)
def test_ranges(bounds: list[float], dtype: torch.dtype | None) -> None:
    same(RANGES[len(bounds)], tuple(bounds), dtype)


@pytest.mark.parametrize("shape", [(3,), (3, 5), (5, 1), (0,), (0, 4), (-1,), (2, -1)])
@pytest.mark.parametrize("dtype", [None, torch.float64, torch.bool])
def test_identities(shape: tuple[int, ...], dtype: torch.dtype | None) -> None:
    same(aten.eye.m if len(shape) == 2 else aten.eye.default, shape, dtype)


def test_elsewhere_torch_makes_them() -> None:
    same(aten.arange.default, (4,), None, "cpu")
    assert make(aten.arange.default, (4,), {}).tolist() == [0, 1, 2, 3]


def test_all_are_tested() -> None:
    assert set(FACTORIES) == {*RANGES.values(), aten.eye.default, aten.eye.m}
