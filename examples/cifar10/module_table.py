"""The layers of a network as rows: what runs in which order, what it gives, how many parameters it has."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from data import SIZE


@dataclass(frozen=True)
class Layer:
    """A module that computes: one without children, or with parameters of its own."""

    name: str
    kind: str
    output: tuple[int, ...]
    parameters: int


def module_table(model: nn.Module) -> list[Layer]:
    """The layers in the order in which they run; a shared parameter counts where it comes first.

    Args:
        model: A network for ``(N, 3, 32, 32)``; it is left as it was.
    """
    counted: set[int] = set()
    rows = []
    for name, module, output in outputs(model):
        own = [parameter for parameter in module.parameters(recurse=False) if id(parameter) not in counted]
        counted |= {id(parameter) for parameter in own}
        if own or not (any(True for _ in module.children()) or isinstance(module, nn.Identity)):
            size = sum(parameter.numel() for parameter in own)
            rows.append(Layer(name, type(module).__name__, tuple(output.shape[1:]), size))
    return rows


def outputs(model: nn.Module) -> list[tuple[str, nn.Module, Tensor]]:
    """Name, module and output of every module that gives a tensor, in the order in which they are done."""
    seen: list[tuple[str, nn.Module, Tensor]] = []

    def hook(name: str, module: nn.Module) -> torch.utils.hooks.RemovableHandle:
        return module.register_forward_hook(
            lambda _, inputs, output: seen.append((name, module, output)) if isinstance(output, Tensor) else None
        )

    training = model.training
    handles = [hook(name, module) for name, module in model.named_modules()]
    try:
        device = next(model.parameters()).device
        with torch.no_grad():
            model.eval()(torch.zeros(1, 3, SIZE, SIZE, device=device))
    finally:
        for handle in handles:
            handle.remove()
        model.train(training)
    return seen
