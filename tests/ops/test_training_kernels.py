"""The kernels of a block in training in Triton's interpreter, against PyTorch's modules in float64."""

import pytest

from tests.ops.separable_worker import Training, sums_of, training_errors
from tests.ops.test_separable_kernels import processes as processes

# float32 multiplies in TF32 here; a norm's own sums are those of what was rounded.
FLOOR = {"float32": 1.5e-3, "float16": 1e-3, "bfloat16": 8e-3}
# Where a rounded value crosses the bend of an activation, its gradient is another one.
BENT = {"relu": 8e-2, "relu6": 8e-2, "hardswish": 8e-2}

CASES = {
    **{
        f"{act or 'identity'}": Training((2, 16, 7, 6), 24, act=act, dtype="bfloat16")
        for act in ("", "relu", "relu6", "silu", "gelu", "gelu_tanh", "hardswish")
    },
    "float32": Training((2, 16, 7, 6), 24),
    "float16, dilated": Training((2, 20, 8, 8), 12, padding=(2, 2), dilation=(2, 2), dtype="float16"),
    "any kernel": Training((2, 12, 9, 8), 20, (5, 3), (2, 1), (2, 1), (1, 2), dtype="bfloat16"),
    "stride 2": Training((2, 20, 9, 8), 12, (3, 3), (2, 2), (1, 1), dtype="bfloat16"),
    "stride and dilation of 2": Training((2, 12, 10, 9), 20, (3, 3), (2, 2), (2, 2), (2, 2), dtype="float16"),
    "5 x 5": Training((2, 12, 9, 8), 20, (5, 5), (1, 1), (2, 2), dtype="bfloat16"),
    "5 x 5, dilated": Training((2, 20, 7, 8), 20, (5, 5), (1, 1), (4, 3), (2, 2), dtype="float16"),
    "float32 weights": Training((2, 16, 7, 6), 24, dtype="bfloat16", weights="float32"),
    "float32 weights, 5 x 5": Training((2, 16, 7, 6), 24, (5, 5), (1, 1), (2, 2), dtype="float16", weights="float32"),
    "float32 weights, stride 2": Training((2, 16, 8, 9), 24, (3, 3), (2, 2), dtype="bfloat16", weights="float32"),
    "frozen, both": Training((2, 16, 7, 6), 8, batch=(False, False)),
    "frozen, the first": Training((2, 16, 7, 6), 8, batch=(False, True), dtype="float16"),
    "frozen, the second": Training((2, 16, 7, 6), 8, batch=(True, False), dtype="float16"),
    "no weight, no shift": Training((2, 16, 7, 6), 8, affine=False),
    # A norm over the batch behind one channel takes its scale away, and leaves a gradient of rounding.
    "one channel": Training((4, 1, 12, 12), 8, batch=(True, False), dtype="float16"),
    "several tiles a program": Training((3, 16, 20, 10), 130, dtype="float16", programs=3),
    "residual": Training((2, 16, 7, 6), 16, dtype="bfloat16", residual=True),
    "residual, no activation, small maps": Training(
        (2, 24, 8, 8), 24, padding=(2, 2), dilation=(2, 2), dtype="float16", act="", residual=True
    ),
    "residual, 5 x 5": Training((2, 20, 7, 6), 20, (5, 5), padding=(2, 2), dtype="bfloat16", residual=True),
    "residual, any kernel": Training((2, 12, 9, 8), 12, (3, 7), padding=(1, 3), residual=True),
    "residual, frozen": Training((2, 16, 7, 6), 16, batch=(False, False), residual=True),
    "a mean far from zero": Training((2, 16, 7, 6), 24, offset=30.0, padding=(0, 0)),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_training_step_agrees_with_float64(processes, case):
    found = processes.submit(training_errors, case).result()
    for name, (ours, theirs) in found.items():
        # The shift before a norm over the batch has no gradient: what there is, is rounding.
        if name == "d_shift1" and case.act == "" and case.batch[1]:
            continue
        floor = BENT.get(case.act, 0.0) if name.startswith("d") else 0.0
        limit = max(1.5 * theirs, FLOOR[case.dtype], floor)
        assert ours <= limit, f"{name} is off by {ours:.1e}, PyTorch by {theirs:.1e}"


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1023, 3), (1025, 8), (2500, 5)])
def test_sums_of_any_number_of_rows(processes, rows, columns):
    for name, error in processes.submit(sums_of, rows, columns).result().items():
        assert error < 1e-5, name
