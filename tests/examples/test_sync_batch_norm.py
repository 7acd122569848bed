"""Batch norms over all GPUs: the network is still what a checkpoint loads into, a resumed run still the same run."""

from types import SimpleNamespace
from typing import Any

import devices
import models
import networks
import pytest
import settings
import torch
import training
from engine import Run
from parallel import Parallel
from recipes import Recipe
from torch import nn

from convblocks.deploy import fuse


@pytest.mark.parametrize("name", [*networks.NETWORKS, "efficientnet_b0", "resnet18"])
def test_a_converted_network_is_the_plain_one_to_a_checkpoint(name: str) -> None:
    torch.manual_seed(0)
    plain = models.build(name, 10, None)
    torch.manual_seed(0)
    converted = training.convert_sync_batchnorm(models.build(name, 10, None))
    norms = [module for module in converted.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    assert norms
    assert all(isinstance(module, nn.SyncBatchNorm) for module in norms)
    state = converted.state_dict()
    assert list(state) == list(plain.state_dict())
    images = torch.randn(2, 3, 32, 32)
    # The activation of a norm that has one is still there.
    torch.testing.assert_close(converted.eval()(images), plain.eval()(images))
    for value in state.values():
        if value.is_floating_point():
            value.mul_(0.5)
    plain.load_state_dict(state)
    torch.testing.assert_close(converted(images), plain(images))


@pytest.mark.parametrize("name", list(networks.NETWORKS))
def test_a_converted_network_is_folded_and_exported_as_the_plain_one(name: str) -> None:
    torch.manual_seed(0)
    model = training.convert_sync_batchnorm(models.build(name, 10, None)).eval()
    for module in model.modules():
        if isinstance(module, nn.SyncBatchNorm):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2)
    images = torch.randn(2, 3, 32, 32)
    expected = model(images)
    folded, report = fuse(model, (3, 32, 32))
    assert report.folded == report.norms > 0
    assert not any(isinstance(module, nn.SyncBatchNorm) for module in folded.modules())
    torch.testing.assert_close(folded(images), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.export.export(model, (images,)).module()(images), expected)


def identity(processes: int, sync: bool) -> dict[str, Any]:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    run = Run(model, Recipe("none"), 1, ((0.5,) * 3, (0.5,) * 3), devices.Device("cpu"))
    run.parallel = Parallel(processes=processes)
    data: Any = SimpleNamespace(name="digits", sha256=lambda: "0")
    return settings.identity("net4", 0, data, run, None, sync)


def test_several_processes_do_not_go_on_with_other_norms() -> None:
    assert identity(2, sync=True) != identity(2, sync=False)
    # Alone a process sees the whole batch either way, and older checkpoints say nothing of it.
    assert identity(1, sync=True) == identity(1, sync=False)
    assert "sync_batch_norm" not in identity(1, sync=True)
