"""Draws the pictures of the pages with the library itself: python docs/pictures.py."""

import sys
from pathlib import Path

from matplotlib.figure import Figure
from torch import nn

import convblocks as cb
from convblocks import geometry

FOLDER = Path(__file__).parent / "pages" / "pictures"
GRIDDED, DENSE = (2, 4, 8), (1, 2, 4, 8)


def reached(dilations: tuple[int, ...]) -> list[bool]:
    """Which pixels of the field along one axis reach a unit of a stack of 3-tap kernels, by its sums of taps."""
    places = {0}
    for dilation in dilations:
        places = {place + tap for place in places for tap in (0, dilation, 2 * dilation)}
    return [place in places for place in range(max(places) + 1)]


def gridding() -> Figure:
    """The field of one unit, with gaps and without."""
    figure = Figure(figsize=(8, 4), layout="constrained")
    for axes, dilations in zip(figure.subplots(1, 2), (GRIDDED, DENSE), strict=True):
        line = reached(dilations)
        seen = geometry.coverage(dilations)
        assert (sum(line), len(line)) == (seen.reached, seen.size)
        axes.imshow([[a and b for b in line] for a in line], cmap="Oranges", vmin=0, vmax=1.4)
        axes.set_title(
            f"dilations {', '.join(map(str, dilations))}: {seen.ratio**2:.0%} of {seen.size} x {seen.size} seen"
        )
        axes.set_xticks([])
        axes.set_yticks([])
    return figure


def networks() -> dict[str, nn.Sequential]:
    """Three stages each; what makes the map smaller differs."""

    def block(**options: int) -> list[nn.Module]:
        return [nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, **options)]

    strided = [part for _ in range(3) for part in (*block(padding=1), nn.MaxPool2d(2))]
    dilated = [part for _ in range(3) for part in (*block(padding=1), cb.DilatedDownsample(4, 4))]
    valid = [part for d in (2, 4, 8) for part in (*block(padding=1), nn.Conv2d(4, 4, 3, dilation=d))]
    return {
        "max-pool 2": nn.Sequential(*strided),
        "DilatedDownsample, stride 2": nn.Sequential(*dilated),
        "valid dilations 2, 4, 8, no stride": nn.Sequential(*valid),
        "the same without layers between": nn.Sequential(*(nn.Conv2d(4, 4, 3, dilation=d) for d in GRIDDED)),
    }


def growth() -> Figure:
    """Field and coverage, layer by layer, of four ways to make a map smaller."""
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for label, network in networks().items():
        layers = cb.receptive_field(network, (4, 64, 64)).layers
        fields = [layers[name] for name, _ in network.named_children()]
        steps = range(1, len(fields) + 1)
        left.plot(steps, [field.local.size[0] or 0 for field in fields], marker=".", label=label)
        right.plot(steps, [field.coverage or 0 for field in fields], marker=".", label=label)
    left.set_ylabel("receptive field in pixels")
    right.set_ylabel("coverage")
    right.set_ylim(0, 1.05)
    for axes in (left, right):
        axes.set_xlabel("layer")
        axes.grid(alpha=0.3)
    left.legend(fontsize="small")
    return figure


def main(folder: Path = FOLDER) -> None:
    """Write the pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in (("gridding", gridding), ("growth", growth)):
        draw().savefig(folder / f"{name}.png", dpi=110, metadata={"Software": None})
        sys.stdout.write(f"{folder / name}.png\n")


if __name__ == "__main__":
    main()
