"""FusionReport: what was folded into what, what was not, and why."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class FusionReport:
    """What `fuse` did, by module names of the original network.

    Attributes:
        into: for each norm that was folded, the layer that took it, or the layers, divided by commas.
        kept: for each norm that was not, the reason.
        merged: convolutions that are gone, each with the convolution that does its work.
        dropped: dropouts and identities that are gone.
    """

    into: dict[str, str] = field(default_factory=dict[str, str])
    kept: dict[str, str] = field(default_factory=dict[str, str])
    merged: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    dropped: list[str] = field(default_factory=list[str])

    @property
    def folded(self) -> int:
        """How many norms were folded."""
        return len(self.into)

    @property
    def norms(self) -> int:
        """How many norms the network has."""
        return len(self.into) + len(self.kept)

    def fold(self, norm: str, layers: str) -> None:
        """Note a norm that was folded."""
        self.into[norm] = layers

    def keep(self, norm: str, reason: str) -> None:
        """Note a norm that was not folded."""
        self.kept[norm] = reason

    def absorb(self, branch: str, conv: str) -> None:
        """Note a branch that another one has taken in: a norm, or a convolution."""
        if branch in self.kept:
            del self.kept[branch]
            self.fold(branch, conv)
        else:
            self.merged.append((branch, conv))

    def __str__(self) -> str:
        """A line of totals, then one a norm that stays and one a merged pair."""
        total = (
            f"{self.folded} of {self.norms} batch norms folded, {len(self.merged)} pairs of convolutions merged, "
            f"{len(self.dropped)} dropouts and identities dropped"
        )
        lines = [total]
        lines += [f"  kept {name}: {reason}" for name, reason in self.kept.items()]
        lines += [f"  merged {first} into {second}" for first, second in self.merged]
        return "\n".join(lines)
