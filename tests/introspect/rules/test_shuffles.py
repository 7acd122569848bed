"""Shuffles of channels and places, by perturbation."""

from __future__ import annotations

import torch.nn.functional as F
from perturbation import Case, cases, check

CASES = [
    Case("pixel shuffle", lambda x: F.pixel_shuffle(x, 2), (2, 8, 2, 3)),
    Case("pixel shuffle without a batch", lambda x: F.pixel_shuffle(x, 3), (9, 2, 3)),
    Case(
        "pixel shuffle of what does not vary",
        lambda x: F.pixel_shuffle(x.mean(1, keepdim=True).expand(1, 4, 2, 3), 2),
        (1, 4, 2, 3),
    ),
    Case("pixel unshuffle", lambda x: F.pixel_unshuffle(x, 2), (2, 2, 4, 6)),
    Case("pixel unshuffle without a batch", lambda x: F.pixel_unshuffle(x, 3), (1, 6, 3)),
    Case("there and back", lambda x: F.pixel_unshuffle(F.pixel_shuffle(x, 2), 2), (1, 4, 2, 3)),
    Case("channel shuffle", lambda x: F.channel_shuffle(x, 3), (1, 6, 2, 2)),
    Case(
        "channel shuffle of what does not vary",
        lambda x: F.channel_shuffle(x.mean(1, keepdim=True).expand(1, 4, 2, 2), 2),
        (1, 4, 2, 2),
    ),
]


@cases(*CASES)
def test_labels_are_shuffled_as_the_elements(case: Case) -> None:
    check(case)
