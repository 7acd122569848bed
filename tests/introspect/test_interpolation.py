"""The taps of every resampling against torch's own resampling of a ramp, of both precisions."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from convblocks.introspect.registry import NoRule
from convblocks.introspect.rules.interpolation import linear_taps, nearest_taps

LENGTHS = [(length, out) for length in range(1, 26) for out in range(1, 26)]


@pytest.mark.parametrize("exact", [False, True])
def test_nearest_takes_the_element_that_torch_takes_or_refuses(exact: bool) -> None:
    """In float64 the coordinate of 12 -> 11 at 5 is 6, in torch's float32 a little less."""
    refused = 0
    for length, out in LENGTHS:
        try:
            taps = nearest_taps(length, out, None, exact)[:, 0]
        except NoRule:
            refused += 1
            continue
        for dtype in (torch.float32, torch.float64):
            ramp = torch.arange(length, dtype=dtype).expand(1, 1, 2, length).contiguous()
            resampled = F.interpolate(ramp, size=(2, out), mode="nearest-exact" if exact else "nearest")
            assert resampled[0, 0, 0].long().tolist() == taps.tolist(), (length, out, dtype)
    assert refused < 0.05 * len(LENGTHS)


@pytest.mark.parametrize("align_corners", [False, True])
def test_linear_reads_what_has_a_weight(align_corners: bool) -> None:
    for length, out in LENGTHS:
        taps = linear_taps(length, out, align_corners, None)
        impulses = torch.eye(length, dtype=torch.float64)[:, None]
        weights = F.interpolate(impulses, size=out, mode="linear", align_corners=align_corners)[:, 0]
        for place, (low, high) in enumerate(taps.tolist()):
            assert (weights[:, place] > 1e-9).nonzero().flatten().tolist() == sorted({low, high}), (length, out, place)
