"""Any network by name: the seven of networks.py, or one of timm's that takes 32x32 images."""

import difflib
import inspect
from typing import Any

import networks  # noqa: F401  importing it registers the seven with timm
import timm
import torch
from errors import UsageError
from torch import nn

from data import SIZE


def require_known(name: str) -> None:
    """Refuse a misspelt name.

    Raises:
        UsageError: The name is unknown; the nearest ones are named.
    """
    known = timm.list_models()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else "timm.list_models() lists what is"
        raise UsageError(f"--model {name!r} is not known; {hint}")


def build(name: str, num_classes: int, dropout: float | None = None) -> nn.Module:
    """Build a network with fresh weights.

    Args:
        name: A name that timm knows.
        num_classes: Size of its output.
        dropout: Handed on where the network has such an argument; None keeps the network's own.

    Shape:
        - Input of the network: ``(N, 3, 32, 32)``
        - Output of the network: ``(N, num_classes)``, logits

    Raises:
        UsageError: The name is unknown, or the network does not fit such images.
    """
    require_known(name)
    parameters = inspect.signature(timm.model_entrypoint(name)).parameters
    options: dict[str, Any] = {"dropout": dropout} if dropout is not None and "dropout" in parameters else {}
    try:
        model = timm.create_model(name, pretrained=False, num_classes=num_classes, in_chans=3, **options).eval()
        with torch.no_grad():
            shape = tuple(model(torch.zeros(2, 3, SIZE, SIZE)).shape)
    except Exception as error:
        # Whatever a network does with an image too small for it: assertions, runtime errors, attribute errors.
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UsageError(f"--model {name} does not fit {SIZE}x{SIZE} images: {reason}") from None
    if shape != (2, num_classes):
        raise UsageError(f"--model {name} gives {shape} for 2 images of {num_classes} classes, not (2, {num_classes})")
    return model.train()
