"""What a run wrote of itself, read back."""

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from errors import UsageError
from rundir import CONFIG, LOG, METRICS


@dataclass(frozen=True)
class Record:
    """The files of a run folder.

    Args:
        folder: The run folder.
        config: config.json.
        metrics: metrics.json.
        log: The rows of log.csv, one an epoch, each without what was not measured after it.
    """

    folder: Path
    config: dict[str, Any]
    metrics: dict[str, Any]
    log: list[dict[str, float]]

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    def at(self, epoch: int) -> dict[str, float] | None:
        """The log of an epoch."""
        return next((row for row in self.log if row["epoch"] == epoch), None)


def read(folder: Path) -> Record:
    """Read the files of a run.

    Raises:
        UsageError: One is absent or damaged, or no epoch is finished yet.
    """
    path = folder
    try:
        path = folder / CONFIG
        config = json.loads(path.read_text())
        path = folder / METRICS
        metrics = json.loads(path.read_text())
        path = folder / LOG
        with open(path, newline="") as file:
            log = [{key: float(value) for key, value in row.items() if value != ""} for row in csv.DictReader(file)]
        log[0]["epoch"]
    except FileNotFoundError:
        raise UsageError(f"{folder} holds no {path.name}: it is no run folder, or no epoch of it is finished") from None
    except (OSError, ValueError, TypeError, LookupError) as error:
        raise UsageError(f"{path} cannot be read ({error or type(error).__name__})") from None
    return Record(folder, config, metrics, log)


def names(records: Sequence[Record]) -> list[str]:
    """A name for each run: that of its folder, with the path where two are called the same."""
    short = [record.name for record in records]
    return [name if short.count(name) == 1 else str(one.folder) for name, one in zip(short, records, strict=True)]
