"""A spread of timm's convolutional networks: both ends of the field of two neighbouring units equal the gradient's.

`benchmarks/introspection.py sweep` does the same for every model of timm.
"""

from __future__ import annotations

import pytest

pytest.importorskip("timm")

from timm_oracle import compare

SPREAD = [
    "fasternet_t0",
    "fasternet_t1",
    "ese_vovnet19b_slim_dw",
    "ese_vovnet19b_dw",
    "dla46_c",
    "dla46x_c",
    "cs3darknet_focus_s",
    "cs3darknet_m",
    "cspnext_tiny",
    "nf_regnet_b0",
    "nf_ecaresnet26",
    "efficientnet_b0",
    "efficientnet_b0_g8_gn",
    "gernet_s",
    "mobileone_s0",
    "eca_resnext26ts",
    "resnet10t",
    "resnet14t",
    "ecaresnext26t_32x4d",
    "convnext_atto",
    "convnextv2_atto",
    "dpn48b",
    "dpn68",
    "poolformer_s12",
    "densenet121",
    "regnetx_002",
    "regnety_002",
    "mobilenetv3_small_050",
    "mobilenetv2_035",
    "ghostnet_050",
    "repghostnet_050",
    "rexnet_100",
    "vgg11",
    "inception_v3",
    "hardcorenas_a",
    "mnasnet_small",
    "hrnet_w18_small",
    "res2net50_14w_8s",
    "resnest14d",
    "selecsls42",
    "skresnet18",
    "legacy_seresnet18",
    "legacy_xception",
    "xception41",
    "starnet_s1",
    "mobilenetv4_conv_small",
    "tinynet_e",
    "lcnet_035",
    "mixnet_s",
    "hgnetv2_b0",
    "inception_next_atto",
    "rdnet_tiny",
    "repvit_m0_9",
    "mambaout_femto",
    "fastvit_t8",
    "resnet18",
    "mobilenetv1_100",
    "repvgg_a0",
    "spnasnet_100",
    "fbnetc_100",
    "semnasnet_050",
    "tf_mobilenetv3_small_minimal_100",
    "visformer_tiny",
    "edgenext_xx_small",
    "tresnet_m",
    "convmixer_1024_20_ks9_p14",
    "resnetv2_18",
    "pvt_v2_b0",
    "swiftformer_xs",
    "shvit_s1",
    "efficientvit_b0",
    "focalnet_tiny_srf",
    "coat_lite_tiny",
    "nextvit_small",
    "gcresnext26ts",
    "csatv2",
    "sequencer2d_s",
]


@pytest.mark.parametrize("name", SPREAD)
def test_both_ends_equal_the_gradient(name: str) -> None:
    record = compare(name)
    assert record["equal"] is True, record
