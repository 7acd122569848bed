"""What only a GPU can show of whole blocks, in inference and in training. `pytest -m gpu tests/ops` runs it; without a
GPU the same tests run small on the CPU, around PyTorch's kernels, as those of test_gpu.py do.
"""

import contextlib
import copy

import pytest
import torch
from torch import library, nn

from convblocks import ConvNormAct, DepthwiseSeparableConv, DilatedDownsample, ops
from convblocks.layers import _fusion
from convblocks.ops import Stage, _training
from tests.ops.separable_worker import Block, stage
from tests.ops.test_gpu import INPUTS, relative
from tests.ops.test_gpu import machine as machine
from tests.ops.test_gpu import poisoned as poisoned
from tests.ops.test_gpu_networks import settled

# Of one rounding to the dtype, and of the products of TF32, which PyTorch need not take where it is allowed to.
FLOOR = {torch.float32: 1.5e-3, torch.float16: 4e-4, torch.bfloat16: 3e-3}
# Where a rounded value crosses the bend of an activation, its gradient is another one.
BENT = {"relu", "relu6", "hardswish"}

CASES = {
    "64 to 64": Block((3, 64, 32, 32), 64),
    "64 to 128, dilated": Block((2, 64, 19, 23), 128, padding=(2, 2), dilation=(2, 2), acts=("silu", "relu6")),
    "128 to 64, far dilated": Block((2, 128, 21, 20), 64, padding=(8, 8), dilation=(8, 8), acts=("gelu", "gelu")),
    "100 to 60, valid": Block((2, 100, 14, 17), 60, padding=(0, 0), dilation=(2, 3), acts=("hardswish", "silu")),
    "32 to 250, stride 2": Block((2, 32, 28, 28), 250, stride=(2, 2), acts=("gelu_tanh", "relu")),
    "20 to 24, stride and dilation": Block((2, 20, 23, 19), 24, stride=(2, 2), padding=(2, 2), dilation=(2, 2)),
    "48 to 48, 5 x 5": Block((3, 48, 20, 21), 48, (5, 5), padding=(2, 2), acts=("relu", "")),
    "17 to 3, any kernel": Block((2, 17, 21, 20), 3, (4, 5), (2, 1), (3, 2), (1, 2), acts=("silu", "silu")),
    "16 to 32, contiguous": Block((4, 16, 17, 9), 32, acts=("relu", "hardswish"), layout="contiguous_format"),
    "64 to 64, residual": Block((3, 64, 32, 32), 64, acts=("relu", ""), residual=True),
    "60 to 60, residual, far dilated": Block(
        (2, 60, 21, 20), 60, padding=(8, 8), dilation=(8, 8), acts=("silu", "silu"), residual=True
    ),
    "48 to 48, residual, 5 x 5": Block((3, 48, 20, 21), 48, (5, 5), padding=(2, 2), residual=True),
    "20 to 20, residual, any kernel": Block((2, 20, 21, 20), 20, (3, 7), padding=(1, 3), residual=True),
    "48 to 40, one image": Block((1, 48, 7, 7), 40, acts=("relu6", "gelu_tanh")),
}


@pytest.fixture(autouse=True)
def _tf32(machine, monkeypatch):
    """Without TF32 the kernels take no float32."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)


@pytest.fixture(params=[torch.float32, torch.float16, torch.bfloat16], ids=str)
def dtype(request, machine):
    if not machine.cuda and request.param == torch.float16:
        pytest.skip("PyTorch's float16 is slow on the CPU, and bfloat16 shows a slip of the pen as well")
    return request.param


def made(machine, case, dtype, norms=None):
    """The arguments of `ops.depthwise_separable_conv2d`; with `norms`, of those parts instead of the case's."""
    c, o = case.shape[1], case.out
    x = torch.randn(case.shape).to(dtype).to(machine.device, memory_format=getattr(torch, case.layout))
    weights = torch.randn(c, 1, *case.kernel) / 3, torch.randn(o, c, 1, 1) / c**0.5
    parts = case.parts if norms is None else (norms, norms)
    stages = [
        moved(stage(n, p, act, dtype), machine.device) for n, p, act in zip((c, o), parts, case.acts, strict=True)
    ]
    where = case.stride, case.padding, case.dilation, case.residual
    return [x, *(w.to(machine.device, dtype) for w in weights), *stages, *where]


def moved(one, *to):
    return Stage.of([None if t is None else t.to(*to) for t in one.tensors()], one.eps, one.act)


def double(given):
    return [*(t.double() for t in given[:3]), *(moved(s, torch.float64) for s in given[3:5]), *given[5:]]


def infer(given):
    with torch.no_grad():
        return ops.depthwise_separable_conv2d(*given)


def step(given, dout, batch=(True, True), compute=None):
    """Output, gradients and statistics of a training step; of PyTorch's operations with `_training._composed`."""
    x, depthwise, pointwise, first, second, *where = given
    affine = first.weight, first.shift, second.weight, second.shift
    leaves = [t.detach().requires_grad_() for t in (x, depthwise, pointwise, *affine)]
    if compute is None:
        one, two = first._replace(weight=leaves[3], shift=leaves[4]), second._replace(weight=leaves[5], shift=leaves[6])
        out, *stats = ops.separable_training(*leaves[:3], one, two, batch, *where)
    else:
        known = first.mean, first.variance, second.mean, second.variance
        out, stats = compute(*leaves, *known, batch, [first.eps, second.eps], f"{first.act},{second.act}", *where), []
    return [out.detach(), *torch.autograd.grad(out, leaves, dout), *stats]


RESULTS = ("out", "dx", "d_depthwise", "d_pointwise", "d_weight1", "d_shift1", "d_weight2", "d_shift2")


def like_output(given):
    return torch.randn_like(infer(given))


def equal(found, expected):
    return all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_errors_in_inference_are_no_larger_than_torchs(machine, poisoned, case, dtype):
    given = made(machine, case, dtype)
    with torch.no_grad():
        assert ops.separable_choice(*given[:8]).path == "fused"
    ours, again = infer(given), infer(given)
    torch.use_deterministic_algorithms(False)
    assert torch.equal(ours, again), "differs from run to run"
    assert ours.dtype == dtype
    assert ours.is_contiguous(memory_format=torch.channels_last)
    with ops.backend("torch"):
        theirs = infer(given)
    exact = infer(double(given))
    # Without a GPU it is PyTorch's own kernel either way, whose errors at another layout are others.
    floor = FLOOR[dtype] if machine.cuda else 1e-2
    assert relative(ours, exact) <= max(floor, 1.5 * relative(theirs, exact))


TRAINED = {name: (case, (True, True)) for name, case in CASES.items()}
TRAINED |= {
    "the first frozen": (CASES["64 to 128, dilated"], (False, True)),
    "the second frozen": (CASES["17 to 3, any kernel"], (True, False)),
    "both frozen": (CASES["64 to 128, dilated"], (False, False)),
}


@pytest.mark.parametrize(("case", "batch"), TRAINED.values(), ids=TRAINED)
def test_errors_in_training_are_no_larger_than_torchs(machine, poisoned, case, batch, dtype):
    given = made(machine, case, dtype, "norm affine")
    assert ops.training_choice(*given[:8]).path == "fused"
    dout = like_output(given)
    ours, again = step(given, dout, batch), step(given, dout, batch)
    torch.use_deterministic_algorithms(False)
    assert equal(ours, again), "differs from run to run"
    theirs, exact = (step(of, dout.to(of[0].dtype), batch, _training._composed) for of in (given, double(given)))
    bent = not BENT.isdisjoint(case.acts)
    for name, mine, other, true in zip(RESULTS, ours[:8], theirs, exact, strict=True):
        # Sums of many products: the floors of TF32 and of rounding twice on the way.
        floor = max(2 * FLOOR[dtype], 8e-2 if bent and name != "out" else 0.0, 0.0 if machine.cuda else 2e-2)
        error, allowed = relative(mine, true), max(floor, 1.5 * relative(other, true))
        assert error <= allowed, f"{name} is off by {error:.1e}, more than {allowed:.1e}"


def test_float32_without_tf32_takes_single_operations(machine, monkeypatch):
    given = made(machine, CASES["64 to 64"], torch.float32)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    with torch.no_grad():
        assert ops.separable_choice(*given[:8]).path == "triton"
    assert "TF32" in ops.training_choice(*given[:8]).reason
    assert relative(infer(given), infer(double(given))) < 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("view", INPUTS.values(), ids=INPUTS.keys())
def test_inputs_of_any_strides(machine, poisoned, view, dtype):
    given = made(machine, Block((2, 16, 9, 9), 16, acts=("silu", "silu")), dtype, "norm affine")
    given[0] = view(given[0].contiguous())
    dout = view(torch.randn(2, 16, 9, 9, device=machine.device).to(dtype))
    assert dout.shape == given[0].shape
    found, trained = infer(given), step(given, dout)
    torch.use_deterministic_algorithms(False)
    # The same numbers in another order in memory are the same to the bit.
    given[0], dout = (t.contiguous(memory_format=torch.channels_last) for t in (given[0], dout))
    if machine.cuda:
        assert torch.equal(found, infer(given))
        assert equal(trained, step(given, dout))
    assert relative(found, infer(double(given))) < (3e-3 if dtype == torch.float32 else 2e-2)
    assert all(t.isfinite().all() for t in trained)


@pytest.mark.parametrize("layout", ["channels_last", "contiguous_format"])
@pytest.mark.parametrize("size", [9, 1])
def test_a_batch_of_no_images(machine, size, layout):
    given = made(machine, Block((0, 16, size, size), 24, layout=layout), torch.bfloat16)
    assert infer(given).shape == (0, 24, size, size)
    assert "empty" in ops.training_choice(*given[:8]).reason
    block = DepthwiseSeparableConv(16, 24, 3, padding=1, device=machine.device, dtype=torch.bfloat16).eval()
    x = given[0].requires_grad_()
    block(x).sum().backward()
    assert x.grad is not None
    assert x.grad.shape == x.shape


@pytest.mark.parametrize("training", [False, True])
def test_a_cuda_graph_replays(machine, training):
    given = made(machine, Block((8, 32, 16, 16), 48), torch.bfloat16, "norm affine")
    dout = like_output(given)

    def call():
        return step(given, dout) if training else [infer(given)]

    replay, captured = machine.captured(call)
    for _ in range(2):
        given[0].copy_(torch.randn_like(given[0]))
        replay()
        machine.synchronize()
        assert equal(captured, call())


@pytest.mark.parametrize("training", [False, True])
def test_it_runs_on_the_current_stream(machine, training):
    shape = (64, 64, 64, 64) if machine.cuda else (2, 8, 6, 6)
    given = made(machine, Block(shape, shape[1]), torch.bfloat16, "norm affine")
    dout = like_output(given)

    def call(of, dy):
        return step(of, dy) if training else [infer(of)]

    expected = call(given, dout)
    machine.synchronize()
    stream = machine.stream()
    with stream:
        stream.busy()
        late = [torch.zeros_like(t).copy_(t) for t in given[:3]]
        found = call([*late, *given[3:]], torch.zeros_like(dout).copy_(dout))
    stream.synchronize()
    assert equal(found, expected)


@pytest.mark.parametrize("training", [False, True])
def test_two_streams_at_once(machine, training):
    several = [made(machine, Block((8, 32, 16, 16), 32), torch.bfloat16, "norm affine") for _ in range(4)]
    douts = [like_output(given) for given in several]

    def call(given, dout):
        return step(given, dout) if training else [infer(given)]

    expected = [call(*both) for both in zip(several, douts, strict=True)]
    machine.synchronize()
    streams, found = [machine.stream() for _ in several], []
    for stream, given, dout in zip(streams, several, douts, strict=True):
        with stream:
            found.append([call(given, dout) for _ in range(10 if machine.cuda else 2)])
    for stream in streams:
        stream.synchronize()
    for runs, true in zip(found, expected, strict=True):
        assert all(equal(run, true) for run in runs)


def test_bits_do_not_depend_on_what_ran_before(machine):
    given = made(machine, Block((16, 48, 20, 18), 40, padding=(2, 2), dilation=(2, 2)), torch.bfloat16, "norm affine")
    dout = like_output(given)
    first = [infer(given), *step(given, dout)]
    for k in range(5):
        # Other memory, other caches, other launches in between.
        infer(made(machine, Block((2**k, 5, 25, 7), 9), torch.float16))
        assert equal([infer(given), *step(given, dout)], first)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("training", [False, True])
def test_more_than_two_to_the_31_elements(machine, stride, training):
    shape = (2**31 // (64 * 256 * 256) + 2, 64, 256, 256) if machine.cuda else (5, 8, 6, 6)
    needed = 80 if training else 24
    if machine.free_memory() < needed * 2**30:
        pytest.skip(f"needs {needed} GiB of free GPU memory")
    case = Block((1, *shape[1:]), shape[1], stride=(stride, stride), acts=("silu", "silu"))
    given = made(machine, case, torch.bfloat16, "norm affine")
    x = torch.empty(shape, device=machine.device, dtype=torch.bfloat16, memory_format=torch.channels_last).normal_()
    assert x.numel() > 2**31 or not machine.cuda
    whole = [x, *given[1:]]

    def call(of):
        if not training:
            return [infer(of)]
        # With frozen norms no image knows of the others.
        height, width = ((n - 1) // stride + 1 for n in of[0].shape[2:])
        dout = torch.ones(of[0].shape[0], 1, 1, 1, device=machine.device, dtype=torch.bfloat16)
        return step(of, dout.expand(-1, of[2].shape[0], height, width), (False, False))[:2]

    with torch.no_grad():
        assert ops.separable_choice(*whole[:8]).path == "fused"
    found = call(whole)
    for at in (0, shape[0] // 2, shape[0] - 1):
        part = [x[at : at + 1].clone(memory_format=torch.channels_last), *given[1:]]
        alone = call(part)
        assert relative(alone[0], infer(double(part))) < 2e-2
        for one, other in zip(found, alone, strict=True):
            if machine.cuda:
                assert torch.equal(one[at : at + 1], other)
            else:
                torch.testing.assert_close(one[at : at + 1], other, rtol=2e-2, atol=2e-2)


BLOCKS = {
    "MobileNetV1": lambda: DepthwiseSeparableConv(32, 64, 3, padding="same"),
    "MobileNetV2": lambda: DepthwiseSeparableConv(48, 48, 3, padding=1, after="norm", act_layer=nn.SiLU, residual=True),
    "dilated": lambda: DepthwiseSeparableConv(24, 40, 3, padding=4, dilation=4, act_layer=nn.Hardswish),
    "Xception": lambda: DepthwiseSeparableConv(64, 128, 5, 2, 2, act_layer=nn.GELU),
    "downsample": lambda: DilatedDownsample(32, 64, separable=True, padding=2, act_layer=nn.SiLU),
    "downsample, valid": lambda: DilatedDownsample(64, 64, 3, 1, 0, 4, separable=True),
}


@pytest.fixture
def blocks(machine, monkeypatch):
    """Blocks take their operators on the CPU too; what comes back builds one with norms that do something."""
    if not machine.cuda:
        monkeypatch.setattr(_fusion, "fused", as_on_cuda)
    return lambda name: settled(BLOCKS[name]()).to(machine.device, memory_format=torch.channels_last)


def as_on_cuda(block, x, residual=False):
    found = _fusion.parts(block)
    if isinstance(found, str) or _fusion.choice(block, x).path != "fused":
        return None
    if any(found.batch()) or ops.separable_choice(x, *found.inference()).path != "fused":
        return _fusion._train(found, x, residual)
    return ops.depthwise_separable_conv2d(x, *found.inference(), residual)


def outcome(block, x, dy):
    """Output, gradients and running statistics by name; the output alone without `dy`."""
    if dy is None:
        with torch.no_grad():
            return {"y": block(x)}
    x = x.detach().requires_grad_()
    y = block(x)
    names, leaves = zip(("x", x), *block.named_parameters(), strict=True)
    gradients = torch.autograd.grad(y, leaves, dy.to(y.dtype))
    state = {name: buffer for name, buffer in block.named_buffers() if "running" in name}
    return {"y": y.detach(), **dict(zip(names, gradients, strict=True)), **state}


@pytest.mark.parametrize("mode", ["inference", "frozen", "training"])
@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_against_float64(machine, blocks, name, mode, dtype):
    """Two steps, so that the second meets the running statistics of the first."""
    block = blocks(name).train(mode == "training")
    x = torch.randn(6, BLOCKS[name]().in_channels, 24, 20, device=machine.device)
    x = x.to(dtype).to(memory_format=torch.channels_last)
    wide, theirs = copy.deepcopy(block).double(), copy.deepcopy(block)
    with torch.no_grad(), ops.backend("torch"):
        dy = None if mode == "inference" else torch.randn_like(copy.deepcopy(wide)(x.double()))
    # In training the parameters stay float32, as autocast has it.
    if mode == "inference":
        block, theirs = block.to(dtype), theirs.to(dtype)
        cast = contextlib.nullcontext()
    else:
        cast = torch.autocast(machine.device, dtype, enabled=dtype != torch.float32)
    for _ in range(2):
        with cast, torch.set_grad_enabled(mode != "inference"):
            assert _fusion.choice(block, x).path == "fused"
            found = outcome(block, x, dy)
            with ops.backend("torch"):
                other = outcome(theirs, x, dy)
        exact = outcome(wide, x.double(), dy)
        assert found.keys() == exact.keys()
        for key, true in exact.items():
            bent = key not in ("y",) and "running" not in key and mode != "inference"
            floor = max(2 * FLOOR[dtype], 8e-2 if bent else 0.0, 0.0 if machine.cuda else 2e-2)
            error, allowed = relative(found[key], true), max(floor, 1.5 * relative(other[key], true))
            assert error <= allowed, f"{key} is off by {error:.1e}, more than {allowed:.1e}"


@pytest.mark.parametrize("act", [nn.ReLU, nn.SiLU, None])
@pytest.mark.parametrize("channels", [7, 48, 64, 250])
def test_norms_in_training_against_float64(machine, monkeypatch, channels, act, dtype):
    """Two steps: what the second meets is what the first left behind."""
    if not machine.cuda:
        monkeypatch.setattr(_fusion, "_looks_for_norms", lambda x: True)
    block = settled(ConvNormAct(channels, channels, 1, act_layer=act)).to(
        machine.device, memory_format=torch.channels_last
    )
    block.train()
    theirs, wide = copy.deepcopy(block), copy.deepcopy(block).double()
    x = torch.randn(6, channels, 24, 20, device=machine.device).to(dtype).to(memory_format=torch.channels_last)
    dy = torch.randn_like(x, dtype=torch.float64)
    called, operator = [], ops.norm_training
    monkeypatch.setattr(ops, "norm_training", lambda *given: called.append(1) or operator(*given))
    for step in range(2):
        with torch.autocast(machine.device, dtype, enabled=dtype != torch.float32):
            found = outcome(block, x, dy)
            assert len(called) == step + 1
            with ops.backend("torch"):
                other = outcome(theirs, x, dy)
        with ops.backend("torch"):
            exact = outcome(wide, x.double(), dy)
        assert found.keys() == exact.keys()
        for key, true in exact.items():
            floor = max(2 * FLOOR[dtype], 8e-2 if act is nn.ReLU and key != "y" else 0.0, 0.0 if machine.cuda else 2e-2)
            error, allowed = relative(found[key], true), max(floor, 1.5 * relative(other[key], true))
            assert error <= allowed, f"{key} is off by {error:.1e}, more than {allowed:.1e}"


@pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores")
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_a_compiled_block_agrees(machine, blocks, training, dynamic):
    torch.compiler.reset()
    block = blocks("dilated").train(training)
    plain = copy.deepcopy(block)
    # Inductor is a matter of the GPU; without one, tracing alone shows a mistake.
    compiled = torch.compile(block, fullgraph=True, dynamic=dynamic, backend="inductor" if machine.cuda else "eager")
    for size in (16, 24):
        x = torch.randn(4, 24, size, size, device=machine.device).to(memory_format=torch.channels_last)
        with torch.autocast(machine.device, torch.bfloat16), torch.set_grad_enabled(training):
            ours, theirs = compiled(x), plain(x)
        torch.testing.assert_close(ours, theirs, rtol=5e-2, atol=5e-2)
        if training:
            for y in (ours, theirs):
                y.float().square().sum().backward()
    for (name, one), (_, other) in zip(block.named_buffers(), plain.named_buffers(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-2, msg=name)
    for (name, one), other in zip(block.named_parameters(), plain.parameters(), strict=True):
        if training:
            assert relative(one.grad, other.grad.double()) < 5e-2, name


# opcheck itself looks at the gradients of tensors that are no leaves. On the CPU test_training.py does it.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.gpu
@pytest.mark.parametrize("machine", ["cuda"], indirect=True)
def test_the_operators_keep_torchs_rules(machine):
    given = made(machine, Block((2, 16, 7, 6), 24), torch.float32, "norm affine")
    x, depthwise, pointwise, first, second, *where = given
    rest = [first.eps, second.eps], f"{first.act},{second.act}", *map(list, where)
    tensors = (x, depthwise, pointwise)
    library.opcheck(
        torch.ops.convblocks.depthwise_separable_conv2d.default, (*tensors, first.tensors(), second.tensors(), *rest)
    )
    affine = first.weight, first.shift, second.weight, second.shift
    leaves = [t.requires_grad_() for t in (*tensors, *affine)]
    known = first.mean, first.variance, second.mean, second.variance
    library.opcheck(torch.ops.convblocks.separable_training.default, (*leaves, *known, [True, False], *rest))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_small_cases_for_the_sanitizer(machine, dtype):
    """What `compute-sanitizer pytest -m gpu tests/ops/test_gpu_fused.py -k sanitizer` watches: every kernel's edges."""
    for name in ("100 to 60, valid", "20 to 24, stride and dilation", "17 to 3, any kernel", "48 to 40, one image"):
        given = made(machine, CASES[name], dtype, "norm affine")
        infer(given)
        step(given, like_output(given))
    machine.synchronize()
