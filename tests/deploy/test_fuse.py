"""fuse gives the same output with fewer operations, and leaves alone what cannot be folded, with the reason."""

import copy
import pickle
import warnings
from functools import partial

import networks
import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune

from convblocks import ConvNormAct, DepthwiseSeparableConv, DilatedDownsample, JointDilatedDepthwise
from convblocks.deploy import fuse
from tests.layers.cases import every_block

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def shaken(model, seed=0):
    """Random statistics, so that a norm that is left out, or folded wrongly, changes the output."""
    torch.manual_seed(seed)
    for part in model.modules():
        if isinstance(part, NORMS):
            nn.init.uniform_(part.running_mean, -0.5, 0.5)
            nn.init.uniform_(part.running_var, 0.5, 2)
            if part.weight is not None:
                nn.init.uniform_(part.weight, 0.5, 1.5)
                nn.init.uniform_(part.bias, -0.5, 0.5)
    return model.eval()


def check(model, input_size):
    """Fuse in both precisions, hold the outputs to the original's, and return the report of it."""
    model = shaken(model)
    before = copy.deepcopy(model.state_dict())
    for dtype, limit in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        original = copy.deepcopy(model).to(dtype)
        fused, report = fuse(original, input_size)
        x = torch.randn(2, *input_size, dtype=dtype)
        with torch.no_grad():
            expected = original(x)
            error = (fused(x) - expected).abs().max() / expected.abs().max()
        assert error <= limit
        left = sum(isinstance(part, NORMS) for part in fused.modules())
        assert left == len(report.kept)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    return report


@pytest.mark.parametrize(
    ("name", "norms", "merged"),
    [("era_s9", 12, 1), ("late_100k", 28, 1), ("net4", 8, 0), ("eva8_s6", 10, 4), ("twelve_layer", 9, 0)],
)
def test_every_norm_of_the_five_networks_is_folded(name, norms, merged):
    report = check(timm.create_model(name), (3, 32, 32))
    assert (report.folded, report.norms, len(report.merged)) == (norms, norms, merged)
    assert name in networks.NETWORKS


@pytest.mark.parametrize(
    "name",
    ["resnet18", "mobilenetv3_small_100", "efficientnet_b0", "mnasnet_small", "dla34", "regnetx_002", "hardcorenas_a"],
)
def test_every_norm_of_a_timm_network_is_folded(name):
    model = timm.create_model(name)
    norms = sum(isinstance(part, NORMS) for part in model.modules())
    report = check(model, (3, 64, 64))
    assert (report.folded, report.norms) == (norms, norms)


@every_block
def test_every_block_fuses_itself_and_is_fused(build, shape):
    model = shaken(build())
    x = torch.randn(shape)
    with torch.no_grad():
        expected = model(x)
        for fused in (fuse(model, shape[1:])[0], timm.utils.reparameterize_model(nn.Sequential(model))):
            torch.testing.assert_close(fused(x), expected, rtol=1e-5, atol=1e-5)


def test_a_block_folds_its_own_norms():
    for block in (
        ConvNormAct(3, 4, 3),
        DepthwiseSeparableConv(3, 4, 3),
        JointDilatedDepthwise(3, 4),
        DilatedDownsample(3, 4),
    ):
        assert not any(isinstance(part, NORMS) for part in block.eval().fuse().modules())
        assert any(isinstance(part, NORMS) for part in block.modules())
    with pytest.raises(ValueError, match="evaluation mode"):
        ConvNormAct(3, 4, 3).fuse()


def test_a_norm_that_does_not_follow_its_convolution_stays_in_a_block():
    for order in ("conv-act-norm", "norm-act-conv"):
        assert sum(isinstance(part, NORMS) for part in ConvNormAct(3, 4, 3, order=order).eval().fuse().modules()) == 1


class Functional(nn.Module):
    """A module whose forward is a function of its parts."""

    def __init__(self, forward, **parts):
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)
        self._function = forward

    def forward(self, x):
        return self._function(self, x)


def conv(kernel_size=3, **options):
    return nn.Conv2d(4, 4, kernel_size, **options)


def norm(channels=4):
    return nn.BatchNorm2d(channels)


def hooked(module):
    module.register_forward_hook(lambda module, inputs, output: None)
    return module


def sharing(first, second):
    second.weight = first.weight
    return second


def computed(parametrise, module):
    """A module whose weight is made by a hook, as torch's older functions do, which warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return parametrise(module)


FOLDED = {
    "conv -> norm": lambda: nn.Sequential(conv(), norm()),
    "no bias, no affine": lambda: nn.Sequential(conv(bias=False), nn.BatchNorm2d(4, affine=False)),
    "groups": lambda: nn.Sequential(nn.Conv2d(4, 8, 3, groups=2), nn.BatchNorm2d(8)),
    "transposed with groups": lambda: nn.Sequential(nn.ConvTranspose2d(4, 8, 3, groups=2), nn.BatchNorm2d(8)),
    "padding before, which is no obstacle": lambda: nn.Sequential(conv(padding=1, padding_mode="reflect"), norm()),
    "through a dropout": lambda: nn.Sequential(conv(), nn.Dropout(0.5), norm()),
    "act -> norm -> valid conv": lambda: nn.Sequential(nn.ReLU(), norm(), conv()),
    "norm -> valid conv of groups": lambda: nn.Sequential(norm(), nn.Conv2d(4, 6, 3, groups=2, bias=False)),
    "norm -> padded conv, but no shift": lambda: nn.Sequential(
        nn.ReLU(), nn.BatchNorm2d(4, affine=False, eps=0.5), conv(padding=1)
    ),
    "functional data flow": lambda: Functional(lambda self, x: F.relu(self.b(self.a(x))) + 1, a=conv(), b=norm()),
    "a norm with an activation inside": lambda: nn.Sequential(conv(), timm.layers.BatchNormAct2d(4)),
}

# One function a case: name -> (modules by name, what forward does with them).
PASSED_ON = {
    "two convs -> cat -> norm": (
        lambda m, x: m.n(torch.cat([m.a(x), m.b(x)], 1)),
        {"a": conv, "b": lambda: nn.Conv2d(4, 5, 3), "n": lambda: nn.BatchNorm2d(9)},
    ),
    "two convs -> sum -> norm": (lambda m, x: m.n(m.a(x) + m.b(x)), {"a": conv, "b": conv, "n": norm}),
    "conv -> average -> norm": (lambda m, x: m.n(F.avg_pool2d(m.a(x), 2)), {"a": conv, "n": norm}),
    "conv -> average -> flat -> norm": (
        lambda m, x: m.n(F.adaptive_avg_pool2d(m.a(x), 1).flatten(1)),
        {"a": conv, "n": lambda: nn.BatchNorm1d(4)},
    ),
    "conv -> bilinear -> norm": (
        lambda m, x: m.n(F.interpolate(m.a(x), scale_factor=2, mode="bilinear")),
        {"a": conv, "n": norm},
    ),
    "linear -> norm": (
        lambda m, x: m.n(m.a(x.mean((2, 3)))),
        {"a": lambda: nn.Linear(4, 6, bias=False), "n": lambda: nn.BatchNorm1d(6)},
    ),
    "norm -> average -> flat -> linear": (
        lambda m, x: m.a(F.adaptive_avg_pool2d(m.n(x.relu()), 2).flatten(1)),
        {"a": lambda: nn.Linear(16, 3), "n": norm},
    ),
    "norm -> mean -> linear": (
        lambda m, x: m.a(m.n(x.relu()).mean((2, 3))),
        {"a": lambda: nn.Linear(4, 3), "n": norm},
    ),
    "norm -> cat -> valid conv": (
        lambda m, x: m.a(torch.cat([x, m.n(x.relu())], 1)),
        {"a": lambda: nn.Conv2d(8, 3, 3), "n": norm},
    ),
    "norm -> two valid convs": (
        lambda m, x: m.a(y := m.n(x.relu())).relu() * m.b(y),
        {"a": conv, "b": conv, "n": norm},
    ),
    "norm -> reflected padding -> conv": (
        lambda m, x: m.a(m.n(x.relu())),
        {"a": lambda: conv(padding=1, padding_mode="reflect"), "n": norm},
    ),
    "norm beside a depthwise conv": (
        lambda m, x: m.a(x := x.relu()) + m.n(x),
        {"a": lambda: conv(padding=1, groups=4), "n": norm},
    ),
    "norm beside a dilated conv of groups": (
        lambda m, x: m.n(x := x.relu()) + m.a(x),
        {"a": lambda: conv(padding=4, dilation=2, groups=2, kernel_size=5), "n": norm},
    ),
    "norm beside two convs": (
        lambda m, x: (m.a(x := x.relu()) + m.b(x)).add_(m.n(x)),
        {"a": lambda: nn.Conv2d(4, 4, 1, padding=0), "b": lambda: conv(padding=1, bias=False), "n": norm},
    ),
}
KEPT = {
    "a part of the concatenation is read elsewhere": (
        lambda: Functional(
            lambda m, x: m.n(torch.cat([y := m.a(x), m.b(x)], 1)) + torch.cat([y, y], 1), a=conv(), b=conv(), n=norm(8)
        ),
        "read by 2 operations",
    ),
    "twice in the concatenation": (
        lambda: Functional(lambda m, x: m.n(torch.cat([y := m.a(x), y], 1)), a=conv(), n=norm(8)),
        "would take it twice",
    ),
    "added to itself": (
        lambda: Functional(lambda m, x: m.n((y := m.a(x)) + y), a=conv(), n=norm()),
        "no convolution before it but add",
    ),
    "maximum": (lambda: nn.Sequential(conv(), nn.MaxPool2d(2), norm()), "no convolution before it but max_pool2d"),
    "average of padding": (lambda: nn.Sequential(nn.ReLU(), norm(), nn.AvgPool2d(3, 2, 1), conv()), "but avg_pool2d"),
    "one of two readers pads": (
        lambda: Functional(lambda m, x: m.a(y := m.n(x.relu())).sum() * m.b(y), a=conv(), b=conv(padding=1), n=norm()),
        "pads zeros",
    ),
    "beside a conv without a tap in the middle": (
        lambda: Functional(
            lambda m, x: m.a(x := x.relu()) + m.n(x), a=nn.Conv2d(4, 4, 2, padding=1, dilation=2), n=norm()
        ),
        "no convolution after it but add",
    ),
    "beside a conv of another input": (
        lambda: Functional(lambda m, x: m.a(x.sigmoid()) + m.n(x.relu()), a=conv(padding=1), n=norm()),
        "no convolution after it but add",
    ),
    "beside a conv whose output is read elsewhere": (
        lambda: Functional(lambda m, x: (y := m.a(x := x.relu())) + m.n(x) * 1 + y, a=conv(padding=1), n=norm()),
        "no convolution after it but mul",
    ),
    "its sum is written over it": (
        lambda: Functional(lambda m, x: m.n(x := x.relu()).add_(m.a(x)), a=conv(padding=1), n=norm()),
        "no convolution after it but add_",
    ),
    "a sum that is weighted": (
        lambda: Functional(lambda m, x: torch.add(m.a(x := x.relu()), m.n(x), alpha=2), a=conv(padding=1), n=norm()),
        "no convolution after it but add",
    ),
    "linear computed by a subclass": (
        lambda: Functional(
            lambda m, x: m.n(m.a(x.mean((2, 3)))),
            a=nn.modules.linear.NonDynamicallyQuantizableLinear(4, 4),
            n=nn.BatchNorm1d(4),
        ),
        "is computed by a function",
    ),
    "padded conv after": (lambda: nn.Sequential(nn.ReLU(), norm(), conv(padding=1)), "pads zeros"),
    "transposed conv after": (lambda: nn.Sequential(nn.ReLU(), norm(), nn.ConvTranspose2d(4, 4, 3)), "is transposed"),
    "output read twice": (
        lambda: Functional(lambda self, x: self.b(y := self.a(x)) + y, a=conv(), b=norm()),
        "read by 2 operations",
    ),
    "output of the network": (
        lambda: Functional(lambda self, x: (y := self.a(x), self.b(y))[1] + 0 * y, a=conv(), b=norm()),
        "read by 2 operations",
    ),
    "norm used twice": (
        lambda: Functional(lambda self, x: self.b(self.a(self.b(x))), a=conv(), b=norm()),
        "is used 2 times",
    ),
    "convolution used twice": (
        lambda: Functional(lambda self, x: self.b(self.a(self.a(x))), a=conv(), b=norm()),
        "the convolution before it is used 2 times",
    ),
    "shared weight": (
        lambda: Functional(
            lambda self, x: self.b(self.a(x)) + self.c(x), a=(first := conv()), b=norm(), c=sharing(first, conv())
        ),
        "shares a parameter",
    ),
    "hook on the norm": (lambda: nn.Sequential(conv(), hooked(norm())), "has hooks"),
    "hook on the convolution": (lambda: nn.Sequential(hooked(conv()), norm()), "has hooks"),
    "parametrised": (lambda: nn.Sequential(parametrizations.weight_norm(conv()), norm()), "makes its weight anew"),
    "weight made in forward": (lambda: nn.Sequential(timm.layers.StdConv2d(4, 4, 3), norm()), "makes its weight anew"),
    "functional convolution": (
        lambda: Functional(
            lambda self, x: self.b(F.conv2d(x, self.w)), w=nn.Parameter(torch.randn(4, 4, 3, 3)), b=norm()
        ),
        "is computed by a function",
    ),
    "no running statistics": (
        lambda: nn.Sequential(conv(), nn.BatchNorm2d(4, track_running_stats=False)),
        "keeps no running statistics",
    ),
    "never used": (
        lambda: Functional(lambda self, x: self.a(x), a=conv(), b=norm()),
        "is not used in the forward pass",
    ),
    "written in place after the norm read it": (
        lambda: Functional(lambda self, x: (y := self.a(x), self.b(y), y.add_(1))[1] + y, a=conv(), b=norm()),
        "read by 2 operations",
    ),
    "weight of the convolution read elsewhere": (
        lambda: Functional(lambda m, x: m.n(m.a(x)) * m.a.weight.sum(), a=conv(), n=norm()),
        "has a parameter or buffer that another operation reads too",
    ),
    "bias of the convolution read elsewhere": (
        lambda: Functional(lambda m, x: m.n(m.a(x)) + m.a.bias.view(1, 4, 1, 1), a=conv(), n=norm()),
        "has a parameter or buffer that another operation reads too",
    ),
    "weight of the norm read elsewhere": (
        lambda: Functional(lambda m, x: m.n(m.a(x)) * m.n.weight.sum(), a=conv(), n=norm()),
        "has a parameter or buffer that another operation reads too",
    ),
    "statistics of the norm read elsewhere": (
        lambda: Functional(lambda m, x: m.n(m.a(x)) + m.n.running_mean.view(1, 4, 1, 1), a=conv(), n=norm()),
        "has a parameter or buffer that another operation reads too",
    ),
    "its input is written over before the convolution runs": (
        lambda: Functional(lambda m, x: (y := x.relu(), z := m.n(y), y.add_(5), m.a(z))[3], a=conv(), n=norm()),
        "its input is written over before the convolution after it reads it",
    ),
    "its input is written over through a view": (
        lambda: Functional(lambda m, x: (y := x.relu(), z := m.n(y), y[:, :1].add_(5), m.a(z))[3], a=conv(), n=norm()),
        "its input is written over before the convolution after it reads it",
    ),
    "older weight norm": (lambda: nn.Sequential(computed(nn.utils.weight_norm, conv()), norm()), "makes its weight"),
    "pruned": (
        lambda: nn.Sequential(prune.l1_unstructured(conv(), "weight", 0.5), norm()),
        "makes its weight anew",
    ),
    "pruned bias": (
        lambda: nn.Sequential(prune.l1_unstructured(conv(), "bias", 1), norm()),
        "does not take its bias as it is",
    ),
}


@pytest.mark.parametrize("build", FOLDED.values(), ids=FOLDED.keys())
def test_is_folded(build):
    model = build()
    if isinstance(model[1] if isinstance(model, nn.Sequential) else None, nn.BatchNorm2d) and not model[1].affine:
        model[1].running_mean.zero_()
    report = check_same(model)
    assert (report.folded, report.kept) == (1, {})


def check_same(model):
    """As `check`, for models whose statistics a case has set by itself."""
    model = model.double().eval()
    for part in model.modules():
        if isinstance(part, NORMS) and part.running_mean is not None and part.affine:
            shaken(part)
    fused, report = fuse(model, (4, 9, 9))
    x = torch.randn(2, 4, 9, 9, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(fused(x), model(x), rtol=1e-12, atol=1e-12)
    return report


@pytest.mark.parametrize(("forward", "parts"), PASSED_ON.values(), ids=PASSED_ON.keys())
def test_goes_where_the_data_flow_leads(forward, parts):
    report = check_same(Functional(forward, **{name: part() for name, part in parts.items()}))
    assert (report.folded, report.kept) == (1, {})


def test_two_norms_in_a_row_go_into_one_convolution():
    report = check_same(nn.Sequential(conv(), norm(), norm()))
    assert report.into == {"1": "0", "2": "0"}


SUMS = {
    "1x1 beside 3x3": (lambda m, x: m.a(x) + m.b(x), {"a": (1,), "b": (3, 1, 1)}, 1),
    "three branches, one written into": (
        lambda m, x: m.a(x).add_(m.b(x)).add_(m.c(x)),
        {"a": (1,), "b": (3, 1, 1), "c": (3, 1, 1)},
        1,
    ),
    "a number is added": (lambda m, x: 1 + m.a(x) + m.b(x), {"a": (1,), "b": (3, 1, 1)}, 1),
    "strided": (lambda m, x: m.a(x) + m.b(x), {"a": (1, 2), "b": (3, 2, 1)}, 1),
    "wide beside tall": (lambda m, x: m.a(x) + m.b(x), {"a": ((1, 3), 1, (0, 1)), "b": ((3, 3), 1, 1)}, 1),
    "cross": (lambda m, x: m.a(x) + m.b(x), {"a": ((1, 3), 1, (0, 1)), "b": ((3, 1), 1, (1, 0))}, 0),
    "taps between taps": (lambda m, x: m.a(x) + m.b(x), {"a": (3, 1, 1), "b": (3, 1, 2, 2)}, 0),
    "dilated in larger": (lambda m, x: m.a(x) + m.b(x), {"a": (3, 1, 2, 2), "b": (5, 1, 2)}, 1),
    "another input": (lambda m, x: m.a(x) + m.b(x.relu()), {"a": (1,), "b": (3, 1, 1)}, 0),
    "read elsewhere": (lambda m, x: (y := m.a(x)) + m.b(x) + y.relu(), {"a": (1,), "b": (3, 1, 1)}, 0),
    "used twice": (lambda m, x: m.a(x) + m.a(x), {"a": (1,)}, 0),
    "groups and none": (lambda m, x: m.a(x) + m.b(x), {"a": (1,), "b": (3, 1, 1, 1, 2)}, 0),
}


@pytest.mark.parametrize(("forward", "parts", "merges"), SUMS.values(), ids=SUMS.keys())
def test_one_convolution_does_the_work_of_branches_that_are_added(forward, parts, merges):
    report = check_same(Functional(forward, **{name: nn.Conv2d(4, 4, *options) for name, options in parts.items()}))
    assert len(report.merged) == merges


@pytest.mark.parametrize("name", ["repvgg_a0", "repghostnet_050"])
def test_a_reparameterisable_network_of_timm_is_fused_to_its_own_deployed_form(name):
    model = shaken(timm.create_model(name)).double()
    fused = fuse(model, (3, 64, 64))[0]
    deployed = timm.utils.reparameterize_model(model)
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(fused(x), deployed(x), rtol=1e-8, atol=1e-8)
    ours, theirs = (sum(isinstance(part, nn.Conv2d) for part in m.modules()) for m in (fused, deployed))
    assert ours == theirs


@pytest.mark.parametrize(("build", "reason"), KEPT.values(), ids=KEPT.keys())
def test_is_left_alone_with_the_reason(build, reason):
    report = check_same(build())
    assert report.folded == 0
    assert reason in " ".join(report.kept.values())
    assert reason in str(report)


def test_one_convolution_takes_the_norm_before_it_and_the_one_after_it():
    report = check_same(nn.Sequential(nn.ReLU(), norm(), conv(), norm()))
    assert report.into == {"1": "2", "3": "2"}


def test_a_reader_of_the_output_of_the_network_is_seen():
    """The output itself must stay what it was."""
    model = Functional(lambda self, x: [self.b(y := self.a(x)), y], a=conv(), b=norm()).double().eval()
    fused, report = fuse(shaken(model), (4, 9, 9))
    x = torch.randn(2, 4, 9, 9, dtype=torch.float64)
    for got, expected in zip(fused(x), model(x), strict=True):
        torch.testing.assert_close(got, expected)
    assert "also an output of the network" in report.kept["b"]


@pytest.mark.parametrize(
    ("build", "merges"),
    [
        (partial(DepthwiseSeparableConv, 4, 8, 1, between="", after=""), True),
        (partial(DepthwiseSeparableConv, 4, 8, 1, between="", after="", bias=True), True),
        (partial(DepthwiseSeparableConv, 4, 8, 1, between="act", after=""), False),
        (partial(DepthwiseSeparableConv, 4, 8, 3, between="", after=""), False),
        (lambda: nn.Sequential(nn.Conv2d(4, 16, 1), nn.Conv2d(16, 4, 3)), True),
        (lambda: nn.Sequential(nn.Conv2d(4, 16, 1), nn.Conv2d(16, 4, 3, padding=1)), False),
        (lambda: nn.Sequential(nn.Conv2d(4, 16, 1, bias=False), nn.Conv2d(16, 4, 3, padding=1)), True),
        (lambda: nn.Sequential(nn.Conv2d(4, 16, 1, groups=2), nn.Conv2d(16, 4, 3)), True),
        (lambda: nn.Sequential(nn.Conv2d(4, 16, 1, stride=2), nn.Conv2d(16, 4, 3)), False),
        (lambda: nn.Sequential(nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3, groups=2)), False),
        (lambda: nn.Sequential(nn.Conv2d(4, 1, 1), nn.Conv2d(1, 64, 3)), False),
    ],
)
def test_a_pair_is_merged_where_that_is_exact_and_smaller(build, merges):
    model = build().eval()
    before = sum(p.numel() for p in model.parameters())
    report = check_same(model)
    assert len(report.merged) == merges
    fused, _ = fuse(model, (4, 9, 9))
    after = sum(p.numel() for p in fused.parameters())
    assert after <= before
    assert (after < before) == merges


def test_dropouts_and_identities_go_where_only_their_container_calls_them():
    model = nn.Sequential(conv(), nn.Dropout(0.5), nn.Identity(), nn.Sequential(nn.ReLU(), nn.Dropout2d(0.1))).eval()
    fused, report = fuse(model, (4, 9, 9))
    assert report.dropped == ["1", "2", "3.1"]
    assert [type(part).__name__ for part in fused.modules()] == ["Sequential", "Conv2d", "Sequential", "ReLU"]


def test_a_container_that_is_indexed_keeps_its_places():
    model = Functional(
        lambda self, x: self.parts[2](self.parts[0](x)),
        parts=nn.Sequential(conv(), nn.Dropout(0.5), nn.Dropout(0.5), nn.ReLU()),
    ).eval()
    fused, _ = fuse(model, (4, 9, 9))
    assert isinstance(fused.get_submodule("parts.3"), nn.ReLU)
    assert fused(torch.zeros(1, 4, 9, 9)).shape == (1, 4, 7, 7)


def test_a_pair_stays_where_its_input_is_written_over_between_the_two():
    model = Functional(lambda m, x: (y := x.relu(), z := m.a(y), y.add_(5), m.b(z))[3], a=conv(1), b=conv())
    assert check_same(model).merged == []


def test_a_write_after_the_convolution_is_no_obstacle():
    model = Functional(lambda m, x: (y := x.relu(), m.a(m.n(y)), y.add_(5))[1], a=conv(), n=norm())
    assert check_same(model).folded == 1


@pytest.mark.parametrize(
    "forward", [lambda m, x: m.n(m.a(x)) * m.n.num_features, lambda m, x: m.b(m.a(x)) * m.a.out_channels]
)
def test_a_network_that_reads_attributes_of_what_would_go_is_refused(forward):
    model = Functional(forward, a=conv(1), b=conv(), n=norm()).eval()
    with pytest.raises(ValueError, match="cannot be fused: its forward pass reads attributes"):
        fuse(model, (4, 9, 9))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_and_moves_by_its_rounding(dtype):
    model = shaken(nn.Sequential(conv(), norm(), nn.ReLU(), conv())).to(dtype)
    fused, report = fuse(model, (4, 9, 9))
    x = torch.randn(2, 4, 9, 9, dtype=dtype)
    assert report.folded == 1
    assert {parameter.dtype for parameter in fused.parameters()} == {dtype}
    limit = 8 * torch.finfo(dtype).eps
    with torch.no_grad():
        torch.testing.assert_close(fused(x), model(x), rtol=limit, atol=limit)


def test_outputs_in_a_mapping_and_a_wrapped_network():
    inner = Functional(lambda m, x: {"folded": m.n(m.a(x)), "input": [x]}, a=conv(), n=norm())
    model = shaken(nn.DataParallel(inner)).double()
    fused, report = fuse(model, (4, 9, 9))
    x = torch.randn(2, 4, 9, 9, dtype=torch.float64)
    assert report.into == {"module.n": "module.a"}
    with torch.no_grad():
        torch.testing.assert_close(fused(x), model(x), rtol=1e-12, atol=1e-12)


def test_what_is_fused_can_be_copied_and_pickled():
    fused, _ = fuse(shaken(nn.Sequential(conv(1), norm(), nn.Dropout(), conv())), (4, 9, 9))
    x = torch.randn(2, 4, 9, 9)
    for again in (copy.deepcopy(fused), pickle.loads(pickle.dumps(fused))):
        assert torch.equal(again(x), fused(x))


def test_a_network_that_decides_by_values_is_refused():
    model = Functional(lambda m, x: m.n(m.a(x)) if x.sum() > 0 else m.a(x), a=conv(), n=norm()).eval()
    with pytest.raises(ValueError, match="asks for the value of a tensor"):
        fuse(model, (4, 9, 9))


def test_channels_last_stays():
    fused, _ = fuse(nn.Sequential(conv(), norm()).eval().to(memory_format=torch.channels_last), (4, 9, 9))
    assert fused.get_parameter("0.weight").is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: nn.Sequential(conv(), norm()),
            "model must be in evaluation mode, but the network itself is in training",
        ),
        (lambda: nn.Sequential(conv().eval(), norm()).eval()[:1].train(), "evaluation mode"),
        (lambda: nn.Sequential(nn.Conv2d(5, 4, 3)).eval(), r"does not run on input_size=\(4, 9, 9\)"),
    ],
)
def test_bad_input_is_named(build, message):
    with pytest.raises(ValueError, match=message):
        fuse(build(), (4, 9, 9))
