"""What only a GPU can show. `pytest -m gpu tests/ops` runs it; everywhere else it is skipped."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from convblocks import DepthwiseSeparableConv, ops

pytestmark = pytest.mark.gpu
CASES = [
    # shape, kernel, stride, padding, dilation
    *(((3, c, h, w), (3, 3), 1, d, d) for c, (h, w) in ((64, (32, 32)), (24, (17, 9)), (7, (8, 5))) for d in (1, 2, 8)),
    ((2, 64, 19, 23), (3, 3), 1, 0, (2, 3)),
    ((2, 40, 19, 23), (3, 3), (2, 1), 1, 1),
    ((2, 64, 14, 14), (5, 5), 2, 2, 1),
    ((2, 32, 21, 20), (7, 4), 1, (3, 1), (1, 2)),
    ((1, 256, 7, 7), (3, 3), 1, 1, 1),
    ((5, 1, 9, 9), (2, 2), 1, 1, 1),
]


@pytest.fixture(autouse=True)
def _triton():
    pytest.importorskip("triton", reason="triton is not installed")
    with ops.backend("triton"):
        yield


def relative(value, true):
    return ((value.double() - true).norm() / true.norm().clamp_min(1e-30)).item()


def run(convolve, tensors, dy):
    leaves = [t.detach().clone().requires_grad_() for t in tensors]
    y = convolve(*leaves)
    return [y.detach(), *torch.autograd.grad(y, leaves, dy)]


def data(shape, kernel, dtype, layout=torch.channels_last):
    x = torch.randn(shape, device="cuda").to(dtype, memory_format=layout)
    weight = torch.randn(shape[1], 1, *kernel, device="cuda").to(dtype)
    return [x, weight, torch.randn(shape[1], device="cuda").to(dtype)]


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format], ids=["channels_last", "contiguous"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("shape", "kernel", "stride", "padding", "dilation"), CASES)
def test_errors_are_no_larger_than_torchs(shape, kernel, stride, padding, dilation, dtype, layout, monkeypatch):
    # Unwritten memory reads as NaN. float32 is meant, not TF32.
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    torch.use_deterministic_algorithms(True)
    try:
        tensors, where = data(shape, kernel, dtype, layout), (stride, padding, dilation)
        assert ops.choice(*tensors, *where).path == "triton"
        dy = torch.randn_like(ops.depthwise_conv2d(*tensors, *where))
        ours = run(lambda *t: ops.depthwise_conv2d(*t, *where), tensors, dy)
        again = run(lambda *t: ops.depthwise_conv2d(*t, *where), tensors, dy)
    finally:
        torch.use_deterministic_algorithms(False)
    theirs = run(lambda *t: F.conv2d(*t, *where, shape[1]), tensors, dy)
    exact = run(lambda *t: F.conv2d(*t, *where, shape[1]), [t.double() for t in tensors], dy.double())
    floor = {torch.float32: 5e-7, torch.float16: 2e-4, torch.bfloat16: 2e-3}[dtype]
    for name, mine, second, other, true in zip(("y", "dx", "dw", "db"), ours, again, theirs, exact, strict=True):
        assert torch.equal(mine, second), f"{name} differs from run to run"
        assert relative(mine, true) <= max(floor, 1.5 * relative(other, true)), name


def test_expanded_strided_and_empty_inputs():
    weight = torch.randn(16, 1, 3, 3, device="cuda")
    base = torch.randn(1, 16, 9, 9, device="cuda")
    for x in (base.expand(4, -1, -1, -1), torch.randn(2, 16, 9, 18, device="cuda")[..., ::2], base[:0]):
        out = ops.depthwise_conv2d(x, weight, padding=1)
        torch.testing.assert_close(out, F.conv2d(x, weight, padding=1, groups=16), rtol=1e-3, atol=1e-3)


def test_a_cuda_graph_replays_forward_and_backward():
    x, weight, bias = (t.requires_grad_() for t in data((8, 32, 16, 16), (3, 3), torch.bfloat16))

    def step():
        out = ops.depthwise_conv2d(x, weight, bias, 1, 1)
        return out, *torch.autograd.grad(out, (x, weight, bias), torch.ones_like(out))

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    with torch.no_grad():
        x.copy_(torch.randn_like(x))
    graph.replay()
    torch.cuda.synchronize()
    for one, other in zip(captured, step(), strict=True):
        assert torch.equal(one, other)


def test_it_runs_on_the_current_stream():
    x, weight, bias = data((64, 64, 64, 64), (3, 3), torch.bfloat16)
    expected = ops.depthwise_conv2d(x, weight, bias, 1, 1)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        late = torch.zeros_like(x).copy_(x)
        out = ops.depthwise_conv2d(late, weight, bias, 1, 1)
    stream.synchronize()
    assert torch.equal(out, expected)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_a_tensor_on_another_device_than_the_current_one():
    x, weight, bias = (t.to("cuda:1") for t in data((2, 16, 9, 9), (3, 3), torch.float32))
    out = ops.depthwise_conv2d(x, weight, bias, 1, 1)
    assert out.device == torch.device("cuda:1")
    torch.testing.assert_close(
        out.cpu(), F.conv2d(x.cpu(), weight.cpu(), bias.cpu(), 1, 1, 1, 16), rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize("stride", [1, 2])
def test_more_than_two_to_the_31_elements(stride):
    shape = (2**31 // (64 * 256 * 256) + 2, 64, 256, 256)
    if torch.cuda.mem_get_info()[0] < 24 * 2**30:
        pytest.skip("needs 24 GiB of free GPU memory")
    x = torch.empty(shape, device="cuda", dtype=torch.bfloat16, memory_format=torch.channels_last).normal_()
    weight = torch.randn(64, 1, 3, 3, device="cuda").bfloat16().requires_grad_()
    x.requires_grad_()
    assert x.numel() > 2**31
    out = ops.depthwise_conv2d(x, weight, None, stride, 1)
    out.backward(torch.ones_like(out))
    for at in (0, shape[0] // 2, shape[0] - 1):
        part = x.detach()[at : at + 1].clone().requires_grad_()
        expected = ops.depthwise_conv2d(part, weight, None, stride, 1)
        exact = F.conv2d(part.detach().double(), weight.detach().double(), None, stride, 1, groups=64)
        assert relative(expected.detach(), exact) < 6e-3
        assert torch.equal(out[at : at + 1], expected)
        assert x.grad is not None
        assert torch.equal(x.grad[at : at + 1], torch.autograd.grad(expected, part, torch.ones_like(expected))[0])


@pytest.mark.parametrize("dynamic", [False, True])
def test_a_compiled_training_step_agrees(dynamic):
    torch.compiler.reset()
    block = DepthwiseSeparableConv(32, 64, 3, padding=1, device="cuda").to(memory_format=torch.channels_last)
    compiled = torch.compile(block, fullgraph=True, dynamic=dynamic)
    for size in (16, 24):
        x = torch.randn(4, 32, size, size, device="cuda").to(memory_format=torch.channels_last)
        with torch.autocast("cuda", torch.bfloat16):
            ours, theirs = compiled(x), block(x)
        torch.testing.assert_close(ours, theirs, rtol=5e-2, atol=5e-2)
        ours.float().sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in block.parameters())


def test_dilation_and_size_need_no_new_kernel():
    from convblocks.ops import _kernels

    def compiled():
        caches = getattr(_kernels.rows_forward, "device_caches", None)
        return None if caches is None else sum(len(cache[0]) for cache in caches.values())

    weight = torch.randn(64, 1, 3, 3, device="cuda")
    ops.depthwise_conv2d(torch.randn(2, 64, 16, 16, device="cuda"), weight, None, 1, 2, 2)
    before = compiled()
    if before is None:
        pytest.skip("this Triton keeps its compiled kernels elsewhere")
    for size, d in itertools.product((16, 31), (1, 3, 16)):
        ops.depthwise_conv2d(torch.randn(2, 64, size, size, device="cuda"), weight, None, 1, d, d)
    assert compiled() == before
