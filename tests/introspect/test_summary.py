"""The table: rows, costs, totals, and the published tables it reproduces."""

from __future__ import annotations

import networks
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from convblocks.introspect.summary import summary

timm = pytest.importorskip("timm")

ERA_S9 = [
    # r in, r out, n in, n out, j in, j out, k, s, p, d, effective k
    (1, 3, 32, 32, 1, 1, 3, 1, 1, 1, 3),
    (3, 5, 32, 32, 1, 1, 3, 1, 1, 1, 3),
    (5, 7, 32, 30, 1, 1, 3, 1, 0, 1, 3),
    (7, 9, 30, 30, 1, 1, 3, 1, 1, 1, 3),
    (9, 11, 30, 30, 1, 1, 3, 1, 1, 1, 3),
    (11, 15, 30, 26, 1, 1, 3, 1, 0, 2, 5),
    (15, 17, 26, 26, 1, 1, 3, 1, 1, 1, 3),
    (17, 19, 26, 26, 1, 1, 3, 1, 1, 1, 3),
    (19, 27, 26, 18, 1, 1, 3, 1, 0, 4, 9),
    (27, 29, 18, 18, 1, 1, 3, 1, 1, 1, 3),
    (29, 31, 18, 18, 1, 1, 3, 1, 1, 1, 3),
    (31, 47, 18, 2, 1, 1, 3, 1, 0, 8, 17),
    (47, 48, 2, 1, 1, 1, 2, 1, 0, 1, 2),
    (48, 48, 1, 1, 1, 1, 1, 1, 0, 1, 1),
]


def test_reproduces_the_published_table_of_era_s9() -> None:
    rows = summary(networks.era_s9(), (3, 32, 32)).geometry().rows
    assert [tuple(int(cell) for cell in row[2:]) for row in rows] == ERA_S9


@pytest.mark.parametrize(
    ("name", "parameters", "mmacs", "field"),
    [
        ("era_s9", 199_562, 53.6, 48),
        ("late_100k", 99_956, 22.8, 157),
        ("net4", 176_234, 45.9, 55),
        ("eva8_s6", 98_779, 10.3, 71),
        ("twelve_layer", 170_106, 20.9, 47),
    ],
)
def test_five_networks(name: str, parameters: int, mmacs: float, field: int) -> None:
    table = summary(getattr(networks, name)(), (3, 32, 32))
    assert table.parameters == parameters
    assert round(table.macs / 1e6, 1) == mmacs
    assert table.layers[0].field is not None
    assert table.layers[0].field.local.size == (field, field)


@pytest.mark.parametrize(
    "name",
    ["resnet18", "convnext_atto", "mobilenetv3_small_050", "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"],
)
def test_costs_equal_the_flop_counter(name: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(name).eval()
        x = torch.empty(1, 3, 224, 224)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(x)
    table = summary(model, (3, 224, 224), depth=1)
    assert table.macs == counter.get_total_flops() // 2
    assert table.parameters == sum(p.numel() for p in model.parameters())


class Functional(nn.Module):
    """Everything that tables of hooks miss: functional layers, a layer used twice, a shared weight, an unused one."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.tied = nn.Conv2d(4, 4, 3, padding=1)
        self.tied.weight = self.conv.weight
        self.idle = nn.Linear(7, 7)
        self.frozen = nn.Conv2d(4, 8, 1)
        self.frozen.requires_grad_(False)
        self.weight = nn.Parameter(torch.ones(8, 8, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.tied(self.conv(self.conv(x)))
        x = F.relu(self.frozen(x))
        return F.adaptive_avg_pool2d(F.conv2d(x, self.weight, stride=2), 1)


def test_functional_reused_shared_unused_and_frozen_layers() -> None:
    model = Functional()
    table = summary(model, (4, 16, 16))
    rows = {(row["layer"], row["type"], row["reused"]): row for row in table.records()}
    assert rows["conv", "Conv2d", False]["parameters"] == 148
    assert rows["conv", "Conv2d", True]["parameters"] == 0
    assert rows["tied", "Conv2d", False]["parameters"] == 4
    assert rows["idle", "Linear", False]["unused"]
    assert rows["frozen", "Conv2d", False]["trainable"] == 0
    functional = rows["", "convolution", False]
    assert functional["functional"]
    assert functional["parameters"] == 8 * 8 * 9
    assert functional["receptive_field"] == (9, 9)
    assert functional["stride"] == (2, 2)
    assert ("", "mean", False) in rows or ("", "adaptive_avg_pool2d", False) in rows
    assert table.parameters == sum(p.numel() for p in model.parameters())
    assert sum(row["parameters"] for row in table.records()[1:]) == table.parameters
    assert table.parameters - table.trainable == 40


def test_the_model_comes_back_untouched() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout()).train()
    model[2].eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    summary(model, (3, 8, 8))
    with pytest.raises(ValueError, match="does not run on input_size"):
        summary(model, (5, 8, 8))
    assert [m.training for m in model.modules()] == [True, True, True, False]
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert not nn.modules.module._global_forward_hooks
    assert not nn.modules.module._global_forward_pre_hooks


def test_text_fits_its_width_and_depth_cuts() -> None:
    table = summary(networks.era_s9(), (3, 32, 32))
    for width in (60, 80, 160):
        text = table.text(width)
        assert max(len(line) for line in text.split("\n\n")[0].splitlines()) <= width
    assert len(summary(networks.era_s9(), (3, 32, 32), depth=1).layers) < 12
    assert "| 199,562 |" in table.markdown()
    assert table.html().count("<tr>") == len(table.table().rows) + 1


def test_markdown_keeps_the_nesting() -> None:
    lines = summary(nn.Sequential(nn.Sequential(nn.Conv2d(3, 8, 3))), (3, 32, 32)).markdown().splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:5]] == [
        "Sequential",
        "&nbsp;&nbsp;0",
        "&nbsp;&nbsp;&nbsp;&nbsp;0",
    ]
