"""The two pictures of a run, as PNG bytes."""

import io
from collections.abc import Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    # The canvas is named, so that no display and no global state of pyplot is involved.
    FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()


def curves(title: str, history: Sequence[dict[str, float]]) -> bytes:
    """Loss, accuracy and learning rate over the epochs."""
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    figure.suptitle(title)
    parts = {"train": "train (augmented, running)", "val": "validation", "test": "test"}
    panels: dict[str, dict[str, str]] = {
        "loss": {f"{part}_loss": name for part, name in parts.items()},
        "accuracy, %": {f"{part}_acc": name for part, name in parts.items()},
        "learning rate": {"lr": "after the epoch's last step"},
    }
    for axes, (quantity, columns) in zip(figure.subplots(1, 3), panels.items(), strict=True):
        for column, name in columns.items():
            measured = [row for row in history if column in row]
            if measured:
                axes.plot([row["epoch"] for row in measured], [row[column] for row in measured], ".-", label=name)
        axes.set(xlabel="epoch", ylabel=quantity)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend()
    return _png(figure)


def grid(title: str, images: NDArray[np.uint8], captions: Sequence[str], columns: int = 8) -> bytes:
    """Images side by side, each under its caption.

    Args:
        title: Of the picture.
        images: ``(N, H, W, 3)`` uint8.
        captions: One an image.
        columns: Images in a row.
    """
    height, width = images.shape[1:3]
    step_y, step_x = height + 9, width + 3
    rows = -(-len(images) // columns)
    sheet = np.full((rows * step_y, columns * step_x, 3), 255, np.uint8)
    figure = Figure(figsize=(columns * 1.2, rows * 1.4 + 0.4))
    axes = figure.add_axes((0, 0, 1, rows * 1.4 / (rows * 1.4 + 0.4)))
    axes.axis("off")
    # One picture with words on it: a pair of axes for each image takes seconds to draw.
    for number, (image, caption) in enumerate(zip(images, captions, strict=True)):
        y, x = number // columns * step_y + step_y - height, number % columns * step_x
        sheet[y : y + height, x : x + width] = image
        axes.text(x + width / 2, y - 2, caption, fontsize=8, ha="center")
    axes.imshow(sheet, interpolation="nearest", aspect="auto")
    figure.suptitle(title)
    return _png(figure)
