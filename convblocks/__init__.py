"""Convolution building blocks for PyTorch, and the tools to reason about networks."""

import importlib
from typing import TYPE_CHECKING, Any

from convblocks import geometry
from convblocks.layers import (
    BlurDownsample,
    ConvNormAct,
    DepthwiseSeparableConv,
    DilatedDownsample,
    GAPHead,
    JointDilatedDepthwise,
    MixedDepthwise,
    Residual,
)

if TYPE_CHECKING:
    from convblocks.introspect.audit import audit
    from convblocks.introspect.plotting import plot_receptive_field
    from convblocks.introspect.receptive_field import receptive_field
    from convblocks.introspect.requirements import Requirements
    from convblocks.introspect.summary import summary
    from convblocks.introspect.tiling import halo, tiled

__version__ = "0.1.0"

__all__ = [
    "BlurDownsample",
    "ConvNormAct",
    "DepthwiseSeparableConv",
    "DilatedDownsample",
    "GAPHead",
    "JointDilatedDepthwise",
    "MixedDepthwise",
    "Requirements",
    "Residual",
    "audit",
    "geometry",
    "halo",
    "plot_receptive_field",
    "receptive_field",
    "summary",
    "tiled",
]

# Imported when first asked for: a project that only builds networks does not wait for what reasons about them.
_LAZY = {
    "Requirements": "requirements",
    "audit": "audit",
    "halo": "tiling",
    "plot_receptive_field": "plotting",
    "receptive_field": "receptive_field",
    "summary": "summary",
    "tiled": "tiling",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"convblocks.introspect.{_LAZY[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
