"""The committed pictures are those that the script draws, and the pages show no other."""

import importlib.util
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = ROOT / "docs" / "pages"


def test_the_script_draws_the_pictures_that_the_pages_show(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("pictures", ROOT / "docs" / "pictures.py")
    assert spec is not None
    assert spec.loader is not None
    pictures = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pictures)
    pictures.main(tmp_path)
    drawn = {path.name for path in tmp_path.iterdir()}
    committed = {path.name for path in (PAGES / "pictures").iterdir()}
    shown = {name for page in PAGES.glob("*.md") for name in re.findall(r"\(pictures/([\w.]+)\)", page.read_text())}
    assert drawn == committed == shown
    assert all(path.stat().st_size < 100_000 for path in (PAGES / "pictures").iterdir())
