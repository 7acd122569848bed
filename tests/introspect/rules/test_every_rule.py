"""A rule without a test fails here."""

from __future__ import annotations

import pytest
import test_indexing
import test_interpolation
import test_moves
import test_norms
import test_pads
import test_parts
import test_pointwise
import test_products
import test_recurrent
import test_reductions
import test_shuffles
import test_windows
import test_writes
import test_zeros
from perturbation import NEW

from convblocks.introspect import propagation  # noqa: F401 - importing registers the rules
from convblocks.introspect.registry import RULES

MODULES = [test_indexing, test_interpolation, test_moves, test_norms, test_pads, test_parts, test_pointwise]
MODULES += [test_products, test_recurrent, test_reductions, test_shuffles, test_windows, test_writes, test_zeros]


@pytest.mark.skipif(not NEW, reason="older versions do not run every operation on meta tensors")
def test_every_rule_has_a_case() -> None:
    ran: set[str] = set()
    for module in MODULES:
        for case in (*module.CASES, *getattr(module, "RANDOM", ())):
            ran.update(name for node in case.graph().nodes for name in (node.op, node.op.rstrip("_")))
    assert sorted(set(RULES) - ran) == []
