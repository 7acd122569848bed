"""One clear error for every kind of input that cannot be answered; what cannot be followed is named, never guessed."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convblocks.introspect.audit import audit
from convblocks.introspect.receptive_field import receptive_field
from convblocks.introspect.requirements import Requirements
from convblocks.introspect.summary import summary
from convblocks.introspect.tiling import halo


class Raises(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise KeyError("broken")


class Branches(nn.Module):
    """Control flow that depends on the data."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return x if x.sum() > 0 else -x


class Samples(nn.Module):
    """An operation that has no rule: where it reads is in the data."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.grid_sample(x, self.conv(x).permute(0, 2, 3, 1), align_corners=False)


@pytest.mark.parametrize(
    ("model", "size", "message"),
    [
        (nn.Conv2d(3, 4, 3), 32, "input_size must be"),
        (nn.Conv2d(3, 4, 3), (), "input_size must be"),
        (nn.Conv2d(3, 4, 3), (3, -1, 4), "positive whole numbers"),
        (nn.Conv2d(3, 4, 3), (3, 2.5, 4), "positive whole numbers"),
        (nn.Conv2d(3, 4, 3), "3,4,5", "input_size must be"),
        (nn.Conv2d(3, 4, 3), (3,), "at least one spatial dimension"),
        (nn.Conv2d(3, 4, 3), (5, 32, 32), r"does not run on input_size=\(5, 32, 32\): RuntimeError"),
        (nn.Conv2d(3, 4, 9), (3, 4, 4), "does not run on input_size"),
        (nn.Sequential(nn.Conv2d(3, 4, 3), Raises()), (3, 8, 8), "KeyError in '1': 'broken'"),
        (nn.LazyConv2d(4, 3), (3, 8, 8), "lazy module without a shape yet, LazyConv2d"),
        (nn.Conv2d(3, 4, 3, dtype=torch.complex64), (3, 8, 8), "complex parameters, Conv2d"),
        (nn.Sequential(), (3, 8, 8), "the network is empty"),
        ("resnet", (3, 8, 8), "must be an nn.Module or a callable, got str"),
    ],
)
def test_one_clear_error(model: nn.Module, size: object, message: str) -> None:
    for question in (receptive_field, summary):
        with pytest.raises(ValueError, match=message):
            question(model, size)


@pytest.mark.parametrize(
    "size", [(3, True, 8), ((3, 8, 8), (3, 8.0, 8)), {"x": (3, 8, 8)}, None, (3, 0, 8), ((3, 8, 8), 5)]
)
def test_what_is_no_size(size: object) -> None:
    with pytest.raises(ValueError, match="input_size must be"):
        receptive_field(nn.Conv2d(3, 4, 3), size)


def test_no_tensor_comes_out() -> None:
    with pytest.raises(ValueError, match="the network returns no tensor"):
        receptive_field(lambda x: {"shape": list((x + 1).shape)}, (3, 8, 8))


def test_more_inputs_than_the_network_takes() -> None:
    with pytest.raises(ValueError, match=r"does not run on input_size=.*TypeError"):
        receptive_field(nn.Conv2d(3, 4, 3), ((3, 8, 8), (3, 8, 8)))


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
def test_a_quantised_parameter_is_named() -> None:
    class Quantised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("table", torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8))

    with pytest.raises(ValueError, match="quantised module, Quantised at '1'"):
        receptive_field(nn.Sequential(nn.Conv2d(3, 4, 3), Quantised()), (3, 8, 8))


@pytest.mark.parametrize(
    "question", [receptive_field, summary, halo, lambda m, s: audit(m, s, Requirements(max_macs=1))]
)
@pytest.mark.parametrize("last", [Raises(), nn.Conv2d(9, 9, 3)])
def test_an_exception_leaves_the_network_as_it_was(question: Callable[..., object], last: nn.Module) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout().eval(), last).train()
    net[2].eval()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    modes = [module.training for module in net.modules()]
    with pytest.raises(ValueError, match="does not run on input_size"):
        question(net, (3, 8, 8))
    assert [module.training for module in net.modules()] == modes
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())
    assert not nn.modules.module._global_forward_hooks
    assert not nn.modules.module._global_forward_pre_hooks


def test_complex_input() -> None:
    with pytest.raises(ValueError, match="dtype must be real"):
        receptive_field(nn.Conv2d(3, 4, 3), (3, 8, 8), dtype=torch.complex64)


def test_data_dependent_control_flow_is_named_and_what_came_before_is_known() -> None:
    field = receptive_field(Branches(), (3, 16, 16))
    assert field.size == (None, None)
    assert "_local_scalar_dense" in field.unknown[0] or "meta" in field.unknown[0]
    assert field.layers["conv"].size == (3, 3)
    assert "unknown" in repr(field)


def test_an_operation_without_a_rule_is_named() -> None:
    field = receptive_field(Samples(), (3, 16, 16))
    assert field.size == (None, None)
    assert field.unknown == ("aten.grid_sampler_2d",)
    assert field.layers["conv"].size == (3, 3)
    with pytest.raises(ValueError, match=r"aten\.grid_sampler_2d"):
        field.interval(3, 3)
    assert "? not known, at most the whole input: aten.grid_sampler_2d" in summary(Samples(), (3, 16, 16)).text(100)


def test_a_mask_of_the_data_is_named_and_what_came_before_is_known() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            return x[x > 0]

    field = receptive_field(Masked(), (3, 16, 16))
    assert field.unknown == ("aten.index gives no answer without the values of its operands",)
    assert field.layers["conv"].size == (3, 3)


def test_inference_mode_hides_nothing() -> None:
    class Inferring(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect")
            self.fc = nn.Linear(4, 2)

        @torch.inference_mode()
        def forward(self, x: Tensor) -> Tensor:
            return self.fc(F.interpolate(self.conv(x), scale_factor=2).movedim(1, -1)).movedim(-1, 1)

    field = receptive_field(Inferring(), (3, 16, 16))
    assert (field.size, field.unknown) == ((3, 3), ())
    assert summary(Inferring(), (3, 16, 16)).macs == 16 * 16 * 4 * 27 + 32 * 32 * 8


def test_an_operand_that_a_rule_does_not_read_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rule that forgets an argument must not be believed."""
    from convblocks.introspect.registry import RULES

    monkeypatch.setitem(RULES, "mm", lambda call: call.input)
    net = nn.Conv2d(1, 1, 1)
    [reason] = receptive_field(lambda x: net(x)[0, 0] @ net(x)[0, 0].flip(0), (1, 4, 4)).unknown
    assert reason == "aten.mm (an argument that depends on the input)"


def test_a_unit_that_is_not_there() -> None:
    field = receptive_field(nn.Conv2d(3, 4, 3), (3, 8, 8))
    assert field.interval(0, 5) == ((0, 2), (5, 7))
    assert field.interval(3, -1, -1) == ((5, 7), (5, 7))
    with pytest.raises(ValueError, match=r"unit must be an index into \(6, 6\)"):
        field.interval(6, 0)
    assert receptive_field(nn.Conv2d(3, 4, 1, padding=1), (3, 8, 8)).interval(0, 0) == (None, None)


def test_attention_is_global_and_its_gate_is_named() -> None:
    class Attends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patch = nn.Conv2d(3, 8, 4, 4)
            self.attend = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            tokens = self.patch(x).flatten(2).transpose(1, 2)
            return tokens + self.attend(tokens, tokens, tokens, need_weights=False)[0]

    field = receptive_field(Attends(), (3, 32, 32))
    assert field.size == (math.inf, math.inf)
    assert field.local.size == (4, 4)
    assert "attend" in field.gates
    assert field.interval(0, 0) == ((0, 31), (0, 31))


@pytest.mark.parametrize(
    ("model", "size", "field"),
    [
        (nn.Sequential(nn.Conv1d(2, 4, 3, dilation=4), nn.MaxPool1d(2)), (2, 64), (10,)),
        (nn.Sequential(nn.Conv3d(2, 4, (1, 3, 5)), nn.AvgPool3d(2)), (2, 8, 16, 16), (2, 4, 6)),
        (nn.Conv2d(3, 4, (3, 7)), (3, 16, 16), (3, 7)),
    ],
)
def test_one_two_and_three_dimensions(model: nn.Module, size: tuple[int, ...], field: tuple[int, ...]) -> None:
    assert receptive_field(model, size).size == field


def test_recurrence_over_the_width_is_followed() -> None:
    class Scan(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(2, 4, 3)
            self.lstm = nn.LSTM(4, 4, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.lstm(self.conv(x).transpose(1, 2))[0]

    field = receptive_field(Scan(), (2, 12))
    assert [field.interval(place, 0) for place in (0, 4, 9)] == [((0, 2),), ((0, 6),), ((0, 11),)]


def test_channel_last_and_several_inputs_and_outputs() -> None:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)

    assert receptive_field(Last(), (16, 16, 3), channel_last=True).size == (3, 3)

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.near, self.far = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(1, 4, 5, padding=2)

        def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
            near, far = self.near(a), self.far(b)
            return near + far, near

    field = receptive_field(Two(), ((3, 16, 16), (1, 16, 16)))
    assert field.size == (3, 3)
    assert field.for_input(1).size == (5, 5)
    assert field.outputs[1].size == (3, 3)
    assert field.outputs[1].for_input(1).size == (0, 0)


def test_networks_in_other_wrappings() -> None:
    """As torch's own tools give them. Autocast casts weights on the CPU, and not the input of a trace."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))
    example = torch.zeros(1, 3, 16, 16)

    def mixed(x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return model(x)

    wrapped = [
        mixed,
        torch.compile(model),
        torch.compile(mixed),
        torch.export.export(model, (example,)).module(),
        nn.DataParallel(model),
    ]
    for one in [*wrapped, torch.fx.symbolic_trace(model)]:
        assert receptive_field(one, (3, 16, 16)).size == (5, 5)
