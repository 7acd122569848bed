"""The kernels of whole blocks in Triton's interpreter, against PyTorch in float64."""

import importlib.util

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from convblocks.ops._stage import ACTIVATIONS
from tests.ops.separable_worker import Block, block_errors, keeps_what_is_no_number
from tests.ops.test_kernels import pairs
from tests.ops.worker import pool, refusal


@pytest.fixture(scope="module")
def processes():
    if importlib.util.find_spec("triton") is None:
        pytest.skip("triton is not installed")
    with pool() as processes:
        reason = processes.submit(refusal).result()
        if reason:
            pytest.skip(reason)
        yield processes


@pytest.fixture
def run(processes):
    return lambda case: processes.submit(block_errors, case).result()


# What the rounding of a result alone comes to, where PyTorch's operations happen to be exact.
FLOOR = {"float32": 1e-5, "float16": 4e-4, "bfloat16": 3e-3}


def check(found, dtype):
    ours, theirs = found
    assert ours <= max(1.5 * theirs, FLOOR[dtype]), f"off by {ours:.1e}, PyTorch by {theirs:.1e}"


CASES = {
    "same": Block((2, 16, 9, 7), 24),
    "dilated": Block((2, 24, 9, 8), 16, padding=(2, 2), dilation=(2, 2), dtype="bfloat16"),
    "valid": Block((1, 20, 9, 10), 40, padding=(0, 0), dilation=(2, 3), dtype="float16"),
    "stride": Block((2, 20, 9, 11), 12, stride=(2, 3), dtype="bfloat16"),
    "large even kernel": Block((1, 17, 9, 8), 3, kernel=(4, 5), padding=(3, 2), dilation=(1, 2)),
    "one channel to one": Block((3, 1, 5, 6), 1, dtype="bfloat16"),
    "one pixel": Block((2, 8, 1, 1), 8),
    "to many channels": Block((1, 16, 4, 5), 130, dtype="bfloat16"),
    "from many channels": Block((1, 72, 4, 6), 8, dtype="float16"),
    "contiguous": Block((2, 12, 6, 7), 16, layout="contiguous_format", dtype="bfloat16"),
    "strided": Block((2, 12, 6, 7), 16, layout="strided", stride=(2, 2)),
    "weights of autocast": Block((2, 12, 6, 7), 16, dtype="bfloat16", weights="float32"),
    "folded": Block((2, 16, 6, 7), 16, parts=("bias", "bias")),
    "bare": Block((2, 16, 6, 7), 16, parts=("", ""), acts=("", "")),
    "norms without weight and bias": Block((2, 16, 6, 7), 16, parts=("norm", "norm"), dtype="bfloat16"),
    "strips and tiles": Block((3, 16, 7, 5), 32, tiling={"block": 16, "rows": 3, "tiles": 2, "stages": 1}),
    "residual": Block((2, 16, 9, 7), 16, residual=True),
    "residual, dilated, without activation": Block(
        (2, 20, 9, 8), 20, padding=(2, 2), dilation=(2, 2), dtype="bfloat16", acts=("relu", ""), residual=True
    ),
    "residual, strips and tiles": Block(
        (3, 24, 7, 5), 24, dtype="float16", tiling={"block": 16, "rows": 3, "tiles": 2}, residual=True
    ),
    "residual, 5 x 5": Block((2, 40, 6, 7), 40, (5, 5), padding=(2, 2), dtype="bfloat16", residual=True),
    "residual, contiguous": Block((2, 12, 6, 7), 12, layout="contiguous_format", residual=True),
    **{name or "identity": Block((1, 16, 5, 6), 16, acts=(name, name), dtype="bfloat16") for name in ACTIVATIONS},
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_blocks_agree_with_float64(run, case):
    check(run(case), case.dtype)


@st.composite
def blocks(draw):
    rolling, residual = draw(st.booleans()), draw(st.booleans())
    kernel = (3, 3) if rolling else draw(pairs(1, 5))
    stride = (1, 1) if rolling or residual else draw(pairs(1, 3))
    dilation, padding = draw(pairs(1, 4)), draw(pairs(0, 4))
    if residual:
        # Where it can be, the output has the size of the input.
        kernel = kernel[0] // 2 * 2 + 1, kernel[1] // 2 * 2 + 1
        padding = dilation[0] * (kernel[0] // 2), dilation[1] * (kernel[1] // 2)
    elif rolling:
        padding = min(padding[0], dilation[0]), min(padding[1], dilation[1])
    size = [max(1, d * (k - 1) + 1 - 2 * p) for k, d, p in zip(kernel, dilation, padding, strict=True)]
    height, width = (least + draw(st.integers(0, 6)) for least in size)
    shape = (draw(st.integers(1, 3)), draw(st.integers(1, 36)), height, width)
    parts = st.sampled_from(["", "bias", "norm", "norm affine", "bias norm affine"])
    acts = st.sampled_from(sorted(ACTIVATIONS))
    return Block(
        shape,
        shape[1] if residual else draw(st.integers(4, 36)),
        kernel,
        stride,
        padding,
        dilation,
        draw(st.sampled_from(sorted(FLOOR))),
        (draw(acts), draw(acts)),
        (draw(parts), draw(parts)),
        residual=residual,
    )


# The fixture makes no state.
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=blocks())
def test_blocks_agree_with_float64_for_all_arguments(run, case):
    check(run(case), case.dtype)


@pytest.mark.parametrize("act", ACTIVATIONS)
def test_what_is_no_number_stays_so(processes, act):
    """The minimum and maximum of Triton's language drop a NaN where they are not told otherwise."""
    assert processes.submit(keeps_what_is_no_number, act).result()
