"""A spread of timm's convolutional networks: both ends of the field of two neighbouring units equal the gradient's.

`benchmarks/introspection.py sweep` does the same for every model of timm.
"""

from __future__ import annotations

import pytest

pytest.importorskip("timm")

from timm_oracle import compare

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
]


@pytest.mark.parametrize("name", SPREAD)
def test_both_ends_equal_the_gradient(name: str) -> None:
    record = compare(name)
    assert record["equal"] is True, record
