"""The charts of a report, each for a light and a dark page, as PNG bytes."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap, PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

Log = Sequence[Mapping[str, float]]
"""The rows of log.csv."""

DASHES = ("-", "--", ":", "-.")
ANNOTATED = 20
"""Classes up to which the counts fit into the cells of a confusion matrix."""


@dataclass(frozen=True)
class Theme:
    """Colours of a page; those of the lines differ in lightness too, for readers who do not tell hues apart."""

    name: str
    paper: str
    ink: str
    faint: str
    lines: tuple[str, ...]

    @property
    def settings(self) -> dict[Any, Any]:
        inked = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
        papered = ("figure.facecolor", "axes.facecolor", "legend.facecolor")
        return {
            **dict.fromkeys(inked, self.ink),
            **dict.fromkeys(papered, self.paper),
            "grid.color": self.faint,
            "legend.edgecolor": self.faint,
            # A line behind the words would be read as a part of them.
            "legend.framealpha": 1.0,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.prop_cycle": cycler(color=self.lines * len(DASHES), linestyle=DASHES * len(self.lines)),
            "font.size": 10,
            # A class may be called $5.
            "text.parse_math": False,
        }


LIGHT = Theme("light", "#ffffff", "#1f2328", "#d8dee4", ("#0550ae", "#d4570a", "#6e7781", "#1a7f37", "#8250df"))
DARK = Theme("dark", "#14171b", "#e6e9ec", "#3a4149", ("#6cb6ff", "#f69d50", "#adbac7", "#57ab5a", "#dcbdfb"))
THEMES = (LIGHT, DARK)


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), dpi=130, layout="constrained")
    # The canvas is named, so that no display and no global state of pyplot is involved.
    FigureCanvasAgg(figure)
    return figure


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _over_epochs(axes: Axes, quantity: str) -> None:
    axes.set_title(quantity, fontsize=10, loc="left")
    axes.set_xlabel("epoch")
    # From 0: around a single epoch matplotlib would count thousandths.
    axes.set_xlim(0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.6)


def _plot(axes: Axes, log: Log, column: str, **options: Any) -> None:
    """A line over the epochs after which something was measured; of a few it shows each, and one alone is a dot."""
    measured = [row for row in log if column in row]
    marker = "o" if len(measured) == 1 else "." if len(measured) < 20 else ""
    axes.plot([row["epoch"] for row in measured], [row[column] for row in measured], marker=marker, **options)


def curves(log: Log, theme: Theme) -> bytes:
    """Loss, accuracy and learning rate of one run over its epochs."""
    with mpl.rc_context(theme.settings):
        figure = _figure(11, 3.6)
        loss, accuracy, rate = figure.subplots(1, 3)
        for axes, kind, quantity in ((loss, "loss", "loss"), (accuracy, "acc", "accuracy, %")):
            parts = {"test": "test", "val": "validation", "train": "training, augmented"}
            for (part, label), dash, colour in zip(parts.items(), DASHES, theme.lines, strict=False):
                column = f"{part}_{kind}"
                if any(column in row for row in log):
                    _plot(axes, log, column, linestyle=dash, color=colour, label=label)
            _over_epochs(axes, quantity)
            axes.legend(fontsize=8)
        _plot(rate, log, "lr", color=theme.lines[0])
        _over_epochs(rate, "learning rate")
        # Around the single point of one epoch matplotlib would count below 0.
        rate.set_ylim(bottom=0)
        return _png(figure)


def compare(logs: Mapping[str, Log], theme: Theme) -> bytes:
    """Training loss, validation and test accuracy of several runs over their epochs."""
    with mpl.rc_context(theme.settings):
        figure = _figure(11, 3.8 + 0.2 * len(logs))
        panels = {"train_loss": "training loss", "val_acc": "validation accuracy, %", "test_acc": "test accuracy, %"}
        measured = {column for log in logs.values() for row in log for column in row}
        panels = {column: quantity for column, quantity in panels.items() if column in measured}
        every = figure.subplots(1, len(panels), squeeze=False)[0]
        for axes, (column, quantity) in zip(every, panels.items(), strict=True):
            for name, log in logs.items():
                _plot(axes, log, column, label=name)
            _over_epochs(axes, quantity)
        lines, names = every[0].get_legend_handles_labels()
        figure.legend(lines, names, loc="outside lower center", fontsize=9, ncols=min(3, len(logs)))
        return _png(figure)


def per_class(classes: Sequence[str], accuracies: Sequence[float], overall: float, theme: Theme) -> bytes:
    """A bar a class, the worst at the bottom, and a line at the accuracy over all."""
    order = np.argsort(accuracies, kind="stable")
    with mpl.rc_context(theme.settings):
        figure = _figure(7, 1.2 + 0.26 * len(classes))
        axes = figure.subplots()
        values = [accuracies[index] for index in order]
        bars = axes.barh([classes[index] for index in order], values, color=theme.lines[0], height=0.7)
        axes.bar_label(bars, [f"{value:.1f}" for value in values], padding=4, fontsize=9)
        axes.axvline(overall, color=theme.lines[1], linestyle="--", label=f"all images: {overall:.2f} %")
        axes.set_xlim(0, 108)
        axes.set_xticks(range(0, 101, 20))
        axes.set_xlabel("accuracy, %")
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.0), fontsize=9)
        axes.set_ylim(-0.6, len(classes) + 0.9)
        axes.grid(axis="x", alpha=0.6)
        axes.set_axisbelow(True)
        return _png(figure)


def confusion(classes: Sequence[str], counts: NDArray[np.int64], theme: Theme) -> bytes:
    """A row for each true class: the share of its images that each class was predicted for."""
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = min(20.0, 2.4 + 0.42 * len(classes))
    with mpl.rc_context(theme.settings):
        figure = _figure(side + 0.9, side)
        axes = figure.subplots()
        colours = LinearSegmentedColormap.from_list("share", [theme.paper, theme.lines[0]])
        # Mistakes are a few percent: a straight scale would show an empty field beside the diagonal.
        image = axes.imshow(shares, cmap=colours, norm=PowerNorm(0.5, 0, 1))
        axes.set_xticks(range(len(classes)), classes, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(classes)), classes)
        axes.set(xlabel="predicted class", ylabel="true class")
        axes.spines[:].set_visible(False)
        if len(classes) <= ANNOTATED:
            for row, column in np.ndindex(*counts.shape):
                if counts[row, column]:
                    ink = theme.paper if shares[row, column] > 0.25 else theme.ink
                    axes.text(column, row, f"{counts[row, column]}", ha="center", va="center", color=ink, fontsize=8)
        bar = figure.colorbar(image, ax=axes, shrink=0.8, ticks=[0, 0.01, 0.05, 0.2, 0.5, 1])
        bar.ax.set_yticklabels(["0", "1 %", "5 %", "20 %", "50 %", "100 %"])
        bar.set_label("share of the true class")
        return _png(figure)
