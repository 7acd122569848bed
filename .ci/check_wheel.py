"""Uses the installed wheel as a stranger would; runs outside the repository, in an environment with torch only."""

import statistics
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import torch

import convblocks

RUNS = 9
LIMIT_MS = 100

# Timed inside one process, after torch is in: two whole processes compared would measure the disk and the neighbours.
TIMED_IMPORT = """
import time, torch
start = time.perf_counter()
import convblocks
print((time.perf_counter() - start) * 1000)
"""


def main() -> None:
    installed = {distribution.metadata["Name"].lower() for distribution in metadata.distributions()}
    guests = installed & {"torchvision", "albumentations", "timm", "scikit-learn", "matplotlib", "pytest", "tqdm"}
    assert not guests, f"not alone: {guests}"
    assert Path(sys.prefix) in Path(convblocks.__file__).resolve().parents, f"not the wheel: {convblocks.__file__}"

    block = convblocks.DilatedDownsample(16, 32)
    image = torch.randn(2, 16, 32, 32, requires_grad=True)
    out = block(image)
    out.sum().backward()
    assert out.shape == (2, 32, 16, 16), out.shape
    assert image.grad is not None

    times = [
        float(subprocess.run([sys.executable, "-c", TIMED_IMPORT], capture_output=True, text=True, check=True).stdout)
        for _ in range(RUNS)
    ]
    median = statistics.median(times)
    print(f"import convblocks after torch: median {median:.1f} ms of {RUNS} ({min(times):.1f} to {max(times):.1f})")
    assert median < LIMIT_MS, f"importing takes {median:.0f} ms, the limit is {LIMIT_MS}"
    print(f"convblocks {metadata.version('convblocks')} runs with torch {torch.__version__} alone")


if __name__ == "__main__":
    main()
