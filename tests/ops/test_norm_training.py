"""A norm in training and the activation behind it without a GPU: gradients, running statistics, and what torch does
with the operators; the kernels in Triton's interpreter."""

import copy

import pytest
import torch
from torch import library, nn

from convblocks import ConvNormAct, DilatedDownsample, JointDilatedDepthwise, ops
from convblocks.layers import _fusion
from convblocks.ops import Stage, _choice, _norm_training, _quick
from convblocks.ops._stage import ACTIVATIONS
from tests.ops.separable_worker import norm_errors
from tests.ops.test_separable_kernels import processes as processes
from tests.ops.test_training_kernels import BENT, FLOOR


@pytest.fixture
def everywhere(monkeypatch):
    """Norms take the operator on the CPU too."""
    monkeypatch.setattr(_choice, "unfit_device", lambda device: "")
    monkeypatch.setattr(_fusion, "_looks_for_norms", lambda x: True)
    with ops.backend("triton"):
        yield


def arguments(dtype=torch.float64):
    leaves = [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in ((2, 3, 4, 5), (3,), (3,))]
    return leaves, [torch.randn(3, dtype=dtype), torch.rand(3, dtype=dtype) + 0.5]


@pytest.mark.parametrize("act", ACTIVATIONS)
@pytest.mark.parametrize("batch", [True, False])
def test_gradients(act, batch):
    leaves, known = arguments()

    def run(y, weight, shift):
        return ops.norm_training(y, Stage(None, *known, weight, shift, 1e-3, act), batch)[0]

    assert torch.autograd.gradcheck(run, leaves)
    if act == "silu":
        assert torch.autograd.gradgradcheck(run, leaves)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("affine", [True, False])
def test_the_operators_pass_torchs_own_checks(affine):
    leaves, known = arguments(torch.float32)
    norm = leaves[1:] if affine else [None, None]
    operators = torch.ops.convblocks
    library.opcheck(operators.norm_training.default, (leaves[0], *norm, *known, True, 1e-5, "silu"))
    out, stats = operators.norm_training(leaves[0], *norm, *known, True, 1e-5, "silu")
    detached = [None if t is None else t.detach() for t in norm]
    given = torch.randn_like(out), leaves[0].detach(), stats.detach(), *detached
    library.opcheck(operators.norm_training_backward.default, (*given, True, 1e-5, "silu"))


BLOCKS = {
    "norm and ReLU": lambda: ConvNormAct(4, 6, 3, padding=1),
    "norm alone": lambda: ConvNormAct(4, 6, 3, act_layer=None),
    "before the convolution": lambda: ConvNormAct(4, 6, 3, order="norm-act-conv", act_layer=nn.SiLU),
    "an activation of another kind": lambda: ConvNormAct(4, 6, 3, act_layer=nn.ELU),
    "with dropout between": lambda: ConvNormAct(4, 6, 3, order="conv-norm-drop-act", dropout=0.0),
    "cumulative": lambda: ConvNormAct(4, 6, 3, norm_layer=lambda c: nn.BatchNorm2d(c, momentum=None)),
    "another momentum": lambda: ConvNormAct(4, 6, 3, norm_layer=lambda c: nn.BatchNorm2d(c, momentum=0.7, eps=0.1)),
    "no statistics": lambda: ConvNormAct(4, 6, 3, norm_layer=lambda c: nn.BatchNorm2d(c, track_running_stats=False)),
    "no affine": lambda: ConvNormAct(4, 6, 3, norm_layer=lambda c: nn.BatchNorm2d(c, affine=False)),
    "downsampling": lambda: DilatedDownsample(4, 6, padding=2),
    "joint": lambda: JointDilatedDepthwise(4, 6, padding=2, depthwise_padding=1),
}


@pytest.mark.usefixtures("everywhere")
@pytest.mark.parametrize("build", BLOCKS.values(), ids=BLOCKS)
def test_a_training_step_is_that_of_the_modules(build):
    """Two steps: outputs, all gradients, and the buffers that the norms leave behind."""
    block = build().train().to(memory_format=torch.channels_last)
    modules = copy.deepcopy(block)
    norms = [part for part in block.modules() if isinstance(part, nn.BatchNorm2d)]
    for norm in norms:
        if norm.affine:
            nn.init.normal_(norm.weight)
            nn.init.normal_(norm.bias)
    modules.load_state_dict(block.state_dict())
    called = 0
    operator = ops.norm_training

    def count(*given):
        nonlocal called
        called += 1
        return operator(*given)

    for _ in range(2):
        inputs = [torch.randn(3, 4, 8, 7).to(memory_format=torch.channels_last) for _ in range(2)]
        inputs[1] = inputs[0].clone()
        for x in inputs:
            x.requires_grad_()
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(ops, "norm_training", count)
            ours = block(inputs[0])
        with ops.backend("torch"):
            theirs = modules(inputs[1])
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
        dout = torch.randn_like(ours)
        ours.backward(dout)
        theirs.backward(dout)
        torch.testing.assert_close(inputs[0].grad, inputs[1].grad, rtol=1e-3, atol=1e-4)
    assert called == 2 * len(norms)
    torch.testing.assert_close(dict(block.state_dict()), dict(modules.state_dict()), rtol=1e-4, atol=1e-5)
    for (name, one), other in zip(block.named_parameters(), modules.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.usefixtures("everywhere")
def test_modules_that_somebody_watches_are_called():
    block = ConvNormAct(4, 6, 3).train().to(memory_format=torch.channels_last)
    x = torch.randn(2, 4, 8, 8).to(memory_format=torch.channels_last)
    seen = []
    handle = block.act.register_forward_hook(lambda *_: seen.append("act"))
    block(x)
    assert seen == ["act"]
    handle.remove()
    block.bn.register_forward_hook(lambda *_: seen.append("norm"))
    block(x)
    assert seen == ["act", "norm"]
    assert block.bn.num_batches_tracked == 2


@pytest.mark.usefixtures("everywhere")
def test_the_choice_names_what_is_in_the_way():
    stage = Stage(None, torch.zeros(4), torch.ones(4), act="relu")
    y = torch.randn(2, 4, 3, 3).to(memory_format=torch.channels_last)
    assert ops.norm_choice(y, stage).path == "fused"
    assert "channels_last" in ops.norm_choice(y.contiguous(), stage).reason
    assert "none of float32" in ops.norm_choice(y.double(), stage).reason
    assert "empty" in ops.norm_choice(y[:0], stage).reason
    assert "one value a channel" in ops.norm_choice(y[:1, :, :1, :1], stage).reason
    assert "not of its channels" in ops.norm_choice(y, Stage(None, torch.zeros(3), torch.ones(3))).reason
    wide = torch.zeros(2, 513, 1, 1).to(memory_format=torch.channels_last)
    assert "256 channels" in ops.norm_choice(wide, Stage()).reason
    assert "512 channels" in ops.norm_choice(wide.half(), Stage()).reason
    with ops.backend("torch"):
        assert ops.norm_choice(y, stage).path == "torch"


def test_blocks_ask_where_a_norm_was_decided_for_a_kernel(monkeypatch):
    case = "norm 64 bfloat16 act channels_last training"
    for table, expected in (
        ({}, False),
        ({"9.0": {"bfloat16 3x3": {"auto": 1, "graph": 1}}}, False),
        ({"9.0": {case: {"auto": None, "graph": 8}}}, True),
    ):
        monkeypatch.setattr(_choice, "_TABLE", table)
        with ops.backend("auto"):
            assert not _quick.norms_at_work()
        for _ in range(2):
            with ops.backend("graph"):
                assert _quick.norms_at_work() == expected
        with ops.backend("triton"):
            assert _quick.norms_at_work()
        with ops.backend("torch"):
            assert not _quick.norms_at_work()


def test_cases_are_told_apart():
    y = torch.zeros(1, 48, 2, 2)
    assert _norm_training.norm_case(y, "relu") == "norm 64 float32 act channels_last training"
    assert _norm_training.norm_case(y.bfloat16(), "") == "norm 64 bfloat16 alone channels_last training"
    assert _norm_training.norm_case(y[:, :7].half(), "") == "norm 16 float16 alone channels_last narrow training"


@pytest.mark.usefixtures("everywhere")
def test_a_batch_of_one_value_is_refused_as_by_torch():
    block = ConvNormAct(4, 6, 3).train()
    with pytest.raises(ValueError, match="more than 1 value"):
        block(torch.randn(1, 4, 3, 3))


KERNELS = {
    **{f"{act or 'identity'}": ((2, 16, 7, 6), "bfloat16", act, True, True) for act in ACTIVATIONS},
    "float32": ((2, 16, 7, 6), "float32", "relu", True, True),
    "float16, odd channels": ((3, 11, 5, 6), "float16", "silu", True, True),
    "frozen": ((2, 16, 7, 6), "float32", "silu", False, True),
    "no weight, no shift": ((2, 24, 7, 6), "float32", "silu", True, False),
    "many channels": ((2, 300, 5, 4), "bfloat16", "silu", True, True),
    "several tiles a program": ((4, 32, 24, 20), "float16", "silu", True, True),
}


@pytest.mark.parametrize(("shape", "dtype", "act", "batch", "affine"), KERNELS.values(), ids=KERNELS)
def test_the_kernels_agree_with_float64(processes, shape, dtype, act, batch, affine):
    found = processes.submit(norm_errors, shape, dtype, act, batch, affine).result()
    for name, (ours, theirs) in found.items():
        floor = BENT.get(act, 0.0) if name.startswith("d") else 0.0
        limit = max(1.5 * theirs, FLOOR[dtype], floor)
        assert ours <= limit, f"{name} is off by {ours:.1e}, PyTorch by {theirs:.1e}"


@pytest.mark.parametrize(("offset", "known"), [(1.5, 1e4), (1.5, 1e20), (3e3, 0.0)])
def test_the_statistics_of_a_batch_do_not_depend_on_the_running_ones(processes, offset, known):
    found = processes.submit(norm_errors, (2, 16, 7, 6), "float32", "silu", True, True, offset, known).result()
    for name, (ours, theirs) in found.items():
        limit = max(1.5 * theirs, 1e-6 if name == "mean" else 1e-3)
        assert ours <= limit, f"{name} is off by {ours:.1e}, PyTorch by {theirs:.1e}"


@pytest.mark.usefixtures("everywhere")
def test_global_hooks_of_any_kind_are_called(monkeypatch):
    monkeypatch.setattr(_fusion, "_looks_for_norms", lambda x: not _fusion._watched_everywhere())
    block = ConvNormAct(4, 6, 3).train().to(memory_format=torch.channels_last)
    x, seen = torch.randn(2, 4, 8, 8).to(memory_format=torch.channels_last).requires_grad_(), []
    handle = nn.modules.module.register_module_full_backward_hook(lambda part, *_: seen.append(type(part).__name__))
    try:
        block(x).sum().backward()
    finally:
        handle.remove()
    assert {"ReLU", "BatchNorm2d"} <= set(seen)
