"""Whether torch's compiler for the CPU can work here: it writes C++ and needs a compiler and Python's headers."""

import shutil
import sysconfig
from pathlib import Path

import pytest

HAS_COMPILER = (
    bool(shutil.which("g++") or shutil.which("clang++"))
    and Path(sysconfig.get_paths()["include"], "Python.h").is_file()
)
REASON = "torch.compile's inductor needs a C++ compiler and Python's headers"
needs_compiler = pytest.mark.skipif(not HAS_COMPILER, reason=REASON)
