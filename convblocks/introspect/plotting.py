"""Pictures of receptive fields; matplotlib is imported when one is drawn."""

# What matplotlib leaves without types, and the analysis behind a field.
# pyright: reportPrivateUsage=false, reportUnknownMemberType=false

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from convblocks.introspect.answers import ReceptiveField
from convblocks.introspect.coverage import reached_pixels
from convblocks.introspect.inputs import InputSize
from convblocks.introspect.layers import Layer, geometry_rows
from convblocks.introspect.receptive_field import analyse

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot_receptive_field(
    model: Callable[..., Any],
    input_size: InputSize,
    *,
    layer: str | None = None,
    image: Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> Figure:
    """Draw the field of a layer on an image with the pixels that reach it, and the growth of the field by layer.

    Args:
        model: a module, or a bound method of one, with images as input.
        input_size: `(channels, height, width)` without the batch.
        layer: name of a module; by default the last convolution or pooling whose field is not global.
        image: (height, width) or (channels, height, width) to draw on, values 0 to 1.
        dtype: element type of the input.

    Returns:
        A matplotlib figure; save or show it.

    Raises:
        ValueError: no layer of that name, or its field is unknown.
        ModuleNotFoundError: matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    analysis = analyse(model, input_size, dtype=dtype)
    if len(analysis.inputs.axes[0]) != 2:
        raise ValueError(f"input_size must have a height and a width to be drawn, got {input_size!r}")
    field = ReceptiveField(analysis, analysis.native.outputs[0], "output") if analysis.native.outputs else None
    rows = [row for row in geometry_rows(analysis) if row.field is not None and row.field.local.size[0]]
    if layer is not None:
        layers: Mapping[str, ReceptiveField] = field.layers if field is not None else {}
        if layer not in layers:
            raise ValueError(f"the network has no layer {layer!r} that ran")
        chosen = layers[layer]
    else:
        maps = [row.field for row in rows if row.field is not None and row.field.local.jump[0] is not None]
        if not maps:
            raise ValueError("no layer of the network has a field that is known")
        chosen = maps[-1]
        layer = next(row.name or row.type for row in reversed(rows) if row.field is chosen)
    if any(not size for size in chosen.local.size):
        raise ValueError(f"the field of {layer!r} is not known: {', '.join(chosen.unknown)}")
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw_field(left, chosen, layer, image)
    _draw_growth(right, rows, analysis.inputs.shapes[0][2:])
    return figure


def _draw_field(axes: Axes, field: ReceptiveField, layer: str, image: Tensor | None) -> None:
    from matplotlib.patches import Rectangle

    height, width = (int(size or 0) for size in field.local.size)
    frame_height, frame_width = field._analysis.inputs.shapes[0][2:]
    top, left = (frame_height - height) / 2 - 0.5, (frame_width - width) / 2 - 0.5
    if image is not None:
        picture = image if image.ndim == 2 else image.movedim(0, -1)
        axes.imshow(picture.cpu().numpy(), extent=(-0.5, frame_width - 0.5, frame_height - 0.5, -0.5), cmap="gray")
    mask = reached_pixels(field._analysis, field._value, 0)
    title = f"{layer}: {height} x {width} pixels"
    if mask is not None:
        extent = (left, left + width, top + height, top)
        shade = mask.double().numpy()
        axes.imshow(shade, extent=extent, cmap="Oranges", vmin=0, vmax=1.6, alpha=0.8, interpolation="nearest")
        title += f", {mask.float().mean():.0%} reach it"
    axes.add_patch(Rectangle((left, top), width, height, fill=False, edgecolor="tab:red"))
    axes.add_patch(Rectangle((-0.5, -0.5), frame_width, frame_height, fill=False, edgecolor="black", linewidth=1.5))
    axes.set_xlim(min(left, -0.5) - 1, max(left + width, frame_width - 0.5) + 1)
    axes.set_ylim(max(top + height, frame_height - 0.5) + 1, min(top, -0.5) - 1)
    axes.set_aspect("equal")
    axes.set_title(title)
    axes.set_xlabel("black: the image; red: the field of a unit in the middle;\norange: pixels that reach it")


def _draw_growth(axes: Axes, rows: list[Layer], image: tuple[int, ...]) -> None:
    heights, widths = ([row.field.local.size[index] or 0 for row in rows if row.field is not None] for index in (0, 1))
    lines = {"height and width": heights} if heights == widths else {"height": heights, "width": widths}
    for (name, sizes), style in zip(lines.items(), ("-", "--"), strict=False):
        axes.plot(range(1, len(sizes) + 1), sizes, marker=".", label=name, linestyle=style)
    bounds = {"image": image[0]} if image[0] == image[1] else {"image height": image[0], "image width": image[1]}
    for (name, length), style in zip(bounds.items(), (":", "-."), strict=False):
        axes.axhline(length, color="black", linewidth=1, linestyle=style, label=name)
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("convolution or pooling, in order")
    axes.set_ylabel("receptive field in pixels")
    axes.set_title("growth of the field")
    axes.grid(alpha=0.3)
    axes.legend()
