"""What mmcv 2.2.0 builds: the same children under the same names, registered in the same order.

Source: mmcv/cnn/bricks/conv_module.py and depthwise_separable_conv_module.py of the package mmcv-lite 2.2.0. A
ConvModule registers its convolution first, then its norm under "bn", "gn", "ln" or "in", whatever the order of its
forward; a DepthwiseSeparableConvModule holds two of them. mmcv itself needs a build of its own; where it is installed
the tests use it beside these.
"""

from torch import nn

NORMS = {"BN": ("bn", nn.BatchNorm2d), "GN": ("gn", lambda channels: nn.GroupNorm(2, channels))}


class ConvModule(nn.Module):
    def __init__(self, inputs, outputs, kernel_size, norm="BN", order=("conv", "norm", "act"), **options):
        super().__init__()
        self.order = order
        self.conv = nn.Conv2d(inputs, outputs, kernel_size, bias=norm is None, **options)
        self.norm_name = None
        if norm is not None:
            self.norm_name, kind = NORMS[norm]
            width = outputs if order.index("norm") > order.index("conv") else inputs
            self.add_module(self.norm_name, kind(width))
        self.activate = nn.ReLU(inplace=True)

    def forward(self, x):
        for layer in self.order:
            if layer == "conv":
                x = self.conv(x)
            elif layer == "act":
                x = self.activate(x)
            elif self.norm_name is not None:
                x = getattr(self, self.norm_name)(x)
        return x


class DepthwiseSeparableConvModule(nn.Module):
    def __init__(self, inputs, outputs, kernel_size, **options):
        super().__init__()
        self.depthwise_conv = ConvModule(inputs, inputs, kernel_size, groups=inputs, **options)
        self.pointwise_conv = ConvModule(inputs, outputs, 1)

    def forward(self, x):
        return self.pointwise_conv(self.depthwise_conv(x))
