"""Writes results/networks.json: parameters, MACs and receptive field of the seven networks.

Parameters are counted, MACs come from torch's operator counts, and the receptive field is read off the gradient, so
each figure is a fact about the built network and not about its layer table.
"""

import argparse
import json
from pathlib import Path

import networks
import torch
from checkpoint import write_atomic
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

RESULTS = Path(__file__).parent / "results"


def build(name: str) -> nn.Module:
    return getattr(networks, name)().eval()


def count_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def count_macs(model: nn.Module, size: int = 32) -> int:
    """Multiply-accumulates for one RGB image of `size` pixels a side."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, size, size))
    # Torch counts two floating-point operations a multiply-accumulate.
    return counter.get_total_flops() // 2


def receptive_field(model: nn.Module, size: int = 32) -> tuple[int, int]:
    """Return the receptive field of the map that is pooled, and of the pool over it, in input pixels a side.

    The gradient of one pixel of the map is nonzero exactly on the input pixels that reach it. It is taken on a canvas
    that the field does not fill, or the border would cut it off.
    """
    model = _positive(model)
    pool = _pooled_map(model, _ones(size)).shape[-1]
    for canvas in (65, 129, 257, 513):
        image = _ones(canvas).requires_grad_()
        pooled_map = _pooled_map(model, image)
        fields = [_extent(pooled_map, image, window) for window in (1, pool)]
        if max(fields) < canvas:
            return fields[0], fields[1]
    raise RuntimeError("the receptive field is larger than 513 pixels")


def _ones(size: int) -> Tensor:
    return torch.ones(1, 3, size, size, dtype=torch.float64)


def _positive(model: nn.Module) -> nn.Module:
    """Give every layer positive weights: no ReLU is then off and no sum cancels, so no path is hidden."""
    model = model.double().eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                # A mean of the inputs keeps values near 1 through any depth.
                module.weight.fill_(1 / module.weight[0].numel())
                if module.bias is not None:
                    module.bias.zero_()
    return model


def _pooled_map(model: nn.Module, image: Tensor) -> Tensor:
    (pool,) = (module for module in model.modules() if isinstance(module, nn.AdaptiveAvgPool2d))
    seen: list[Tensor] = []
    handle = pool.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        model(image)
    finally:
        handle.remove()
    return seen[0]


def _extent(pooled_map: Tensor, image: Tensor, window: int) -> int:
    """Return the pixels a side that a window in the middle of the map sees; all, where the border is among them."""
    start = (pooled_map.shape[-1] - window) // 2
    target = pooled_map[..., start : start + window, start : start + window].sum()
    (gradient,) = torch.autograd.grad(target, image, retain_graph=True)
    rows = gradient[0].sum(dim=(0, 2)).nonzero()
    first, last, size = int(rows.min()), int(rows.max()), image.shape[-1]
    return size if first == 0 or last == size - 1 else last - first + 1


def describe(name: str) -> dict[str, int]:
    last_convolution, with_pool = receptive_field(build(name))
    return {
        "parameters": count_parameters(build(name)),
        "macs": count_macs(build(name)),
        "receptive_field": last_convolution,
        "receptive_field_with_pool": with_pool,
    }


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / "networks.json"
    text = json.dumps({name: describe(name) for name in networks.NETWORKS}, indent=2) + "\n"
    write_atomic(path, text)
    print(text, end="")


if __name__ == "__main__":
    main()
