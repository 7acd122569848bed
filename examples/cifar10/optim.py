"""A recipe's optimizer, learning-rate schedule and weight averaging."""

import copy
import math
from dataclasses import dataclass

import torch
from recipes import Recipe
from timm.optim import param_groups_weight_decay
from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau, StepLR


def make_optimizer(recipe: Recipe, model: nn.Module) -> Optimizer:
    """The optimizer, with no weight decay on norms and biases."""
    groups = param_groups_weight_decay(model, recipe.weight_decay)
    # One kernel a step instead of several: a step of a small network is short.
    fused = all(parameter.is_cuda for parameter in model.parameters())
    if recipe.optimizer == "sgd":
        return SGD(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.nesterov, fused=fused)
    if recipe.optimizer == "adamw":
        return AdamW(groups, lr=recipe.lr, fused=fused)
    raise ValueError(f"optimizer {recipe.optimizer!r} is neither 'sgd' nor 'adamw'")


@dataclass
class Schedule:
    """A learning-rate schedule that knows when it moves: after every step, or after every epoch."""

    scheduler: LRScheduler
    each_step: bool = False

    def after_step(self) -> None:
        if self.each_step:
            self.scheduler.step()

    def after_epoch(self, val_loss: float | None) -> None:
        if isinstance(self.scheduler, ReduceLROnPlateau):
            if val_loss is None:
                raise ValueError("schedule 'plateau' needs a validation loss, and there is none")
            self.scheduler.step(val_loss)
        elif not self.each_step:
            self.scheduler.step()


def one_cycle(step: int, warmup: int, total: int) -> float:
    """Share of the peak learning rate at a step: a straight line up, then half a cosine down to 0 at ``total``."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def make_schedule(recipe: Recipe, optimizer: Optimizer, steps_per_epoch: int) -> Schedule:
    """The schedule of a whole run."""
    if recipe.schedule == "one-cycle":
        total = recipe.epochs * steps_per_epoch
        warmup = max(1, round(recipe.warmup * total))
        return Schedule(LambdaLR(optimizer, lambda step: one_cycle(step, warmup, total)), each_step=True)
    if recipe.schedule == "step":
        return Schedule(StepLR(optimizer, recipe.step_size, recipe.factor))
    if recipe.schedule == "plateau":
        return Schedule(ReduceLROnPlateau(optimizer, factor=recipe.factor, patience=recipe.patience))
    if recipe.schedule == "constant":
        return Schedule(LambdaLR(optimizer, lambda epoch: 1.0))
    raise ValueError(f"schedule {recipe.schedule!r} is none of 'one-cycle', 'step', 'plateau', 'constant'")


class Average:
    """An exponential moving average of a network's weights and statistics.

    It reaches back a tenth of the steps made, and 1/(1 - decay) steps at most.

    Args:
        model: The network.
        decay: What is left of the average after a step, in the long run.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.module = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        pairs = list(zip(self.module.state_dict().values(), model.state_dict().values(), strict=True))
        # Gathered once: a state_dict at every step takes longer than a small network's step on a GPU.
        floats = [pair for pair in pairs if pair[0].is_floating_point()]
        self._averages, self._values = [average for average, _ in floats], [value for _, value in floats]
        others = [pair for pair in pairs if not pair[0].is_floating_point()]
        self._counts, self._counted = [average for average, _ in others], [value for _, value in others]

    def decay_at(self, step: int) -> float:
        """What is left of the average after a step, counted from 0."""
        return min(self.decay, 1 - 10 / (10 + max(0, step - 1)))

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the network after a step, counted from 0."""
        torch._foreach_lerp_(self._averages, self._values, 1 - self.decay_at(step))
        if self._counts:
            torch._foreach_copy_(self._counts, self._counted)


def make_average(recipe: Recipe, model: nn.Module) -> Average | None:
    """The averaged weights, or None."""
    return Average(model, recipe.ema_decay) if recipe.ema_decay else None
