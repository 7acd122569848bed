import json
from pathlib import Path

import networks
import pipelines
import pytest
import recipes
from errors import UsageError


@pytest.mark.parametrize(
    ("model", "lr", "batch_size", "epochs", "schedule", "pipeline"),
    [
        ("era_s9", 0.01, 128, 50, "plateau", "published"),
        ("late_100k", None, 128, 269, None, "late"),
        ("net4", 0.3, 128, 76, "step", "published"),
        ("eva8_s6", 0.07, 64, 80, "step", "published"),
        ("twelve_layer", None, 128, 84, None, "published"),
    ],
)
def test_published_recipes(
    model: str, lr: float | None, batch_size: int, epochs: int, schedule: str | None, pipeline: str
) -> None:
    recipe = recipes.choose("published", model)
    assert (recipe.batch_size, recipe.epochs, recipe.augment) == (batch_size, epochs, pipeline)
    assert (recipe.optimizer, recipe.momentum, recipe.weight_decay, recipe.ema_decay) == ("sgd", 0.9, 0, 0)
    assert recipe.dropout is None
    assert (recipe.augment_with, recipe.flip, recipe.mixup, recipe.cutmix) == ("albumentations", "random", 0, 0)
    if lr is None:
        assert "unpublished, ours" in recipe.source
    else:
        assert (recipe.lr, recipe.schedule, recipe.source) == (lr, schedule, "published")


def test_every_published_network_has_a_published_recipe() -> None:
    assert set(recipes.PUBLISHED) == set(networks.PUBLISHED)


def test_modern_recipe_has_no_dropout_and_averages_weights() -> None:
    recipe = recipes.choose("modern", "resnet10t")
    assert (recipe.dropout, recipe.augment, recipe.schedule) == (0.0, "cutout", "one-cycle")
    assert recipe.ema_decay > 0
    assert recipe.augment in pipelines.NAMES


def test_digits_have_a_recipe_of_their_own_name() -> None:
    assert recipes.choose("modern", "net4", digits=True).name == "modern (digits)"


def test_other_networks_have_no_published_recipe() -> None:
    with pytest.raises(UsageError, match="--model resnet10t has no published recipe"):
        recipes.choose("published", "resnet10t")


def test_every_recipe_for_all_is_made_of_what_there_is() -> None:
    for name in recipes.NAMES[:-1]:
        recipe = recipes.choose(name, "net4")
        assert recipe.name == name
        assert recipe.augment in pipelines.NAMES
        assert (recipe.flip in recipes.FLIPS, recipe.augment_with) == (True, "torch")
        assert recipe.optimizer in recipes.OPTIMIZERS


def test_fast_is_shorter_than_modern_and_long_is_longer() -> None:
    fast, modern, long = (recipes.choose(name, "net4") for name in ("fast", "modern", "long"))
    steps = [recipe.epochs / recipe.batch_size for recipe in (fast, modern, long)]
    assert steps[0] < steps[1] < steps[2]


def test_fast_is_over_in_twenty_seconds() -> None:
    """By what an epoch of it took on an H200."""
    measured = json.loads((Path(recipes.__file__).parent / "results" / "net4-fast-0.json").read_text())["metrics"]
    epoch = measured["train_seconds"] / measured["epochs"]
    assert 0.9 * 20 < recipes.choose("fast", "net4").epochs * epoch < 20
