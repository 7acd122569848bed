"""What follows a convolution in a block: a bias, a norm by known statistics, an activation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor


class Stage(NamedTuple):
    """What is done to the result of a convolution, in this order; all of it may be absent.

    Attributes:
        bias: of the convolution, (channels).
        mean: a batch norm's running mean; None where there is no norm.
        variance: its running variance.
        weight: its weight, or None.
        shift: its bias, or None.
        eps: what it adds to the variance.
        act: `"relu"`, `"relu6"`, `"silu"`, `"gelu"`, `"gelu_tanh"`, `"hardswish"`, or `""` for none.

    Examples:
        >>> import torch
        >>> Stage(mean=torch.ones(2), variance=torch.ones(2), act="relu").rest(torch.zeros(1, 2, 1, 1)).flatten()
        tensor([0., 0.])
    """

    bias: Tensor | None = None
    mean: Tensor | None = None
    variance: Tensor | None = None
    weight: Tensor | None = None
    shift: Tensor | None = None
    eps: float = 1e-5
    act: str = ""

    def rest(self, y: Tensor) -> Tensor:
        """Apply norm and activation to (N, C, H, W) by PyTorch's operations; the bias is the convolution's."""
        if self.mean is not None:
            y = F.batch_norm(y, self.mean, self.variance, self.weight, self.shift, False, 0.0, self.eps)
        return ACTIVATIONS[self.act](y)

    def tensors(self) -> list[Tensor | None]:
        """Return what an operator takes."""
        return [self.bias, self.mean, self.variance, self.weight, self.shift]

    @classmethod
    def of(cls, tensors: Sequence[Tensor | None], eps: float, act: str) -> Stage:
        """Return the stage that an operator was given."""
        bias, mean, variance, weight, shift = tensors
        return cls(bias, mean, variance, weight, shift, eps, act)


def _nothing(x: Tensor) -> Tensor:
    return x


def _gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "": _nothing,
    "relu": F.relu,
    "relu6": F.relu6,
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": _gelu_tanh,
    "hardswish": F.hardswish,
}
