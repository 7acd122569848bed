"""The taps of every resampling against torch's own resampling of a ramp, of both precisions."""

from __future__ import annotations

import pytest
import torch
from perturbation import Case, cases, check, refused
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


CASES = [
    *[
        Case(f"{mode} to {size}", lambda x, mode=mode, size=size: F.interpolate(x, size=size, mode=mode), shape)
        for mode, shape, sizes in (
            ("nearest", (1, 2, 5), (8, 3)),
            ("nearest", (1, 1, 3, 4), ((5, 2),)),
            ("nearest", (1, 1, 2, 3, 2), ((3, 2, 4),)),
            ("nearest-exact", (1, 1, 5), (8, 3)),
            ("nearest-exact", (1, 1, 3, 4), ((6, 3),)),
            ("nearest-exact", (1, 1, 2, 3, 2), ((4, 2, 5),)),
            ("linear", (1, 1, 5), (8, 3)),
            ("bilinear", (1, 1, 3, 4), ((5, 7), (2, 9))),
            ("trilinear", (1, 1, 2, 3, 2), ((3, 2, 4),)),
            ("bicubic", (1, 1, 5, 6), ((7, 9), (3, 6))),
        )
        for size in sizes
    ],
    *[
        Case(f"{mode}, corners aligned", lambda x, mode=mode: F.interpolate(x, None, 2, mode, True), shape)
        for mode, shape in (
            ("linear", (1, 2, 4)),
            ("bilinear", (1, 1, 3, 4)),
            ("trilinear", (1, 1, 2, 2, 3)),
            ("bicubic", (1, 1, 4, 3)),
        )
    ],
    *[
        Case(f"{mode} by a factor", lambda x, mode=mode: F.interpolate(x, None, (1.5, 2.3), mode), (1, 1, 4, 5))
        for mode in ("nearest", "nearest-exact", "bilinear", "bicubic")
    ],
    Case("factor forgotten", lambda x: F.interpolate(x, None, 2.3, "linear", recompute_scale_factor=True), (1, 1, 5)),
    Case("to both corners", lambda x: F.interpolate(x, size=2, mode="linear", align_corners=True), (1, 1, 5)),
    Case("of one column", lambda x: F.interpolate(x, size=(3, 4), mode="bilinear"), (1, 1, 1, 5)),
    Case("to one column", lambda x: F.interpolate(x, None, (0.25, 2), "bilinear", True), (1, 1, 4, 5)),
    Case(
        "of what does not vary",
        lambda x: F.interpolate(x.mean(2, keepdim=True).expand(1, 1, 3, 4), size=(5, 6), mode="bilinear"),
        (1, 1, 3, 4),
    ),
]


@cases(*CASES)
def test_taps_that_have_a_weight(case: Case) -> None:
    check(case)


def test_nearest_on_an_edge_is_refused() -> None:
    assert "where rounding decides" in refused(lambda x: F.interpolate(x, size=23, mode="nearest-exact"), (1, 1, 14))
