"""The bound that holds where an operation is unknown: never less than what the gradient reaches."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from small_networks import UNet, dilated, strided_without_padding
from torch import Tensor, nn

from convblocks.introspect.audit import audit
from convblocks.introspect.receptive_field import receptive_field
from convblocks.introspect.registry import RULES
from convblocks.introspect.requirements import Requirements
from convblocks.introspect.summary import summary
from convblocks.introspect.tiling import halo, tiled


class Inverts(nn.Module):
    """An operation without a rule, of a part of the input."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 1, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(torch.linalg.inv(self.before(x)[..., 8:18, 2:12]))


class Branches(nn.Module):
    """Control flow by the values."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(x, 2)
        return x if x.sum() > 0 else -x


def test_what_was_read_before_the_operation_bounds_what_comes_after() -> None:
    field = receptive_field(Inverts(), (1, 32, 32))
    assert field.unknown == ("aten.linalg_inv_ex",)
    assert field.size == (None, None)
    assert field.at_most == (12, 12)
    assert "at most=(12, 12), unknown: aten.linalg_inv_ex" in repr(field)
    with pytest.raises(ValueError, match=r"lies within \[\(7, 18\), \(1, 12\)\]: aten.linalg_inv_ex"):
        field.interval(0, 0)
    rows = {row["layer"]: row for row in summary(Inverts(), (1, 32, 32)).records()}
    assert rows["after"]["at_most"] == (12, 12)
    assert rows["before"]["at_most"] is None


def test_the_gradient_stays_within_the_bound() -> None:
    x = torch.rand(1, 1, 32, 32, dtype=torch.float64, requires_grad=True)
    Inverts().double()(x)[0, 0, 3, 4].backward()
    assert x.grad is not None
    rows, columns = (x.grad[0, 0].abs().amax(dim).nonzero().flatten() for dim in (1, 0))
    assert (int(rows[0]), int(rows[-1])) == (7, 18)
    assert (int(columns[0]), int(columns[-1])) == (1, 12)


def test_where_the_values_decide_the_bound_is_the_input() -> None:
    field = receptive_field(Branches(), (3, 16, 24))
    assert field.at_most == (16, 24)
    assert "at most=(16, 24)" in repr(field)


def test_a_known_field_is_bounded_by_itself_and_by_the_input() -> None:
    field = receptive_field(nn.Sequential(nn.Conv2d(1, 1, (3, 9), padding=(1, 4)), nn.Conv2d(1, 1, 1)), (1, 16, 8))
    assert field.size == (3, 9)
    assert field.at_most == (3, 8)
    assert receptive_field(nn.Conv2d(3, 4, 1, padding=1), (3, 8, 8)).at_most == (1, 1)
    assert receptive_field(lambda x: (x.mean((2, 3)), torch.ones_like(x) + 0)[0], (3, 8, 8)).at_most == (8, 8)


@pytest.mark.parametrize("op", ["convolution", "max_pool2d_with_indices", "cat", "upsample_nearest2d", "slice"])
@pytest.mark.parametrize(
    "model", [UNet("nearest"), dilated(), strided_without_padding(), Inverts()], ids=lambda m: type(m).__name__
)
def test_the_bound_holds_whichever_rule_is_missing(model: nn.Module, op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    exact = receptive_field(model, (1, 32, 32)).at_most
    monkeypatch.delitem(RULES, op)
    field = receptive_field(model, (1, 32, 32))
    assert all(known <= bound <= 32 for known, bound in zip(exact, field.at_most, strict=True))


def test_a_network_that_cannot_be_followed_is_unknown_to_every_question() -> None:
    """Its coverage once was 1, its field on the first input one pixel, and audits passed by the part that ran."""
    size = (3, 16, 24)
    field = receptive_field(Branches(), size)
    assert field.coverage is None
    assert field.for_input(0).size == (None, None)
    with pytest.raises(ValueError, match="no tile is known to do: the network asks for the value"):
        halo(Branches(), size)
    with pytest.raises(ValueError, match="no tile is known to do: the network asks for the value"):
        tiled(Branches(), torch.rand(1, *size), tile=8)
    asked = Requirements(max_parameters=1, max_macs=9, at_most={"dilated": 0}, output_shape=(3, 8, 12), min_coverage=0)
    findings = audit(Branches(), size, asked).findings
    assert [finding.passed for finding in findings] == [True, False, False, False, False]
    assert all(f.measured.startswith("unknown") for f in findings if f.rule in ("MACs", "dilated layers"))
    assert "stopped, what follows is not counted: the network asks" in summary(Branches(), size).text(160)
