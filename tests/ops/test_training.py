"""A block in training without a GPU: gradients, running statistics, and what torch does with the operators."""

import copy

import pytest
import torch
from torch import library, nn

from convblocks import DepthwiseSeparableConv, ops
from convblocks.layers import _fusion
from convblocks.ops import Stage, _training
from convblocks.ops._stage import ACTIVATIONS
from tests.ops.test_depthwise import operator_everywhere as operator_everywhere

WHERE = ((2, 1), (1, 1), (1, 2))


def arguments(dtype=torch.float64):
    shapes = ((2, 3, 5, 4), (3, 1, 3, 3), (4, 3, 1, 1), (3,), (3,), (4,), (4,))
    leaves = [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]
    return leaves, [torch.rand(n, dtype=dtype) + 0.5 for n in (3, 3, 4, 4)]


def runner(statistics, act, batch):
    def run(x, depthwise, pointwise, weight1, shift1, weight2, shift2):
        first = Stage(None, *statistics[:2], weight1, shift1, 1e-3, act)
        second = Stage(None, *statistics[2:], weight2, shift2, 1e-3, act)
        return ops.separable_training(x, depthwise, pointwise, first, second, batch, *WHERE)[0]

    return run


@pytest.mark.parametrize("act", ACTIVATIONS)
@pytest.mark.parametrize("batch", [(True, True), (False, True), (False, False)])
def test_gradients(act, batch):
    leaves, statistics = arguments()
    assert torch.autograd.gradcheck(runner(statistics, act, batch), leaves)


def test_gradients_of_gradients():
    leaves, statistics = arguments()
    assert torch.autograd.gradgradcheck(runner(statistics, "silu", (True, True)), leaves)


def residual(statistics, batch=(True, True)):
    def run(x, depthwise, pointwise, weight1, shift1, weight2, shift2):
        first = Stage(None, *statistics[:2], weight1, shift1, 1e-3, "silu")
        second = Stage(None, *statistics[2:], weight2, shift2, 1e-3, "")
        return ops.separable_training(x, depthwise, pointwise, first, second, batch, (1, 1), (1, 2), (1, 2), True)[0]

    return run


def square(dtype=torch.float64):
    """The arguments of a block that gives what has the shape of its input."""
    shapes = ((2, 3, 5, 4), (3, 1, 3, 3), (3, 3, 1, 1), *[(3,)] * 4)
    leaves = [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]
    return leaves, [torch.rand(3, dtype=dtype) + 0.5 for _ in range(4)]


def test_gradients_of_a_residual_block():
    leaves, statistics = square()
    assert torch.autograd.gradcheck(residual(statistics), leaves)
    assert torch.autograd.gradgradcheck(residual(statistics), leaves)
    without = leaves[0].detach(), *leaves[1:]
    assert torch.autograd.gradcheck(residual(statistics, (False, True)), without)


def test_a_residual_needs_the_shape_of_the_input():
    leaves, statistics = arguments()
    first, second = Stage(None, *statistics[:2]), Stage(None, *statistics[2:])
    with pytest.raises(ValueError, match="residual=True needs a result of the shape of x"):
        ops.separable_training(*leaves[:3], first, second, (True, True), *WHERE, True)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("added", [False, True])
def test_the_operators_pass_torchs_own_checks(affine, added):
    leaves, statistics = (square if added else arguments)(torch.float32)
    norms = leaves[3:] if affine else [None] * 4
    where = ((1, 1), (1, 2), (1, 2)) if added else WHERE
    rest = [True, False], [1e-5, 1e-5], "relu,silu", *map(list, where), added
    operators = torch.ops.convblocks
    given = (*leaves[:3], *norms, *statistics, *rest)
    library.opcheck(operators.separable_training.default, given)
    out, *kept = operators.separable_training(*given)
    dout = torch.randn_like(out)
    detached = [None if t is None else t.detach() for t in (*leaves[:3], *kept, *norms)]
    library.opcheck(operators.separable_training_backward.default, (dout, *detached, *rest))


def pair(out=6, **options):
    block = DepthwiseSeparableConv(4, out, 3, padding=1, act_layer=nn.SiLU, dtype=torch.float64, **options)
    for norm in (block.bn1, block.bn2):
        if norm.affine:
            nn.init.normal_(norm.weight)
            nn.init.normal_(norm.bias)
        if norm.running_mean is not None:
            nn.init.normal_(norm.running_mean)
            nn.init.uniform_(norm.running_var, 0.5, 2)
    return block, copy.deepcopy(block)


def plain():
    return {}, lambda block: block.train()


def frozen(*names):
    def prepare(block):
        block.train()
        for name in names:
            getattr(block, name).eval()
        return block

    return {}, prepare


NORMS = {
    "batch": plain(),
    "cumulative": ({"norm_layer": lambda c: nn.BatchNorm2d(c, momentum=None)}, lambda b: b.train()),
    "another momentum": ({"norm_layer": lambda c: nn.BatchNorm2d(c, momentum=0.7, eps=0.1)}, lambda b: b.train()),
    "no statistics": ({"norm_layer": lambda c: nn.BatchNorm2d(c, track_running_stats=False)}, lambda b: b.train()),
    "no statistics, in evaluation": (
        {"norm_layer": lambda c: nn.BatchNorm2d(c, track_running_stats=False)},
        lambda b: b.eval(),
    ),
    "no affine": ({"norm_layer": lambda c: nn.BatchNorm2d(c, affine=False)}, lambda b: b.train()),
    "frozen": frozen("bn1", "bn2"),
    "the first frozen": frozen("bn1"),
    "the second frozen": frozen("bn2"),
    "residual": ({"out": 4, "residual": True}, lambda b: b.train()),
    "no weight": ({}, lambda b: b.train().bn1.weight.requires_grad_(False) is not None and b),
}


@pytest.mark.parametrize(("options", "prepare"), NORMS.values(), ids=NORMS)
def test_a_training_step_is_that_of_the_modules(options, prepare):
    """Two steps: outputs, all gradients, and the buffers that the norms leave behind."""
    block, modules = (prepare(b) for b in pair(**options))
    parts = _fusion.parts(block)
    assert isinstance(parts, _fusion.Parts)
    for _ in range(2):
        x = torch.randn(3, 4, 6, 5, dtype=torch.float64)
        inputs = [x.clone().requires_grad_() for _ in range(2)]
        ours, theirs = _fusion._train(parts, inputs[0], block.residual), modules(inputs[1])
        dout = torch.randn(theirs.shape, dtype=torch.float64)
        torch.testing.assert_close(ours, theirs)
        ours.backward(dout)
        theirs.backward(dout)
        torch.testing.assert_close(inputs[0].grad, inputs[1].grad)
    torch.testing.assert_close(dict(block.state_dict()), dict(modules.state_dict()))
    for (name, one), other in zip(block.named_parameters(), modules.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, msg=name)


@pytest.mark.usefixtures("operator_everywhere")
def test_a_step_compiles_into_one_graph():
    block, modules = (b.float().train() for b in pair())

    def run(x):
        parts = _fusion.parts(block)
        assert not isinstance(parts, str)
        return _fusion._train(parts, x)

    compiled = torch.compile(run, fullgraph=True, dynamic=True, backend="aot_eager")
    for size in (6, 9):
        x = torch.randn(2, 4, size, size)
        ours, theirs = compiled(x), modules(x)
        torch.testing.assert_close(ours, theirs)
        for g in (ours, theirs):
            g.square().sum().backward()
    torch.testing.assert_close(block.bn1.running_var, modules.bn1.running_var)
    torch.testing.assert_close(block.conv_dw.weight.grad, modules.conv_dw.weight.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("operator_everywhere")
def test_autocast():
    block, modules = (b.float().train() for b in pair())
    parts = _fusion.parts(block)
    x = torch.randn(2, 4, 6, 6)
    with torch.autocast("cpu", torch.bfloat16):
        assert ops.training_choice(x, *parts.inference()).path == "fused"
        ours, theirs = _fusion._train(parts, x), modules(x)
    assert ours.dtype == theirs.dtype == torch.bfloat16
    torch.testing.assert_close(ours, theirs, rtol=5e-2, atol=5e-2)
    ours.float().sum().backward()
    assert {getattr(p.grad, "dtype", None) for p in block.parameters()} == {torch.float32}


@pytest.mark.usefixtures("operator_everywhere")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_residual_under_autocast(dtype):
    """The sum has the digits of the input, as that of the modules."""
    block, modules = (b.float().train() for b in pair(4, residual=True))
    parts = _fusion.parts(block)
    inputs = [t.requires_grad_() for t in torch.randn(1, 2, 4, 6, 6).to(dtype).expand(2, -1, -1, -1, -1).unbind()]
    with torch.autocast("cpu", torch.bfloat16):
        ours, theirs = _fusion._train(parts, inputs[0], True), modules(inputs[1])
    assert ours.dtype == theirs.dtype == dtype
    torch.testing.assert_close(ours, theirs, rtol=5e-2, atol=5e-2)
    found = [
        torch.autograd.grad(out.float().square().sum(), x)[0] for out, x in zip((ours, theirs), inputs, strict=True)
    ]
    assert found[0].dtype == found[1].dtype == dtype
    torch.testing.assert_close(*found, rtol=5e-2, atol=0.3)


@pytest.mark.usefixtures("operator_everywhere")
def test_the_choice_names_what_is_in_the_way():
    block, _ = (b.float().train() for b in pair())
    x = torch.randn(2, 4, 6, 6)
    assert _fusion.choice(block, x).path == "fused"
    assert _fusion.choice(block.eval(), x).path == "fused", "frozen norms, with gradients"
    one = torch.randn(1, 4, 3, 3)
    valid = DepthwiseSeparableConv(4, 6, 3)
    assert "one value a channel" in _fusion.choice(valid, one).reason
    assert "has a bias" in _fusion.choice(DepthwiseSeparableConv(4, 6, 3, bias=True), x).reason
    assert "a norm is missing" in _fusion.choice(DepthwiseSeparableConv(4, 6, 3, after="").eval(), x).reason
    assert "drop2 is a Dropout" in _fusion.choice(DepthwiseSeparableConv(4, 6, 3, dropout=0.5), x).reason
    synchronised = DepthwiseSeparableConv(4, 6, 3, norm_layer=nn.SyncBatchNorm)
    assert "several processes" in _fusion.choice(synchronised, x).reason
    with torch.no_grad():
        assert _fusion.choice(synchronised.eval(), x).path == "fused"


def test_gradients_of_gradients_of_one_tensor_given_twice():
    leaves, statistics = arguments()
    run = runner(statistics, "silu", (True, True))
    shift = leaves[4]

    def shared(gamma, compute):
        # Both norms have a weight of the same numbers: of three channels the first, of four all.
        out = compute(leaves[0], leaves[1], leaves[2], gamma[:3], shift, gamma, leaves[6])
        (first,) = torch.autograd.grad(out.sin().sum(), gamma, create_graph=True)
        return [first, *torch.autograd.grad(first.square().sum(), gamma)]

    def composed(*given):
        known = statistics[:2], statistics[2:]
        rest = [True, True], [1e-3, 1e-3], "silu,silu", *map(list, WHERE)
        return _training._composed(*given, *known[0], *known[1], *rest)

    gamma = (torch.rand(4, dtype=torch.float64) + 0.5).requires_grad_()
    for one, other in zip(shared(gamma, run), shared(gamma, composed), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("momentum", [0.1, 0.0, None])
@pytest.mark.parametrize("dtypes", [(torch.float32, torch.float32), (torch.float64, torch.float32)], ids=str)
def test_running_statistics_of_any_dtypes(momentum, dtypes):
    norm = nn.BatchNorm2d(3, momentum=momentum)
    norm.running_mean, norm.running_var = (torch.rand(3, dtype=dtype) for dtype in dtypes)
    true = copy.deepcopy(norm).double()
    true.running_mean, true.running_var = norm.running_mean.double(), norm.running_var.double()
    for _ in range(2):
        x = torch.randn(4, 3, 5, 5, dtype=torch.float64)
        true(x)
        variance, mean = torch.var_mean(x, (0, 2, 3), correction=0)
        _fusion._remember([(norm, torch.stack((mean, variance, variance * 100 / 99)))])
    assert norm.num_batches_tracked == true.num_batches_tracked == 2
    assert (norm.running_mean.dtype, norm.running_var.dtype) == dtypes
    torch.testing.assert_close(norm.running_mean.double(), true.running_mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(norm.running_var.double(), true.running_var, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("momentum", [0.1, None])
def test_one_norm_in_both_places_remembers_one_after_the_other(momentum):
    block = DepthwiseSeparableConv(4, 4, 3, padding=1)
    block.bn1.momentum = momentum
    block.bn2 = block.bn1
    true = copy.deepcopy(block)
    x = torch.randn(2, 4, 6, 6)
    found = _fusion.parts(block)
    torch.testing.assert_close(_fusion._train(found, x), true(x))
    assert block.bn1.num_batches_tracked == true.bn1.num_batches_tracked == 2
    torch.testing.assert_close(block.bn1.running_mean, true.bn1.running_mean)
    torch.testing.assert_close(block.bn1.running_var, true.bn1.running_var)
