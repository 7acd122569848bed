"""The most accurate published network of fewer than 100,000 parameters, as a yardstick for those of our own.

Rebuilt of this library's blocks from the description that its author gives: github.com/xvel/cifar10-tiniest, 97,530
parameters, 94.4 % on the original CIFAR-10, the mean of five runs of 200 epochs. `timm.create_model("tiniest")` builds
it, so `train.py --model tiniest` trains it; it is none of the networks of networks.py.

```
block: x -> channels in four shares: as they are, 3 x 3, 7 x 7, averaged then 7 x 7 dilated by 3 -> layer norm
         -> pointwise to twice the width, one half gates the other -> pointwise -> + scale * x
```
"""

from __future__ import annotations

import functools
from collections import OrderedDict

import torch
from pretrained import registered
from timm.layers import LayerNorm2d
from torch import Tensor, nn

from convblocks import ConvNormAct, DilatedDownsample, GAPHead, MixedDepthwise

NETWORKS = ("tiniest",)
Norm = functools.partial(LayerNorm2d, eps=1e-5)


@registered
def tiniest(num_classes: int = 10, in_chans: int = 3) -> nn.Module:
    """Build the network: three blocks of 48 channels on 32 x 32, three of 80 on 16 x 16."""
    stages: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=ConvNormAct(in_chans, 48, 3, padding=1, bias=True, norm_layer=Norm, act_layer=None),
        conv2=nn.Sequential(*(Gate(48) for _ in range(3))),
        trans1=DilatedDownsample(48, 80, 4, 2, 1, 1, 16, bias=True, norm_layer=Norm, after="norm"),
        conv3=nn.Sequential(*(Gate(80) for _ in range(3))),
        output=GAPHead(80, num_classes),
    )
    return nn.Sequential(stages)


class Gate(nn.Module):
    """A block: depthwise kernels of several sizes side by side, then a gated linear unit at every pixel.

    The gate is TanhExp, x * tanh(exp(x)) (X. Liu and X. Di, 2020, arXiv:2003.09855).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.around = MixedDepthwise(channels, (1, 3, 7, 7), (1, 1, 1, 3), bias=True)
        self.around.branches[3] = nn.Sequential(nn.AvgPool2d(3, 1, 1), self.around.branches[3])
        self.norm = Norm(channels)
        self.expand = nn.Conv2d(channels, 2 * channels, 1)
        self.project = nn.Conv2d(channels, channels, 1)
        self.scale = nn.Parameter(torch.ones(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block to (N, channels, H, W)."""
        gate, value = self.expand(self.norm(self.around(x))).chunk(2, 1)
        return self.project(gate * gate.exp().tanh() * value) + x * self.scale
