"""Looks into the built wheel and sdist: python .ci/check_dist.py DIST_FOLDER."""

import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def sources(*folders: str) -> set[str]:
    files = (path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file())
    return {path.relative_to(ROOT).as_posix() for path in files if "__pycache__" not in path.parts}


def main(dist: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    (sdist,) = dist.glob("*.tar.gz")

    with zipfile.ZipFile(wheel) as archive:
        packed = {path for path in archive.namelist() if ".dist-info/" not in path}
    wanted = sources("convblocks")
    assert "convblocks/py.typed" in packed, "the wheel has no py.typed"
    assert packed == wanted, f"the wheel is not convblocks/ alone: {sorted(packed ^ wanted)}"

    with tarfile.open(sdist) as archive:
        packed = {member.name.split("/", 1)[1] for member in archive.getmembers() if member.isfile()}
    wanted = sources("convblocks", "tests", "examples", "benchmarks", "docs", ".ci")
    # hatchling packs .gitignore unasked and makes PKG-INFO.
    wanted |= {"README.md", "LICENSE", "pyproject.toml", ".gitignore", "PKG-INFO"}
    assert packed == wanted, f"the sdist is not the sources: {sorted(packed ^ wanted)}"

    print(f"{wheel.name}: {wheel.stat().st_size // 1024} kB; {sdist.name}: {sdist.stat().st_size // 1024} kB")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
