"""The networks as timm and the Hugging Face hub use them."""

import json
from pathlib import Path

import hub
import networks
import pytest
import timm
import torch
from timm.data import resolve_model_data_config


@pytest.mark.parametrize(
    ("name", "channels", "reduction"),
    [
        ("era_s9", [24, 32, 32, 64, 64, 96, 96, 96], [1] * 8),
        ("late_100k", [32, 32, 64, 16, 32, 32, 42], [1, 2, 2, 4, 4, 8, 8]),
        ("net4", [64, 32, 96, 32, 128], [1, 2, 2, 4, 4]),
        ("eva8_s6", [64, 64, 128, 64, 128, 64, 128], [1, 2, 2, 4, 4, 4, 4]),
        ("twelve_layer", [32, 32, 64, 32, 64, 16], [1, 2, 2, 4, 4, 4]),
    ],
)
def test_features_only_gives_the_maps_of_the_stages(name, channels, reduction):
    model = timm.create_model(name, features_only=True)
    assert model.feature_info.channels() == channels
    assert model.feature_info.reduction() == reduction
    maps = model.eval()(torch.zeros(1, 3, 32, 32))
    assert [m.shape[1] for m in maps] == channels


def test_feature_maps_are_those_of_the_network():
    torch.manual_seed(0)
    whole = timm.create_model("net4").eval()
    torch.manual_seed(0)
    model = timm.create_model("net4", features_only=True, out_indices=(1, 4)).eval()
    x = torch.randn(1, 3, 32, 32)
    small, last = model(x)
    stages = dict(whole.named_children())
    torch.testing.assert_close(small, stages["trans1"](stages["conv1"](x)))
    torch.testing.assert_close(stages["output"](last), whole(x))
    assert model.feature_info.channels() == [32, 128]


def test_stages_are_counted_from_the_end_too_and_one_that_is_not_there_is_named():
    model = timm.create_model("net4", features_only=True, out_indices=(0, -1))
    assert model.feature_info.channels() == [64, 128]
    with pytest.raises(ValueError, match="out_indices must be of 5 stages, got 5"):
        timm.create_model("net4", features_only=True, out_indices=(5,))


def test_create_model_takes_what_timm_hands_over():
    model = timm.create_model("eva8_s6", num_classes=7, in_chans=1, norm="group")
    assert model.eval()(torch.zeros(1, 1, 32, 32)).shape == (1, 7)
    assert timm.create_model("eva8_s6", in_chans=1, features_only=True).feature_info.channels()[0] == 64
    with pytest.raises(TypeError, match="unexpected keyword arguments: drop_path_rate"):
        timm.create_model("eva8_s6", drop_path_rate=0.1)
    assert resolve_model_data_config(model)["input_size"]


@pytest.mark.parametrize("name", networks.NETWORKS)
def test_a_network_is_saved_and_loaded_as_the_hub_does(name: str, tmp_path: Path):
    model = hub.HubNetwork(name, num_classes=7).eval()
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text()) == {"name": name, "num_classes": 7, "in_chans": 3}
    assert (tmp_path / "model.safetensors").stat().st_size < 1_000_000
    again = hub.HubNetwork.from_pretrained(str(tmp_path)).eval()
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(again(x), model(x))
