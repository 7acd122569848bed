"""The times in the documentation are those of the committed results."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("timm")

from benchmarks.introspection import table

PAGE = Path(__file__).resolve().parents[2] / "docs" / "pages" / "introspection.md"


def test_the_page_shows_the_committed_times() -> None:
    assert table() in PAGE.read_text()
