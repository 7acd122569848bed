"""GAPHead: global average pooling, and what turns its channels into classes."""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal

import torch
from torch import nn

from convblocks import geometry
from convblocks.layers._arguments import LayerFactory, choice, describe, flag, probability
from convblocks.layers._parts import Chain, activation


class GAPHead(Chain):
    """Averages every channel over the whole map and gives one logit a class.

    ```
    pool -> flatten -> drop -> [hidden -> act] -> fc            (classifier="linear", the default)
    pool -> drop -> [hidden -> act] -> fc -> flatten            (classifier="conv": 1x1 convolutions)
    pool -> flatten -> drop                                      (classifier=None: the channels are the classes)
    ```

    Args:
        in_channels: channels of the map.
        num_classes: length of the output; equal to `in_channels` where `classifier` is None.
        classifier: `"linear"`, `"conv"` (the same arithmetic, parameters of shape (out, in, 1, 1)), or None.
        hidden_channels: width of a hidden layer; None for none.
        act_layer: activation after the hidden layer: a class, a `functools.partial` or None.
        bias: of every layer of the classifier.
        dropout: probability that a pooled channel is zeroed in training.
        log_softmax: give log-probabilities instead of logits.
        device: where the parameters live.
        dtype: type of the parameters.

    Shape:
        - Input: (N, in_channels, H, W)
        - Output: (N, num_classes)

    Raises:
        ValueError: an argument is out of its range, `classifier=None` with `in_channels != num_classes`, or a hidden
            layer without a classifier.

    Examples:
        >>> GAPHead(96, 10)(torch.zeros(2, 96, 4, 4)).shape
        torch.Size([2, 10])
        >>> sum(p.numel() for p in GAPHead(10, 10, classifier=None).parameters())
        0

    Source: M. Lin, Q. Chen and S. Yan, "Network in network", 2014 (arXiv:1312.4400).
    """

    pool: nn.AdaptiveAvgPool2d

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        classifier: Literal["linear", "conv"] | None = "linear",
        hidden_channels: int | None = None,
        act_layer: LayerFactory = nn.ReLU,
        bias: bool = True,
        dropout: float = 0.0,
        log_softmax: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        shown = describe(GAPHead.__init__, locals())
        geometry.integer("in_channels", in_channels, 1)
        geometry.integer("num_classes", num_classes, 1)
        probability("dropout", dropout)
        flag("bias", bias)
        flag("log_softmax", log_softmax)
        if classifier is None:
            if in_channels != num_classes:
                raise ValueError(
                    f"classifier=None makes the channels the classes: in_channels={in_channels} must equal "
                    f"num_classes={num_classes}"
                )
            if hidden_channels is not None:
                raise ValueError(f"hidden_channels={hidden_channels} needs a classifier, 'linear' or 'conv', got None")
        else:
            choice("classifier", classifier, ("linear", "conv"))

        def layer(inputs: int, outputs: int) -> nn.Module:
            if classifier == "conv":
                return nn.Conv2d(inputs, outputs, 1, bias=bias, device=device, dtype=dtype)
            return nn.Linear(inputs, outputs, bias=bias, device=device, dtype=dtype)

        hidden: nn.Module = nn.Identity()
        act: nn.Module = nn.Identity()
        width = in_channels
        if hidden_channels is not None:
            width = geometry.integer("hidden_channels", hidden_channels, 1)
            hidden, act = layer(in_channels, width), activation(act_layer, device, dtype)
        children: OrderedDict[str, nn.Module] = OrderedDict(
            {
                "pool": nn.AdaptiveAvgPool2d(1),
                "flatten": nn.Flatten(),
                "drop": nn.Dropout(dropout) if dropout else nn.Identity(),
                "hidden": hidden,
                "act": act,
                "fc": nn.Identity() if classifier is None else layer(width, num_classes),
            }
        )
        if classifier == "conv":
            children.move_to_end("flatten")
        children["log_softmax"] = nn.LogSoftmax(dim=1) if log_softmax else nn.Identity()
        super().__init__(children)
        self.in_channels, self.out_channels, self._shown = in_channels, num_classes, shown
