"""What a device is set up to compute, as far as it shows without a GPU."""

from collections.abc import Iterator

import devices
import pytest
import torch


@pytest.fixture
def flags() -> Iterator[None]:
    """Put back what every later test would compute with."""
    cudnn = torch.backends.cudnn
    before = cudnn.allow_tf32, cudnn.benchmark, torch.utils.deterministic.fill_uninitialized_memory
    yield
    cudnn.allow_tf32, cudnn.benchmark, torch.utils.deterministic.fill_uninitialized_memory = before
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("flags")
@pytest.mark.parametrize(("precision", "tf32"), [("fp32", False), ("bf16", True)])
def test_fp32_on_a_gpu_is_float32(precision: str, tf32: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    assert devices.choose("cuda", precision).bf16 == tf32
    assert torch.backends.cudnn.allow_tf32 == tf32
    assert torch.are_deterministic_algorithms_enabled()
