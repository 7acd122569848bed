"""A recipe's optimizer, learning-rate schedule and weight averaging."""

import math
from dataclasses import dataclass

from recipes import Recipe
from timm.optim import param_groups_weight_decay
from timm.utils import ModelEmaV3
from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau, StepLR


def make_optimizer(recipe: Recipe, model: nn.Module) -> Optimizer:
    """The optimizer, with no weight decay on norms and biases."""
    groups = param_groups_weight_decay(model, recipe.weight_decay)
    if recipe.optimizer == "sgd":
        return SGD(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=recipe.nesterov)
    if recipe.optimizer == "adamw":
        return AdamW(groups, lr=recipe.lr)
    raise ValueError(f"optimizer {recipe.optimizer!r} is neither 'sgd' nor 'adamw'")


@dataclass
class Schedule:
    """A learning-rate schedule that knows when it moves: after every step, or after every epoch."""

    scheduler: LRScheduler
    each_step: bool = False

    def after_step(self) -> None:
        if self.each_step:
            self.scheduler.step()

    def after_epoch(self, val_loss: float) -> None:
        if isinstance(self.scheduler, ReduceLROnPlateau):
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


def make_average(recipe: Recipe, model: nn.Module) -> ModelEmaV3 | None:
    """The averaged weights, or None; they reach back a tenth of the steps made, and 1/(1 - decay) steps at most."""
    if not recipe.ema_decay:
        return None
    return ModelEmaV3(model, decay=recipe.ema_decay, use_warmup=True, warmup_gamma=10.0, warmup_power=1.0)
