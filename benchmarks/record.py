"""Where the rows go: a JSON file that is whole after every row, and can be gone on with."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def write(path: Path, text: str) -> None:
    """Write a file under another name first: whoever stops this midway loses nothing that was there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    part.replace(path)


class Record:
    """The rows of a benchmark, the machine that they depend on, and the runs that made them.

    With `resume`, rows of the file that stands there are kept, unless they went wrong.
    """

    def __init__(
        self, path: Path, machine: dict[str, Any], run: dict[str, Any], identity: Iterable[str], resume: bool = False
    ) -> None:
        self.path, self.machine, self.runs, self.identity = path, machine, [run], tuple(identity)
        self.rows: list[dict[str, Any]] = []
        self.left_out: list[str] = []
        if resume and path.exists():
            before = json.loads(path.read_text())
            if before["environment"] != machine:
                raise ValueError(
                    f"{path} was measured with {before['environment']}, this is {machine}: name another --output, or "
                    f"leave --resume out"
                )
            self.rows = [row for row in before["rows"] if row["status"] == "ok"]
            self.runs = [*before["runs"], run]

    def has(self, job: dict[str, Any]) -> bool:
        """Whether some row is of this job."""
        wanted = self._key(job)
        return any(self._key(row) == wanted for row in self.rows)

    def add(self, rows: Iterable[dict[str, Any]]) -> None:
        """Take rows in and write them down."""
        self.rows += rows
        self.save()

    def save(self) -> None:
        """Write all there is."""
        content = {"environment": self.machine, "runs": self.runs, "left_out": self.left_out, "rows": self.rows}
        write(self.path, json.dumps(content, indent=1) + "\n")

    def _key(self, row: dict[str, Any]) -> tuple[Any, ...]:
        return tuple(_plain(row[name]) for name in self.identity)


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
