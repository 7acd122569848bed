import os
from collections.abc import Generator, Iterator

# Both before anything reads them, and for the scripts that tests start: a test machine has no screen, and on tensors as
# small as a test's more threads than one only wait for each other.
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import pytest
import torch

# Time limits an example test by the machine's load, not by the code: a shared machine would fail at random.
hypothesis.settings.register_profile("convblocks", deadline=None)
hypothesis.settings.load_profile("convblocks")


@pytest.hookimpl(wrapper=True)
def pytest_collect_file() -> Generator[None, list[pytest.Collector], list[pytest.Collector]]:
    """Collect no doctests here: where a module cannot be imported, those who look for them hide it, and its tests."""
    return [found for found in (yield) if type(found).__name__ != "DoctestModule"]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _precision() -> Iterator[None]:
    """Benchmarks set for the whole process in what float32 is computed, which decides what our kernels take."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int | None:
    """No other process beside one that has a GPU: some tests fill its memory."""
    return 0 if torch.cuda.is_available() else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
