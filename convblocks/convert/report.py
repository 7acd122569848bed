"""ConversionReport: which layer took whose weights, and what did not match."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class ConversionReport:
    """What `convert_state_dict` found.

    Attributes:
        layers: for each layer of the target that found its weights, the layer of the source that has them.
        missing: layers of the target without weights, with the reason.
        unused: layers of the source whose weights found no place, with the reason.
        differences: matched layers that compute something else with the same weights: stride, eps, padding.
        max_difference: the largest difference between the outputs in evaluation, relative to the largest output; None
            where they were not compared.
    """

    layers: dict[str, str] = field(default_factory=dict[str, str])
    missing: dict[str, str] = field(default_factory=dict[str, str])
    unused: dict[str, str] = field(default_factory=dict[str, str])
    differences: list[str] = field(default_factory=list[str])
    max_difference: float | None = None

    @property
    def complete(self) -> bool:
        """Whether every layer of both sides found its counterpart, and none is known to differ."""
        return not (self.missing or self.unused or self.differences)

    def __str__(self) -> str:
        """A line of totals, then one for everything that did not match."""
        lines = [f"{len(self.layers)} layers matched, {len(self.missing)} missing, {len(self.unused)} unused"]
        lines += [f"  missing {name}: {why}" for name, why in self.missing.items()]
        lines += [f"  unused {name}: {why}" for name, why in self.unused.items()]
        lines += [f"  differs {what}" for what in self.differences]
        if self.max_difference is not None:
            lines.append(f"largest difference of the outputs: {self.max_difference:.1e} of the largest output")
        return "\n".join(lines)
