"""Plain tables: as text that fits a terminal, Markdown and HTML."""

from __future__ import annotations

import html
import shutil
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its title, whether it stands to the right, and its rank: high ones go first where space is short."""

    title: str
    right: bool = True
    rank: int = 0


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of strings under columns, with lines of text below; `shrinks` is the column that gives way first."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()
    shrinks: int = 0

    def text(self, width: int | None = None) -> str:
        """Aligned text no wider than `width`, by default the terminal: least important columns leave, one shrinks."""
        width = width or shutil.get_terminal_size((100, 24)).columns
        kept = list(range(len(self.columns)))
        widths = [max(len(c.title), *(len(row[i]) for row in self.rows), 1) for i, c in enumerate(self.columns)]
        free = self.shrinks % len(self.columns)
        shortest = min(widths[free], 24)

        def others() -> int:
            return sum(widths[i] + 2 for i in kept if i != free)

        while others() + shortest > width and any(self.columns[i].rank for i in kept):
            kept.remove(max(kept, key=lambda i: (self.columns[i].rank, i)))
        widths[free] = min(widths[free], max(8, width - others()))
        lines = [
            self._line([c.title for c in self.columns], kept, widths),
            "-" * (sum(widths[i] + 2 for i in kept) - 2),
        ]
        lines += [self._line(row, kept, widths) for row in self.rows]
        missing = [self.columns[i].title for i in range(len(self.columns)) if i not in kept]
        notes = list(self.notes)
        if missing:
            notes.append(f"not shown in {width} columns: {', '.join(missing)}")
        return "\n".join([*lines, *(["", *notes] if notes else [])])

    def _line(self, row: Sequence[str], kept: Sequence[int], widths: Sequence[int]) -> str:
        cells: list[str] = []
        for i in kept:
            cell = row[i] if len(row[i]) <= widths[i] else row[i][: widths[i] - 1] + "…"
            cells.append(cell.rjust(widths[i]) if self.columns[i].right else cell.ljust(widths[i]))
        return "  ".join(cells).rstrip()

    def markdown(self) -> str:
        """A pipe table."""
        lines = ["| " + " | ".join(c.title for c in self.columns) + " |"]
        lines.append("|" + "|".join("---:" if c.right else "---" for c in self.columns) + "|")
        lines += ["| " + " | ".join(_markdown_cell(cell) for cell in row) + " |" for row in self.rows]
        return "\n".join([*lines, *(["", *self.notes] if self.notes else [])])

    def html(self) -> str:
        """A `<table>`."""
        head = "".join(f"<th>{html.escape(c.title)}</th>" for c in self.columns)
        body: list[str] = []
        for row in self.rows:
            cells: list[str] = []
            for column, cell in zip(self.columns, row, strict=True):
                indent = len(cell) - len(cell.lstrip()) if not column.right else 0
                style = "text-align: right" if column.right else f"text-align: left; padding-left: {0.5 + indent / 2}em"
                cells.append(f'<td style="{style}">{html.escape(cell.strip())}</td>')
            body.append(f"<tr>{''.join(cells)}</tr>")
        notes = "".join(f"<p>{html.escape(note)}</p>" for note in self.notes)
        return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>{notes}"


def _markdown_cell(cell: str) -> str:
    """Markdown drops leading spaces, and the nesting of layers with them: hard spaces stay."""
    text = cell.strip()
    indent = len(cell.rstrip()) - len(text)
    return "&nbsp;" * indent + text.replace("|", "\\|")
