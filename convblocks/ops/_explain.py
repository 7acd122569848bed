"""explain: which path each depthwise convolution of a network takes."""

# What torch leaves without types.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from convblocks.ops._choice import Choice, unfit


def explain(module: nn.Module, x: Tensor) -> dict[str, Choice]:
    """Tell which path every depthwise convolution of a network takes for an input like `x`, and why.

    The network runs once in evaluation mode, without gradients, and keeps its state.

    Args:
        module: a block, or a network that contains blocks.
        x: an input of the shape, dtype, device and layout in question.

    Returns:
        The name of each depthwise convolution that the blocks built -> its `Choice`, in the order of the calls.

    Examples:
        >>> from convblocks import DepthwiseSeparableConv
        >>> explain(DepthwiseSeparableConv(8, 16, 3), torch.zeros(1, 8, 9, 9))
        {'conv_dw': Choice(path='torch', reason='the input is not on a CUDA device')}
    """
    found: dict[str, Choice] = {}
    handles: list[torch.utils.hooks.RemovableHandle] = []

    def watch(name: str, conv: Any, why_alone: str = "") -> None:
        def look(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            alone: Choice = conv.choice(inputs[0])
            # What holds for the input alone is said once.
            more = why_alone and not unfit(inputs[0], ()) and why_alone != alone.reason
            reason = f"{alone.reason}; not fused: {why_alone}" if more else alone.reason
            found.setdefault(name, alone._replace(reason=reason))

        handles.append(conv.register_forward_pre_hook(look))

    def watch_block(name: str, block: Any) -> None:
        def look(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            whole: Choice = block.fusion(inputs[0])
            if whole.path == "fused":
                found.setdefault(name, whole)
            elif name not in found:
                # Not sooner: what has a hook is not fused.
                watch(name, block.conv_dw, whole.reason)

        handles.append(block.register_forward_pre_hook(look))

    modes = {part: part.training for part in module.modules()}
    try:
        # torch types the generator without its items.
        parts: dict[str, nn.Module] = dict(module.named_modules())  # pyright: ignore[reportUnknownArgumentType]
        fusing = {
            (f"{name}." if name else "") + "conv_dw": part for name, part in parts.items() if hasattr(part, "fusion")
        }
        for name, part in parts.items():
            if callable(getattr(part, "choice", None)) and isinstance(part, nn.Conv2d):
                watch_block(name, fusing[name]) if name in fusing else watch(name, part)
        module.eval()
        with torch.no_grad():
            module(x)
    finally:
        for handle in handles:
            handle.remove()
        for part, training in modes.items():
            part.training = training
    return found
