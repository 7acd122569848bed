"""Pictures of receptive fields; matplotlib is imported when one is drawn."""

# What matplotlib leaves without types, and the analysis behind a field.
# pyright: reportPrivateUsage=false, reportUnknownMemberType=false

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from convblocks.introspect.answers import ReceptiveField
from convblocks.introspect.coverage import reached_pixels
from convblocks.introspect.inputs import InputSize
from convblocks.introspect.layers import geometry_rows
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
        model: a module, or a bound method of one, with images or series as input.
        input_size: `(channels, height, width)` or `(channels, length)` without the batch.
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
    count = len(analysis.inputs.axes[0])
    if count > 2:
        raise ValueError(f"input_size must have one or two spatial dimensions to be drawn, got {input_size!r}")
    rows = [
        (row.name or row.type, row.field)
        for row in geometry_rows(analysis)
        if row.field is not None and all(row.field.local.size[:count])
    ]
    if layer is not None:
        layers = ReceptiveField(analysis, analysis.native.inputs[0]).layers
        if layer not in layers:
            raise ValueError(f"the network has no layer {layer!r} that ran")
        chosen = layers[layer]
    else:
        maps = [row for row in rows if row[1].local.jump[0] is not None]
        if not maps:
            raise ValueError("no layer of the network has a field that is known")
        layer, chosen = maps[-1]
    if not all(chosen.local.size):
        reason = ", ".join(chosen.unknown) or "gates leave nothing of it"
        raise ValueError(f"the field of {layer!r} cannot be drawn: {reason}")
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw_field(left, chosen, layer, image)
    _draw_growth(right, [field for _, field in rows], analysis.inputs.shapes[0][2:])
    return figure


def _draw_field(axes: Axes, field: ReceptiveField, layer: str, image: Tensor | None) -> None:
    """One dimension is drawn as a strip."""
    from matplotlib.patches import Rectangle

    sizes = [int(size or 0) for size in field.local.size]
    height, width = [1] * (2 - len(sizes)) + sizes
    frame_height, frame_width = [1] * (2 - len(sizes)) + [*field._analysis.inputs.shapes[0][2:]]
    top, left = (frame_height - height) / 2 - 0.5, (frame_width - width) / 2 - 0.5
    if image is not None:
        kind = image.ndim if isinstance(cast("Any", image), Tensor) else 0
        if kind != 2 and not (kind == 3 and len(image) in (1, 3, 4)):
            raise ValueError("image must be a tensor (height, width) or (1, 3 or 4 channels, height, width)")
        picture = image if image.ndim == 2 else image.movedim(0, -1)
        axes.imshow(picture.cpu().numpy(), extent=(-0.5, frame_width - 0.5, frame_height - 0.5, -0.5), cmap="gray")
    mask = reached_pixels(field._analysis, field._value, 0)
    title = f"{' x '.join(map(str, sizes))} pixels"
    caption = f"black: the {'image' if len(sizes) == 2 else 'input'}; red: the field of a unit in the middle;\n"
    if mask is None:
        caption += "which of its pixels reach it is not known"
    else:
        extent = (left, left + width, top + height, top)
        shade = mask.double().reshape(height, width).numpy()
        opaque = 0.8 if image is None else 0.5
        axes.imshow(shade, extent=extent, cmap="Oranges", vmin=0, vmax=1.6, alpha=opaque, interpolation="nearest")
        title += f", {mask.float().mean():.0%} reach it"
        caption += "orange: pixels that reach it"
    axes.add_patch(Rectangle((left, top), width, height, fill=False, edgecolor="tab:red", linewidth=1.5))
    axes.add_patch(Rectangle((-0.5, -0.5), frame_width, frame_height, fill=False, edgecolor="black", linewidth=1.5))
    margin = 1 + 0.02 * max(width, frame_width)
    axes.set_xlim(min(left, -0.5) - margin, max(left + width, frame_width - 0.5) + margin)
    if len(sizes) == 2:
        margin = 1 + 0.02 * max(height, frame_height)
        axes.set_ylim(max(top + height, frame_height - 0.5) + margin, min(top, -0.5) - margin)
        axes.set_aspect("equal")
    else:
        axes.set_ylim(2, -2)
        axes.set_yticks([])
        axes.set_aspect("auto")
    # A long name and the sizes side by side would run over the next picture.
    axes.set_title(f"{layer}: {title}" if len(layer) + len(title) < 44 else f"{layer}\n{title}")
    axes.set_xlabel(caption)


def _draw_growth(axes: Axes, fields: list[ReceptiveField], image: tuple[int, ...]) -> None:
    """The field layer by layer; what has pooled the whole map is a mark beside the line, as gates are."""
    from matplotlib.ticker import MaxNLocator

    names = ("height", "width") if len(image) == 2 else ("length",)
    columns = [[field.local.size[i] or 0 for field in fields] for i in range(len(image))]
    if len(image) == 2 and columns[0] == columns[1]:
        names, columns = ("height and width",), columns[:1]
    maps = [i for i, field in enumerate(fields) if field.local.jump[0] is not None]
    pooled = [i for i in range(len(fields)) if i not in set(maps)]
    for name, sizes, style in zip(names, columns, ("-", "--"), strict=False):
        axes.plot([i + 1 for i in maps], [sizes[i] for i in maps], marker=".", label=name, linestyle=style)
    if pooled:
        sizes = columns[-1]
        places = [i + 1 for i in pooled]
        axes.plot(places, [sizes[i] for i in pooled], "o", color="gray", fillstyle="none", label="pooled map, or gate")
    whole = "image" if len(image) == 2 else "input"
    bounds = {whole: image[0]} if len(set(image)) == 1 else {"image height": image[0], "image width": image[1]}
    for (name, length), style in zip(bounds.items(), (":", "-."), strict=False):
        axes.axhline(length, color="black", linewidth=1, linestyle=style, label=name)
    axes.set_xlim(0.5 - len(fields) / 50, len(fields) * 1.02 + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    dips = any(sizes[b] < sizes[a] for sizes in columns for a, b in pairwise(maps))
    axes.set_xlabel("convolution or pooling, in order" + (" (a dip is a shorter branch)" if dips else ""))
    axes.set_ylabel("receptive field in pixels")
    axes.set_title("growth of the field")
    axes.grid(alpha=0.3)
    axes.legend()
