"""Blocks and networks on a GPU against the same in float64 on the CPU; without a GPU, small and on the CPU."""

import copy

import networks
import pytest
import torch
from torch import nn

from convblocks import ops
from convblocks.deploy import fuse
from tests.layers.cases import CASES

LAYOUTS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
# Without a GPU there is one path, whatever the backend: one of these shows that the test runs.
SETTINGS = [pytest.param("cpu", "triton", torch.channels_last, id="cpu")]
SETTINGS += [
    pytest.param("cuda", backend, layout, id=f"cuda-{backend}-{name}", marks=pytest.mark.gpu)
    for backend in ("auto", "torch", "triton")
    for name, layout in LAYOUTS.items()
]
settings = pytest.mark.parametrize(("device", "backend", "layout"), SETTINGS)


@pytest.fixture(autouse=True)
def _no_tf32(monkeypatch):
    """float32 is meant where it is said."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def settled(module: nn.Module) -> nn.Module:
    """Norms with statistics that do something, and nothing random in training."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            assert part.running_mean is not None
            assert part.running_var is not None
            nn.init.uniform_(part.running_mean, -0.5, 0.5)
            nn.init.uniform_(part.running_var, 0.5, 2)
        elif isinstance(part, nn.Dropout):
            part.p = 0.0
        if hasattr(part, "drop_path"):
            part.drop_path = 0.0
    return module


def exact(module, x, training):
    module, x = copy.deepcopy(module).double().train(training), x.detach().double().requires_grad_()
    return outcome(module, x, training)


def outcome(module, x, training):
    y = module(x)
    if not training:
        return [y.detach().cpu()]
    leaves = [x, *module.parameters()]
    generator = torch.Generator().manual_seed(7)
    dy = torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y.device, y.dtype)
    gradients = torch.autograd.grad(y, leaves, dy)
    state = [b.detach() for name, b in module.named_buffers() if "running" in name]
    return [t.detach().cpu() for t in (y, *gradients, *state)]


def relative(found, true):
    """Error of a list of tensors as of one: a gradient that is zero by itself has no relative error."""
    pairs = [(f.double() - t, t) for f, t in zip(found, true, strict=True)]
    off, size = (torch.stack([pair[i].norm() for pair in pairs]).norm() for i in (0, 1))
    return (off / size).item()


def compare(module, shape, device, backend, training, layout, tolerance):
    x = torch.randn(shape)
    true = exact(module, x, training)
    found_module = copy.deepcopy(module).to(device, memory_format=layout).train(training)
    given = x.to(device).to(memory_format=layout).requires_grad_(training)
    with ops.backend(backend):
        found = outcome(found_module, given, training)
        again = outcome(copy.deepcopy(module).to(device, memory_format=layout).train(training), given, training)
    assert relative(found[:1], true[:1]) < tolerance
    if training:
        assert relative(found[1:], true[1:]) < 10 * tolerance
    for one, other in zip(found, again, strict=True):
        # cuDNN picks its own kernels: the same to rounding; ours to the bit, which test_gpu.py holds them to.
        torch.testing.assert_close(one, other, rtol=10 * tolerance, atol=10 * tolerance)


@settings
@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize(("build", "shape"), CASES.values(), ids=CASES.keys())
def test_blocks(device, build, shape, backend, training, layout):
    compare(settled(build()), shape, device, backend, training, layout, 1e-4 if device == "cuda" else 1e-5)


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@settings
@pytest.mark.parametrize("name", networks.NETWORKS)
def test_networks(device, name, backend, layout, training):
    network = settled(getattr(networks, name)())
    batch = 16 if device == "cuda" else 8
    # The gradients of a deep network at its first weights turn over at float32's rounding already.
    compare(network, (batch, 3, 32, 32), device, backend, training, layout, 1e-2 if training else 1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@settings
@pytest.mark.parametrize("name", networks.NETWORKS)
def test_fused_networks_in_half_precision(device, name, backend, layout, dtype):
    network = settled(getattr(networks, name)()).eval()
    x = torch.randn(8 if device == "cuda" else 2, 3, 32, 32)
    (true,) = exact(network, x, training=False)
    fused, _ = fuse(network, (3, 32, 32))
    fused = fused.to(device, dtype, memory_format=layout)
    given = x.to(device, dtype, memory_format=layout)
    with ops.backend(backend), torch.no_grad():
        assert relative([fused(given).cpu()], [true]) < {torch.float16: 1e-2, torch.bfloat16: 5e-2}[dtype]


@settings
@pytest.mark.parametrize("name", networks.NETWORKS)
def test_training_steps_under_autocast_lower_the_loss(device, name, backend, layout):
    torch.manual_seed(3)
    network = settled(getattr(networks, name)()).to(device, memory_format=layout)
    x = torch.randn(32 if device == "cuda" else 8, 3, 32, 32, device=device)
    x, labels = x.to(memory_format=layout), torch.arange(x.shape[0], device=device) % 10
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    losses = []
    with ops.backend(backend):
        for _ in range(8 if device == "cuda" else 3):
            with torch.autocast(device, torch.bfloat16):
                loss = nn.functional.cross_entropy(network(x), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert losses[-1] < losses[0], losses
