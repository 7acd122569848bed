"""How a map is cut into programs: everything once, and nothing slower than the plainest cut."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("triton", reason="triton is not installed")

from convblocks.ops import _launch, _launch_stride
from convblocks.ops._tiling import Plan, Tiling, blocks

TILINGS = [_launch.ROWS_FORWARD, _launch.FAR_FORWARD, _launch.ROWS_BACKWARD]
PLACES = 1056


def cost(plan: Plan, height: int, tiling: Tiling) -> int:
    rounds = plan.tiles * (plan.rows + (1 if plan.rows == height else 2)) + tiling.start
    return blocks(plan.programs, PLACES) * rounds


@given(
    st.integers(1, 600),
    st.sampled_from([8, 32, 48, 64, 256]),
    st.integers(1, 230),
    st.integers(1, 230),
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.sampled_from(TILINGS),
)
def test_every_row_and_unit_belongs_to_one_program(n, c, height, width, dilation, tiling):
    tiling = _launch.fit(tiling, c, 2)
    plan = _launch.plan_rows(n, c, height, width, dilation, tiling, PLACES)
    across, of_each = blocks(c, tiling.channels), min(dilation[0], height)
    assert plan.programs == plan.chunks * plan.strips * across
    assert 1 <= plan.rows <= tiling.rows
    # The row r * dilation + i is the r-th of the residue i; its strip is of that residue.
    first = {(strip // of_each) * plan.rows * dilation[0] + strip % of_each for strip in range(plan.strips)}
    covered = sorted(at + k * dilation[0] for at in first for k in range(plan.rows))
    assert len(covered) == len(set(covered))
    assert set(range(height)) <= set(covered)
    units = n * plan.quads
    assert 1 <= plan.tiles <= 16
    assert plan.chunks * plan.tiles * tiling.block >= units
    assert (plan.chunks - 1) * plan.tiles * tiling.block < units


@given(st.integers(1, 600), st.integers(1, 230), st.integers(1, 230))
def test_units_of_two_columns(n, height, width):
    plan = _launch.plan_rows(n, 64, height, width, (1, 1), _launch_stride.FORWARD, PLACES)
    assert 2 * (plan.quads - 1) < width <= 2 * plan.quads
    assert (plan.strips - 1) * plan.rows < height <= plan.strips * plan.rows
    assert (plan.chunks - 1) * plan.tiles * 4 < n * plan.quads <= plan.chunks * plan.tiles * 4


@given(st.integers(1, 600), st.sampled_from([32, 64, 256]), st.integers(1, 230), st.sampled_from(TILINGS))
def test_no_cut_into_one_tile_a_program_is_done_sooner(n, c, size, tiling):
    tiling = _launch.fit(tiling, c, 2)
    plan = _launch.plan_rows(n, c, size, size, (1, 1), tiling, PLACES)
    plain = _launch.plan_rows(n, c, size, size, (1, 1), tiling._replace(tiles=1), PLACES)
    assert cost(plan, size, tiling) <= cost(plain, size, tiling)


def test_what_was_measured():
    """On an H200, bfloat16: one wave of programs backward, a whole number of waves forward."""
    backward = Tiling(block=4, rows=64, warps=2, stages=4, start=4)
    plan = _launch.plan_rows(512, 64, 32, 32, (1, 1), backward, 528)
    assert (plan.rows, plan.tiles, plan.programs) == (32, 2, 512)
    plan = _launch.plan_rows(128, 32, 112, 112, (4, 4), _launch.fit(backward, 32, 2), 528)
    assert (plan.rows, plan.tiles, plan.programs) == (14, 7, 512)
    plan = _launch.plan_rows(512, 64, 32, 32, (8, 8), _launch.FAR_FORWARD, 1056)
    assert (plan.rows, plan.tiles, plan.programs) == (4, 8, 1024)
    assert _launch.at_once(backward, 2) == 528
    assert _launch.at_once(_launch.ROWS_FORWARD, 4) == 1584


@pytest.mark.parametrize(
    ("height", "dilation", "itemsize", "expected"),
    [
        (32, 1, 2, _launch.ROWS_FORWARD),
        (33, 8, 2, _launch.ROWS_FORWARD),
        (32, 8, 2, _launch.FAR_FORWARD),
        (32, 8, 4, _launch.ROWS_FORWARD),
        (4, 1, 2, _launch.FAR_FORWARD),
    ],
)
def test_strips_of_few_rows_run_on(height, dilation, itemsize, expected):
    assert _launch.rolling_forward(height, (dilation, 1), itemsize, False) == expected
    few = expected == _launch.FAR_FORWARD
    assert _launch.rolling_forward(height, (dilation, 1), itemsize, True) == (expected if few else _launch.SUMS_OF_PART)


def test_a_cut_that_was_asked_for_is_kept():
    tiling = Tiling(block=4, rows=3, tiles=2)
    plan = _launch.plan_rows(2, 32, 7, 5, (1, 1), tiling, PLACES)
    assert (plan.rows, plan.tiles) == (3, 2)


def test_a_part_of_a_tensor_is_taken_as_it_lies():
    whole = torch.randn(2, 48, 12, 18).contiguous(memory_format=torch.channels_last)
    assert _launch.as_it_lies(whole) == (whole, None)
    part = whole[:, 16:32, ::2, 1::3]
    x, pitches = _launch.as_it_lies(part)
    assert x is part
    # In units of 16 channels: 12 rows of 18 columns of 3, two rows on, three columns on.
    assert pitches == (12 * 18 * 3, 2 * 18 * 3, 3 * 3)
    expanded, pitches = _launch.as_it_lies(whole[:1].expand(5, -1, -1, -1))
    assert expanded.stride(0) == 0
    assert pitches == (0, 18 * 3, 3)


@pytest.mark.parametrize(
    "part",
    [
        pytest.param(torch.randn(2, 16, 6, 6), id="channels do not lie side by side"),
        pytest.param(
            torch.randn(2, 6, 6, 20).permute(0, 3, 1, 2)[:, :16], id="16 divides C, and not the columns' pitch"
        ),
        pytest.param(
            torch.empty(1, 2**30, 4, 2, device="meta").permute(0, 3, 1, 2)[..., ::2], id="an image of 2^33 elements"
        ),
    ],
)
def test_what_no_kernel_could_read_is_copied(part):
    x, pitches = _launch.as_it_lies(part)
    assert x.is_contiguous(memory_format=torch.channels_last)
    assert pitches is None
    assert x is not part
