"""Plain tables: as text that fits a terminal, Markdown and HTML."""

from __future__ import annotations

import html
import re
import shutil
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from convblocks.introspect.inputs import as_whole

ENDING = re.compile(r"(\(\))?( [+#-])*$")
"""What stays of a cell that is cut: the parentheses of a function and the marks that the notes explain."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    Attributes:
        title: what stands above it.
        right: whether its cells stand to the right.
        rank: columns of a high rank leave first where space is short; one of rank 0 never does.
        least: characters to which its cells may be cut; 0: they are never cut. Cells are cut before a column leaves
            that has a rank below 10.
        from_front: what is cut is the beginning, where dotted names are alike.
    """

    title: str
    right: bool = True
    rank: int = 0
    least: int = 0
    from_front: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of strings under columns, with lines of text below."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()

    def text(self, width: int | None = None) -> str:
        """Aligned text no wider than `width`, by default the terminal: cells are cut, then columns leave."""
        if width is None:
            width = shutil.get_terminal_size((100, 24)).columns
        if as_whole(width) is None:
            raise ValueError(f"width must be a whole number from 1, got {width!r}")
        rows = [[c.title for c in self.columns], *self.rows]
        narrow = [[_half_indented(cell) if cell[:1] == " " else cell for cell in row] for row in rows]
        narrowest = _widths(narrow)
        kept = self._kept(narrowest, width)
        widths = _widths(rows)
        if sum(widths[i] for i in kept) + 2 * len(kept) - 2 > width:
            rows, widths = narrow, narrowest
        widths = self._cut([widths[i] for i in kept], kept, width)
        columns = [_aligned(self.columns[i], [row[i] for row in rows], n) for i, n in zip(kept, widths, strict=True)]
        lines = ["  ".join(row).rstrip() for row in zip(*columns, strict=True)]
        lines.insert(1, "-" * (sum(widths) + 2 * len(kept) - 2))
        missing = [c.title for i, c in enumerate(self.columns) if i not in kept and self._filled(i)]
        left_out = [f"not shown in {width} columns: {', '.join(missing)}"] if missing else []
        notes = [textwrap.fill(note, max(width, 20), subsequent_indent="  ") for note in (*self.notes, *left_out)]
        return "\n".join([*lines, *(["", *notes] if notes else [])])

    def _kept(self, longest: Sequence[int], width: int) -> list[int]:
        """The columns that have room when all that may be cut are; `longest` are the longest cells of all columns."""
        kept = list(range(len(self.columns)))
        while True:
            first = max(kept, key=lambda i: (self._rank(i), i))
            rank = self._rank(first)
            widths = [longest[i] for i in kept]
            if rank < 10:
                widths = [min(n, self.columns[i].least or n) for i, n in zip(kept, widths, strict=True)]
            if rank == 0 or sum(widths) + 2 * len(kept) - 2 <= width:
                return kept
            kept.remove(first)

    def _rank(self, index: int) -> int:
        """The rank of a column; an empty one leaves before all others."""
        rank = self.columns[index].rank
        return rank if self._filled(index) or not rank else 11

    def _filled(self, index: int) -> bool:
        return any(row[index] for row in self.rows)

    def _cut(self, widths: list[int], kept: Sequence[int], width: int) -> list[int]:
        """Take from the widest column that may be cut until all fit."""
        least = [self.columns[i].least for i in kept]
        for floors in (least, [min(n, 8) for n in least]):
            while sum(widths) + 2 * len(kept) - 2 > width:
                free = [j for j, floor in enumerate(floors) if floor and widths[j] > floor]
                if not free:
                    break
                widths[max(free, key=lambda j: widths[j])] -= 1
        return widths

    def markdown(self) -> str:
        """A pipe table."""
        lines = ["| " + " | ".join(c.title for c in self.columns) + " |"]
        lines.append("|" + "|".join("---:" if c.right else "---" for c in self.columns) + "|")
        lines += ["| " + " | ".join(_markdown_cell(cell) for cell in row) + " |" for row in self.rows]
        # A mark that begins a line would make it a list or a heading.
        notes = [re.sub(r"^([*+#-]) ", r"\\\1 ", note) for note in self.notes]
        return "\n".join(lines) + "".join(f"\n\n{note}" for note in notes)

    def html(self) -> str:
        """A `<table>`."""
        head = "".join(_html_cell("th", column, column.title) for column in self.columns)
        body: list[str] = []
        for row in self.rows:
            cells = [_html_cell("td", column, cell) for column, cell in zip(self.columns, row, strict=True)]
            body.append(f"<tr>{''.join(cells)}</tr>")
        notes = "".join(f"<p>{html.escape(note)}</p>" for note in self.notes)
        return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>{notes}"


def _aligned(column: Column, cells: Sequence[str], width: int) -> list[str]:
    """The cells of a column, all of this width."""
    fitting = [cell if len(cell) <= width else _shortened(cell, width, column.from_front) for cell in cells]
    return [cell.rjust(width) if column.right else cell.ljust(width) for cell in fitting]


def _markdown_cell(cell: str) -> str:
    """Markdown drops leading spaces, and the nesting of layers with them: hard spaces stay."""
    text = cell.strip()
    indent = len(cell.rstrip()) - len(text)
    return "&nbsp;" * indent + text.replace("|", "\\|").replace("<", "&lt;")


def _html_cell(tag: str, column: Column, cell: str) -> str:
    """One cell; leading spaces become its padding, and digits are of one width."""
    indent = 0 if column.right else len(cell) - len(cell.lstrip())
    side = "right" if column.right else "left"
    style = f"text-align: {side}; padding: 0 0.6em 0 {0.6 + indent / 2:g}em; font-variant-numeric: tabular-nums"
    return f'<{tag} style="{style}">{html.escape(cell.strip())}</{tag}>'


def _widths(rows: Sequence[Sequence[str]]) -> list[int]:
    """The length of the longest cell of every column, at least 1."""
    return [max(1, *map(len, column)) for column in zip(*rows, strict=False)]


def _half_indented(cell: str) -> str:
    text = cell.lstrip()
    return " " * ((len(cell) - len(text)) // 2) + text


def _shortened(cell: str, width: int, from_front: bool) -> str:
    """Cut a longer cell to `width`; its ending stays."""
    if from_front:
        return "…" + cell[len(cell) - width + 1 :]
    found = ENDING.search(cell)
    ending = found.group() if found is not None else ""
    return cell[: max(0, width - 1 - len(ending))] + "…" + ending
