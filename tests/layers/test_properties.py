"""For all valid arguments a block gives what torch's functions do with the same weights, at the size geometry says."""

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from convblocks import ConvNormAct, DepthwiseSeparableConv, DilatedDownsample, JointDilatedDepthwise, geometry

axis = st.integers(1, 4)
pairs = st.one_of(axis, st.tuples(axis, axis))
paddings = st.one_of(
    st.integers(0, 3), st.tuples(st.integers(0, 3), st.integers(0, 3)), st.sampled_from(["same", "valid"])
)
modes = st.sampled_from(["zeros", "reflect", "replicate", "circular"])
sizes = st.tuples(st.integers(1, 15), st.integers(1, 15))
conv_arguments = st.fixed_dictionaries(
    {"kernel_size": pairs, "stride": pairs, "padding": paddings, "dilation": pairs, "padding_mode": modes}
)


def both(value):
    return value if isinstance(value, tuple) else (value, value)


def explicit(padding, kernel_size, dilation):
    """Padding as (before, after) for height and width, by the definition of each rule."""
    if padding == "valid":
        return (0, 0), (0, 0)
    if padding == "same":
        totals = [d * (k - 1) for k, d in zip(both(kernel_size), both(dilation), strict=True)]
        return tuple((t // 2, t - t // 2) for t in totals)
    return tuple((p, p) for p in both(padding))


def fits(size, arguments):
    """Whether torch can convolve at all: reflect and circular padding have limits of their own."""
    around = explicit(arguments["padding"], arguments["kernel_size"], arguments["dilation"])
    rates, kernel = both(arguments["dilation"]), both(arguments["kernel_size"])
    for n, sides, k, d in zip(size, around, kernel, rates, strict=True):
        limit = {"reflect": n - 1, "circular": n}.get(arguments["padding_mode"], math.inf)
        if max(sides) > limit or n + sum(sides) < d * (k - 1) + 1:
            return False
    return True


def plain_conv(x, conv, arguments):
    """A convolution out of torch's functions: pad by the rule, then convolve without padding."""
    (top, bottom), (left, right) = explicit(arguments["padding"], arguments["kernel_size"], arguments["dilation"])
    mode = "constant" if arguments["padding_mode"] == "zeros" else arguments["padding_mode"]
    if any((top, bottom, left, right)):
        x = F.pad(x, (left, right, top, bottom), mode=mode)
    return F.conv2d(x, conv.weight, conv.bias, both(arguments["stride"]), 0, both(arguments["dilation"]), conv.groups)


def plain_norm(x, norm):
    return F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)


def shaken(block):
    for part in block.modules():
        if isinstance(part, nn.BatchNorm2d):
            for tensor, low, high in (
                (part.running_mean, -1, 1),
                (part.running_var, 0.5, 2),
                (part.weight, 0.5, 2),
                (part.bias, -1, 1),
            ):
                nn.init.uniform_(tensor, low, high)
    return block.eval()


def check_size(out, size, arguments):
    around = explicit(arguments["padding"], arguments["kernel_size"], arguments["dilation"])
    expected = tuple(
        geometry.output_size(n, k, s, p, d)
        for n, k, s, p, d in zip(
            size,
            both(arguments["kernel_size"]),
            both(arguments["stride"]),
            around,
            both(arguments["dilation"]),
            strict=True,
        )
    )
    assert out.shape[2:] == expected
    if arguments["padding"] == "same":
        assert expected == tuple(math.ceil(n / s) for n, s in zip(size, both(arguments["stride"]), strict=True))


@given(sizes, conv_arguments, st.sampled_from([1, 2, 4]), st.sampled_from([None, True, False]), st.booleans())
def test_conv_norm_act_equals_plain_torch(size, arguments, groups, bias, channels_last):
    assume(fits(size, arguments))
    block = shaken(ConvNormAct(4, 8, **arguments, groups=groups, bias=bias, dtype=torch.float64))
    x = torch.randn(2, 4, *size, dtype=torch.float64)
    if channels_last:
        x = x.to(memory_format=torch.channels_last)
    out = block(x)
    check_size(out, size, arguments)
    torch.testing.assert_close(
        out, plain_norm(plain_conv(x, block.conv, arguments), block.bn).relu(), rtol=0, atol=1e-6
    )


@given(sizes, conv_arguments, st.integers(1, 3), st.sampled_from([None, True, False]), st.data())
def test_separable_equals_plain_torch(size, arguments, multiplier, bias, data):
    assume(fits(size, arguments))
    between, after = (
        data.draw(
            st.permutations(["norm", "act"]).flatmap(lambda p: st.sampled_from(["", p[0], "-".join(p)])), label=name
        )
        for name in ("between", "after")
    )
    block = shaken(
        DepthwiseSeparableConv(
            4, 6, **arguments, bias=bias, depth_multiplier=multiplier, between=between, after=after, dtype=torch.float64
        )
    )
    x = torch.randn(2, 4, *size, dtype=torch.float64)
    expected = plain_conv(x, block.conv_dw, arguments)
    for part in filter(None, between.split("-")):
        expected = plain_norm(expected, block.bn1) if part == "norm" else expected.relu()
    expected = F.conv2d(expected, block.conv_pw.weight, block.conv_pw.bias)
    for part in filter(None, after.split("-")):
        expected = plain_norm(expected, block.bn2) if part == "norm" else expected.relu()
    out = block(x)
    check_size(out, size, arguments)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-6)


@given(sizes, conv_arguments)
def test_anti_alias_keeps_every_size(size, arguments):
    """Blurring at the stride must give the size of the strided convolution, whatever the parity."""
    assume(fits(size, arguments))
    block = DepthwiseSeparableConv(4, 6, **arguments, anti_alias=True).eval()
    check_size(block(torch.randn(1, 4, *size)), size, arguments)


@given(sizes, conv_arguments, st.booleans())
def test_downsample_equals_plain_torch_or_refuses(size, arguments, separable):
    assume(fits(size, arguments))
    around = explicit(arguments["padding"], arguments["kernel_size"], arguments["dilation"])
    shrinks = all(
        s > 1 or sum(p) < d * (k - 1)
        for s, p, d, k in zip(
            both(arguments["stride"]), around, both(arguments["dilation"]), both(arguments["kernel_size"]), strict=True
        )
    )
    if not shrinks:
        with pytest.raises(ValueError, match="must make the map smaller"):
            DilatedDownsample(4, 6, **arguments, separable=separable)
        return
    block = shaken(DilatedDownsample(4, 6, **arguments, separable=separable, dtype=torch.float64))
    x = torch.randn(2, 4, *size, dtype=torch.float64)
    if separable:
        inner = plain_norm(plain_conv(x, block.conv_dw, arguments), block.bn1).relu()
        expected = plain_norm(F.conv2d(inner, block.conv_pw.weight, block.conv_pw.bias), block.bn2).relu()
    else:
        expected = plain_norm(plain_conv(x, block.conv, arguments), block.bn).relu()
    out = block(x)
    check_size(out, size, arguments)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-6)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 5), st.integers(1, 3), st.integers(0, 4), st.booleans())
def test_to_size_hits_its_target_or_refuses(before, wanted, kernel_size, stride, padding, separable):
    """The rule of geometry, reached through the block."""

    def build():
        return DilatedDownsample.to_size(
            2, 3, kernel_size, stride, padding, input_size=before, output_size=wanted, separable=separable
        )

    try:
        dilation = geometry.solve_dilation(before, wanted, kernel_size, stride, padding)
    except ValueError:
        with pytest.raises(ValueError, match=f"input_size={before} into output_size={wanted}"):
            build()
        return
    if stride == 1 and 2 * padding >= dilation * (kernel_size - 1):
        with pytest.raises(ValueError, match="must make the map smaller"):
            build()
        return
    assert build().eval()(torch.randn(1, 2, before, before)).shape == (1, 3, wanted, wanted)


@given(sizes, conv_arguments, st.integers(1, 3), st.sampled_from([0, 1, "same"]))
@settings(max_examples=50)
def test_joint_equals_its_two_halves(size, arguments, depthwise_kernel_size, depthwise_padding):
    assume(fits(size, arguments))
    block = shaken(
        JointDilatedDepthwise(
            4,
            6,
            **arguments,
            mid_channels=5,
            depthwise_kernel_size=depthwise_kernel_size,
            depthwise_padding=depthwise_padding,
            dtype=torch.float64,
        )
    )
    x = torch.randn(2, 4, *size, dtype=torch.float64)
    inner = plain_norm(plain_conv(x, block.dilated.conv, arguments), block.dilated.bn).relu()
    second = {
        "kernel_size": depthwise_kernel_size,
        "stride": 1,
        "padding": depthwise_padding,
        "dilation": 1,
        "padding_mode": arguments["padding_mode"],
    }
    assume(fits(inner.shape[2:], second))
    half = block.separable
    expected = plain_norm(plain_conv(inner, half.conv_dw, second), half.bn1).relu()
    expected = plain_norm(F.conv2d(expected, half.conv_pw.weight), half.bn2).relu()
    torch.testing.assert_close(block(x), expected, rtol=0, atol=1e-6)


@given(st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]), st.booleans())
@settings(max_examples=20)
def test_every_dtype_in_gives_the_same_dtype_out(dtype, channels_last):
    form = torch.channels_last if channels_last else torch.contiguous_format
    block = DepthwiseSeparableConv(4, 6, 3, padding="same", dtype=dtype).eval().to(memory_format=form)
    out = block(torch.randn(2, 4, 8, 8).to(dtype=dtype, memory_format=form))
    assert out.dtype == dtype
    assert out.is_contiguous(memory_format=form)
