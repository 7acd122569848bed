"""Every block with every option, and every network of the example, by every way out of Python: the output stays."""

import copy
from functools import partial

import networks
import pytest
import timm
import torch
from torch.export import Dim

from convblocks.deploy import fuse
from tests.compiler import needs_compiler
from tests.layers.cases import CASES
from tests.layers.test_contract import randomised

# Sizes other than those of the example input: what was exported with one must run with another.
SIZES = ((1, 9, 11), (3, 14, 12))
DYNAMIC = ({0: Dim("batch", min=1, max=64), 2: Dim.AUTO, 3: Dim.AUTO},)


def as_it_is(model, example):
    return model


def compiled(model, example, backend, dynamic=True):
    torch.compiler.reset()
    return torch.compile(copy.deepcopy(model), fullgraph=True, dynamic=dynamic, backend=backend)


def exported(model, example):
    # torch 2.6 counts every export as a compilation of the same forward, and has a limit of those.
    torch.compiler.reset()
    return torch.export.export(model, (example,), dynamic_shapes=DYNAMIC).module()


def to_onnx(model, example):
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime, of the extra deploy, is not installed")
    pytest.importorskip("onnxscript", reason="onnxscript, of the extra deploy, is not installed")
    program = torch.onnx.export(model, (example,), dynamo=True, dynamic_shapes=DYNAMIC, verbose=False)
    assert program is not None
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"])
    (name,) = (argument.name for argument in session.get_inputs())
    return lambda x: torch.from_numpy(session.run(None, {name: x.numpy()})[0])


def fused(model, example, then):
    return then(fuse(model, example.shape[1:])[0], example)


WAYS = {
    "compile": partial(compiled, backend="aot_eager"),
    "export": exported,
    "onnx": to_onnx,
    "fused": partial(fused, then=as_it_is),
    "fused-compile": partial(fused, then=partial(compiled, backend="eager")),
    "fused-export": partial(fused, then=exported),
    "fused-onnx": partial(fused, then=to_onnx),
}
every_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())


@torch.no_grad()
def check(way, model, shape, sizes=SIZES):
    model = randomised(model).eval()
    out = way(model, torch.randn(shape))
    for batch, height, width in sizes:
        x = torch.randn(batch, shape[1], height, width)
        torch.testing.assert_close(out(x), model(x), rtol=1e-4, atol=1e-4)


@every_way
@pytest.mark.parametrize("case", CASES)
def test_a_block(case, way):
    build, shape = CASES[case]
    check(way, build(), shape)


@pytest.mark.parametrize("name", networks.NETWORKS)
@pytest.mark.parametrize("way", ["export", "onnx", "fused-export", "fused-onnx"])
def test_a_network(name, way):
    # Not 32: the last map of twelve_layer has one pixel then, and torch.export takes a size of 1 for a constant.
    check(WAYS[way], timm.create_model(name), (2, 3, 48, 44), ((1, 40, 36), (3, 52, 48)))


@pytest.mark.parametrize("name", networks.NETWORKS)
def test_a_network_compiles_into_one_graph(name):
    way = partial(compiled, backend="eager", dynamic=False)
    check(way, timm.create_model(name), (2, 3, 32, 32), ((2, 32, 32),))


def one_of_each_block():
    seen = {}
    for name, (build, _) in CASES.items():
        seen.setdefault(type(build()), name)
    return list(seen.values())


@needs_compiler
# torch 2.6's own, where it writes down what it compiles.
@pytest.mark.filterwarnings("ignore:Skipping serialization of:UserWarning")
@pytest.mark.parametrize("case", one_of_each_block())
def test_inductor(case):
    build, shape = CASES[case]
    check(partial(compiled, backend="inductor"), build(), shape)
