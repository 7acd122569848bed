"""What the type checker is told to overlook in convblocks: by the name of the rule, and with the reason beside it."""

import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "convblocks"
FILES = sorted(PACKAGE.rglob("*.py"))
WHOLE_FILE = re.compile(r"# pyright: (?!ignore)(.*)")
ONE_LINE = re.compile(r"# (?:pyright|type): ?ignore(\[[\w, ]+\])?(.*)")


def is_comment(line: str) -> bool:
    return line.strip().startswith("# ") and "pyright:" not in line


def unexplained(lines: list[str]) -> list[str]:
    """The lines that overlook something without a rule or without a reason, after it or in the line before."""
    found: list[str] = []
    for at, line in enumerate(lines):
        above = next((earlier for earlier in reversed(lines[:at]) if not WHOLE_FILE.match(earlier)), "")
        if WHOLE_FILE.match(line):
            found += [] if is_comment(above) else [line]
        elif match := ONE_LINE.search(line):
            rules, reason = match.groups()
            found += [] if rules and (reason.strip(" -()") or is_comment(lines[at - 1])) else [line]
    return found


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(PACKAGE)) for path in FILES])
def test_every_ignore_names_its_rule_and_says_why(path: Path) -> None:
    assert unexplained(path.read_text().splitlines()) == []


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("x = y()  # pyright: ignore", 1),
        ("x = y()  # type: ignore", 1),
        ("# torch has no types.\nx = y()  # pyright: ignore", 1),
        ("x = y()  # pyright: ignore[reportPrivateUsage]", 1),
        ("# pyright: reportPrivateUsage=false", 1),
        ("# torch has no types.\nx = y()  # pyright: ignore[reportPrivateUsage]", 0),
        ("x = y()  # pyright: ignore[reportPrivateUsage] - torch has no types", 0),
        ("# torch has no types.\n# pyright: reportA=false\n# pyright: reportB=false", 0),
    ],
)
def test_an_ignore_without_either_is_found(text: str, count: int) -> None:
    assert len(unexplained(text.splitlines())) == count
