"""What any network sees and costs, and whether it keeps a specification."""

from convblocks.introspect.audit import PRESETS, Audit, AuditFailed, Finding, Requirements, audit
from convblocks.introspect.plotting import plot_receptive_field
from convblocks.introspect.receptive_field import Field, ReceptiveField, receptive_field
from convblocks.introspect.summary import Summary, summary
from convblocks.introspect.tiling import Tiling, halo, tiled

__all__ = [
    "PRESETS",
    "Audit",
    "AuditFailed",
    "Field",
    "Finding",
    "ReceptiveField",
    "Requirements",
    "Summary",
    "Tiling",
    "audit",
    "halo",
    "plot_receptive_field",
    "receptive_field",
    "summary",
    "tiled",
]
