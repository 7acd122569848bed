"""fuse on networks that do odd things: the same output, or left alone, or refused by name."""

import copy
import types
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from convblocks.deploy import fuse
from tests.deploy.test_fuse import Functional, check_same, conv, norm, shaken


def odd_conv(forward, **options):
    """A convolution with a forward of its own."""

    class Odd(nn.Conv2d):
        pass

    Odd.forward = forward
    return Odd(4, 4, 3, **options)


def odd_norm(forward):
    """A norm with a forward of its own."""

    class Odd(nn.BatchNorm2d):
        pass

    Odd.forward = forward
    return Odd(4)


def patched(module, forward):
    """A module whose forward was replaced on the object."""
    module.forward = types.MethodType(forward, module)
    return module


def by(mean="running_mean", training=False, eps=1e-5, scale=lambda norm: norm.weight):
    """The forward of a norm that does not do what its attributes say."""
    return lambda m, x: F.batch_norm(x, getattr(m, mean), m.running_var, scale(m), m.bias, training, 0.0, eps)


def without_statistics(m, x):
    return F.batch_norm(x, None, None, m.weight, m.bias, True)


def with_bias_doubled(m, x):
    return F.conv2d(x, m.weight, m.bias * 2)


def with_bias_outside(m, x):
    return F.conv2d(x, m.weight) + 2 * m.bias.view(1, -1, 1, 1)


def no_bias(m, x):
    return F.conv2d(x, m.weight, None)


@dataclass
class Maps:
    """An output that is no tuple and no mapping."""

    first: torch.Tensor
    second: torch.Tensor


LEFT_ALONE = {
    "a forward without the bias that the norm before it would need": (
        lambda: nn.Sequential(nn.ReLU(), norm(), odd_conv(no_bias, bias=False)),
        "does not take its bias as it is",
    ),
    "a forward without the bias that the norm after it would need": (
        lambda: nn.Sequential(odd_conv(no_bias, bias=False), norm()),
        "does not take its bias as it is",
    ),
    "a bias that is doubled": (lambda: nn.Sequential(odd_conv(with_bias_doubled), norm()), "does not take its bias"),
    "a bias that is added apart": (
        lambda: nn.Sequential(nn.ReLU(), norm(), odd_conv(with_bias_outside)),
        "does not take its bias",
    ),
    "a forward replaced on the object": (
        lambda: nn.Sequential(patched(conv(bias=False), no_bias), norm()),
        "does not take its bias",
    ),
    "a linear forward replaced on the object": (
        lambda: Functional(
            lambda m, x: m.n(m.a(x.mean((2, 3)))),
            a=patched(nn.Linear(4, 4, bias=False), lambda m, x: F.linear(x, m.weight.T)),
            n=nn.BatchNorm1d(4),
        ),
        "is computed by a function",
    ),
    "norms by the batch": (lambda: nn.Sequential(conv(), odd_norm(by(training=True))), "by other figures"),
    "norms without statistics": (lambda: nn.Sequential(conv(), odd_norm(without_statistics)), "by other figures"),
    "norms by another eps": (lambda: nn.Sequential(conv(), odd_norm(by(eps=0.3))), "by other figures"),
    "norms by another mean": (lambda: nn.Sequential(conv(), odd_norm(by(mean="running_var"))), "by other figures"),
    "a scale beside one": (lambda: nn.Sequential(conv(), odd_norm(by(scale=lambda m: m.weight + 1))), "other figures"),
    "no scale": (lambda: nn.Sequential(conv(), odd_norm(by(scale=lambda m: None))), "by other figures"),
    "a norm beside a sum, by the batch": (
        lambda: Functional(lambda m, x: m.a(x := x.relu()) + m.n(x), a=conv(padding=1), n=odd_norm(by(training=True))),
        "by other figures",
    ),
    "concatenated along the height": (
        lambda: Functional(lambda m, x: m.n(torch.cat([m.a(x), m.b(x)], 2)), a=conv(), b=conv(), n=norm()),
        "no convolution before it but cat",
    ),
    "concatenated with nothing": (
        lambda: Functional(lambda m, x: m.n(torch.cat([x.new_zeros(0), m.a(x)], 1)), a=conv(), n=norm()),
        "no convolution before it but cat",
    ),
    "concatenated with nothing, after the norm": (
        lambda: Functional(lambda m, x: m.a(torch.cat([x.new_zeros(0), m.n(x.relu())], 1)), a=conv(), n=norm()),
        "no convolution after it but cat",
    ),
    "statistics written by their places": (
        lambda: Functional(lambda m, x: (m.n.running_mean.__setitem__(0, 0.5), m.n(m.a(x)))[1], a=conv(), n=norm()),
        "has a parameter or buffer that another operation reads too",
    ),
}


@pytest.mark.parametrize(("build", "reason"), LEFT_ALONE.values(), ids=LEFT_ALONE.keys())
def test_is_left_alone(build, reason):
    report = check_same(build())
    assert report.folded == 0
    assert reason in " ".join(report.kept.values())


def test_a_convolution_of_a_class_of_its_own_takes_a_bias_that_it_would_read():
    report = check_same(nn.Sequential(odd_conv(lambda m, x: F.conv2d(x, m.weight, m.bias), bias=False), norm()))
    assert report.folded == 1


def test_a_network_that_computes_with_nan_is_followed_again():
    model = Functional(
        lambda m, x: m.n(m.a(x)).nan_to_num(0.0).clamp(max=float("nan")).nan_to_num(1.0), a=conv(), n=norm()
    )
    assert check_same(model).folded == 1


def listed(names, forward, **parts):
    """Parts that stand in a list too, which is no submodule, and are called by their place in it."""
    model = Functional(forward, **parts)
    model.parts = [getattr(model, name) for name in names]
    return model


REFUSED = {
    "a norm called from a list": lambda: listed("n", lambda m, x: m.parts[0](m.a(x)), a=conv(), n=norm()),
    "a pair called from a list": lambda: listed("ab", lambda m, x: m.parts[1](m.parts[0](x)), a=conv(1), b=conv()),
    "a branch called from a list": lambda: listed(
        "a", lambda m, x: m.parts[0](x) + m.b(x), a=conv(1), b=conv(padding=1)
    ),
    "asks for the class": lambda: Functional(
        lambda m, x: m.n(m.a(x)) * (2 if isinstance(m.n, nn.BatchNorm2d) else 3), a=conv(), n=norm()
    ),
    "asks for an attribute, with a default": lambda: Functional(
        lambda m, x: m.n(m.a(x)) * getattr(m.n, "eps", 7.0), a=conv(), n=norm()
    ),
    "asks whether there is a bias": lambda: Functional(
        lambda m, x: m.n(m.a(x)) * (2 if m.a.bias is None else 3), a=conv(bias=False), n=norm()
    ),
    "counts its parameters": lambda: Functional(
        lambda m, x: m.n(m.a(x)) * sum(p.numel() for p in m.parameters()), a=conv(), n=norm()
    ),
    "asks for the width of what is merged": lambda: Functional(
        lambda m, x: m.b(m.a(x)) * m.b.in_channels, a=nn.Conv2d(4, 16, 1), b=nn.Conv2d(16, 4, 3)
    ),
}


@pytest.mark.parametrize("build", REFUSED.values(), ids=REFUSED.keys())
def test_what_would_go_and_is_asked_for_is_refused(build):
    with pytest.raises(ValueError, match="cannot be fused"):
        fuse(build().eval(), (4, 9, 9))


@pytest.mark.parametrize(
    "forward",
    [
        lambda m, x: m.q(x) * len(m.q),
        lambda m, x: m.q(x) * m.q[1].kernel_size[0],
        lambda m, x: m.q(x) + F.conv2d(x, m.q[1].weight)[..., 1:-1, 1:-1],
    ],
    ids=["counted", "asked by place", "read by place"],
)
def test_a_container_whose_parts_are_counted_keeps_them(forward):
    relu = nn.ReLU()
    model = Functional(forward, q=nn.Sequential(nn.Dropout(), conv(), relu, nn.Identity(), conv(), relu))
    report = check_same(model)
    assert report.dropped == ["q.0"]
    kinds = [type(part).__name__ for part in fuse(model, (4, 9, 9))[0].get_submodule("q").children()]
    assert kinds == ["Identity", "Conv2d", "ReLU", "Identity", "Conv2d"]


def kept(m, x):
    m.last = m.a(x)
    return m.n(m.last)


def appended(m, x):
    m.maps.append(m.a(x))
    return m.n(m.maps[-1])


def returned(m, x):
    return Maps(y := m.a(x), m.n(y))


def seen(network, x):
    output = network(x)
    outputs = [output.first, output.second] if isinstance(output, Maps) else [output]
    return outputs + network.maps + ([] if network.last is None else [network.last])


@pytest.mark.parametrize("forward", [kept, appended, returned])
def test_what_can_be_seen_besides_the_output_stays(forward):
    model = shaken(Functional(forward, a=conv(), n=norm())).double()
    model.maps, model.last = [], None
    fused, report = fuse(model, (4, 9, 9))
    assert (model.maps, fused.maps, fused.last) == ([], [], None)
    assert "also an output of the network" in report.kept["n"]
    x = torch.randn(2, 4, 9, 9, dtype=torch.float64)
    got, expected = (seen(network, x) for network in (fused, model))
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


def test_a_parameter_that_is_returned_stays():
    model = shaken(Functional(lambda m, x: Maps(m.n(m.a(x)), m.a.weight), a=conv(), n=norm()))
    assert "another operation reads too" in fuse(model, (4, 9, 9))[1].kept["n"]


def test_what_a_hook_around_the_convolution_sees_stays():
    model = shaken(nn.Sequential(nn.Sequential(conv()), norm()))
    seen = []
    model[0].register_forward_hook(lambda module, inputs, output: seen.append(output))
    fused, report = fuse(model, (4, 9, 9))
    seen.clear()
    x = torch.randn(1, 4, 9, 9)
    for network in (model, fused):
        network(x)
    assert torch.equal(*seen)
    assert "has hooks" in report.kept["1"]


def test_a_buffer_that_counts_is_not_moved():
    model = Functional(lambda m, x: (setattr(m, "calls", m.calls + 1), m.n(m.a(x)) * m.calls)[1], a=conv(), n=norm())
    model.register_buffer("calls", torch.zeros(()))
    model = shaken(model).double()
    original = copy.deepcopy(model)
    fused, report = fuse(model, (4, 9, 9))
    assert report.folded == 1
    assert model.calls == fused.calls == 0
    x = torch.randn(2, 4, 9, 9, dtype=torch.float64)
    torch.testing.assert_close(fused(x), original(x), rtol=1e-12, atol=1e-12)


def test_weights_on_the_meta_device():
    with torch.device("meta"):
        model = nn.Sequential(conv(), norm(), nn.ReLU(), norm(), conv(padding=1), nn.ReLU(), norm(), conv()).eval()
    fused, report = fuse(model, (4, 9, 9))
    assert report.into == {"1": "0", "6": "7"}
    assert "pads zeros" in report.kept["3"]
    assert {p.device.type for p in fused.parameters()} == {"meta"}
