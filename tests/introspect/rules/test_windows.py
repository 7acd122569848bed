"""Convolution, pooling and unfolding, by perturbation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from perturbation import NEW, Case, cases, check, refused, weight
from torch import nn

from convblocks import receptive_field

aten = torch.ops.aten

CASES = [
    Case("convolution 1d", lambda x: F.conv1d(x, weight(3, 2, 3), None, 2, 1), (2, 2, 7)),
    Case("stride is not dilation", lambda x: F.conv2d(x, weight(2, 1, 2, 3), weight(2), (3, 1), (0, 2), (1, 2)), (1, 1, 8, 7)),
    Case("dilation is not stride", lambda x: F.conv2d(x, weight(2, 1, 3, 2), None, (1, 2), (2, 1), (3, 1)), (1, 1, 8, 7)),
    Case("groups", lambda x: F.conv1d(x, weight(6, 2, 3), None, 1, 1, 1, 2), (1, 4, 4)),
    Case("depthwise", lambda x: F.conv1d(x, weight(3, 1, 2), groups=3), (1, 3, 4)),
    Case("depthwise of a multiplier", lambda x: F.conv1d(x, weight(6, 1, 2), groups=3), (1, 3, 4)),
    Case("without a batch", lambda x: F.conv2d(x, weight(2, 2, 3, 1)), (2, 4, 3)),
    Case("convolution 3d", lambda x: F.conv3d(x, weight(1, 1, 2, 1, 3), None, (1, 2, 1), (1, 0, 1)), (1, 1, 3, 4, 4)),
    Case("channels of different fields", lambda x: F.conv1d(torch.cat((x, x.roll(2, 2)), 1), weight(4, 2, 3), None, 1, 0, 1, 2), (1, 2, 6)),
    Case("channels of different fields, mixed", lambda x: F.conv1d(torch.cat((x, x.roll(2, 2), x[:, :1]), 1), weight(2, 5, 1)), (1, 2, 6)),
    Case("weights that depend on the input", lambda x: F.conv1d(x, torch.stack((x[0, :, :2], x[0, :, 4:]), 0)), (1, 2, 6)),
    Case("a bias that depends on the input", lambda x: F.conv2d(x, weight(2, 1, 2, 2), x[0, 0, 0, :2] * 1), (1, 1, 4, 5)),
    Case("a kernel that depends on the input, of what does not", lambda x: F.conv1d(torch.ones(1, 2, 4).to(x), x[:, :, 1:3] * 1), (1, 2, 6)),
    Case("padded, of weights that depend on the input", lambda x: F.conv1d(x, x.mean(2).reshape(1, 2, 1).expand(1, 2, 3) * 1, None, 1, 2), (1, 2, 6)),
    *[Case("as a traced program calls it", lambda x: aten._convolution(x, weight(1, 1, 2), None, [2], [1], [1], False, [0], 1, False, False, False, False), (1, 1, 4))] * NEW,
    Case("same padding, odd", lambda x: F.conv2d(x, weight(1, 1, 3, 5), padding="same"), (1, 1, 4, 5)),
    Case("padding past the kernel", lambda x: F.conv1d(x, weight(1, 1, 2), None, 1, 4), (1, 1, 3)),
    Case("kernel of one with padding and stride", lambda x: F.conv1d(x, weight(2, 1, 1), None, 2, 1), (1, 1, 5)),
    Case("what does not vary, padded", lambda x: F.conv1d(x.mean(2, keepdim=True).expand(1, 2, 4) * 1, weight(1, 2, 3), None, 1, 3), (1, 2, 4)),
    Case("transposed", lambda x: F.conv_transpose1d(x, weight(2, 3, 3), None, 2, 1, 1), (1, 2, 4)),
    Case("transposed, with gaps", lambda x: F.conv_transpose1d(x, weight(1, 1, 2), None, 3), (1, 1, 4)),
    Case("transposed, dilated, padded at the end", lambda x: F.conv_transpose2d(x, weight(1, 1, 2, 3), None, (2, 3), (1, 0), (1, 2), 1, (3, 2)), (1, 1, 3, 3)),
    Case("transposed, of groups", lambda x: F.conv_transpose1d(x, weight(4, 3, 2), None, 1, 0, 0, 2), (1, 4, 3)),
    Case("transposed, of what does not vary", lambda x: F.conv_transpose1d(x.mean(2, keepdim=True).expand(1, 1, 4) * 1, weight(1, 1, 2), None, 3), (1, 1, 4)),
    Case("average pool", lambda x: F.avg_pool2d(x, (2, 3), (1, 2), (1, 0)), (1, 2, 4, 6)),
    Case("average pool, ceil", lambda x: F.avg_pool2d(x, 3, 2, 1, True, False), (1, 1, 6, 5)),
    Case("average pool, without the padding", lambda x: F.avg_pool2d(x, 3, 2, 1, False, False, 2), (1, 1, 5, 6)),
    Case("average pool 1d and 3d", lambda x: (F.avg_pool1d(x[:, :, 0, 0], 2), F.avg_pool3d(x, (1, 2, 2), 1)), (1, 1, 2, 3, 4)),
    Case("average pool without a batch", lambda x: F.avg_pool2d(x, 2), (2, 4, 4)),
    Case("max pool", lambda x: F.max_pool2d(x, (2, 3), (1, 2), (1, 1), (1, 1), False, True), (1, 2, 3, 5), 60),
    Case("max pool, dilated, ceil", lambda x: F.max_pool2d(x, 2, 3, 1, 2, True), (1, 1, 6, 5), 60),
    Case("max pool 1d", lambda x: F.max_pool1d(x, 3, 2, 1, 1, True), (1, 2, 6), 60),
    Case("max pool 3d", lambda x: F.max_pool3d(x, (1, 2, 2), (1, 2, 1)), (1, 1, 2, 4, 3), 60),
    Case("adaptive average", lambda x: (F.adaptive_avg_pool2d(x, 1), F.adaptive_avg_pool2d(x, (2, 3))), (1, 2, 5, 7)),
    Case("adaptive average 1d, 3d", lambda x: (F.adaptive_avg_pool1d(x[:, :, 0, 0], 3), F.adaptive_avg_pool3d(x, (2, 1, 3))), (1, 1, 3, 2, 4)),
    Case("adaptive average, larger than the map", lambda x: F.adaptive_avg_pool2d(x, (5, 4)), (1, 1, 3, 4)),
    Case("adaptive maximum", lambda x: F.adaptive_max_pool2d(x, (2, 1), True), (1, 1, 5, 3), 80),
    Case("adaptive maximum 1d, 3d", lambda x: (F.adaptive_max_pool1d(x[:, :, 0, 0], 2), F.adaptive_max_pool3d(x, (1, 2, 1))), (1, 1, 2, 3, 4), 80),
    Case("unfold", lambda x: F.unfold(x, (2, 3), (1, 2), (1, 0), (2, 1)), (1, 2, 4, 6)),
    Case("unfold of what does not vary", lambda x: F.unfold(x.mean(1, keepdim=True).expand(1, 2, 3, 4), 2, 1, 1), (1, 2, 3, 4)),
    Case("unfold of every place", lambda x: F.unfold(x, (3, 2), 1, (1, 0), 1), (1, 2, 3, 4)),
    Case("fold of every place", lambda x: F.fold(x, (3, 4), (3, 2), 1, (1, 0), 1), (1, 6, 9)),
    Case("unfold and fold", lambda x: F.fold(F.unfold(x, (2, 3), 1, (1, 0), (1, 2)), (4, 5), (2, 3), 1, (1, 0), (1, 2)), (1, 2, 4, 5)),
    Case("fold", lambda x: F.fold(x, (4, 5), (2, 3), (2, 1), 0, (1, 2)), (1, 12, 4)),
    Case("fold with gaps", lambda x: F.fold(x, (1, 5), (1, 1), 1, 0, (2, 2)), (1, 1, 3)),
]  # fmt: skip


@cases(*CASES)
def test_windows(case: Case) -> None:
    check(case)


def test_pooling_at_random_places_is_refused() -> None:
    assert "fractional_max_pool2d" in refused(lambda x: F.fractional_max_pool2d(x, 2, output_size=(3, 4)), (1, 2, 8, 9))
    pooled = nn.Sequential(nn.Conv2d(2, 2, 3), nn.FractionalMaxPool2d(2, output_ratio=0.5))
    assert "aten.fractional_max_pool2d in 1" in receptive_field(pooled, (2, 16, 16)).unknown


def test_weights_from_the_input_of_which_the_border_reads_a_part_are_refused() -> None:
    assert "weight" in refused(lambda x: F.conv2d(x, x[:1, :, :2, :2], padding=1), (1, 2, 4, 4))
    assert "weight" in refused(lambda x: F.conv_transpose1d(x, x.transpose(0, 1)[:, :, :2]), (1, 2, 5))
    assert "weight" in refused(lambda x: F.conv1d(x, x.mean(2).reshape(1, 2, 1), padding=1), (1, 2, 5))
