"""A network of more than a billion parameters is told within 200 MB, and none of them is allocated."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytest.importorskip("timm")

PROGRAM = """
import resource
import timm, torch
import convblocks

def most():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

before = most()
with torch.device("meta"):
    model = timm.create_model("regnety_2560")
table = convblocks.summary(model, (3, 384, 384))
table.text(120)
print(table.parameters, most() - before)
"""


def test_a_billion_parameters_take_no_memory() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    parameters, megabytes = done.stdout.split()
    assert int(parameters) > 10**9
    assert float(megabytes) < 200
