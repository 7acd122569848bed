"""What every block keeps, whatever it computes: the conventions that make a module feel native to torch."""

import copy
import io
import pickle

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.layers.cases import every_block


def randomised(module: nn.Module) -> nn.Module:
    """Give norms statistics and weights that a wrong one could not hide behind."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.running_mean, -1, 1)
            nn.init.uniform_(part.running_var, 0.5, 2)
        if isinstance(part, (nn.BatchNorm2d, nn.GroupNorm, nn.LayerNorm)):
            nn.init.uniform_(part.weight, 0.5, 2)
            nn.init.uniform_(part.bias, -1, 1)
    return module


@every_block
def test_output_channels_are_told(build, shape):
    module = build().eval()
    assert module(torch.randn(shape)).shape[:2] == (shape[0], module.out_channels)
    assert module.in_channels == shape[1]


@every_block
def test_device_and_dtype_reach_every_tensor(build, shape):
    module = build(device="meta", dtype=torch.float64)
    tensors = [t for t in module.state_dict().values() if t.is_floating_point()]
    tensors += [b for b in module.buffers() if b.is_floating_point()]
    assert {(t.device.type, t.dtype) for t in tensors} <= {("meta", torch.float64)}
    assert len(tensors) >= len(list(module.parameters()))
    out = module.eval()(torch.empty(shape, device="meta", dtype=torch.float64))
    assert (out.device.type, out.dtype) == ("meta", torch.float64)


@every_block
def test_fake_tensors_give_the_real_shape(build, shape):
    expected = build().eval()(torch.randn(shape)).shape
    with FakeTensorMode():
        assert build().eval()(torch.empty(shape)).shape == expected


@every_block
def test_compiles_into_one_graph_in_training(build, shape):
    torch.compiler.reset()
    module = randomised(build()).train()
    twin = copy.deepcopy(module)
    x = torch.randn(shape)
    torch.manual_seed(1)
    expected = module(x)
    torch.manual_seed(1)
    torch.testing.assert_close(torch.compile(twin, fullgraph=True, backend="aot_eager")(x), expected)


@every_block
def test_autocast_runs_forward_and_backward(build, shape):
    module = build()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = module(torch.randn(shape, requires_grad=True))
    out.float().sum().backward()
    assert out.isfinite().all()
    assert all(p.grad is not None and p.grad.dtype == p.dtype for p in module.parameters())


@every_block
def test_channels_last_gives_the_same_numbers(build, shape):
    module = randomised(build()).double().eval()
    x = torch.randn(shape, dtype=torch.float64)
    out = module.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
    torch.testing.assert_close(out, module.to(memory_format=torch.contiguous_format)(x))


@every_block
def test_copies_and_pickles_are_equal_and_independent(build, shape):
    module = randomised(build()).eval()
    x = torch.randn(shape)
    expected = module(x)
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        for parameter in twin.parameters():
            assert all(parameter.data_ptr() != other.data_ptr() for other in module.parameters())
        assert torch.equal(twin(x), expected)


@every_block
def test_state_dict_survives_a_file_without_pickled_code(build, shape):
    module, twin = randomised(build()).eval(), build().eval()
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    twin.load_state_dict(torch.load(file, weights_only=True))
    x = torch.randn(shape)
    assert torch.equal(twin(x), module(x))


@every_block
def test_gradients_are_right(build, shape):
    module = randomised(build(dtype=torch.float64)).eval()
    x = torch.randn(1, shape[1], 7, 9, dtype=torch.float64, requires_grad=True)
    names = [name for name, _ in module.named_parameters()]

    def run(x, *values):
        return torch.func.functional_call(module, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(run, (x, *module.parameters()), fast_mode=True)


@every_block
def test_forward_leaves_no_state_in_python(build, shape):
    module = build().eval()

    def attributes():
        plain = (bool, int, float, str, tuple, list, dict, type(None))
        return [
            {name: repr(value) for name, value in vars(part).items() if isinstance(value, plain) and name[:1] != "_"}
            for part in module.modules()
        ]

    before = attributes()
    module(torch.randn(shape))
    assert attributes() == before


@every_block
def test_empty_batch(build, shape):
    module = build().eval()
    full = module(torch.randn(shape)).shape
    assert module(torch.randn(0, *shape[1:])).shape == (0, *full[1:])
