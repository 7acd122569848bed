"""The folder of a run: what lies in it, and that nothing in it is lost by accident."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import checkpoint
from errors import RunError, UsageError

CONFIG, LOG, METRICS = "config.json", "log.csv", "metrics.json"
CURVES, AUGMENTED = "curves.png", "augmented.png"
LAST, BEST = "last.pt", "best.pt"
FILES = (CONFIG, LOG, METRICS, CURVES, AUGMENTED, LAST, BEST)


def run_name(model: str, recipe: str, seed: int, *, variant: str = "", validation: bool = True) -> str:
    """What the folder of a run is called; a variant of a recipe and a run on all training images say so."""
    return "-".join([model, recipe, *([variant] if variant else []), *([] if validation else ["all"]), str(seed)])


class RunDir:
    """A run's folder.

    Args:
        path: The folder; made where absent.
        resume: The run in it goes on.
        overwrite: The run in it is replaced, by ``open`` and not before.
        ours: False where another process of the same job looks after the folder.

    Raises:
        UsageError: There is a run in it and neither is asked for, or there is none to resume.
        RunError: It cannot be made or written.
    """

    def __init__(self, path: Path, *, resume: bool = False, overwrite: bool = False, ours: bool = True) -> None:
        self.path = path
        if not ours:
            return
        try:
            taken = [name for name in FILES if (path / name).exists()]
        except OSError as error:
            raise RunError(f"cannot read the run folder {path}: {error.strerror or error}") from None
        if resume and LAST not in taken:
            raise UsageError(f"there is no checkpoint {path / LAST} to resume from")
        if taken and not resume and not overwrite:
            raise UsageError(
                f"{path} already holds a run ({', '.join(taken)}); go on with it by --resume, "
                "replace it by --overwrite, or choose another --name"
            )
        self._stale = [] if resume else taken

    def open(self) -> None:
        """Make the folder, try that it can be written, and remove what ``overwrite`` replaces."""
        probe = self.path / ".probe"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            probe.touch()
            probe.unlink()
            for name in self._stale:
                (self.path / name).unlink()
        except OSError as error:
            raise RunError(f"cannot write the run folder {self.path}: {error.strerror or error}") from None

    def write(self, name: str, content: bytes | str) -> None:
        checkpoint.write_atomic(self.path / name, content)

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        self.write(name, json.dumps(content, indent=2) + "\n")

    def note_resumption(self, note: Mapping[str, Any]) -> None:
        """Add to the config, which stays that of the run's start."""
        try:
            config = json.loads((self.path / CONFIG).read_text())
        except (OSError, ValueError) as error:
            raise UsageError(f"{self.path / CONFIG} cannot be read: {error}") from None
        self.write_json(CONFIG, config | {"resumed": [*config.get("resumed", []), note]})

    def write_log(self, history: Sequence[Mapping[str, float]]) -> None:
        buffer = io.StringIO()
        # The last row has every column: without held-out images the test part is classified after the last epoch.
        writer = csv.DictWriter(buffer, history[-1].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: f"{value:.6g}" for key, value in row.items()} for row in history)
        self.write(LOG, buffer.getvalue())

    def save(self, name: str, state: Mapping[str, Any]) -> None:
        checkpoint.save(self.path / name, state)

    def load(self, name: str) -> dict[str, Any]:
        return checkpoint.load(self.path / name)
