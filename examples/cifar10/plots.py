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
    epochs = [row["epoch"] for row in history]
    for axes, (label, kind) in zip(
        figure.subplots(1, 3), (("loss", "loss"), ("accuracy, %", "acc"), ("learning rate", "lr"))
    ):
        if kind == "lr":
            axes.plot(epochs, [row["lr"] for row in history])
        else:
            for part, name in (("train", "train (augmented, running)"), ("val", "validation"), ("test", "test")):
                axes.plot(epochs, [row[f"{part}_{kind}"] for row in history], label=name)
            axes.legend()
        axes.set_xlabel("epoch")
        axes.set_ylabel(label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
    return _png(figure)


def grid(title: str, images: NDArray[np.uint8], captions: Sequence[str], columns: int = 8) -> bytes:
    """Images side by side, each under its caption.

    Args:
        title: Of the picture.
        images: ``(N, H, W, 3)`` uint8.
        captions: One an image.
        columns: Images in a row.
    """
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(columns * 1.2, rows * 1.4), layout="constrained")
    figure.suptitle(title)
    every = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in every:
        axes.axis("off")
    for axes, image, caption in zip(every, images, captions):
        axes.imshow(image, interpolation="nearest")
        axes.set_title(caption, fontsize=8)
    return _png(figure)
