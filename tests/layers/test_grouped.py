"""The weight gradient of dilated, grouped kernels in bfloat16, which oneDNN leaves unwritten on some CPUs."""

from functools import partial

import pytest
import torch
from torch import nn

from convblocks import ConvNormAct, DepthwiseSeparableConv

bare = partial(ConvNormAct, kernel_size=3, norm_layer=None, act_layer=None, bias=True)
KINDS = {
    "depthwise": partial(bare, 16, 16, padding=2, dilation=2, groups=16),
    "depthwise, dilated by 4": partial(bare, 16, 16, padding=4, dilation=4, groups=16),
    "depth multiplier": partial(bare, 16, 32, padding=2, dilation=2, groups=16),
    "groups": partial(bare, 16, 16, padding=2, dilation=2, groups=4),
    "inside a block": partial(DepthwiseSeparableConv, 16, 8, 3, padding=2, dilation=2, norm_layer=None, act_layer=None),
}


@pytest.mark.parametrize("autocast", [True, False])
@pytest.mark.parametrize("build", KINDS.values(), ids=KINDS.keys())
def test_bfloat16_gradients_in_channels_last(build, autocast):
    module = build().to(memory_format=torch.channels_last)
    x = torch.randn(4, 16, 32, 32).to(memory_format=torch.channels_last)
    exact = gradients(build_like(module, torch.float64), x.double())
    if autocast:
        with torch.autocast("cpu", torch.bfloat16):
            found = gradients(module, x)
    else:
        found = gradients(build_like(module, torch.bfloat16), x.bfloat16())
    assert found[0].dtype == torch.bfloat16
    for one, true in zip(found, exact, strict=True):
        assert (one.double() - true).norm() < 0.02 * true.norm()


def build_like(module, dtype):
    import copy

    return copy.deepcopy(module).to(dtype)


def gradients(module: nn.Module, x):
    x = x.clone().requires_grad_()
    y = module(x)
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y.dtype)
    return [y.detach(), *torch.autograd.grad(y, [x, *module.parameters()], dy.to(memory_format=torch.channels_last))]
