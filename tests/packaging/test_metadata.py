"""What the installed distribution declares, against what is in the repository."""

import ast
import re
import sys
from importlib import metadata
from pathlib import Path

import pytest

import convblocks

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def distribution() -> metadata.Distribution:
    try:
        return metadata.distribution("convblocks")
    except metadata.PackageNotFoundError:
        pytest.skip("convblocks is not installed: pip install -e .")


def test_torch_is_the_only_dependency_outside_extras(distribution: metadata.Distribution) -> None:
    plain = [requirement for requirement in distribution.requires or [] if "extra ==" not in requirement]
    assert plain == ["torch>=2.6"]


def test_the_version_has_one_source(distribution: metadata.Distribution) -> None:
    assert distribution.version == convblocks.__version__


def test_every_extra_is_declared(distribution: metadata.Distribution) -> None:
    extras = distribution.metadata.get_all("Provides-Extra") or []
    assert set(extras) == {"examples", "deploy", "test", "bench", "docs", "dev"}


def test_every_import_of_the_example_is_in_an_extra(distribution: metadata.Distribution) -> None:
    scripts = sorted((ROOT / "examples" / "cifar10").glob("*.py"))
    own = {path.stem for path in scripts} | {"convblocks"}
    outside = set().union(*(imported(path) for path in scripts)) - own - sys.stdlib_module_names

    # The ways out of PyTorch that deploy.py measures come with the extra of that name.
    extra = [text for text in distribution.requires or [] if re.search(r"extra == ['\"](examples|deploy)['\"]", text)]
    declared = {re.split(r"[<>=;\[ ]", text)[0] for text in extra}
    # torch is the core's; the others come with torchvision, albumentations and matplotlib, as parts of them.
    declared |= {"torch", "numpy", "pillow", "cv2", "cycler"}
    renamed = {
        "PIL": "pillow",
        "sklearn": "scikit-learn",
        "pytorch_grad_cam": "grad-cam",
        "huggingface_hub": "huggingface-hub",
    }
    assert {renamed.get(name, name) for name in outside} <= declared


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").split(".")[0])
    return names
