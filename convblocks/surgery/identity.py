"""Whether a finer network holds a coarser one at every n-th position, module by module."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from convblocks.deploy.flow import named_modules
from convblocks.introspect.graph import leaves

Pair = tuple[int, int]
TOLERANCE = 1e-8


class _Hooked(Protocol):
    def register_forward_hook(self, hook: Callable[[nn.Module, Any, Any], None]) -> RemovableHandle: ...


def differences(
    coarse: nn.Module, fine: nn.Module, input_size: Sequence[int], rates: Mapping[tuple[str, int], Pair]
) -> list[str]:
    """Run two networks on one random image, in float64, and name the modules whose outputs do not agree.

    Args:
        coarse: the original.
        fine: the network that is to hold it.
        input_size: (channels, height, width).
        rates: by name and count of a call, how far apart the original's positions stand in the output of `fine`.

    Returns:
        Names of the modules that differ by more than 1e-8 of the largest value, in the order in which they finish.
    """
    kept: dict[tuple[str, int], Tensor] = {}
    wrong: list[str] = []

    def keep(key: tuple[str, int], output: Tensor) -> None:
        kept[key] = output

    def compare(key: tuple[str, int], output: Tensor) -> None:
        if key in kept and not _agree(kept.pop(key), output, rates[key]):
            wrong.append(key[0] or type(coarse).__name__)

    parameter = next((p for p in coarse.parameters()), None)
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(1, *input_size, generator=generator, dtype=torch.float64)
    image = image if parameter is None else image.to(parameter.device)
    for model, action in ((coarse, keep), (fine, compare)):
        twin = copy.deepcopy(model).double().eval()
        with torch.no_grad(), _watching(twin, rates, action):
            twin(image)
    return wrong


def _agree(coarse: Tensor, fine: Tensor, rate: Pair) -> bool:
    steps = iter(rate)
    for dim, (few, many) in enumerate(zip(coarse.shape, fine.shape, strict=True)):
        if few == many:
            continue
        step = next(steps, 1)
        if -(-many // step) != few:
            # Tokens in a row, (N, H * W, C): compared where they are a map again.
            return coarse.ndim != 4
        fine = fine.index_select(dim, torch.arange(0, many, step, device=fine.device))
    scale = coarse.abs().amax()
    return bool((coarse - fine).abs().amax() <= TOLERANCE * scale)


@contextmanager
def _watching(
    model: nn.Module, rates: Mapping[tuple[str, int], Pair], action: Callable[[tuple[str, int], Tensor], None]
) -> Generator[None, None, None]:
    times: defaultdict[str, int] = defaultdict(int)

    def watch(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            key = (name, times[name])
            times[name] += 1
            first = next(leaves(output), None)
            if key in rates and first is not None:
                # An in-place activation writes over what it was given.
                action(key, first.detach().clone())

        return hook

    handles = [cast("_Hooked", module).register_forward_hook(watch(name)) for name, module in named_modules(model)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
