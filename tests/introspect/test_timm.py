"""A spread of timm's convolutional networks: both ends of the field of two neighbouring units equal the gradient's.

`benchmarks/introspection.py sweep` does the same for every model of timm.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

timm = pytest.importorskip("timm")

from timm_oracle import build, compare  # noqa: E402  (imports timm)

from convblocks.introspect.summary import summary  # noqa: E402  (after it)

SPREAD = [
    "fasternet_t0",
    "ese_vovnet19b_slim_dw",
    "dla46_c",
    "cs3darknet_focus_s",
    "cspnext_tiny",
    "efficientnet_b0_g8_gn",
    "mobileone_s0",
    "resnet10t",
    "ecaresnext26t_32x4d",
    "convnextv2_atto",
    "dpn68",
    "densenet121",
    "regnety_002",
    "mobilenetv2_035",
    "repghostnet_050",
    "vgg11",
    "hardcorenas_a",
    "hrnet_w18_small",
    "legacy_xception",
    "starnet_s1",
    "tinynet_e",
    "mixnet_s",
    "inception_next_atto",
    "repvit_m0_9",
    "fastvit_t8",
    "mobilenetv1_100",
    "spnasnet_100",
    "semnasnet_050",
    "tresnet_m",
    "resnetv2_18",
    "fasternet_t1",
    "ese_vovnet19b_dw",
    "dla46x_c",
    "cs3darknet_m",
    "efficientnet_b0",
    "gernet_s",
    "eca_resnext26ts",
    "resnet14t",
    "convnext_atto",
    "dpn48b",
    "poolformer_s12",
    "regnetx_002",
    "mobilenetv3_small_050",
    "ghostnet_050",
    "ghostnetv2_100",
    "rexnet_100",
    "mnasnet_small",
    "legacy_seresnet18",
    "xception41",
    "mobilenetv4_conv_small",
    "lcnet_035",
    "hgnetv2_b0",
    "resnet18",
    "repvgg_a0",
    "fbnetc_100",
    "tf_mobilenetv3_small_minimal_100",
    "test_nfnet",
    "selecsls42",
    "res2net50_14w_8s",
    "lcnetv2_small",
    "test_mambaout",
    "resnest14d",
    "skresnet18",
    "rdnet_tiny",
    "inception_v3",
    "inception_v4",
    "test_convnext",
    "test_byobnet",
    "test_efficientnet",
    "test_resnet",
    "mobilevitv2_050",
    "swiftformer_xs",
]

DILATED = {
    "mobilevitv2_050": (8,),
    "resnet18": (8, 16),
    "mobilenetv2_035": (8, 16),
    "convnext_atto": (8, 16),
    "resnetv2_18": (8,),
    "regnetx_002": (8,),
    "regnety_002": (16,),
    "tinynet_e": (16,),
}
"""With an output stride below 32: dilation instead of strides."""


def test_the_spread_is_wide() -> None:
    assert len(SPREAD) + sum(map(len, DILATED.values())) >= 60
    assert len({timm.model_entrypoint(name).__module__ for name in SPREAD}) >= 40


@pytest.mark.parametrize("name", SPREAD)
def test_both_ends_equal_the_gradient(name: str) -> None:
    record = compare(name)
    assert record["equal"] is True, record


@pytest.mark.parametrize(("name", "stride"), [(name, stride) for name in DILATED for stride in DILATED[name]])
def test_both_ends_equal_the_gradient_where_dilation_replaces_strides(name: str, stride: int) -> None:
    record = compare(name, output_stride=stride)
    assert record["equal"] is True, record
    assert record["jump"] == stride


@pytest.mark.parametrize("name", SPREAD)
def test_costs_equal_the_flop_counter_and_the_sum_over_the_parameters(name: str) -> None:
    model = build(name)
    cfg: Any = model.default_cfg
    size = cfg["input_size"]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.empty(1, *size, device="meta"))
    table = summary(model, size, depth=1)
    assert 2 * table.macs == counter.get_total_flops()
    assert table.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert sum(row["parameters"] for row in table.records()[1:]) == table.parameters
