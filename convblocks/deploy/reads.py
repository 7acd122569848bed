"""Which tensors of a network are read, and how often: also by what depends on no input, such as a weight's norm."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

from torch import Tensor
from torch.overrides import TorchFunctionMode


class Reads(TorchFunctionMode):
    """Counts, while it is entered, the calls of torch that make a tensor from a tensor.

    Questions such as ``weight.shape`` make none, and what a function of torch calls itself is not counted again.
    """

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[int] = Counter()
        """Of each tensor, by its `id`."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call the function, and count."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        # What writes into a tensor by its places gives nothing.
        if _tensors([result]) or func is Tensor.__setitem__:
            self.counts.update({id(tensor) for tensor in _tensors([*args, *kwargs.values()])})
        return result


def _tensors(items: Iterable[Any]) -> list[Tensor]:
    found: list[Tensor] = []
    for item in items:
        if isinstance(item, Tensor):
            found.append(item)
        elif isinstance(item, (list, tuple)):
            found += _tensors(cast("Sequence[Any]", item))
    return found
