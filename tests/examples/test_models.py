import models
import networks
import pytest
import torch
from errors import UsageError
from torch import nn


@pytest.mark.parametrize("name", [*networks.NETWORKS, "test_resnet"])
def test_networks_are_built_for_the_classes_of_the_data(name: str) -> None:
    model = models.build(name, 7)
    assert model.training
    assert model(torch.zeros(4, 3, 32, 32)).shape == (4, 7)


@pytest.mark.parametrize("name", ["era_s9", "net4", "eva8_s6"])
def test_dropout_is_the_networks_own_or_the_asked_one(name: str) -> None:
    def rates(dropout: float | None) -> set[float]:
        return {part.p for part in models.build(name, 10, dropout).modules() if isinstance(part, nn.Dropout)}

    assert max(rates(None)) > 0
    assert rates(0.0) <= {0.0}


@pytest.mark.parametrize(
    ("name", "near"),
    [("twelve_layers", "twelve_layer"), ("era_s8", "era_s9"), ("resnet10", "resnet101"), ("Net4", "net4")],
)
def test_misspelt_name_is_answered_with_the_nearest(name: str, near: str) -> None:
    with pytest.raises(UsageError, match=f"--model '{name}' is not known; did you mean .*{near}"):
        models.require_known(name)


def test_name_like_no_other_is_answered_with_where_to_look() -> None:
    with pytest.raises(UsageError, match=r"--model 'xyzzy!' is not known; timm.list_models\(\) lists"):
        models.require_known("xyzzy!")


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "hf-hub:someone/something"])
def test_network_that_does_not_fit_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(UsageError, match=r"does not fit 32x32 images: |is not known") as caught:
        models.build(name, 10)
    assert "\n" not in str(caught.value)
