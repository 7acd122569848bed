import itertools
from dataclasses import replace

import networks
import pytest
import torch
from optim import make_average, make_optimizer, make_schedule, one_cycle
from recipes import MODERN, PUBLISHED, Recipe
from torch import nn


def rates(recipe: Recipe, steps: int, val_losses: list[float] | None = None) -> list[float]:
    """The learning rate of every step of a run."""
    optimizer = make_optimizer(recipe, nn.Linear(2, 2))
    schedule = make_schedule(recipe, optimizer, steps)
    seen = []
    for epoch in range(recipe.epochs):
        for _ in range(steps):
            seen.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.after_step()
        schedule.after_epoch(val_losses[epoch] if val_losses else 1.0)
    return seen


def test_one_cycle_rises_in_a_line_to_its_peak_and_falls_to_0() -> None:
    seen = rates(replace(MODERN, lr=0.5, warmup=0.2, epochs=5), steps=10)
    assert seen[:10] == pytest.approx([0.05 * step for step in range(1, 11)])
    assert max(seen) == seen[9] == seen[10] == 0.5
    assert all(later < earlier for earlier, later in itertools.pairwise(seen[10:]))
    assert seen[30] == pytest.approx(0.25)
    assert 0 < seen[-1] < 0.002
    assert one_cycle(50, 10, 50) == 0


@pytest.mark.parametrize("steps", range(1, 12))
def test_one_cycle_of_any_length_stays_between_0_and_its_peak(steps: int) -> None:
    seen = rates(replace(MODERN, lr=1.0, epochs=1), steps)
    assert len(seen) == steps
    assert all(0 < rate <= 1 for rate in seen)


def test_step_schedules_are_the_published_ones() -> None:
    net4 = rates(replace(PUBLISHED["net4"], epochs=13), steps=2)
    assert net4 == pytest.approx([0.3] * 12 + [0.15] * 12 + [0.075] * 2)
    eva8 = rates(replace(PUBLISHED["eva8_s6"], epochs=3), steps=1)
    assert eva8 == pytest.approx([0.07, 0.07 * 0.982143, 0.07 * 0.982143**2])


def test_plateau_drops_in_the_second_epoch_without_a_better_validation_loss() -> None:
    seen = rates(replace(PUBLISHED["era_s9"], epochs=6), steps=1, val_losses=[1.0, 0.9, 0.95, 0.94, 0.93, 0.92])
    assert seen == pytest.approx([0.01, 0.01, 0.01, 0.01, 0.001, 0.001])


def test_plateau_without_a_validation_loss_is_refused() -> None:
    recipe = PUBLISHED["era_s9"]
    schedule = make_schedule(recipe, make_optimizer(recipe, nn.Linear(2, 2)), 1)
    with pytest.raises(ValueError, match="schedule 'plateau' needs a validation loss"):
        schedule.after_epoch(None)


@pytest.mark.parametrize("name", networks.NETWORKS)
def test_norms_and_biases_have_no_weight_decay(name: str) -> None:
    model = getattr(networks, name)()
    decay = {
        id(parameter): group["weight_decay"]
        for group in make_optimizer(MODERN, model).param_groups
        for parameter in group["params"]
    }
    expected = {id(parameter): MODERN.weight_decay if parameter.ndim > 1 else 0.0 for parameter in model.parameters()}
    assert decay == expected
    assert set(decay.values()) == {0.0, MODERN.weight_decay}


def test_average_follows_quickly_at_first_and_slowly_later() -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    average = make_average(replace(MODERN, ema_decay=0.999), model)
    assert average is not None
    nn.init.ones_(model.weight)
    shares = []
    for step in (0, 10, 10**6):
        nn.init.zeros_(average.module.weight)
        average.update(step)
        shares.append(average.module.weight.item())
    assert shares == pytest.approx([1.0, 10 / 20, 0.001], rel=0.2)


def test_average_is_absent_where_the_recipe_has_none() -> None:
    assert make_average(PUBLISHED["net4"], nn.Linear(1, 1)) is None


def test_average_takes_in_the_statistics_of_batch_norm() -> None:
    model = nn.BatchNorm1d(2)
    average = make_average(MODERN, model)
    assert average is not None
    model(torch.randn(64, 2) + 5)
    average.update(10**6)
    assert average.module.get_buffer("running_mean") == pytest.approx(
        0.001 * model.get_buffer("running_mean"), rel=1e-3
    )
    assert average.module.get_buffer("num_batches_tracked").dtype == torch.int64


@pytest.mark.parametrize(
    ("change", "message"),
    [({"optimizer": "lion"}, "optimizer 'lion' is neither"), ({"schedule": "cosine"}, "schedule 'cosine' is none of")],
)
def test_unknown_words_are_refused(change: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rates(replace(MODERN, **change), steps=1)
