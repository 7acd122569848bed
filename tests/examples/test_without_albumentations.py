"""A machine that trains with the augmentation in torch needs neither albumentations nor OpenCV."""

import subprocess
import sys
from pathlib import Path

import environment
import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_training_is_imported_without_them() -> None:
    code = "import sys; sys.modules |= {'albumentations': None, 'cv2': None}; import training"
    folders = [str(ROOT), str(ROOT / "examples" / "cifar10")]
    subprocess.run([sys.executable, "-c", f"import sys; sys.path += {folders}; {code}"], check=True, timeout=300)


def test_a_package_that_is_not_there_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "PACKAGES", ("numpy", "no-such-package"))
    assert set(environment.versions()) == {"python", "torch", "numpy"}
