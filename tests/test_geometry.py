"""Geometry against brute force and against torch."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from convblocks import geometry

kernels = st.integers(1, 7)
strides = st.integers(1, 5)
dilations = st.integers(1, 8)
sizes = st.integers(1, 80)


def torch_output_size(size, kernel_size, stride, before, after, dilation):
    x = F.pad(torch.zeros(1, 1, size), (before, after))
    return F.conv1d(x, torch.zeros(1, 1, kernel_size), stride=stride, dilation=dilation).shape[-1]


@given(sizes, kernels, strides, st.integers(0, 9), st.integers(0, 9), dilations)
def test_output_size_equals_torch(size, kernel_size, stride, before, after, dilation):
    if size + before + after < geometry.effective_kernel_size(kernel_size, dilation):
        with pytest.raises(ValueError, match="does not fit"):
            geometry.output_size(size, kernel_size, stride, (before, after), dilation)
    else:
        expected = torch_output_size(size, kernel_size, stride, before, after, dilation)
        assert geometry.output_size(size, kernel_size, stride, (before, after), dilation) == expected


@given(sizes, kernels, strides, dilations)
def test_same_padding_gives_the_ceiling(size, kernel_size, stride, dilation):
    padding = geometry.same_padding(kernel_size, dilation)
    assert geometry.output_size(size, kernel_size, stride, padding, dilation) == math.ceil(size / stride)
    assert 0 <= padding[1] - padding[0] <= 1


@given(sizes, kernels, strides, dilations)
def test_floor_padding_gives_the_floor_or_refuses(size, kernel_size, stride, dilation):
    if stride > dilation * (kernel_size - 1) + 1:
        with pytest.raises(ValueError, match="larger than the dilated kernel"):
            geometry.floor_padding(kernel_size, stride, dilation)
    elif size >= stride:
        padding = geometry.floor_padding(kernel_size, stride, dilation)
        assert geometry.output_size(size, kernel_size, stride, padding, dilation) == size // stride


def test_no_other_total_padding_gives_the_ceiling_or_the_floor():
    """The totals d(k-1) and d(k-1)+1-s are the only ones, so the two functions cannot be replaced by a guess."""
    for k, d, s in itertools.product(range(1, 5), range(1, 4), range(2, 5)):
        for total in range(d * (k - 1) + 4):
            valid = [n for n in range(s, 40) if n + total >= d * (k - 1) + 1]
            out = {n: geometry.output_size(n, k, s, (0, total), d) for n in valid}
            assert all(out[n] == -(-n // s) for n in valid) == (total == d * (k - 1))
            assert all(out[n] == n // s for n in valid) == (total == d * (k - 1) + 1 - s)


@given(sizes, st.integers(1, 80), kernels, strides, st.integers(0, 9), st.integers(0, 9))
def test_solve_dilation_is_the_smallest_of_a_brute_force_or_refuses(n, m, kernel_size, stride, before, after):
    padding = (before, after)
    fits = [
        d
        for d in range(1, n + before + after + 1)
        if n + before + after >= geometry.effective_kernel_size(kernel_size, d)
        and geometry.output_size(n, kernel_size, stride, padding, d) == m
    ]
    if fits:
        assert geometry.solve_dilation(n, m, kernel_size, stride, padding) == fits[0]
    else:
        with pytest.raises(ValueError, match=f"input_size={n} into output_size={m}"):
            geometry.solve_dilation(n, m, kernel_size, stride, padding)


@pytest.mark.parametrize(
    ("input_size", "output_size", "dilation"), [(32, 16, 8), (16, 8, 4), (8, 4, 2), (4, 2, 1), (32, 30, 1), (26, 18, 4)]
)
def test_solve_dilation_halves(input_size, output_size, dilation):
    assert geometry.solve_dilation(input_size, output_size) == dilation


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((32, 15), "dilation 8 gives 16, dilation 9 gives 14"),
        ((4, 3), "dilation 1 gives 2"),
        ((2, 1), "even dilation 1 needs 3 of 2 pixels"),
        ((8, 4, 1), "one pixel"),
    ],
)
def test_solve_dilation_says_what_can_be_had(arguments, reason):
    with pytest.raises(ValueError, match=reason):
        geometry.solve_dilation(*arguments)


@given(
    st.lists(st.tuples(st.integers(1, 5), st.integers(1, 8), st.integers(1, 3)), min_size=1, max_size=4),
)
def test_coverage_equals_counting_taps(layers):
    reached, jump = {0}, 1
    for kernel_size, dilation, stride in layers:
        reached = {pixel + tap * dilation * jump for pixel in reached for tap in range(kernel_size)}
        jump *= stride
    kernel_sizes, rates, steps = zip(*layers, strict=True)
    assert geometry.coverage(rates, kernel_sizes, steps) == (len(reached), max(reached) + 1)


@pytest.mark.parametrize(
    ("rates", "expected"), [([2, 4, 8], (15, 29)), ([1, 2, 4, 8], (31, 31)), ([1, 1, 1, 8], (21, 23)), ([1], (3, 3))]
)
def test_coverage_of_known_stacks(rates, expected):
    assert geometry.coverage(rates) == expected
    assert geometry.coverage(rates).ratio == expected[0] / expected[1]


@given(st.lists(st.integers(1, 6), min_size=1, max_size=3), st.integers(1, 20))
def test_a_kernel_of_three_leaves_no_gap_exactly_up_to_the_window_before_it(rates, dilation):
    """After a window of R pixels without gaps, d <= R keeps it whole."""
    before = geometry.coverage(rates)
    if before.reached == before.size:
        after = geometry.coverage([*rates, dilation])
        assert (after.reached == after.size) == (dilation <= before.size)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: geometry.effective_kernel_size(0), "kernel_size must be an integer >= 1, got 0"),
        (lambda: geometry.effective_kernel_size(3, 0), "dilation must be an integer >= 1, got 0"),
        (lambda: geometry.effective_kernel_size(2.0), "kernel_size must be an integer >= 1, got 2.0"),
        (lambda: geometry.effective_kernel_size(True), "kernel_size must be an integer >= 1, got True"),
        (lambda: geometry.output_size(0, 3), "size must be an integer >= 1, got 0"),
        (lambda: geometry.output_size(8, 3, 0), "stride must be an integer >= 1, got 0"),
        (lambda: geometry.output_size(8, 3, 1, -1), "padding must be an integer >= 0, got -1"),
        (lambda: geometry.output_size(8, 3, 1, (1, 2, 3)), "padding must be one integer or a pair"),
        (lambda: geometry.output_size(4, 3, dilation=2), "does not fit"),
        (lambda: geometry.floor_padding(1, 2), "stride=2 against 1 pixels"),
        (lambda: geometry.coverage([]), "at least one dilation"),
        (lambda: geometry.coverage([1, 0]), "dilations must be an integer >= 1, got 0"),
        (lambda: geometry.coverage([1, 2], [3]), r"one a layer \(2\)"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
