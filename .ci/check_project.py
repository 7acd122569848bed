"""A project of someone else's that depends on the wheel: python .ci/check_project.py PYTHON, which has it and pytest.

It is made in a temporary folder; its tests pass there, and pyright's strict mode does, by the types of the wheel.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

FILES = {
    "pyproject.toml": """
[project]
name = "leaf-sorter"
version = "1"
dependencies = ["convblocks"]

[tool.pyright]
include = ["leaf_sorter.py", "test_leaf_sorter.py"]
typeCheckingMode = "strict"

[tool.pytest.ini_options]
# torch says so where there is no numpy, and nothing here needs it.
filterwarnings = ["error", "ignore:Failed to initialize NumPy:UserWarning"]
""",
    "leaf_sorter.py": '''
"""A network for photographs of leaves."""

import torch
from convblocks import ConvNormAct, DilatedDownsample, GAPHead, Requirements, audit, summary
from convblocks.deploy import FusionReport, fuse
from torch import nn

INPUT = (3, 64, 64)
BUDGET = Requirements(max_parameters=20_000, min_receptive_field=15)


class LeafSorter(nn.Module):
    def __init__(self, species: int) -> None:
        super().__init__()
        self.stem = ConvNormAct(3, 16, 3, padding="same")
        self.down = nn.Sequential(DilatedDownsample(16, 32), DilatedDownsample(32, 32))
        self.head = GAPHead(32, species)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.down(self.stem(x)))
        return out


def describe(network: nn.Module) -> str:
    return summary(network, INPUT).text()


def fits(network: nn.Module) -> bool:
    return audit(network, INPUT, BUDGET).passed


def release(network: nn.Module) -> tuple[nn.Module, FusionReport]:
    return fuse(network.eval(), INPUT)
''',
    "test_leaf_sorter.py": """
import torch
from leaf_sorter import LeafSorter, describe, fits, release


def test_it_is_described_and_fits() -> None:
    network = LeafSorter(species=7)
    assert "DilatedDownsample" in describe(network)
    assert fits(network)


def test_what_is_released_gives_the_same_output() -> None:
    network = LeafSorter(species=7).eval()
    released, report = release(network)
    images = torch.randn(2, 3, 64, 64)
    assert (report.folded, report.norms) == (3, 3)
    torch.testing.assert_close(released(images), network(images))
""",
}


def main(python: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for name, content in FILES.items():
            Path(folder, name).write_text(content.lstrip())
        for command in (
            [python, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
            # pyright of this environment, torch and convblocks of the other.
            [sys.executable, "-m", "pyright", "--warnings", "--pythonpath", python],
        ):
            subprocess.run(command, cwd=folder, check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute())
