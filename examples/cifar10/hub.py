"""A network of this example as the Hugging Face hub keeps one: config.json and model.safetensors in a folder."""

from __future__ import annotations

import networks  # noqa: F401  importing it registers the networks with timm
import timm
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn


class HubNetwork(
    nn.Module, PyTorchModelHubMixin, library_name="convblocks", tags=["image-classification", "convblocks"]
):
    """A network by name that has `save_pretrained`, `from_pretrained` and `push_to_hub`.

    Args:
        name: a name that timm knows, such as "era_s9".
        num_classes: length of the output.
        in_chans: channels of the image.

    Shape:
        - Input: (N, in_chans, 32, 32)
        - Output: (N, num_classes), logits
    """

    def __init__(self, name: str, num_classes: int = 10, in_chans: int = 3) -> None:
        super().__init__()
        self.network = timm.create_model(name, num_classes=num_classes, in_chans=in_chans)

    def forward(self, x: Tensor) -> Tensor:
        """Classify (N, in_chans, 32, 32)."""
        return self.network(x)
