"""What common operations return on the meta device, without running them there.

torch answers many operations on meta tensors by a decomposition written in Python: a batch norm takes thirty times as
long as the convolution before it, and norms and activations together most of a trace. Their results have the shape of
an operand, which is all that a trace asks for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from convblocks.introspect.meta import elementwise, moves, sums, windows
from convblocks.introspect.meta.factories import make
from convblocks.introspect.meta.memory import Shortcut

SHORTCUTS: dict[Any, Shortcut] = {**elementwise.SHORTCUTS, **moves.SHORTCUTS, **windows.SHORTCUTS, **sums.SHORTCUTS}

__all__ = ["SHORTCUTS", "make", "recurrent_shapes", "run"]


def run(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What `func` returns for tensors on the meta device."""
    shortcut = SHORTCUTS.get(func)
    result = shortcut(*args, **kwargs) if shortcut is not None else None
    return func(*args, **kwargs) if result is None else result


def recurrent_shapes(name: str, args: tuple[Any, ...]) -> list[tuple[int, ...]] | None:
    """Shapes of the sequence and of the last states of `torch.lstm` and its like; None for packed sequences."""
    x, state = args[:2]
    if isinstance(args[2], Tensor) or isinstance(state, Tensor) == (name == "lstm") or x.dim() != 3:
        return None
    states: list[Tensor] = [state] if isinstance(state, Tensor) else list(state)
    weights: Sequence[Tensor] = args[2]
    first = weights[0]
    if first.dim() != 2 or first.shape[1] != x.shape[2]:
        return None
    bidirectional: bool = args[7]
    return [(*x.shape[:2], states[0].shape[2] * (1 + bidirectional)), *(tuple(t.shape) for t in states)]
