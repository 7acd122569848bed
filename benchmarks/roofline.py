"""Tables and a roofline of what was measured: `python -m benchmarks.roofline benchmarks/results/blocks-cpu.json`.

Beside each result file it writes a Markdown table of every row (.md) and a picture (.png): what the ways reach, over
the multiply-accumulates a byte that the block or network must move, under the two roofs that were measured in the same
run, a copy and a matrix product. `--page` makes the tables of a page anew, where the page says which.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks import tables
from benchmarks.record import write
from benchmarks.tables import OURS

MARKERS = "oX^vsDP*<>ph8"
# Apart in lightness too, for readers who do not tell hues apart.
COLOURS = ("#6e7781", "#1f2328", "#d4570a", "#0550ae", "#1a7f37", "#8250df", "#bf8700", "#cf222e", "#57ab5a", "#6cb6ff")


def roofline(result: dict[str, Any]) -> Figure:
    """Draw one panel a pass: each case of ours is a column of marks, one a way."""
    good = [r for r in result["rows"] if r["status"] == "ok" and r["subject"] == OURS and r["macs"]]
    mode = "cold" if "cuda" in result["environment"] else "eager"
    good = [r for r in good if r["mode"] == mode]
    passes = list(dict.fromkeys(r["pass"] for r in good))
    bandwidth, product = (
        max(run[name] for run in result["runs"]) for name in ("copy bytes per second", "product operations per second")
    )
    names = list(dict.fromkeys((r["way"], r["dtype"]) for r in good))
    figure = Figure(figsize=(7 * max(1, len(passes)), 6), dpi=80, layout="constrained")
    FigureCanvasAgg(figure)
    for axes, direction in zip(figure.subplots(1, max(1, len(passes)), squeeze=False)[0], passes, strict=False):
        shown = [r for r in good if r["pass"] == direction]
        _roofs(axes, bandwidth, product, [2 * r["macs"] / r["bytes"] for r in shown])
        for i, (way, dtype) in enumerate(names):
            own = [r for r in shown if (r["way"], r["dtype"]) == (way, dtype)]
            axes.plot(
                [2 * r["macs"] / r["bytes"] for r in own],
                [2e6 * r["macs"] / r["median"] for r in own],
                linestyle="none",
                marker=MARKERS[i % len(MARKERS)],
                color=COLOURS[i % len(COLOURS)],
                markersize=5,
                alpha=0.8,
                label=f"{way}, {dtype}",
            )
        axes.set(xscale="log", yscale="log", xlabel="operations a byte that must be moved", title=direction)
        axes.set_ylabel("operations a second")
        axes.grid(True, which="major", color="#d8dee4", linewidth=0.5)
        axes.legend(fontsize=7, loc="lower right")
    figure.suptitle(f"{result['environment']['device']}, {mode}", fontsize=10)
    return figure


def _roofs(axes: Axes, bandwidth: float, product: float, places: Sequence[float]) -> None:
    ridge = product / bandwidth
    low, high = min(*places, ridge) / 4, max(*places, ridge) * 2
    axes.plot([low, ridge, high], [low * bandwidth, product, product], color="#1f2328", linewidth=1)
    words = {"fontsize": 8, "textcoords": "offset points"}
    axes.annotate(f"copy {bandwidth / 1e9:.0f} GB/s", (low, low * bandwidth), xytext=(10, 4), va="top", **words)
    axes.annotate(f"matrix product {product / 1e12:.3g} TFLOP/s", (ridge, product), xytext=(4, 3), **words)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.roofline",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "results", nargs="*", type=Path, metavar="JSON", help="what benchmarks.blocks or .networks wrote"
    )
    parser.add_argument(
        "--page", nargs="+", type=Path, default=[], metavar="PAGE", help="pages with tables to make anew"
    )
    given = parser.parse_args(arguments)
    if not given.results and not given.page:
        parser.error("name a result file, or a page by --page")
    for path in given.results:
        result = tables.load(path)
        write(path.with_suffix(".md"), tables.source(result) + "\n" + tables.everything(result))
        picture = path.with_suffix(".png")
        part = picture.with_name(picture.name + ".part")
        roofline(result).savefig(part, format="png")
        part.replace(picture)
        print(f"wrote {path.with_suffix('.md')} and {picture}")
    for page in given.page:
        write(page, tables.filled(page.read_text()))
        print(f"wrote {page}")


if __name__ == "__main__":
    main()
