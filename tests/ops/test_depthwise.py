"""depthwise_conv2d without a GPU: PyTorch's numbers, and all that torch does with an operator."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from convblocks import ops
from convblocks.ops import _choice

ROOT = Path(__file__).resolve().parents[2]
OPERATOR = torch.ops.convblocks.depthwise_conv2d
WHERE = {"same": ([1, 1], [1, 1], [1, 1]), "strided, dilated": ([2, 1], [2, 0], [2, 1])}


@pytest.fixture
def operator_everywhere(monkeypatch):
    """Send tensors on the CPU through the operators too, as if they were on a CUDA device."""
    monkeypatch.setattr(_choice, "unfit_device", lambda device: "")
    torch.compiler.reset()
    with ops.backend("triton"):
        yield


def arguments(dtype=torch.float64, channels=4, size=(6, 5)):
    shapes = ((2, channels, *size), (channels, 1, 3, 3), (channels,))
    return [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]


pairs = st.one_of(st.integers(1, 3), st.tuples(st.integers(1, 3), st.integers(1, 3)))


@given(kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)), stride=pairs, padding=pairs, dilation=pairs)
def test_on_the_cpu_it_is_torchs_convolution(kernel, stride, padding, dilation):
    x, weight, bias = torch.randn(2, 4, 10, 10), torch.randn(4, 1, *kernel), torch.randn(4)
    expected = F.conv2d(x, weight, bias, stride, padding, dilation, 4)
    assert torch.equal(ops.depthwise_conv2d(x, weight, bias, stride, padding, dilation), expected)


def test_a_depth_multiplier_is_torchs_convolution():
    x, weight = torch.randn(2, 4, 6, 6), torch.randn(12, 1, 3, 3)
    assert torch.equal(ops.depthwise_conv2d(x, weight), F.conv2d(x, weight, groups=4))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"stride": 0}, "stride must be an integer >= 1, got 0"),
        ({"padding": (1, -1)}, "padding must be an integer >= 0, got -1"),
        ({"dilation": 1.5}, "dilation must be an integer >= 1, got 1.5"),
        ({"stride": (1, 1, 1)}, r"stride must be one integer or a pair \(height, width\), got \(1, 1, 1\)"),
    ],
)
def test_misuse(wrong, message):
    with pytest.raises(ValueError, match=message):
        ops.depthwise_conv2d(torch.zeros(1, 2, 4, 4), torch.zeros(2, 1, 3, 3), **wrong)


# opcheck itself looks at the gradients of tensors that are no leaves.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("where", WHERE.values(), ids=WHERE)
@pytest.mark.parametrize("with_bias", [True, False])
def test_operators_pass_torchs_own_checks(where, with_bias):
    x, weight, bias = arguments(size=(9, 7))
    bias = bias if with_bias else None
    torch.library.opcheck(OPERATOR.default, (x, weight, bias, *where))
    dy = torch.randn_like(OPERATOR(x, weight, bias, *where)).requires_grad_()
    torch.library.opcheck(torch.ops.convblocks.depthwise_conv2d_backward.default, (dy, x, weight, *where, with_bias))


@pytest.mark.parametrize("where", WHERE.values(), ids=WHERE)
def test_gradients_and_their_gradients(where):
    def run(*inputs):
        return OPERATOR(*inputs, *where)

    assert torch.autograd.gradcheck(run, arguments())
    assert torch.autograd.gradgradcheck(run, arguments(channels=2, size=(5, 5)))


def test_fake_results_have_the_layout_of_real_ones():
    for shape in ((2, 4, 6, 5), (1, 4, 1, 1), (2, 1, 6, 5), (0, 4, 6, 5)):
        x, weight = torch.randn(shape), torch.randn(shape[1], 1, 3, 3)
        real = OPERATOR(x, weight, None, *WHERE["same"])
        fake = OPERATOR(x.to("meta"), weight.to("meta"), None, *WHERE["same"])
        assert (fake.shape, fake.stride()) == (real.shape, real.stride())


@pytest.mark.usefixtures("operator_everywhere")
def test_compiles_into_one_graph_for_all_sizes():
    def run(x, weight, bias):
        return ops.depthwise_conv2d(x, weight, bias, padding=2, dilation=2).relu()

    compiled = torch.compile(run, fullgraph=True, dynamic=True, backend="aot_eager")
    for size in ((6, 5), (9, 12)):
        inputs = arguments(torch.float32, size=size)
        out, expected = compiled(*inputs), run(*inputs)
        assert torch.equal(out, expected)
        for one, other in zip(
            torch.autograd.grad(out.sum(), inputs), torch.autograd.grad(expected.sum(), inputs), strict=True
        ):
            assert torch.equal(one, other)


@pytest.mark.usefixtures("operator_everywhere")
def test_autocast_casts_as_it_does_for_torchs_convolution():
    x, weight, bias = arguments(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        out = ops.depthwise_conv2d(x, weight, bias)
        assert torch.equal(out, F.conv2d(x, weight, bias, groups=4))
        assert torch.compile(ops.depthwise_conv2d, fullgraph=True, backend="aot_eager")(x, weight).dtype == out.dtype
    out.float().sum().backward()
    assert [getattr(t.grad, "dtype", None) for t in (x, weight, bias)] == [torch.float32] * 3


class Layer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(4, 1, 3, 3))

    def forward(self, x):
        return ops.depthwise_conv2d(x, self.weight, padding=1)


@pytest.mark.usefixtures("operator_everywhere")
def test_exports_with_any_batch_and_size():
    layer = Layer().eval()
    sizes = {0: torch.export.Dim("n"), 2: torch.export.Dim("h"), 3: torch.export.Dim("w")}
    exported = torch.export.export(layer, (torch.randn(2, 4, 6, 5),), dynamic_shapes=(sizes,))
    assert "convblocks.depthwise_conv2d" in str(exported.graph)
    x = torch.randn(3, 4, 8, 9)
    torch.testing.assert_close(exported.module()(x), layer(x))


@pytest.mark.skipif(not hasattr(torch.compiler, "is_exporting"), reason="this torch cannot tell that it exports")
@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.usefixtures("operator_everywhere")
def test_the_table_leaves_the_sizes_of_an_export_open(monkeypatch, strict):
    case = "float32 3x3 stride 1x1 undilated contiguous"
    table = {f"{case} {rest}": {"auto": 1} for rest in ("inference", "short inference")}
    monkeypatch.setattr(_choice, "_TABLE", {"9.0": table})
    monkeypatch.setattr(_choice, "capability", lambda device: "9.0")
    layer, x = Layer().eval().requires_grad_(False), torch.randn(2, 4, 6, 5)
    sizes = {0: torch.export.Dim("n"), 2: torch.export.Dim("h"), 3: torch.export.Dim("w")}
    with ops.backend("auto"):
        assert ops.choice(x, layer.weight).path == "triton"
        exported = torch.export.export(layer, (x,), dynamic_shapes=(sizes,), strict=strict)
    assert "convblocks" not in str(exported.graph)
    large = torch.randn(1, 4, 18, 19)
    torch.testing.assert_close(exported.module()(large), layer(large))


# torch's own forward-mode rules are scripted.
@pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated")
@pytest.mark.usefixtures("operator_everywhere")
def test_transforms_of_torch_func_and_forward_mode_take_torch():
    x, weight = torch.randn(3, 2, 4, 6, 5), torch.randn(3, 4, 1, 3, 3)

    def loss(x, weight):
        return ops.depthwise_conv2d(x, weight, padding=1).square().sum()

    mapped = torch.func.vmap(torch.func.grad(loss, argnums=1))(x, weight)
    for one, x_, weight_ in zip(mapped, x, weight, strict=True):
        torch.testing.assert_close(one, torch.func.grad(loss, argnums=1)(x_, weight_), rtol=1e-4, atol=1e-4)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x[0], torch.ones_like(x[0]))
        tangent = torch.autograd.forward_ad.unpack_dual(ops.depthwise_conv2d(dual, weight[0])).tangent
    torch.testing.assert_close(tangent, F.conv2d(torch.ones_like(x[0]), weight[0], groups=4))


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_block_on_the_cpu_imports_neither_the_operators_nor_triton():
    code = """
import sys, torch, convblocks
convblocks.DepthwiseSeparableConv(4, 4, 3)(torch.zeros(2, 4, 5, 5)).sum().backward()
print([name for name in sys.modules if name.startswith("convblocks.ops") or name == "triton"])
"""
    assert run_python(code) == "[]"


def test_it_works_where_triton_is_not_installed():
    code = """
import sys
sys.modules["triton"] = None
import torch
from convblocks import ops
with ops.backend("triton"):
    print(ops.depthwise_conv2d(torch.ones(1, 1, 3, 3), torch.ones(1, 1, 3, 3)).item())
"""
    assert run_python(code) == "9.0"


class Watch(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.append(func.name())
        return func(*args, **(kwargs or {}))


def test_who_watches_sees_the_operators(operator_everywhere):
    x, weight, bias = arguments(torch.float32)
    with Watch() as watch:
        y = ops.depthwise_conv2d(x, weight, bias, 1, 1)
        torch.autograd.grad(y, (x, weight), torch.ones_like(y))
    assert {"convblocks::depthwise_conv2d", "convblocks::depthwise_conv2d_backward"} <= set(watch.seen)


@pytest.mark.parametrize("where", WHERE.values(), ids=WHERE)
def test_past_the_dispatcher_all_gradients_are_the_same(operator_everywhere, where):
    leaves = arguments(torch.float32)
    found = []
    for call in (ops.depthwise_conv2d, OPERATOR):
        first = torch.autograd.grad(call(*leaves, *where).sin().sum(), leaves, create_graph=True)
        found.append([*first, *torch.autograd.grad(sum(g.square().sum() for g in first), leaves)])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_a_batch_of_gradients_goes_by_the_operators(operator_everywhere):
    x, weight, bias = arguments(torch.float32)
    y = ops.depthwise_conv2d(x, weight, bias, 1, 1)
    many = torch.randn(3, *y.shape)
    found = torch.autograd.grad(y, (x, weight, bias), many, is_grads_batched=True, retain_graph=True)
    alone = [torch.autograd.grad(y, (x, weight, bias), dy, retain_graph=True) for dy in many]
    for batched, each in zip(found, zip(*alone, strict=True), strict=True):
        torch.testing.assert_close(batched, torch.stack(each))


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace:FutureWarning", "ignore:.*torch.jit.trace:DeprecationWarning")
def test_a_trace_is_for_every_machine(monkeypatch):
    monkeypatch.setattr(_choice, "unfit_device", lambda device: "")
    monkeypatch.setattr(_choice, "capability", lambda device: "9.0")
    case = "float32 3x3 stride 1x1 undilated contiguous short"
    monkeypatch.setattr(_choice, "_TABLE", {"9.0": {f"{case} inference": {"auto": 1, "graph": 1}}})
    x, weight, _ = (t.detach() for t in arguments(torch.float32))
    assert ops.choice(x, weight, None, 1, 1).path == "triton"
    try:
        traced = torch.jit.trace(lambda *t: ops.depthwise_conv2d(*t, None, 1, 1), (x, weight))
    except RuntimeError as error:
        pytest.skip(f"torch {torch.__version__} traces no more: {error}")
    assert "convblocks::" not in str(traced.graph)
    assert "aten::_convolution" in str(traced.graph)
