"""A shortcut gives what torch gives on the meta device: shape, strides and element type."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from convblocks.introspect.meta import SHORTCUTS, run
from convblocks.introspect.meta.elementwise import ARITHMETIC, ELEMENTWISE

aten = torch.ops.aten


def tensor(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


LAYOUTS = {
    "contiguous": tensor(2, 4, 6, 8),
    "channels last": tensor(2, 4, 6, 8).to(memory_format=torch.channels_last),
    "every other channel": tensor(2, 8, 6, 8)[:, ::2],
    "permuted": tensor(2, 6, 8, 4).permute(0, 3, 1, 2),
    "half the channels last": tensor(2, 8, 6, 8).to(memory_format=torch.channels_last)[:, 4:],
    "half the places": tensor(2, 4, 6, 16)[..., 8:],
    "half the channels": tensor(2, 8, 6, 8)[:, 4:],
    "expanded": tensor(1, 4, 1, 8).expand(2, 4, 6, 8),
    "half": tensor(2, 4, 6, 8, dtype=torch.float16),
    "integers": tensor(2, 4, 6, 8, dtype=torch.int64),
    "one channel": tensor(2, 1, 6, 8),
    "one number a channel": tensor(2, 4, 1, 1),
    "one map": tensor(1, 1, 6, 8),
    "row": tensor(8),
    "empty": tensor(2, 0, 6, 8),
    "one dimension": tensor(4),
    "transposed map": tensor(2, 4, 8, 6).transpose(2, 3),
    "places first": tensor(6, 8, 2, 4).permute(2, 3, 0, 1),
    "a row of every map, transposed": tensor(8, 1, 4, 1).permute(3, 2, 1, 0),
    "column": tensor(1, 1, 6, 1),
}


def describe(result: Any) -> Any:
    """Shape, type and the strides that say where an element lies: those of dimensions longer than 1."""
    if isinstance(result, (tuple, list)):
        return [describe(item) for item in result]
    filled = result.numel() > 0
    strides = [step for step, length in zip(result.stride(), result.shape, strict=True) if length > 1 and filled]
    return tuple(result.shape), strides, result.dtype, result.device.type


def outcome(function: Any, *args: Any) -> Any:
    try:
        return describe(function(*args))
    except (RuntimeError, ValueError, IndexError, AssertionError, TypeError, ZeroDivisionError):
        return "refused"


def same(func: Any, *args: Any, **options: Any) -> None:
    assert outcome(lambda: run(func, args, options)) == outcome(lambda: func(*args, **options))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_elementwise_functions(name: str, layout: str) -> None:
    x = LAYOUTS[layout]
    same(getattr(aten, name).default, x)
    if layout != "expanded" and x.is_floating_point():
        same(getattr(aten, f"{name}_").default, x)


@pytest.mark.parametrize("first", LAYOUTS)
@pytest.mark.parametrize("end", ["", "_"])
@pytest.mark.parametrize("name", ARITHMETIC)
def test_sums_and_products(name: str, end: str, first: str) -> None:
    func = getattr(aten, name + end).Tensor
    for second in (*LAYOUTS.values(), 2.0, 2, True):
        same(func, LAYOUTS[first].clone(), second)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_more_of_two_operands(layout: str) -> None:
    x = LAYOUTS[layout]
    for number in (2, 0.5, -1, True):
        same(aten.pow.Tensor_Scalar, x, number)
        same(aten.mul.Scalar, x, number)
    for second in LAYOUTS.values():
        same(aten.maximum.default, x, second)
        same(aten.minimum.default, x, second)


PAIRS = [
    (tensor(6, 1), tensor(1, 8)),
    (tensor(1, 8), tensor(6, 1)),
    (tensor(6, 1), tensor(1, 8, dtype=torch.float64)),
    (tensor(6, 1), tensor(8, 1).t()),
    (tensor(12, 1)[::2], tensor(1, 8)),
    (tensor(0, 1), tensor(1, 8)),
    (tensor(1, 1), tensor(1, 1)),
    (tensor(2, 6, 1), tensor(1, 8)),
    (tensor(6, 1, dtype=torch.int64), tensor(1, 8, dtype=torch.int64)),
]


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("name", ARITHMETIC)
def test_a_column_with_a_row(name: str, pair: tuple[Tensor, Tensor]) -> None:
    same(getattr(aten, name).Tensor, *pair)


@pytest.mark.parametrize("first", LAYOUTS)
@pytest.mark.parametrize("cut", ["rows", "columns", "maps", "channels", "of one", "rank"])
def test_operands_broadcast_to_one_another(first: str, cut: str) -> None:
    for x, y in ((LAYOUTS[first], second) for second in LAYOUTS.values()):
        if cut == "of one":
            same(aten.add.Tensor, x[..., :1], y[:1])
        elif cut == "rank":
            same(aten.add.Tensor, x[..., :1], y[0])
        else:
            dim = {"rows": -2, "columns": -1, "maps": 0, "channels": -3}[cut]
            if x.dim() == y.dim() == 4:
                same(aten.add.Tensor, x.narrow(dim, 0, min(1, x.shape[dim])), y)


@pytest.mark.parametrize("second", [(1944, 243, 27, 0, 1), (1944, 243, 27, 1, 0), (1, 0, 0, 0, 0), (0, 0, 0, 0, 1)])
def test_scores_of_rows_and_of_columns(second: tuple[int, ...]) -> None:
    first = 1944, 27, 243, 1, 0
    strided = [torch.empty_strided((3, 8, 8, 14, 14), steps, device="meta") for steps in (first, second)]
    same(aten.add.Tensor, *strided)
    same(aten.add.Tensor, *reversed(strided))
    same(aten.mul.Tensor, strided[0], strided[1][:, :1])
    same(aten.mul.Tensor, strided[0][:1], strided[1][..., :1])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_sums_with_a_product(layout: str) -> None:
    x = LAYOUTS[layout]
    for first in LAYOUTS.values():
        same(aten.addcmul.default, first, x, x)
        same(aten.addcmul.default, first, first, x)
        same(aten.addcmul.default, first, x, first)
    same(aten.addcmul.default, x, x, x, value=2)
    same(aten.addcmul.default, x, x, x.double())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_rows_picked_by_number(layout: str) -> None:
    x = LAYOUTS[layout]
    indices = [tensor(*shape, dtype=torch.int64) for shape in ((3, 5), (1,), (), (0,), (2, 3, 4))]
    for places in (*indices, indices[0].int(), indices[0].t(), indices[0].float(), indices[0].bool()):
        same(aten.index.Tensor, x, [places])
        same(aten.index.Tensor, x, [None, places])
        same(aten.index.Tensor, x, [places, places])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_softmax(layout: str) -> None:
    for dim in (0, -1, 1, 4):
        same(aten._softmax.default, LAYOUTS[layout], dim, False)
        same(aten._softmax.default, LAYOUTS[layout], dim, True)
        same(aten._safe_softmax.default, LAYOUTS[layout], dim)
        same(aten._safe_softmax.default, LAYOUTS[layout], dim, torch.float64)


@pytest.mark.parametrize("dims", [[2, 3], [-1, -2], [1], [0, 1, 2, 3], [], None, [4], [2, 2]])
@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("func", [aten.mean.dim, aten.sum.dim_IntList, aten.amax.default])
def test_reductions(func: Any, layout: str, keep: bool, dims: list[int] | None) -> None:
    if dims is not None or func is not aten.amax.default:
        same(func, LAYOUTS[layout], dims, keep)
    if func is aten.amax.default:
        same(func, LAYOUTS[layout])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_copies(layout: str) -> None:
    x = LAYOUTS[layout]
    same(aten.clone.default, x)
    for form in (torch.contiguous_format, torch.preserve_format, torch.channels_last):
        same(aten.clone.default, x, memory_format=form)
    for shape in ([8, 48], [2, 4, 48], [-1, 8], [384], [5], []):
        same(aten._unsafe_view.default, x, shape)
    for shifts, dims in (([1, 2], [2, 3]), ([1], [-1]), ([1], []), ([1], [4]), ([1, 2], [1])):
        same(aten.roll.default, x, shifts, dims)
    for dim in (0, -1, 4):
        same(aten.cumsum.default, x, dim)
    same(aten.cumsum.default, x, 0, dtype=torch.float64)
    same(aten.neg.default, x)
    for least in (0, 0.5, -1):
        same(aten.clamp_min.default, x, least)
    for number in (tensor(), tensor(dtype=torch.float64), tensor(dtype=torch.int64), tensor(1), tensor(6, 8), None):
        same(aten.clamp.Tensor, x, number, number)
        same(aten.clamp.Tensor, x, tensor(), number)
        same(aten.clamp.Tensor, tensor(), number, tensor())
    for least, most in ((0, 1), (0.5, None), (None, 2), (None, None), (1, 0.5), (True, 2)):
        same(aten.clamp.default, x, least, most)
        same(aten.clamp.default, tensor(), least, most)
    for mode in ("floor", "trunc", None):
        same(aten.div.Tensor_mode, x, torch.empty((), device="meta"), rounding_mode=mode)
        same(aten.div.Tensor_mode, x, 2, rounding_mode=mode)
        same(aten.div.Tensor_mode, x, 2.0, rounding_mode=mode)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_stacks(layout: str) -> None:
    x = LAYOUTS[layout]
    for dim in (0, 1, -1, 4, 5, -6):
        same(aten.stack.default, [x, x], dim)
        same(aten.stack.default, [x, LAYOUTS["contiguous"]], dim)
        same(aten.stack.default, [LAYOUTS["contiguous"], x], dim)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_resizing(layout: str) -> None:
    x = LAYOUTS[layout]
    for size in ([9, 9], [3, 20], [1, 1], [0, 4], [4]):
        same(aten.upsample_nearest2d.default, x, size)
        same(aten.upsample_nearest2d.default, x, size, 2.0, 2.0)
        same(aten.upsample_bilinear2d.default, x, size, False)
        same(aten.upsample_bilinear2d.default, x, size, True, None, None)
        same(aten.upsample_bicubic2d.default, x, size, False)
        for other in (x[0], x.flatten(0, 1) if x.dim() > 2 else x, x.unsqueeze(0), x):
            same(aten.upsample_linear1d.default, other, size[:1], False)
            same(aten.upsample_linear1d.default, other, size[:1], True, 2.0)
            same(aten.upsample_trilinear3d.default, other, [*size, 5], False)


@pytest.mark.parametrize("dims", [[2, 3], [-1], [1], [], None, [4], [2, 2]])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_vector_norms(layout: str, dims: list[int] | None) -> None:
    for order in (2, 1.0, 0, 3, -1, -2.0, float("inf")):
        same(aten.linalg_vector_norm.default, LAYOUTS[layout], order, dims)
        same(aten.linalg_vector_norm.default, LAYOUTS[layout], order, dims, True)
    same(aten.linalg_vector_norm.default, LAYOUTS[layout], 2, dims, True, dtype=torch.float64)


@pytest.mark.parametrize("dims", [[2, 3], [-1, -2], [1], [], None, [4], [2, 2]])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_variances(layout: str, dims: list[int] | None) -> None:
    for options in ({}, {"keepdim": True}, {"correction": 0, "keepdim": True}):
        same(aten.var.correction, LAYOUTS[layout], dims, **options)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("func", [aten.avg_pool2d.default, aten.max_pool2d_with_indices.default])
def test_poolings(func: Any, layout: str) -> None:
    x = LAYOUTS[layout]
    for sizes in (
        ([3, 3], [2, 2], [1, 1]),
        ([2, 3], [2, 1]),
        ([2, 2],),
        ([3],),
        ([3, 3], [], [1, 1]),
        ([3, 3], [1, 1], [2, 2]),
        ([3, 3], [0, 1]),
        ([9, 9],),
        ([7, 7], [1, 1], [3, 3]),
    ):
        same(func, x, *sizes)
    ceil = [True] if func is aten.avg_pool2d.default else [[1, 1], True]
    same(func, x, [3, 2], [2, 2], [1, 1], *ceil)
    if func is aten.avg_pool2d.default:
        same(func, x, [3, 3], [2, 2], [1, 1], False, True, 4)
        same(func, x, [3, 3], [2, 2], [1, 1], False, True, 0)
    else:
        same(func, x, [3, 2], [2, 2], [1, 1], [2, 1])
        same(func, x, [3, 2], [2, 2], [1, 1], [0, 1])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("func", [aten._adaptive_avg_pool2d.default, aten.adaptive_max_pool2d.default])
def test_poolings_to_a_size(func: Any, layout: str) -> None:
    x = LAYOUTS[layout]
    for size in ([3, 2], [1, 1], [9, 1], [0, 2], [3], [2, 2, 2]):
        same(func, x, size)
        same(func, x[0], size)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_pads(layout: str) -> None:
    x = LAYOUTS[layout]
    for pads in ([1, 2], [0, 0], [0, 1, 2, 0], [3, 0, 0, 1, 1, 1], [-1, 2], [0, -1], [1], [], [1] * 8, [1] * 10):
        same(aten.constant_pad_nd.default, x, pads)
        same(aten.constant_pad_nd.default, x[0], pads, 0.5)


WINDOWS = [
    ([3, 3], [1, 1], [1, 1], [2, 2]),
    ([2, 3], [1, 2], [0, 1], [2, 1]),
    ([1, 1], [1, 1], [0, 0], [1, 1]),
    ([6, 8], [1, 1], [0, 0], [1, 1]),
    ([1, 8], [1, 1], [0, 0], [1, 1]),
    ([9, 9], [1, 1], [0, 0], [1, 1]),
    ([2, 2], [1, 1], [0, 0], [0, 1]),
    ([2, 2], [0, 1], [0, 0], [1, 1]),
    ([2, 2], [1, 1], [-1, 0], [1, 1]),
    ([0, 2], [1, 1], [0, 0], [1, 1]),
    ([3], [1], [1], [2]),
]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("window", WINDOWS)
def test_windows_cut(layout: str, window: Any) -> None:
    same(aten.im2col.default, LAYOUTS[layout], *window)
    same(aten.im2col.default, LAYOUTS[layout][0], *window)


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int64])
def test_windows_put_back(window: Any, dtype: torch.dtype) -> None:
    for size in ([6, 8], [7, 1], [6], [0, 8]):
        for count in (1, 12, 20, 28, 48):
            for x in (tensor(2, 36, count, dtype=dtype), tensor(2, count, 36, dtype=dtype).mT, tensor(2, 4, 2 * count)):
                same(aten.col2im.default, x, size, *window)
                same(aten.col2im.default, x[..., ::2], size, *window)
                same(aten.col2im.default, x[0], size, *window)


@pytest.mark.parametrize("dim", [0, 1, -1, 4])
@pytest.mark.parametrize("first", LAYOUTS)
def test_concatenations(first: str, dim: int) -> None:
    for second in LAYOUTS.values():
        same(aten.cat.default, [LAYOUTS[first], second], dim)
        same(aten.cat.default, [LAYOUTS[first], second, LAYOUTS[first]], dim)


@pytest.mark.parametrize("layout", [name for name, x in LAYOUTS.items() if x.dim() > 1])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation", "groups"),
    [
        ((8, 4, 3, 3), (1, 1), (1, 1), (1, 1), 1),
        ((8, 4, 1, 1), (1, 1), (0, 0), (1, 1), 1),
        ((4, 1, 3, 2), (2, 1), (2, 0), (1, 2), 4),
        ((8, 1, 3, 3), (2, 2), (1, 1), (1, 1), 1),
        ((8, 4, 9, 9), (1, 1), (0, 0), (1, 1), 1),
        ((8, 3, 3, 3), (1, 1), (1, 1), (1, 1), 1),
        ((8, 4, 3, 3), (2,), (1,), (1,), 1),
        ((6, 2, 1, 1), (1, 1), (0, 0), (1, 1), 2),
        ((8, 4, 3), (1,), (1,), (1,), 1),
    ],
)
def test_convolutions(layout: str, kernel: Any, stride: Any, padding: Any, dilation: Any, groups: int) -> None:
    weight = tensor(*kernel, dtype=LAYOUTS[layout].dtype)
    bias = tensor(kernel[0], dtype=LAYOUTS[layout].dtype)
    for extra in (None, bias):
        same(aten.convolution.default, LAYOUTS[layout], weight, extra, stride, padding, dilation, False, (0, 0), groups)
    same(aten.convolution.default, LAYOUTS[layout], weight, None, stride, padding, dilation, True, (0, 0), groups)
    if len(kernel) == 4:
        last = weight.to(memory_format=torch.channels_last)
        same(aten.convolution.default, LAYOUTS[layout], last, None, stride, padding, dilation, False, (0, 0), groups)


@pytest.mark.parametrize("count", [1, 3])
def test_convolutions_of_other_dimensions(count: int) -> None:
    x, ones = tensor(2, 4, *[9] * count), (1,) * count
    same(aten.convolution.default, x, tensor(6, 2, *[3] * count), None, ones, ones, ones, False, (0,) * count, 2)
    x = x[:, :1]
    same(aten.convolution.default, x, tensor(6, 1, *[3] * count), None, ones, ones, ones, False, (0,) * count, 1)


@pytest.mark.parametrize("shapes", [((3, 4), (4, 5)), ((3, 4), (3, 5)), ((4,), (4, 5))])
def test_products(shapes: tuple[tuple[int, ...], ...]) -> None:
    same(aten.mm.default, *(tensor(*shape) for shape in shapes))
    same(aten.bmm.default, *(tensor(2, *shape) for shape in shapes))
    same(aten.mm.default, tensor(*shapes[0], dtype=torch.float64), tensor(*shapes[1]))
    same(aten.mm.default, tensor(*shapes[0]).t(), tensor(*shapes[1]))
    same(aten.mm.default, tensor(2, *shapes[0]), tensor(2, *shapes[1]))
    same(aten.bmm.default, tensor(*shapes[0]), tensor(*shapes[1]))


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name not in ("integers", "one dimension")])
@pytest.mark.parametrize("training", [False, True])
def test_batch_norm(layout: str, training: bool) -> None:
    four = tensor(4)
    same(aten.native_batch_norm.default, LAYOUTS[layout], four, four, four, four, training, 0.1, 1e-5)
    same(aten.native_batch_norm.default, LAYOUTS[layout], None, None, four, four, training, 0.1, 1e-5)


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name not in ("integers", "row", "one dimension")])
@pytest.mark.parametrize("training", [False, True])
def test_batch_norm_by_its_own_statistics(layout: str, training: bool) -> None:
    x = LAYOUTS[layout]
    for weight in (None, tensor(x.shape[1])):
        same(aten.native_batch_norm.default, x, weight, weight, None, None, training, 0.0, 1e-5)


@pytest.mark.parametrize("layout", [name for name, x in LAYOUTS.items() if x.dim() > 1])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_group_norm(layout: str, groups: int) -> None:
    x = LAYOUTS[layout]
    count, channels = x.shape[:2]
    for weight in (None, tensor(4), tensor(5)):
        same(aten.native_group_norm.default, x, weight, weight, count, channels, 48, groups, 1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(8,), (6, 8), (5,)])
def test_layer_norm(layout: str, shape: tuple[int, ...]) -> None:
    weight = tensor(*shape, dtype=LAYOUTS[layout].dtype)
    same(aten.native_layer_norm.default, LAYOUTS[layout], shape, weight, weight, 1e-5)


@pytest.mark.parametrize(
    "shapes", [((5,), (3, 4), (4, 5)), ((5,), (3, 4), (3, 5)), ((1,), (3, 4), (4, 5)), ((5,), (4,), (4, 5))]
)
def test_addmm(shapes: tuple[tuple[int, ...], ...]) -> None:
    same(aten.addmm.default, *(tensor(*shape) for shape in shapes))
    same(aten.addmm.default, tensor(*shapes[0], dtype=torch.float64), *(tensor(*shape) for shape in shapes[1:]))


def test_every_shortcut_is_tested() -> None:
    unary = {getattr(aten, name + end).default for name in ELEMENTWISE for end in ("", "_")}
    binary = {getattr(aten, name + end).Tensor for name in ARITHMETIC for end in ("", "_")}
    assert set(SHORTCUTS) - unary - binary == {
        aten.div.Tensor_mode,
        aten.linalg_vector_norm.default,
        aten.cumsum.default,
        aten.roll.default,
        aten.clone.default,
        aten._unsafe_view.default,
        aten.stack.default,
        aten.upsample_linear1d.default,
        aten.upsample_trilinear3d.default,
        aten.upsample_nearest2d.default,
        aten.upsample_bilinear2d.default,
        aten.upsample_bicubic2d.default,
        aten.clamp_min.default,
        aten.clamp.default,
        aten.clamp.Tensor,
        aten.neg.default,
        aten.pow.Tensor_Scalar,
        aten.mul.Scalar,
        aten.addcmul.default,
        aten.index.Tensor,
        aten.maximum.default,
        aten.minimum.default,
        aten._softmax.default,
        aten._safe_softmax.default,
        aten.convolution.default,
        aten.native_batch_norm.default,
        aten.native_layer_norm.default,
        aten.native_group_norm.default,
        aten.mean.dim,
        aten.sum.dim_IntList,
        aten.amax.default,
        aten.var.correction,
        aten.avg_pool2d.default,
        aten.max_pool2d_with_indices.default,
        aten._adaptive_avg_pool2d.default,
        aten.adaptive_max_pool2d.default,
        aten.constant_pad_nd.default,
        aten.im2col.default,
        aten.col2im.default,
        aten.cat.default,
        aten.mm.default,
        aten.bmm.default,
        aten.addmm.default,
    }
