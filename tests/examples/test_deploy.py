"""Every way out of PyTorch gives the network's output; figures are kept with the weights that they are of."""

import json

import deploy
import pytest
import torch
import waysout
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

from convblocks import ConvNormAct, DepthwiseSeparableConv, DilatedDownsample, GAPHead
from tests.compiler import HAS_COMPILER, REASON

LIMITS = dict.fromkeys(waysout.WAYS, 1e-5) | {"fused, bf16, channels last": 0.05, "fused, int8, compiled": 0.1}


@pytest.fixture(scope="module")
def digits():
    """A network trained on real images for a few seconds, the training images, the test images and their classes."""
    torch.manual_seed(0)
    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32).view(-1, 1, 8, 8) / 16
    labels = torch.tensor(data.target)
    network = nn.Sequential(
        ConvNormAct(1, 16, 3, padding="same"),
        DilatedDownsample(16, 32),
        DepthwiseSeparableConv(32, 32, 3, padding="same"),
        GAPHead(32, 10),
    )
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    for step in range(150):
        at = torch.arange(step * 64, step * 64 + 64) % 1297
        loss = F.cross_entropy(network(images[at]), labels[at])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.eval(), images[:1297], images[1297:], labels[1297:]


# torch's own, where inductor lowers a linear layer of int8.
@pytest.mark.filterwarnings("ignore:To copy construct from a tensor:UserWarning")
@pytest.mark.parametrize("way", waysout.WAYS)
def test_a_way_out_gives_the_output_of_the_network(way, digits):
    if not HAS_COMPILER and ("compiled" in way or "AOT" in way):
        pytest.skip(REASON)
    for package, needs in (("onnxruntime", "ONNX"), ("torchao", "int8")):
        if needs in way:
            pytest.importorskip(package, reason=f"{package}, of the extra deploy, is not installed")
    network, training, test, _ = digits
    torch.compiler.reset()
    with torch.no_grad():
        deployed = waysout.WAYS[way](waysout.Source(network, training[:256], (8,)))
        expected = network(test[:8])
        error = (deployed.run(test[:8]) - expected).abs().max() / expected.abs().max()
    assert error <= LIMITS[way]
    assert deployed.bytes > 1000


def test_int8_keeps_the_accuracy_on_real_images(digits):
    pytest.importorskip("torchao", reason="torchao, of the extra deploy, is not installed")
    network, training, test, labels = digits
    source = waysout.Source(network, training[:256], (8,))
    with torch.no_grad():
        quantised = waysout.quantise(source.export(source.fused()), source.calibration)
        before, after = (float((model(test).argmax(1) == labels).float().mean()) for model in (network, quantised))
    assert before > 0.9
    assert after > before - 0.02
    weights = [tensor for tensor in waysout._used(quantised).values() if tensor.ndim > 1]
    assert sum(tensor.dtype == torch.int8 for tensor in weights) >= 3
    # A depthwise convolution stays in floats.
    assert all(tensor.shape[1] == 1 for tensor in weights if tensor.dtype != torch.int8)


def test_figures_are_added_and_those_of_other_weights_thrown_out(tmp_path):
    path = tmp_path / "results.json"

    def kept(weights, **row):
        deploy.keep(path, {}, "net", "eager", {"weights": weights, "bytes": 1, **row})
        return json.loads(path.read_text())["networks"]["net"]["eager"]

    kept("pretrained", latency_ms={"1 thread, batch 1": 2.0})
    assert kept("pretrained", accuracy=80.0)["latency_ms"] == {"1 thread, batch 1": 2.0}
    both = kept("pretrained", latency_ms={"2 threads, batch 1": 1.0})
    assert both["accuracy"] == 80.0
    assert both["latency_ms"] == {"1 thread, batch 1": 2.0, "2 threads, batch 1": 1.0}
    assert "accuracy" not in kept(None)


def test_the_page_holds_the_table_that_the_script_makes():
    page = deploy.PAGE.read_text()
    result = json.loads(deploy.RESULTS.read_text())
    assert page == deploy.replaced(page, result), "run: python examples/cifar10/deploy.py --write"


def test_int8_costs_little_accuracy_on_the_test_images():
    ways = json.loads(deploy.RESULTS.read_text())["networks"]["twelve_layer"]
    assert abs(ways["fused"]["accuracy"] - ways["eager"]["accuracy"]) <= 0.02
    assert ways["fused, int8, compiled"]["accuracy"] > ways["eager"]["accuracy"] - 1
