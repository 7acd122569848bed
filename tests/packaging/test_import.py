"""What `import convblocks` brings in. How long it takes is measured on the installed wheel, by .ci/run."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

NEW_MODULES = """
import sys, torch
before = set(sys.modules)
import convblocks
print(*sorted({name.split(".")[0] for name in set(sys.modules) - before}))
"""


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_importing_convblocks_brings_in_torch_and_nothing_else_from_outside() -> None:
    assert set(run(NEW_MODULES).split()) <= {"convblocks", "torch"} | sys.stdlib_module_names


def test_geometry_does_not_import_torch() -> None:
    source = (ROOT / "convblocks" / "geometry.py").read_text()
    code = f"import sys; exec({source!r}, {{'__name__': 'geometry'}}); print('torch' in sys.modules)"
    assert run(code).strip() == "False"


def test_every_public_name_exists_and_is_documented() -> None:
    import convblocks

    pages = "".join(path.read_text() for path in (ROOT / "docs").rglob("*.md"))
    for name in convblocks.__all__:
        assert getattr(convblocks, name).__doc__
        assert f"::: convblocks.{name}\n" in pages, f"{name} is not in the reference"
