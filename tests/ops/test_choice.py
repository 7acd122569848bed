"""Which path is taken, and the words for it. CUDA tensors are fake here: a choice looks at no data."""

import importlib.util
import itertools
import json
import re
import sys
from types import SimpleNamespace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from convblocks import ConvNormAct, DepthwiseSeparableConv, DilatedDownsample, JointDilatedDepthwise, ops
from convblocks.layers import _fusion
from convblocks.ops import _choice, _depthwise, _quick


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr(_choice, "unfit_device", lambda device: "")
    monkeypatch.setattr(_choice, "capability", lambda device: "9.0")
    with FakeTensorMode():
        try:
            torch.empty(1, device="cuda:0").add(1)
        except (AssertionError, RuntimeError) as error:
            pytest.skip(f"this build of torch makes no fake CUDA tensors: {error}")
        yield torch.device("cuda:0")


def call(device, shape=(2, 8, 16, 16), kernel=(3, 3), dtype=torch.bfloat16, multiplier=1, **options):
    x = torch.empty(shape, device=device, dtype=dtype, memory_format=torch.channels_last)
    weight = torch.empty(shape[1] * multiplier, 1, *kernel, device=device, dtype=options.pop("weight_dtype", dtype))
    return ops.choice(x, weight, **options)


def test_the_backend_is_set_for_a_block_or_for_good():
    assert _choice._current == "auto"
    with ops.backend("triton"):
        with ops.backend("torch"):
            assert _choice._current == "torch"
        assert _choice._current == "triton"
    assert _choice._current == "auto"
    before = ops.backend("torch")
    assert _choice._current == "torch"
    before.__exit__(None, None, None)
    assert _choice._current == "auto"


def test_a_backend_goes_back_after_an_error():
    with pytest.raises(KeyError), ops.backend("triton"):
        raise KeyError
    assert _choice._current == "auto"


def test_an_unknown_backend_is_refused():
    with pytest.raises(ValueError, match="name must be 'auto', 'graph', 'torch' or 'triton', got 'cuda'"):
        ops.backend("cuda")
    assert _choice._current == "auto"


def test_the_cpu_takes_torch_whatever_the_backend():
    for name in ("auto", "triton"):
        with ops.backend(name):
            assert call("cpu") == ("torch", "the input is not on a CUDA device")


TORCH = {
    "float64": ({"dtype": torch.float64}, "the dtype is none of"),
    "mixed dtypes": ({"weight_dtype": torch.float32}, "of another dtype"),
    "depth multiplier": ({"multiplier": 2}, r"not \(C, 1, height, width\)"),
    "empty batch": ({"shape": (0, 8, 4, 4)}, "empty"),
    "no output": ({"kernel": (5, 5), "shape": (1, 8, 4, 4)}, "empty"),
    "a huge image": ({"shape": (1, 2**15, 2**8, 2**8)}, "one image has 2\\^31 elements"),
    "an image made huge by padding": ({"shape": (1, 2**11, 4, 4), "padding": 600}, "one image has 2\\^31 elements"),
    "a huge batch": ({"shape": (2**21, 1, 32, 32)}, "about 2\\^31 positions"),
}


@pytest.mark.parametrize(("options", "reason"), TORCH.values(), ids=TORCH)
def test_unfit_cases_take_torch(gpu, options, reason):
    with ops.backend("triton"):
        path, words = call(gpu, **options)
    assert path == "torch"
    assert re.search(reason, words)


def test_many_images_past_two_to_the_31_elements_are_fit(gpu):
    with ops.backend("triton"):
        assert call(gpu, shape=(2**9, 64, 2**8, 2**8), padding=8, dilation=8).path == "triton"


def test_auto_without_a_measurement_is_torch(gpu, monkeypatch):
    monkeypatch.setattr(_choice, "_TABLE", {})
    assert call(gpu) == ("torch", "nothing was measured on this kind of GPU")
    with ops.backend("torch"):
        assert call(gpu) == ("torch", 'the backend is set to "torch"')


def test_auto_follows_the_table(gpu, monkeypatch, tmp_path):
    case = "bfloat16 3x3 stride 1x1 {} channels_last {}"
    leasts = {"auto": 4096, "graph": 100}, {"auto": None, "graph": 1}
    keys = case.format("undilated", "inference"), case.format("dilated", "inference")
    table = {"9.0": dict(zip(keys, leasts, strict=True))}
    path = tmp_path / "decisions.json"
    path.write_text(json.dumps({"decisions": table}))
    monkeypatch.setattr(_choice, "_TABLE", _choice.read_table(path))
    assert call(gpu).path == "triton"
    assert call(gpu, shape=(1, 8, 16, 16)) == ("torch", "PyTorch was measured to be as fast or faster at this size")
    assert call(gpu, shape=(64, 8, 4, 16)) == ("torch", "no case like this was measured")
    assert call(gpu, shape=(64, 9, 16, 16)) == ("torch", "no case like this was measured")
    assert call(gpu, dilation=2) == ("torch", "PyTorch was measured to be as fast or faster")
    assert call(gpu, stride=2) == ("torch", "no case like this was measured")
    with ops.backend("graph"):
        assert call(gpu, shape=(1, 8, 16, 16)).path == "triton"
        assert call(gpu, dilation=2).path == "triton"
        assert call(gpu, stride=2).path == "torch"
    assert call(gpu, bias=torch.empty(8, device=gpu, dtype=torch.bfloat16, requires_grad=True)).path == "torch"


BLOCKS = {
    "separable": (lambda **o: DepthwiseSeparableConv(8, 16, 3, padding=1, **o), ["conv_dw"]),
    "conv": (lambda **o: ConvNormAct(8, 8, 3, padding="same", groups=8, padding_mode="circular", **o), ["conv"]),
    "downsample": (lambda **o: DilatedDownsample(8, 8, separable=True, **o), ["conv_dw"]),
    "joint": (lambda **o: JointDilatedDepthwise(8, 16, **o), ["separable.conv_dw"]),
    "dense": (lambda **o: ConvNormAct(8, 8, 3, **o), []),
    "grouped": (lambda **o: ConvNormAct(8, 8, 3, groups=4, **o), []),
    "multiplier": (lambda **o: DepthwiseSeparableConv(8, 16, 3, depth_multiplier=2, **o), []),
}


@pytest.mark.parametrize(("build", "names"), BLOCKS.values(), ids=BLOCKS)
def test_explain_names_every_depthwise_convolution(build, names):
    block, x = build(), torch.randn(2, 8, 12, 12)
    before = {name: value.clone() for name, value in block.state_dict().items()}
    block.train()
    assert ops.explain(block, x) == dict.fromkeys(names, ("torch", "the input is not on a CUDA device"))
    assert all(part.training for part in block.modules())
    assert all(torch.equal(value, before[name]) for name, value in block.state_dict().items())


@pytest.mark.parametrize(("build", "names"), BLOCKS.values(), ids=BLOCKS)
def test_blocks_on_cuda_ask_for_the_operator(gpu, build, names, monkeypatch):
    try:
        torch.nn.Conv2d(2, 2, 1, device=gpu)(torch.empty(1, 2, 2, 2, device=gpu))
    except RuntimeError as error:
        pytest.skip(f"torch {torch.__version__} has no fake CUDA convolution without a driver: {error}")
    block, asked = build(device=gpu).eval(), []
    operator = ops.depthwise_conv2d
    monkeypatch.setattr(ops, "depthwise_conv2d", lambda *a: asked.append(1) or operator(*a))
    x = torch.empty(2, 8, 12, 12, device=gpu)
    with ops.backend("triton"):
        assert block(x).shape == build(device="cpu").eval()(torch.empty(2, 8, 12, 12)).shape
        path = "fused" if "conv_dw" in "".join(names) else "triton"
        assert ops.explain(block, x) == dict.fromkeys(names, (path, 'the backend is set to "triton"'))
    # A block of norms in evaluation takes its training step where gradients are asked for.
    assert bool(asked) == (path == "triton" and names != [])


def test_a_depthwise_block_prints_saves_and_traces_as_one_of_plain_convolutions():
    block = DepthwiseSeparableConv(8, 16, 3)
    assert str(block.conv_dw).startswith("Conv2d(8, 8, kernel_size=(3, 3)")
    plain = torch.nn.Conv2d(8, 8, 3, groups=8, bias=False)
    plain.load_state_dict(block.conv_dw.state_dict())
    x = torch.randn(2, 8, 6, 6)
    assert torch.equal(plain(x), block.conv_dw(x))
    torch.testing.assert_close(torch.fx.symbolic_trace(block.eval())(x), block(x))


@pytest.mark.parametrize(
    ("version", "capability", "expected"),
    [
        ("3.2.0", (9, 0), "the kernels need Triton 3.3, which comes with torch 2.7, and this is 3.2.0"),
        ("3.3.1", (9, 0), ""),
        ("3.10.0+git1234", (8, 0), ""),
        ("3.6.0", (7, 5), "the GPU is older than compute capability 8.0"),
    ],
)
def test_what_a_gpu_must_have(monkeypatch, version, capability, expected):
    monkeypatch.setitem(sys.modules, "triton", SimpleNamespace(__version__=version, __spec__=object()))
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert _choice._unfit_device.__wrapped__(torch.device("cuda")) == expected


def test_a_gpu_without_triton(monkeypatch):
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert _choice._unfit_device.__wrapped__(torch.device("cuda")) == "triton is not installed"


ASKED = [
    (shape, kernel, stride, dilation)
    for shape in (
        (1, 16, 8, 8),
        (256, 48, 32, 32),
        (16, 64, 32, 32),
        (512, 64, 32, 32),
        (64, 20, 6, 9),
        (256, 128, 8, 8),
    )
    for kernel, stride, dilation in ((3, 1, 1), (3, 1, 2), (3, 2, 1), (3, 2, 2), (5, 1, 1), (7, 1, 1))
]


@pytest.mark.parametrize("name", ["auto", "graph", "triton", "torch"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_what_cannot_pay_is_left_to_torch(gpu, name, dtype):
    """The quick question says no only where the whole one does, and no often enough to be worth its while."""
    refused = taken = 0
    for shape, kernel, stride, dilation in ASKED:
        padding = dilation * (kernel - 1) // 2
        try:
            block = DepthwiseSeparableConv(shape[1], 64, kernel, stride, padding, dilation, device=gpu, dtype=dtype)
        except RuntimeError as error:
            pytest.skip(f"this build of torch fills no fake CUDA tensors: {error}")
        for layout, training in itertools.product((torch.channels_last, torch.contiguous_format), (False, True)):
            x = torch.empty(shape, device=gpu, dtype=dtype, memory_format=layout)
            with ops.backend(name), torch.set_grad_enabled(training):
                path = block.train(training).fusion(x).path
                could = _fusion._could_pay(block, x)
            assert could or path != "fused"
            refused, taken = refused + (not could), taken + (path == "fused")
    if dtype == torch.bfloat16:
        assert (refused > 0) == (name != "triton")
        assert (taken > 0) == (name != "torch")


def test_a_convolution_that_cannot_pay_is_not_looked_at_further(gpu, monkeypatch):
    monkeypatch.setattr(_depthwise, "choose", None)
    # torch 2.6 has no fake convolution where there is no driver.
    monkeypatch.setattr(_depthwise.F, "conv2d", lambda x, *_: x)
    x = torch.empty(1, 8, 6, 6, device=gpu, dtype=torch.bfloat16, memory_format=torch.channels_last)
    weight = torch.empty(8, 1, 3, 3, device=gpu, dtype=torch.bfloat16)
    assert ops.depthwise_conv2d(x, weight, None, 1, 1).shape == x.shape
    with ops.backend("triton"), pytest.raises(TypeError, match="NoneType"):
        ops.depthwise_conv2d(x, weight, None, 1, 1)


def test_answers_are_kept_for_a_table_and_forgotten_with_it(gpu, monkeypatch):
    asked = []

    def cases():
        asked.append(1)
        return ["a case"]

    x = torch.empty(2, 8, 4, 4, device=gpu)
    for least, expected in ((256, True), (257, False), (None, False)):
        monkeypatch.setattr(_choice, "_TABLE", {"9.0": {"a case": {"auto": least, "graph": 1}}})
        assert [_quick.pays(x, (1,), cases) for _ in range(2)] == [expected] * 2
        with ops.backend("graph"):
            assert _quick.pays(x, (1,), cases)
    assert len(asked) == 6
    monkeypatch.setattr(_quick, "_MOST_ANSWERS", 3)
    for number in range(9):
        _quick.pays(x, (number,), cases)
    assert len(_quick._known(_choice._TABLE)) <= 4


def test_the_quick_question_steps_aside_for_transforms(monkeypatch):
    monkeypatch.setattr(_choice, "unfit_device", lambda device: "")
    with ops.backend("auto"):
        found = torch.vmap(lambda x: x * _quick.pays(x, (), list))(torch.ones(2, 1, 3, 4, 4))
    assert torch.equal(found, torch.ones(2, 1, 3, 4, 4))


def test_an_answer_is_of_the_backend_that_asked(gpu, monkeypatch):
    monkeypatch.setattr(_choice, "_TABLE", {"9.0": {"a case": {"auto": 1, "graph": 1}}})
    x = torch.empty(2, 8, 4, 4, device=gpu)

    def cases():
        # Another thread, in between.
        monkeypatch.setattr(_choice, "_current", "torch")
        return ["a case"]

    assert _quick.pays(x, (), cases)
    monkeypatch.setattr(_choice, "_current", "auto")
    assert _quick.pays(x, (), cases)


def test_one_image_without_a_batch_is_left_to_torch(gpu, monkeypatch):
    monkeypatch.setattr(_depthwise.F, "conv2d", lambda x, weight, bias, s, p, d, groups: groups)
    x, weight = torch.empty(8, 10, 12, device=gpu), torch.empty(8, 1, 3, 3, device=gpu)
    for name in ("torch", "auto", "triton"):
        with ops.backend(name):
            assert ops.depthwise_conv2d(x, weight, None, 1, 1) == 8
