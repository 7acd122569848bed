"""The kernels in Triton's interpreter, against PyTorch in float64. What only a GPU can show is in test_gpu.py."""

import importlib.util

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ops.worker import Case, errors, pool, refusal

# Rounding of the result; sums are in float32.
TOLERANCE = {"float32": 2e-6, "float16": 1e-3, "bfloat16": 6e-3}


@pytest.fixture(scope="module")
def run():
    if importlib.util.find_spec("triton") is None:
        pytest.skip("triton is not installed")
    with pool() as processes:
        reason = processes.submit(refusal).result()
        if reason:
            pytest.skip(reason)
        yield lambda case: processes.submit(errors, case).result()


def check(found: dict[str, tuple[float, float]], dtype: str) -> None:
    assert found
    for name, (error, theirs) in found.items():
        assert error <= max(TOLERANCE[dtype], 1.5 * theirs), f"{name} is off by {error:.1e}, PyTorch by {theirs:.1e}"


CASES = {
    "same": Case((2, 16, 13, 11)),
    "dilated": Case((2, 24, 9, 16), padding=(2, 2), dilation=(2, 2), dtype="bfloat16"),
    "dilated by more than the image": Case((1, 20, 5, 6), padding=(8, 8), dilation=(8, 8), dtype="float16"),
    "valid": Case((2, 5, 9, 10), padding=(0, 0), dilation=(2, 3), bias=False),
    "partly padded": Case((1, 7, 8, 9), padding=(1, 2), dilation=(2, 3)),
    "padded by more than the dilation": Case((1, 8, 6, 5), padding=(3, 2)),
    "strides": Case((2, 20, 13, 11), stride=(2, 3), dtype="bfloat16"),
    "stride 2": Case((2, 20, 13, 11), stride=(2, 2), dtype="bfloat16", statistics=True),
    "stride 2, even size": Case((3, 16, 12, 8), stride=(2, 2), dtype="float16", statistics=True),
    "stride 2, valid": Case((2, 5, 9, 10), stride=(2, 2), padding=(0, 0), bias=False, statistics=True),
    "stride 2, padded by more than the kernel": Case((2, 8, 6, 5), stride=(2, 2), padding=(3, 4), statistics=True),
    "stride 2, one pixel": Case((2, 8, 1, 1), stride=(2, 2)),
    "stride 2, contiguous": Case((2, 12, 6, 7), stride=(2, 2), layout="contiguous_format"),
    "stride 2, strips and tiles": Case(
        (3, 24, 15, 7),
        stride=(2, 2),
        dtype="bfloat16",
        tiling={"block": 2, "channels": 16, "rows": 3, "tiles": 2, "stages": 4},
        statistics=True,
    ),
    "stride 2, strips and tiles, partly padded": Case(
        (2, 24, 20, 11),
        stride=(2, 2),
        padding=(2, 0),
        tiling={"block": 1, "channels": 16, "rows": 2, "tiles": 3, "stages": 1},
        statistics=True,
    ),
    "stride and dilation of 2": Case((2, 20, 13, 12), stride=(2, 2), padding=(2, 2), dilation=(2, 2), dtype="bfloat16"),
    "stride of 2 in a dilation of 4, partly padded": Case(
        (2, 12, 17, 16), stride=(2, 2), padding=(1, 3), dilation=(4, 4), statistics=True
    ),
    "strides that divide the dilations": Case(
        (2, 8, 16, 19), stride=(1, 3), padding=(2, 1), dilation=(2, 6), dtype="float16", bias=False
    ),
    "stride and dilation of 2, 5 x 5": Case(
        (2, 12, 14, 13), (5, 5), stride=(2, 2), padding=(4, 3), dilation=(2, 2), dtype="bfloat16"
    ),
    "stride and dilation of 2, nothing but padding is met": Case(
        (2, 8, 1, 2), stride=(2, 2), padding=(3, 3), dilation=(2, 2)
    ),
    "even kernel": Case((1, 6, 8, 8), kernel=(2, 4), padding=(0, 1)),
    "large kernel": Case((1, 17, 12, 10), kernel=(7, 5), padding=(3, 2)),
    "pointwise": Case((2, 3, 5, 5), kernel=(1, 1), padding=(0, 0)),
    "one channel": Case((3, 1, 6, 7), dtype="bfloat16"),
    "one pixel": Case((2, 8, 1, 1)),
    "tiny images share a block": Case((9, 8, 4, 4), dtype="bfloat16"),
    "channels past the last block": Case((1, 72, 4, 6), dtype="float16"),
    "contiguous": Case((2, 12, 6, 7), layout="contiguous_format"),
    "expanded": Case((2, 12, 6, 7), layout="expanded"),
    "strided": Case((2, 12, 6, 7), layout="strided"),
    "small maps": Case((9, 24, 4, 3), dtype="bfloat16", statistics=True),
    "small maps of a far dilation": Case(
        (2, 20, 31, 25), padding=(8, 8), dilation=(8, 8), dtype="float16", statistics=True
    ),
    "small maps, tiles": Case(
        (3, 24, 7, 11),
        padding=(2, 3),
        dilation=(2, 3),
        tiling={"block": 2, "channels": 16, "rows": 1, "tiles": 3, "columns": 1},
        statistics=True,
    ),
    "small maps without a bias": Case((3, 5, 3, 8), padding=(1, 2), dilation=(1, 2), bias=False),
    "small maps, contiguous": Case((2, 12, 4, 4), layout="contiguous_format"),
    "small maps, part of a larger tensor": Case((2, 12, 4, 4), layout="part"),
    "part of a larger tensor": Case((2, 24, 9, 13), layout="part", dtype="bfloat16", statistics=True),
    "part of a larger tensor, dilated": Case(
        (3, 20, 12, 11), padding=(2, 1), dilation=(2, 3), layout="part", tiling={"block": 4, "rows": 2, "tiles": 2}
    ),
    "part of a larger tensor, tiles run on": Case(
        (4, 16, 7, 9), layout="part", dtype="float16", tiling={"block": 2, "tiles": 3, "run_on": True}
    ),
    "part of a larger tensor, gathered": Case((2, 12, 7, 9), (2, 3), layout="part"),
    "part of a larger tensor, stride 2": Case((2, 12, 7, 9), stride=(2, 2), layout="part"),
    "part of a larger tensor, stride and dilation of 2": Case(
        (2, 12, 9, 11), stride=(2, 2), padding=(2, 1), dilation=(2, 2), layout="part", dtype="bfloat16"
    ),
    "strips and tiles": Case((2, 32, 7, 5), tiling={"block": 4, "channels": 16, "rows": 3, "tiles": 2}),
    "strips in a pipeline": Case(
        (2, 16, 9, 7), padding=(2, 2), dilation=(2, 2), tiling={"block": 8, "rows": 2, "tiles": 3, "stages": 4}
    ),
    "strips without one": Case(
        (2, 16, 9, 7), padding=(2, 2), dilation=(2, 2), tiling={"block": 8, "rows": 2, "tiles": 3, "stages": 1}
    ),
    "tiles run on": Case(
        (4, 16, 9, 7),
        padding=(2, 2),
        dilation=(2, 2),
        tiling={"block": 4, "tiles": 3, "run_on": True},
        dtype="bfloat16",
    ),
    "strips and tiles run on": Case(
        (3, 16, 13, 7), tiling={"block": 4, "rows": 3, "tiles": 4, "run_on": True, "stages": 4}, dtype="float16"
    ),
    "tiles run on without padding": Case(
        (3, 20, 9, 9), padding=(0, 1), dilation=(3, 1), tiling={"block": 2, "tiles": 3, "run_on": True}
    ),
    "tiles run on, dilated by more than the image": Case(
        (5, 8, 5, 6), padding=(8, 8), dilation=(8, 8), tiling={"block": 2, "tiles": 8, "run_on": True}, dtype="bfloat16"
    ),
    "tiles run on, partly padded": Case(
        (3, 16, 13, 9),
        padding=(1, 2),
        dilation=(3, 2),
        tiling={"block": 4, "rows": 3, "tiles": 3, "run_on": True},
        dtype="bfloat16",
    ),
    "strips from the top to the bottom": Case(
        (3, 16, 13, 9), padding=(4, 4), dilation=(4, 4), tiling={"block": 2, "tiles": 4}, dtype="bfloat16"
    ),
    "strips from the top to the bottom, partly padded": Case(
        (3, 16, 13, 9), padding=(3, 1), dilation=(4, 4), tiling={"block": 2, "tiles": 4, "stages": 4}
    ),
    "strips at the top, in the middle and at the bottom": Case(
        (2, 16, 25, 7), padding=(2, 3), dilation=(3, 3), tiling={"block": 4, "rows": 2, "tiles": 3}, dtype="float16"
    ),
    "strips without padding": Case(
        (2, 16, 15, 9), padding=(0, 0), dilation=(2, 2), tiling={"block": 4, "rows": 2, "tiles": 2}, dtype="bfloat16"
    ),
    "strips of one row": Case(
        (2, 16, 7, 9), padding=(1, 0), tiling={"block": 2, "rows": 1, "tiles": 3, "stages": 4}, dtype="bfloat16"
    ),
    "strips of one row run on": Case(
        (2, 16, 7, 9), padding=(0, 1), tiling={"block": 2, "rows": 1, "tiles": 3, "run_on": True}, dtype="float16"
    ),
    "strips below the image": Case(
        (2, 8, 9, 6), padding=(5, 1), dilation=(8, 1), tiling={"block": 4, "rows": 1, "tiles": 2}
    ),
    "sums for a norm": Case((2, 16, 9, 17), tiling={"block": 2}, dtype="bfloat16", statistics=True),
    "sums for a norm, dilated": Case(
        (2, 24, 7, 19), padding=(2, 2), dilation=(2, 2), tiling={"block": 2}, statistics=True
    ),
    "sums for a norm, partly padded, strips and tiles": Case(
        (3, 24, 9, 14),
        padding=(0, 3),
        dilation=(1, 3),
        tiling={"block": 2, "channels": 16, "rows": 3, "tiles": 3, "stages": 4},
        dtype="float16",
        statistics=True,
    ),
    "sums for a norm of one column": Case((9, 8, 3, 1), tiling={"block": 4}, dtype="bfloat16", statistics=True),
    "tiles of the gathering kernel": Case(
        (2, 16, 6, 7), stride=(2, 1), tiling={"block": 16, "channels": 16, "tiles": 3}
    ),
    "5 x 5": Case((2, 16, 13, 11), (5, 5), padding=(2, 2), statistics=True),
    "5 x 5, dilated": Case((2, 24, 9, 12), (5, 5), padding=(4, 4), dilation=(2, 2), dtype="bfloat16", statistics=True),
    "5 x 5, far": Case((2, 20, 7, 9), (5, 5), padding=(6, 6), dilation=(3, 3), dtype="float16", statistics=True),
    "5 x 5, dilated by more than the image": Case(
        (2, 8, 3, 4), (5, 5), padding=(16, 16), dilation=(8, 8), tiling={"block": 2, "rows": 1, "tiles": 2}
    ),
    "5 x 5, valid": Case((1, 7, 15, 16), (5, 5), padding=(0, 0), dilation=(3, 2), dtype="float16", bias=False),
    "5 x 5, partly padded": Case((2, 5, 9, 10), (5, 5), padding=(1, 3), dilation=(1, 2), dtype="bfloat16"),
    "5 x 5, padded by more than twice the dilation": Case((1, 8, 6, 5), (5, 5), padding=(3, 7)),
    "5 x 5, few rows": Case((3, 16, 2, 9), (5, 5), padding=(2, 2), dtype="bfloat16", statistics=True),
    "5 x 5, one pixel": Case((2, 8, 1, 1), (5, 5), padding=(2, 2)),
    "5 x 5, contiguous": Case((2, 12, 6, 7), (5, 5), padding=(2, 2), layout="contiguous_format"),
    "5 x 5, strips and tiles": Case(
        (2, 24, 9, 9),
        (5, 5),
        padding=(1, 4),
        dilation=(1, 2),
        tiling={"block": 2, "channels": 16, "rows": 3, "tiles": 2},
        statistics=True,
    ),
    "5 x 5, strips and tiles of 16 bits": Case(
        (2, 8, 9, 5),
        (5, 5),
        padding=(3, 2),
        dilation=(2, 1),
        dtype="bfloat16",
        bias=False,
        tiling={"block": 1, "channels": 16, "rows": 2, "tiles": 3},
        statistics=True,
    ),
    "added to a gradient": Case((2, 16, 13, 11), skip=True),
    "added to a gradient, strips and tiles": Case(
        (2, 24, 11, 9),
        padding=(2, 1),
        dilation=(2, 1),
        dtype="bfloat16",
        tiling={"block": 2, "channels": 16, "rows": 3, "tiles": 2, "stages": 4},
        skip=True,
    ),
    "added to a gradient, tiles run on": Case(
        (3, 16, 9, 7), dtype="float16", tiling={"block": 2, "tiles": 3, "run_on": True}, skip=True
    ),
    "added to a gradient, small maps": Case(
        (3, 20, 7, 8), padding=(2, 2), dilation=(2, 2), dtype="bfloat16", skip=True
    ),
    "added to a gradient, gathered": Case((2, 12, 7, 9), (3, 7), padding=(1, 3), dtype="float16", skip=True),
    "added to a gradient, 5 x 5": Case(
        (2, 20, 9, 7), (5, 5), padding=(4, 2), dilation=(2, 1), dtype="bfloat16", skip=True
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_kernels_agree_with_float64(run, case):
    check(run(case), case.dtype)


def pairs(low: int, high: int):
    return st.tuples(st.integers(low, high), st.integers(low, high))


@st.composite
def cases(draw):
    rolling = draw(st.sampled_from((0, 3, 5)))
    kernel = (rolling, rolling) if rolling else draw(pairs(1, 5))
    stride = draw(st.sampled_from(((1, 1), (2, 2))) if rolling else pairs(1, 3))
    dilation = draw(st.just((1, 1)) | pairs(1, 4) if stride == (2, 2) else pairs(1, 4))
    padding = draw(pairs(0, 4))
    if rolling == 3:
        padding = min(padding[0], dilation[0]), min(padding[1], dilation[1])
    size = [max(1, d * (k - 1) + 1 - 2 * p) for k, d, p in zip(kernel, dilation, padding, strict=True)]
    height, width = (least + draw(st.integers(0, 7)) for least in size)
    shape = (draw(st.integers(1, 3)), draw(st.integers(1, 40)), height, width)
    dtype = draw(st.sampled_from(sorted(TOLERANCE)))
    cut = {"block": 4, "rows": draw(st.integers(1, 8)), "tiles": draw(st.integers(1, 4)), "run_on": draw(st.booleans())}
    tiling = cut if rolling and draw(st.booleans()) else None
    bias, skip = draw(st.booleans()), stride == (1, 1) and draw(st.booleans())
    return Case(shape, kernel, stride, padding, dilation, dtype, bias, tiling=tiling, skip=skip)


@settings(max_examples=20)
@given(case=cases())
def test_kernels_agree_with_float64_for_all_arguments(run, case):
    check(run(case), case.dtype)
