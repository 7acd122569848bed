"""Every way out of PyTorch gives the network's output; figures are kept with the weights that they are of."""

import json
from collections import Counter

import deploy
import deployed
import networks
import pytest
import torch
import waysout
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

from convblocks import ConvNormAct, DepthwiseSeparableConv, DilatedDownsample, GAPHead
from tests.compiler import HAS_COMPILER, REASON, needs_compiler

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
        made = waysout.WAYS[way](waysout.Source(network, training[:256], (8,)))
        expected = network(test[:8])
        error = (made.run(test[:8]) - expected).abs().max() / expected.abs().max()
    assert error <= LIMITS[way]
    assert made.bytes > 1000


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


@needs_compiler
@pytest.mark.filterwarnings("ignore:To copy construct from a tensor:UserWarning")
def test_int8_does_not_overflow_where_all_values_are_large():
    """CPUs without VNNI add pairs of products in 16 bits: two of the largest gave half of what they are."""
    pytest.importorskip("torchao", reason="torchao, of the extra deploy, is not installed")
    torch.manual_seed(0)
    conv = nn.Conv2d(64, 64, 1, bias=False)
    nn.init.uniform_(conv.weight, 0.9, 1)
    images = 0.9 + 0.1 * torch.rand(8, 64, 16, 16)
    torch.compiler.reset()
    with torch.no_grad():
        made = waysout.WAYS["fused, int8, compiled"](waysout.Source(nn.Sequential(conv).eval(), images, (8,)))
        torch.testing.assert_close(made.run(images), conv(images), rtol=0.02, atol=0)


MACHINE = {"hardware": {"cpu": "C", "cpus": 2, "instructions": "AVX2"}, "versions": {"torch": "2.9"}}
RANDOM = {"from": deployed.RANDOM}
TRAINED = {"from": "run short", "epochs": 1, "recipe": "modern", "device": "cpu"}


def test_every_figure_names_the_machine_the_command_and_the_weights_that_it_is_of(tmp_path):
    """Another machine measures the accuracy later: the times of the first keep its name."""
    path = tmp_path / "results.json"
    old, new = ({"command": f"on {cpu}", **MACHINE, "hardware": {"cpu": cpu}} for cpu in ("old", "new"))
    times = {"1 thread, batch 1": {"ms": 2.0, "bytes": 9}}
    deployed.keep(path, old, RANDOM, "net", "eager", latency=times)
    deployed.keep(path, new, TRAINED, "net", "eager", accuracy={"accuracy": 80.0, "bytes": 9})
    deployed.keep(path, new, RANDOM, "net", "eager", latency={"2 threads, batch 1": {"ms": 1.0, "bytes": 9}})
    result = json.loads(path.read_text())
    row = result["networks"]["net"]["eager"]
    assert [run["hardware"]["cpu"] for run in result["runs"]] == ["old", "new"]
    assert row["accuracy"] == {"run": 1, "weights": "run short", "accuracy": 80.0, "bytes": 9}
    assert row["latency"]["1 thread, batch 1"] == {"run": 0, "weights": "random", "ms": 2.0, "bytes": 9}
    assert row["latency"]["2 threads, batch 1"]["run"] == 1
    assert result["weights"]["net"] == {"random": RANDOM, "run short": TRAINED}


def test_the_table_says_what_the_weights_are_and_which_run_measured_what(tmp_path):
    path = tmp_path / "results.json"
    about = {"command": "measure", **MACHINE}
    times = {"1 thread, batch 1": {"ms": 2.0, "bytes": 9}}
    deployed.keep(path, about, RANDOM, "net", "eager", latency=times)
    deployed.keep(path, about | {"command": "again"}, TRAINED, "net", "eager", accuracy={"accuracy": 80.0, "bytes": 9})
    table = deployed.table(json.loads(path.read_text()))
    assert "| `net` | run short: 1 epoch of `modern` on a CPU | run 2 | random | run 1 |" in table
    assert "| 1 | `measure` | C with AVX2, 2 CPUs | 2.9 |" in table


def test_weights_are_not_measured_on_other_data(tmp_path, capsys, monkeypatch):
    """Without CIFAR-10 the data is scikit-learn's digits, of which weights of CIFAR-10 know nothing."""
    monkeypatch.chdir(tmp_path)
    command = ["--measure", "accuracy", "--networks", "twelve_layer", "--data-dir", str(tmp_path), "--results"]
    assert deploy.main([*command, str(tmp_path / "results.json")]) == 2
    assert "the weights of twelve_layer are of CIFAR-10, JPEG copy" in capsys.readouterr().err


def test_the_page_holds_the_table_that_the_script_makes():
    page = deploy.PAGE.read_text()
    result = json.loads(deploy.RESULTS.read_text())
    assert page == deployed.replaced(page, result), "run: python examples/cifar10/deploy.py --write"


def test_int8_costs_little_accuracy_on_the_test_images():
    ways = json.loads(deploy.RESULTS.read_text())["networks"]["twelve_layer"]
    eager, fused, int8 = (ways[way]["accuracy"]["accuracy"] for way in ("eager", "fused", "fused, int8, compiled"))
    assert abs(fused - eager) <= 0.02
    assert int8 > eager - 1


def test_every_network_is_measured_by_every_way():
    measured = json.loads(deploy.RESULTS.read_text())["networks"]
    assert set(measured) == set(networks.NETWORKS)
    for ways in measured.values():
        assert set(ways) == set(waysout.WAYS)
        assert all({"accuracy", "latency"} <= set(figures) for figures in ways.values())


def test_the_page_says_which_way_is_the_fastest():
    measured = json.loads(deploy.RESULTS.read_text())["networks"].values()
    single, many = (
        Counter(min(ways, key=lambda way: ways[way]["latency"][f"1 thread, batch {batch}"]["ms"]) for ways in measured)
        for batch in deploy.BATCHES
    )
    told = (
        f"for {single['fused, ONNX Runtime']} of the {len(measured)}, and 64 at once run fastest with int8 for "
        f"{many['fused, int8, compiled']} and in ONNX Runtime for {many['fused, ONNX Runtime']},"
    )
    assert not many["fused, bf16, channels last"]
    assert told in " ".join((deploy.PAGE.parent / "deploy-compile.md").read_text().split())
