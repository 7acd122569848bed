"""depthwise_separable_conv2d without a GPU: PyTorch's numbers, what torch does with an operator, and the blocks."""

import warnings

import pytest
import torch
from torch import library, nn

from convblocks import DepthwiseSeparableConv, DilatedDownsample, JointDilatedDepthwise, deploy, ops
from convblocks.layers import _fusion
from convblocks.ops import Stage, _choice, _separable
from tests.ops.test_choice import gpu as gpu
from tests.ops.test_depthwise import operator_everywhere as operator_everywhere

OPERATOR = torch.ops.convblocks.depthwise_separable_conv2d


def arguments(dtype=torch.float32, c=4, o=6, size=(6, 5), kernel=(3, 3)):
    def stage(channels, act):
        return Stage(torch.randn(channels, dtype=dtype), *torch.rand(4, channels, dtype=dtype), 1e-3, act)

    x = torch.randn(2, c, *size, dtype=dtype)
    weights = torch.randn(c, 1, *kernel, dtype=dtype), torch.randn(o, c, 1, 1, dtype=dtype)
    return [x, *weights, stage(c, "relu"), stage(o, "silu")]


def modules(x, depthwise, pointwise, first, second, stride=1, padding=0, dilation=1, residual=False):
    def conv(weight, stage, **options):
        made = nn.Conv2d(weight.shape[1] * options.get("groups", 1), *weight.shape[:1], weight.shape[2:], **options)
        made.load_state_dict({"weight": weight, "bias": stage.bias})
        return made

    def norm(stage):
        made = nn.BatchNorm2d(len(stage.mean), stage.eps)
        state = {"weight": stage.weight, "bias": stage.shift, "running_mean": stage.mean, "running_var": stage.variance}
        made.load_state_dict(state, strict=False)
        return made

    dw = conv(depthwise, first, stride=stride, padding=padding, dilation=dilation, groups=x.shape[1])
    layers = dw, norm(first), nn.ReLU(), conv(pointwise, second), norm(second), nn.SiLU()
    with torch.no_grad():
        out = nn.Sequential(*layers).eval()(x)
    return x + out if residual else out


@pytest.mark.parametrize(
    "where", [{}, {"stride": (2, 1), "padding": (1, 2), "dilation": (1, 2)}, {"padding": 1, "residual": True}]
)
def test_on_the_cpu_it_is_what_the_modules_compute(where):
    given = arguments(size=(8, 9), o=4 if "residual" in where else 6)
    assert torch.equal(ops.depthwise_separable_conv2d(*given, **where), modules(*given, **where))


@pytest.mark.usefixtures("operator_everywhere")
@pytest.mark.parametrize("low", [torch.float32, torch.bfloat16])
def test_the_operator_adds_the_input(low):
    """Where it has more digits than the block, the sum keeps them."""
    given = arguments(o=4)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=low is torch.bfloat16):
        assert ops.separable_choice(*given, padding=1).path == "fused"
        found = ops.depthwise_separable_conv2d(*given, padding=1, residual=True)
        true = modules(*given, padding=1, residual=True)
    assert found.dtype == true.dtype == torch.float32
    torch.testing.assert_close(found, true)


def test_gradients_flow_where_they_are_asked_for():
    x, depthwise, pointwise, first, second = arguments(torch.float64)
    first, second = (
        s._replace(weight=s.weight.requires_grad_(), shift=s.shift.requires_grad_()) for s in (first, second)
    )
    leaves = [t.requires_grad_() for t in (x, depthwise, pointwise)]

    def run(*tensors):
        return ops.depthwise_separable_conv2d(*tensors, first, second, padding=1)

    assert torch.autograd.gradcheck(run, leaves)
    run(*leaves).sum().backward()
    assert first.weight.grad is not None


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"stride": 0}, "stride must be an integer >= 1, got 0"),
        ({"first": Stage(act="elu")}, r"first.act must be one of '', 'relu', .*, got 'elu'"),
        ({"second": Stage(mean=torch.zeros(6))}, "second has a mean or a variance but not both"),
        ({"second": Stage(weight=torch.zeros(6))}, "second has the weight or shift of a norm, but no mean"),
        (
            {"residual": True},
            r"residual=True needs .* of x, \(2, 4, 6, 5\), and it is \(2, 6, 4, 3\)",
        ),
    ],
)
def test_misuse(wrong, message):
    x, depthwise, pointwise, *_ = arguments()
    with pytest.raises(ValueError, match=message):
        ops.depthwise_separable_conv2d(x, depthwise, pointwise, **wrong)


@pytest.mark.parametrize("where", [([1, 1], [1, 1], [1, 1]), ([2, 1], [2, 0], [2, 1])])
@pytest.mark.parametrize("bare", [False, True])
@pytest.mark.parametrize("residual", [False, True])
def test_the_operator_passes_torchs_own_checks(where, bare, residual):
    x, depthwise, pointwise, first, second = arguments(size=(9, 7), o=4 if residual else 6)
    if residual:
        where = [1, 1], [1, 2], [1, 2]
    if bare:
        first, second = Stage(), Stage()
    stages = first.tensors(), second.tensors(), [first.eps, second.eps], f"{first.act},{second.act}"
    library.opcheck(OPERATOR.default, (x, depthwise, pointwise, *stages, *where, residual))


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.given = arguments()[1:]

    def forward(self, x):
        return ops.depthwise_separable_conv2d(x, *self.given, padding=1).relu()


@pytest.mark.usefixtures("operator_everywhere")
def test_compiles_into_one_graph_for_all_sizes():
    layer = Layer()
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend="aot_eager")
    with torch.no_grad():
        for size in ((6, 5), (9, 12)):
            x = torch.randn(2, 4, *size)
            torch.testing.assert_close(compiled(x), layer(x))


@pytest.mark.usefixtures("operator_everywhere")
def test_exports_with_any_batch_and_size():
    layer = Layer().eval()
    sizes = {0: torch.export.Dim("n"), 2: torch.export.Dim("h"), 3: torch.export.Dim("w")}
    with torch.no_grad():
        exported = torch.export.export(layer, (torch.randn(2, 4, 6, 5),), dynamic_shapes=(sizes,))
        assert "convblocks.depthwise_separable_conv2d" in str(exported.graph)
        x = torch.randn(3, 4, 8, 9)
        torch.testing.assert_close(exported.module()(x), layer(x))


@pytest.mark.usefixtures("operator_everywhere")
def test_autocast_needs_no_copies_of_the_weights():
    given = arguments()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert ops.separable_choice(*given).path == "fused"
        assert torch.equal(ops.depthwise_separable_conv2d(*given), modules(*given))


@pytest.mark.usefixtures("operator_everywhere")
def test_gradients_take_the_single_operations(monkeypatch):
    given = arguments()
    assert ops.separable_choice(*given).path == "fused"
    given[2].requires_grad_()
    assert ops.separable_choice(*given) == ("triton", "gradients are asked for")
    with torch.no_grad():
        assert ops.separable_choice(*given).path == "fused"


UNFIT = {
    "many channels": ({"c": 136}, "too large to be kept on the chip"),
    "many channels out": ({"o": 264}, "too large to be kept on the chip"),
    "float32 has half the room": ({"c": 128, "o": 128}, "too large to be kept on the chip"),
    "no output": ({"kernel": (7, 7)}, "the input or the output is empty"),
    "float64": ({"dtype": torch.float64}, "the dtype is none of"),
}


@pytest.mark.usefixtures("operator_everywhere")
@pytest.mark.parametrize(("options", "reason"), UNFIT.values(), ids=UNFIT)
def test_unfit_cases_take_the_single_operations(options, reason):
    found = ops.separable_choice(*arguments(**options))
    assert found.path != "fused"
    assert reason in found.reason


@pytest.mark.usefixtures("operator_everywhere")
def test_float32_is_fused_where_torch_allows_tf32(monkeypatch):
    given = arguments()
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    assert "TF32" in ops.separable_choice(*given).reason
    assert ops.separable_choice(*(t.bfloat16() for t in given[:3])).path == "fused"
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    assert ops.separable_choice(*given).path == "fused"


def test_the_choice_follows_the_table(gpu, monkeypatch):
    key = "separable 16 to 32 float32 3x3 stride 1x1 undilated contiguous narrow short inference"
    monkeypatch.setattr(_choice, "_TABLE", {"9.0": {key: {"auto": 300, "graph": 300}}})
    block = DepthwiseSeparableConv(9, 20, 3, padding=1, device=gpu).eval()
    with torch.no_grad():
        for images, path in ((1, "torch"), (2, "fused")):
            assert block.fusion(torch.empty(images, 9, 5, 5, device=gpu)).path == path


def norm_with_statistics(block):
    for part in block.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.running_mean)
            nn.init.uniform_(part.running_var, 0.5, 2)
    return block.eval()


FIT = {
    "MobileNetV1": lambda: DepthwiseSeparableConv(4, 6, 3, padding="same"),
    "MobileNetV2": lambda: DepthwiseSeparableConv(4, 4, 3, 1, 1, after="norm", act_layer=nn.ReLU6, residual=True),
    "Xception": lambda: DepthwiseSeparableConv(4, 6, 5, 2, 1, between="", after="norm"),
    "bare pointwise": lambda: DepthwiseSeparableConv(4, 6, (3, 1), 1, 1, 2, after="", act_layer=nn.Hardswish),
    "bias and GELU": lambda: DepthwiseSeparableConv(4, 6, 3, bias=True, norm_layer=None, act_layer=nn.GELU),
    "dropout": lambda: DepthwiseSeparableConv(4, 6, 3, dropout=0.5, act_layer=nn.SiLU),
    "downsample": lambda: DilatedDownsample(4, 6, 3, separable=True),
    "joint": lambda: JointDilatedDepthwise(4, 6).separable,
    "folded": lambda: deploy.fuse(norm_with_statistics(DepthwiseSeparableConv(4, 6, 3)), (4, 9, 9))[0],
}


@pytest.mark.parametrize("build", FIT.values(), ids=FIT)
def test_a_block_is_what_its_parts_say(build):
    block, x = norm_with_statistics(build()), torch.randn(2, 4, 9, 9)
    parts = _fusion.parts(block)
    assert isinstance(parts, _fusion.Parts), parts
    with torch.no_grad():
        out = ops.depthwise_separable_conv2d(x, *parts.inference(), getattr(block, "residual", False))
        torch.testing.assert_close(out, block(x))


def hooked(block):
    block.bn1.register_forward_hook(lambda *_: None)
    return block


OTHERS = {
    "activation first": (lambda: DepthwiseSeparableConv(4, 6, 3, between="act-norm"), "bn1 stands where no kernel"),
    "act again": (lambda: nn.Sequential(nn.ReLU(), *DepthwiseSeparableConv(4, 6, 3)), "0 stands where no kernel"),
    "unknown activation": (lambda: DepthwiseSeparableConv(4, 6, 3, act_layer=nn.ELU), "act1 is a ELU"),
    "another norm": (lambda: DepthwiseSeparableConv(4, 6, 3, norm_layer=nn.LayerNorm), "bn1 is a LayerNorm2d"),
    "unequal padding": (lambda: DepthwiseSeparableConv(4, 6, 4, padding="same"), "pad is a ZeroPad2d"),
    "reflected": (lambda: DepthwiseSeparableConv(4, 6, 3, 1, 1, padding_mode="reflect"), "padding_mode='reflect'"),
    "multiplier": (lambda: DepthwiseSeparableConv(4, 6, 3, depth_multiplier=2), "not one depthwise and one plain"),
    "blur": (lambda: DepthwiseSeparableConv(4, 6, 3, 2, anti_alias=True), "blur is a BlurDownsample"),
    "dense": (lambda: DilatedDownsample(4, 6, 3), "not one depthwise and one plain"),
    "hook": (lambda: hooked(DepthwiseSeparableConv(4, 6, 3)), "bn1 has hooks"),
}


@pytest.mark.parametrize(("build", "reason"), OTHERS.values(), ids=OTHERS)
def test_what_no_kernel_computes_is_left_to_the_modules(build, reason):
    assert reason in _fusion.parts(build().eval())


def test_a_block_takes_the_operator_by_itself(gpu, monkeypatch):
    block, asked = DepthwiseSeparableConv(4, 6, 3, device=gpu, dtype=torch.bfloat16).eval(), []
    operator = _separable.fused_separable
    monkeypatch.setattr(_separable, "fused_separable", lambda *a, **named: asked.append(1) or operator(*a, **named))
    x = torch.empty(2, 4, 9, 9, device=gpu, dtype=torch.bfloat16)
    monkeypatch.setattr(_choice, "_TABLE", {})
    assert _fusion.fused(block, x) is None, "nothing was measured"
    with ops.backend("triton"):
        with torch.no_grad():
            assert block(x).shape == (2, 6, 7, 7)
        assert asked == [1]
        assert block(x).requires_grad
        batches = block.bn1.num_batches_tracked
        assert block.train()(x).requires_grad
        assert block.bn1.num_batches_tracked is batches
        assert _fusion.choice(block, x).path == "fused"
    assert asked == [1], "gradients take the training step"


@pytest.mark.parametrize(("training", "drop_path"), [(False, 0.0), (False, 0.5), (True, 0.0), (True, 0.5)])
def test_the_input_is_added_once(monkeypatch, training, drop_path):
    """By the operator, unless a sample may skip the block, which is decided before."""
    x = torch.randn(2, 4, 9, 9)

    def fused(block, x, residual=False):
        return torch.full_like(x, 3.0) + x if residual else torch.full_like(x, 3.0)

    monkeypatch.setattr(_fusion, "fused", fused)
    block = DepthwiseSeparableConv(4, 4, 3, 1, 1, residual=True, drop_path=drop_path).train(training)
    kept = (block(x) - x).amax((1, 2, 3))
    possible = (0.0, 3.0 / (1 - drop_path)) if training and drop_path else (3.0,)
    assert all(any(abs(one - other) < 1e-5 for other in possible) for one in kept.tolist())


def test_a_residual_block_asks_its_operators_to_add_the_input(gpu, monkeypatch):
    monkeypatch.setattr(_choice, "_TABLE", {})
    asked = []
    inference, training = _separable.fused_separable, ops.separable_training
    monkeypatch.setattr(
        _separable, "fused_separable", lambda *a, residual: asked.append(residual) or inference(*a, residual)
    )
    monkeypatch.setattr(ops, "separable_training", lambda *a: asked.append(a[-1]) or training(*a))
    x = torch.empty(2, 4, 9, 9, device=gpu)
    for drop_path, expected in ((0.0, [True, True]), (0.5, [True, False])):
        block = DepthwiseSeparableConv(4, 4, 3, 1, 1, residual=True, drop_path=drop_path, device=gpu)
        with ops.backend("triton"):
            with torch.no_grad():
                assert block.eval()(x).shape == x.shape
            assert block.train()(x).shape == x.shape
        assert asked == expected
        asked.clear()
    with ops.backend("triton"), torch.no_grad():
        assert _fusion.fused(block.eval(), x[0], residual=True) is None, "an image without a batch"
    block.conv_dw.stride = (2, 2)
    with ops.backend("triton"), torch.no_grad():
        assert _fusion.fused(block.eval(), x, residual=True) is None


@pytest.mark.usefixtures("operator_everywhere")
def test_the_sum_lies_channels_last_under_autocast_too():
    given = arguments(o=4)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found = ops.depthwise_separable_conv2d(*given, padding=1, residual=True)
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_a_residual_of_an_image_without_a_batch_and_of_a_trace():
    x, depthwise, pointwise, *_ = arguments(o=4)

    def run(x):
        return ops.depthwise_separable_conv2d(x, depthwise, pointwise, padding=1, residual=True)

    torch.testing.assert_close(run(x[0]), run(x)[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # A size that a trace takes down as if it could change.
        warnings.filterwarnings("error", category=torch.jit.TracerWarning)
        torch.testing.assert_close(torch.jit.trace(run, (x,))(x + 1), run(x + 1))


def test_inference_never_takes_the_kernels_of_training(gpu, monkeypatch):
    case = "separable 16 to 16 bfloat16 3x3 stride 1x1 undilated channels_last {}"
    table = {case.format("training"): {"graph": 1}, case.format("inference"): {"graph": None}}
    monkeypatch.setattr(_choice, "_TABLE", {"9.0": table})
    block = DepthwiseSeparableConv(16, 16, 3, padding=1, device=gpu, dtype=torch.bfloat16).eval()
    x = torch.empty(2, 16, 16, 16, device=gpu, dtype=torch.bfloat16, memory_format=torch.channels_last)
    with ops.backend("graph"):
        with torch.no_grad():
            assert block.fusion(x).path != "fused"
            assert _fusion.fused(block, x) is None
        assert block.fusion(x).path == "fused"
        assert _fusion.fused(block, x) is not None


@pytest.mark.usefixtures("operator_everywhere")
def test_the_parts_of_a_block_are_read_while_it_is_compiled():
    block = norm_with_statistics(DepthwiseSeparableConv(4, 6, 3, act_layer=nn.GELU))

    def run(x):
        parts = _fusion.parts(block)
        assert not isinstance(parts, str)
        return ops.depthwise_separable_conv2d(x, *parts.inference())

    with torch.no_grad():
        x = torch.randn(2, 4, 9, 9)
        out = torch.compile(run, fullgraph=True, dynamic=True, backend="aot_eager")(x)
        torch.testing.assert_close(out, block(x))


def test_explain_tells_why_a_block_is_not_fused(gpu):
    try:
        nn.Conv2d(2, 2, 1, device=gpu)(torch.empty(1, 2, 2, 2, device=gpu))
    except RuntimeError as error:
        pytest.skip(f"torch {torch.__version__} has no fake CUDA convolution without a driver: {error}")
    x = torch.empty(2, 8, 12, 12, device=gpu)
    blocks = nn.Sequential(
        DepthwiseSeparableConv(8, 8, 3, device=gpu), DepthwiseSeparableConv(8, 8, 3, act_layer=nn.ELU, device=gpu)
    )
    with ops.backend("triton"):
        assert ops.explain(blocks, x) == {
            "0.conv_dw": ("fused", 'the backend is set to "triton"'),
            "1.conv_dw": (
                "triton",
                'the backend is set to "triton"; not fused: act1 is a ELU, which no kernel computes',
            ),
        }
    with ops.backend("torch"):
        assert ops.explain(blocks, x)["0.conv_dw"] == ("torch", 'the backend is set to "torch"')
