"""How far a run is, and what it has noted of every epoch."""

from collections.abc import Sequence
from dataclasses import dataclass, field

Row = dict[str, float]


@dataclass
class Progress:
    """How far a run is.

    Args:
        epoch: Finished epochs.
        step: Steps made in the epoch that is under way.
        seconds: Time spent on the epoch that is under way.
        sums: Loss, correct images and images of the epoch that is under way.
        history: A row for every finished epoch.
        prepare_seconds: Time spent on compiling and setting up, before the first step and after each resumption.
    """

    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    sums: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    history: list[Row] = field(default_factory=list)
    prepare_seconds: float = 0.0

    def best(self) -> Row | None:
        """The first of the epochs that did best on the validation part; None where there is no such part."""
        return max((row for row in self.history if "val_acc" in row), key=lambda row: row["val_acc"], default=None)

    def first_reached(self, accuracies: Sequence[float]) -> dict[str, Row]:
        """When each validation accuracy was first reached.

        Args:
            accuracies: In percent.

        Returns:
            For each that was reached: the epoch, the seconds of training and of everything up to its end, and the
            accuracies after it.
        """
        found: dict[str, Row] = {}
        training = everything = 0.0
        for row in self.history:
            training, everything = training + row["train_seconds"], everything + row["seconds"]
            for accuracy in accuracies:
                if row["val_acc"] >= accuracy:
                    kept = {key: row[key] for key in ("epoch", "val_acc", "test_acc")}
                    times = {"train_seconds": round(training, 2), "seconds": round(everything, 2)}
                    found.setdefault(f"{accuracy:g}", kept | times)
        return found
