"""Grad-CAM: which parts of an image speak for a class."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from trained import Trained

from data import SIZE

SMALLEST = 5
"""Pixels a side below which a map says no more than "somewhere"."""
ENLARGED = 4
"""Overlays have so many pixels a side for each of the image's."""


def last_map(model: nn.Module) -> tuple[str, nn.Module, int] | None:
    """Name, module and side of the last map of at least 5x5; None where there is none.

    A block that ends in that map is taken for its last layer: of a residual block the sum counts, not the branch.
    """
    found = None
    for name, module, output in _outputs(model):
        # Padding and what does nothing, in front of a layer that shrinks the map, give no map of their own.
        idle = isinstance(module, nn.Identity) or "Pad" in type(module).__name__
        if output.dim() == 4 and min(output.shape[2:]) >= SMALLEST and not idle:
            found = name, module, min(output.shape[2:])
    return found


def _outputs(model: nn.Module) -> list[tuple[str, nn.Module, Tensor]]:
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


def overlays(network: Trained, layer: nn.Module, images: NDArray[np.uint8], labels: Sequence[int]) -> NDArray[np.uint8]:
    """Each image, bright where it speaks for its label.

    Args:
        network: The network; computed in float32 whatever its precision is.
        layer: The module whose map is looked at.
        images: ``(N, 32, 32, 3)`` uint8.
        labels: For each image the class that is asked about.

    Shape:
        - Output: ``(N, 128, 128, 3)`` uint8

    Raises:
        ImportError: The package grad-cam is not installed.
    """
    import cv2
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.image import show_cam_on_image
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (network.mean, network.std))
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    with GradCAM(model=network.model, target_layers=[layer]) as cam:
        targets: list[nn.Module] = [ClassifierOutputTarget(label) for label in labels]  # pyright: ignore[reportAssignmentType]
        heat = cam(((pixels - mean) / std).to(network.device.name), targets)
    side = (SIZE * ENLARGED, SIZE * ENLARGED)
    large = [cv2.resize(image, side, interpolation=cv2.INTER_NEAREST).astype(np.float32) / 255 for image in images]
    smooth = [np.clip(cv2.resize(one, side, interpolation=cv2.INTER_CUBIC), 0, 1) for one in heat]
    pairs = zip(large, smooth, strict=True)
    return np.stack([show_cam_on_image(i, h, use_rgb=True, colormap=cv2.COLORMAP_INFERNO) for i, h in pairs])
