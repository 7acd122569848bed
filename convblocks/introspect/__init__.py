"""What any network sees and costs, and whether it keeps a specification."""

from convblocks.introspect.answers import Field, ReceptiveField
from convblocks.introspect.audit import Audit, AuditFailed, audit
from convblocks.introspect.plotting import plot_receptive_field
from convblocks.introspect.receptive_field import receptive_field
from convblocks.introspect.requirements import PRESETS, Finding, Requirements
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
