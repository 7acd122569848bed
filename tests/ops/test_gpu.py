"""What only a GPU can show of the operators. `pytest -m gpu tests/ops` runs it; without a GPU the same tests run small
on the CPU, around PyTorch's kernels, so that what breaks on a GPU is the kernels and not the test.
"""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import library

from convblocks import DepthwiseSeparableConv, ops
from convblocks.ops import _choice
from tests.ops.machine import Machine

CASES = [
    # shape, kernel, stride, padding, dilation
    *(((3, c, h, w), (3, 3), 1, d, d) for c, (h, w) in ((64, (32, 32)), (24, (17, 9)), (7, (8, 5))) for d in (1, 2, 8)),
    ((2, 64, 19, 23), (3, 3), 1, 0, (2, 3)),
    ((2, 40, 19, 23), (3, 3), (2, 1), 1, 1),
    ((2, 48, 23, 18), (3, 3), 2, 1, 1),
    ((2, 24, 21, 20), (3, 3), 2, 2, 2),
    # Maps of at most 4 x 4; two units of one residue.
    ((9, 24, 4, 3), (3, 3), 1, 1, 1),
    ((2, 64, 31, 25), (3, 3), 1, 8, 8),
    ((2, 20, 30, 31), (3, 3), 1, (2, 1), (2, 4)),
    ((2, 64, 14, 14), (5, 5), 2, 2, 1),
    ((3, 48, 20, 21), (5, 5), 1, 2, 1),
    ((2, 24, 17, 9), (5, 5), 1, (4, 0), (2, 1)),
    ((2, 32, 21, 20), (7, 4), 1, (3, 1), (1, 2)),
    ((1, 256, 7, 7), (3, 3), 1, 1, 1),
    ((5, 1, 9, 9), (2, 2), 1, 1, 1),
]
LAYOUTS = [torch.channels_last, torch.contiguous_format]


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def machine(request, monkeypatch):
    if request.param == "cuda":
        pytest.importorskip("triton", reason="triton is not installed")
    else:
        monkeypatch.setattr(_choice, "unfit_device", lambda device: "")
    # float32 is meant, not TF32.
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    with ops.backend("triton"):
        yield Machine(request.param)


@pytest.fixture
def poisoned():
    """Unwritten memory reads as NaN."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def relative(value, true):
    return ((value.double() - true).norm() / true.norm().clamp_min(1e-30)).item()


def run(convolve, tensors, dy):
    # Not cloned: a clone would be contiguous, whatever the strides.
    leaves = [t.detach().requires_grad_() for t in tensors]
    y = convolve(*leaves)
    return [y.detach(), *torch.autograd.grad(y, leaves, dy)]


def data(machine, shape, kernel=(3, 3), dtype=torch.float32, layout=torch.channels_last):
    x = torch.randn(shape, device=machine.device).to(dtype, memory_format=layout)
    weight = torch.randn(shape[1], 1, *kernel, device=machine.device).to(dtype)
    return [x, weight, torch.randn(shape[1], device=machine.device).to(dtype)]


@pytest.mark.parametrize("layout", LAYOUTS, ids=["channels_last", "contiguous"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("shape", "kernel", "stride", "padding", "dilation"), CASES)
def test_errors_are_no_larger_than_torchs(machine, poisoned, shape, kernel, stride, padding, dilation, dtype, layout):
    if not machine.cuda and dtype == torch.bfloat16 and dilation != 1 and shape[-1] >= 30:
        pytest.skip("PyTorch's own gradient is unwritten memory there: tests/layers/test_grouped.py")
    tensors, where = data(machine, shape, kernel, dtype, layout), (stride, padding, dilation)
    assert ops.choice(*tensors, *where).path == "triton"
    dy = torch.randn_like(ops.depthwise_conv2d(*tensors, *where))
    ours = run(lambda *t: ops.depthwise_conv2d(*t, *where), tensors, dy)
    again = run(lambda *t: ops.depthwise_conv2d(*t, *where), tensors, dy)
    torch.use_deterministic_algorithms(False)
    theirs = run(lambda *t: F.conv2d(*t, *where, shape[1]), tensors, dy)
    exact = run(lambda *t: F.conv2d(*t, *where, shape[1]), [t.double() for t in tensors], dy.double())
    floor = {torch.float32: 5e-7, torch.float16: 2e-4, torch.bfloat16: 2e-3}[dtype]
    # Without a GPU it is PyTorch's own kernel either way, whose errors at another layout are others.
    floor = floor if machine.cuda else 1e-2
    for name, mine, second, other, true in zip(("y", "dx", "dw", "db"), ours, again, theirs, exact, strict=True):
        assert torch.equal(mine, second), f"{name} differs from run to run"
        assert relative(mine, true) <= max(floor, 1.5 * relative(other, true)), name


INPUTS = {
    "expanded over the batch": lambda x: x[:1].expand(4, -1, -1, -1),
    "expanded over the channels": lambda x: x[:, :1].expand(-1, 16, -1, -1),
    "expanded over an axis": lambda x: x[..., :1].expand(-1, -1, -1, 9),
    "every second column": lambda x: torch.stack((x, x), -1).flatten(-2)[..., ::2],
    "transposed": lambda x: x.transpose(2, 3),
    "a slice of the channels": lambda x: torch.cat((x, x), 1)[:, 8:24],
    "channels_last, a slice of the channels": lambda x: torch.cat((x, x), 1).to(memory_format=torch.channels_last)[
        :, 8:24
    ],
    "channels_last, every second pixel": lambda x: x.to(memory_format=torch.channels_last)[:, :, ::2, 1::2],
    "channels_last, cut": lambda x: x.to(memory_format=torch.channels_last)[:, :, 1:, 2:],
    "one storage offset off": lambda x: torch.cat((x.flatten(), x.flatten()))[1 : 1 + x.numel()].view_as(x),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("view", INPUTS.values(), ids=INPUTS.keys())
def test_inputs_of_any_strides(machine, poisoned, view, dtype):
    base, weight, bias = data(machine, (2, 16, 9, 9), dtype=dtype)
    x = view(base.contiguous())
    dy = view(torch.randn_like(base).contiguous())
    found = run(lambda *t: ops.depthwise_conv2d(*t, 1, 1), (x, weight, bias), dy)
    torch.use_deterministic_algorithms(False)
    leaves = [t.detach().double().requires_grad_() for t in (x, weight, bias)]
    y = F.conv2d(*leaves, 1, 1, groups=16)
    exact = [y, *torch.autograd.grad(y, leaves, dy.double())]
    for name, mine, true in zip(("y", "dx", "dw", "db"), found, exact, strict=True):
        assert relative(mine, true) < (1e-6 if dtype == torch.float32 else 6e-3), name
    # What is given back is written by a kernel: never a view of what came in.
    assert found[0].data_ptr() != x.data_ptr()


@pytest.mark.parametrize("layout", LAYOUTS, ids=["channels_last", "contiguous"])
@pytest.mark.parametrize("shape", [(0, 16, 9, 9), (0, 16, 1, 1)])
def test_a_batch_of_no_images(machine, shape, layout):
    tensors = data(machine, shape, layout=layout)
    out = ops.depthwise_conv2d(*tensors, 1, 1)
    found = run(lambda *t: ops.depthwise_conv2d(*t, 1, 1), tensors, torch.empty_like(out))
    assert found[0].shape == shape
    assert found[1].shape == shape
    assert all(not gradient.any() for gradient in found[2:])


def test_a_cuda_graph_replays_forward_and_backward(machine):
    x, weight, bias = (t.requires_grad_() for t in data(machine, (8, 32, 16, 16), dtype=torch.bfloat16))

    def step():
        out = ops.depthwise_conv2d(x, weight, bias, 1, 1)
        return out, *torch.autograd.grad(out, (x, weight, bias), torch.ones_like(out))

    replay, captured = machine.captured(step)
    for _ in range(2):
        with torch.no_grad():
            x.copy_(torch.randn_like(x))
        replay()
        machine.synchronize()
        for one, other in zip(captured, step(), strict=True):
            assert torch.equal(one, other)


def test_it_runs_on_the_current_stream(machine):
    x, weight, bias = data(machine, (64, 64, 64, 64) if machine.cuda else (2, 8, 6, 6), dtype=torch.bfloat16)
    dy = torch.randn_like(x)
    expected = run(lambda *t: ops.depthwise_conv2d(*t, 1, 1), (x, weight, bias), dy)
    machine.synchronize()
    stream = machine.stream()
    with stream:
        stream.busy()
        late = [torch.zeros_like(t).copy_(t) for t in (x, weight, bias)]
        found = run(lambda *t: ops.depthwise_conv2d(*t, 1, 1), late, torch.zeros_like(dy).copy_(dy))
    stream.synchronize()
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


def test_two_streams_at_once(machine):
    tensors = [data(machine, (8, 32, 16, 16), dtype=torch.bfloat16) for _ in range(4)]
    expected = [ops.depthwise_conv2d(*t, 1, 2, 2) for t in tensors]
    machine.synchronize()
    streams = [machine.stream() for _ in tensors]
    found = []
    for stream, own in zip(streams, tensors, strict=True):
        with stream:
            found.append([ops.depthwise_conv2d(*own, 1, 2, 2) for _ in range(20)])
    for stream in streams:
        stream.synchronize()
    for outs, true in zip(found, expected, strict=True):
        assert all(torch.equal(out, true) for out in outs)


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_a_tensor_on_another_device_than_the_current_one():
    with ops.backend("triton"):
        leaves = [t.to("cuda:1").requires_grad_() for t in data(Machine("cuda"), (2, 16, 9, 9))]
        out = ops.depthwise_conv2d(*leaves, 1, 1)
        found = [out, *torch.autograd.grad(out, leaves, torch.ones_like(out))]
    assert torch.cuda.current_device() == 0
    assert all(t.device == torch.device("cuda:1") for t in found)
    alone = [t.detach().cpu().requires_grad_() for t in leaves]
    y = F.conv2d(*alone, 1, 1, 1, 16)
    for one, other in zip(found, [y, *torch.autograd.grad(y, alone, torch.ones_like(y))], strict=True):
        torch.testing.assert_close(one.cpu(), other, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("stride", [1, 2])
def test_more_than_two_to_the_31_elements(machine, stride):
    shape = (2**31 // (64 * 256 * 256) + 2, 64, 256, 256) if machine.cuda else (5, 8, 6, 6)
    if machine.free_memory() < 24 * 2**30:
        pytest.skip("needs 24 GiB of free GPU memory")
    x = torch.empty(shape, device=machine.device, dtype=torch.bfloat16, memory_format=torch.channels_last).normal_()
    weight = torch.randn(shape[1], 1, 3, 3, device=machine.device).bfloat16().requires_grad_()
    x.requires_grad_()
    assert x.numel() > 2**31 or not machine.cuda
    assert ops.choice(x, weight, None, stride, 1).path == "triton"
    out = ops.depthwise_conv2d(x, weight, None, stride, 1)
    out.backward(torch.ones_like(out))
    assert x.grad is not None
    assert weight.grad is not None
    for at in (0, shape[0] // 2, shape[0] - 1):
        part = x.detach()[at : at + 1].clone(memory_format=torch.channels_last).requires_grad_()
        expected = ops.depthwise_conv2d(part, weight, None, stride, 1)
        exact = F.conv2d(part.detach().double(), weight.detach().double(), None, stride, 1, groups=shape[1])
        assert relative(expected.detach(), exact) < 6e-3
        assert torch.equal(out[at : at + 1], expected)
        assert torch.equal(x.grad[at : at + 1], torch.autograd.grad(expected, part, torch.ones_like(expected))[0])
    # Of ones, the gradient of a tap is the sum of what it sees: here of the tap in the middle.
    middle = x.detach()[:, :, ::stride, ::stride].sum((0, 2, 3), dtype=torch.float64)
    assert relative(weight.grad[:, 0, 1, 1], middle) < 6e-3


def test_more_positions_than_the_kernels_count_are_left_to_torch(machine):
    if machine.free_memory() < 40 * 2**30:
        pytest.skip("needs 40 GiB of free GPU memory")
    one = torch.randn(1, 2, 1, 1, device=machine.device).bfloat16()
    x, weight = one.expand(2**21, 2, 32, 32), torch.randn(2, 1, 3, 3, device=machine.device).bfloat16()
    choice = ops.choice(x, weight, None, 1, 1)
    assert (choice.path, choice.reason) == ("torch", "the batch has about 2^31 positions or more")
    if machine.cuda:
        out = ops.depthwise_conv2d(x[: 2**20], weight, None, 1, 1)
        assert torch.equal(out[-1], ops.depthwise_conv2d(x[:1], weight, None, 1, 1)[0])


def test_bits_do_not_depend_on_what_ran_before(machine):
    tensors = data(machine, (16, 48, 20, 18), dtype=torch.bfloat16)
    dy = torch.randn_like(tensors[0])
    first = run(lambda *t: ops.depthwise_conv2d(*t, 1, 2, 2), tensors, dy)
    for k in range(5):
        # Other memory, other caches, other launches in between.
        kept = [torch.randn(2**k, 3, 50, 7, device=machine.device) for _ in range(3)]
        ops.depthwise_conv2d(kept[0], torch.randn(3, 1, 3, 3, device=machine.device))
        for one, other in zip(run(lambda *t: ops.depthwise_conv2d(*t, 1, 2, 2), tensors, dy), first, strict=True):
            assert torch.equal(one, other)


@pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores")
@pytest.mark.parametrize("dynamic", [False, True])
def test_a_compiled_training_step_agrees(machine, dynamic):
    torch.compiler.reset()
    block = DepthwiseSeparableConv(32, 64, 3, padding=1, device=machine.device).to(memory_format=torch.channels_last)
    # Inductor is a matter of the GPU; without one, tracing alone shows a mistake.
    compiled = torch.compile(block, fullgraph=True, dynamic=dynamic, backend="inductor" if machine.cuda else "eager")
    for size in (16, 24):
        x = torch.randn(4, 32, size, size, device=machine.device).to(memory_format=torch.channels_last)
        with torch.autocast(machine.device, torch.bfloat16):
            ours, theirs = compiled(x), block(x)
        torch.testing.assert_close(ours, theirs, rtol=5e-2, atol=5e-2)
        ours.float().sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in block.parameters())


# opcheck itself looks at the gradients of tensors that are no leaves. On the CPU test_depthwise.py does it.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.gpu
def test_the_operators_keep_torchs_rules():
    machine = Machine("cuda")
    x, weight, bias = (t.requires_grad_() for t in data(machine, (2, 16, 7, 6)))
    where = ([1, 1], [1, 1], [1, 1])
    library.opcheck(torch.ops.convblocks.depthwise_conv2d, (x, weight, bias, *where))
    dy = torch.randn_like(x).requires_grad_()
    library.opcheck(torch.ops.convblocks.depthwise_conv2d_backward, (dy, x, weight, *where, True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_small_cases_for_the_sanitizer(machine, dtype):
    """What `compute-sanitizer pytest -m gpu tests/ops/test_gpu.py -k sanitizer` watches: every kernel, at its edges."""
    for shape, kernel, stride, padding, dilation in CASES[-8:]:
        tensors = data(machine, shape, kernel, dtype)
        dy = torch.randn_like(ops.depthwise_conv2d(*tensors, stride, padding, dilation))
        run(lambda *t, where=(stride, padding, dilation): ops.depthwise_conv2d(*t, *where), tensors, dy)
    block = DepthwiseSeparableConv(20, 24, 3, padding=1, device=machine.device).to(dtype=dtype).eval()
    with torch.no_grad():
        block(torch.randn(2, 20, 7, 9, device=machine.device, dtype=dtype).to(memory_format=torch.channels_last))
    machine.synchronize()


@pytest.mark.gpu
def test_dilation_and_size_need_no_new_kernel():
    from convblocks.ops import _kernels

    def compiled():
        caches = getattr(_kernels.rows_forward, "device_caches", None)
        return None if caches is None else sum(len(cache[0]) for cache in caches.values())

    weight = torch.randn(64, 1, 3, 3, device="cuda")
    with ops.backend("triton"):
        ops.depthwise_conv2d(torch.randn(2, 64, 16, 16, device="cuda"), weight, None, 1, 2, 2)
        before = compiled()
        if before is None:
            pytest.skip("this Triton keeps its compiled kernels elsewhere")
        for size, d in itertools.product((16, 31), (1, 3, 16)):
            ops.depthwise_conv2d(torch.randn(2, 64, size, size, device="cuda"), weight, None, 1, d, d)
    assert compiled() == before
