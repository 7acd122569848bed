"""Classify image files of any size and format by the network of a run.

Examples:
  python examples/cifar10/predict.py runs/twelve_layer-modern-0 cat.jpg
  python examples/cifar10/predict.py runs/twelve_layer-modern-0 photos --top 1 --json

The network sees 32x32 pixels: the shorter side is resized to 32 with antialiasing and the middle is cropped, so what
lies at the ends of a long image is not seen. The first frame of an animation counts; EXIF orientation is applied;
transparent parts become white; 16-bit grey is scaled to 8 bits, and deeper or fractional values from their own darkest
to their brightest. In a folder every file with the suffix of an image is taken, in folders below it too.

A file that cannot be read is named on stderr and the rest go on; the exit status is then 1.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import command

PROG = "predict.py"
CHUNK = 256
"""Images held in memory at once."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = command.parser(PROG, __doc__)
    made.add_argument("run", type=Path, metavar="runs/<name>", help="the folder of the run")
    made.add_argument("images", type=Path, nargs="+", metavar="IMAGE|FOLDER", help="what to classify")
    command.add_network(made)
    made.add_argument("--top", type=int, default=3, metavar="N", help="classes shown of each image (default: 3)")
    made.add_argument("--json", action="store_true", help="print a JSON object a line, one a file")
    return made


def run(arguments: argparse.Namespace) -> int:
    """Classify as the command line says."""
    # These import torch, which --help need not wait for.
    import trained
    from errors import UsageError

    network = trained.load(arguments.run, arguments.which, device=arguments.device, precision=arguments.precision)
    if not 1 <= arguments.top <= len(network.classes):
        raise UsageError(f"--top {arguments.top} is not between 1 and {len(network.classes)}, the number of classes")
    failed = False
    for found in _classify(network, arguments.images, arguments.top):
        failed |= "error" in found
        if "error" in found:
            print(f"{PROG}: {found['file']} {found['error']}", file=sys.stderr)
        if arguments.json:
            print(json.dumps(found))
        elif "classes" in found:
            shares = ", ".join(f"{name} {share:.1%}" for name, share in found["classes"].items())
            print(f"{found['file']}: {shares}")
    return 1 if failed else 0


def _classify(network: Any, paths: list[Path], top: int) -> Iterator[dict[str, Any]]:
    """For each file its most probable classes, or what is wrong with it."""
    import numpy as np
    import pictures

    files = pictures.find(paths)
    while chunk := list(islice(files, CHUNK)):
        found: list[dict[str, Any]] = []
        images = []
        for path in chunk:
            # A name that is not Unicode must not end the run when it is printed.
            found.append({"file": str(path).encode(errors="backslashreplace").decode()})
            try:
                images.append(pictures.read(path))
            except pictures.Unreadable as error:
                found[-1]["error"] = str(error)
        if images:
            best = network.logits(np.stack(images)).softmax(1).topk(top)
            rows = zip(best.values.tolist(), best.indices.tolist(), strict=True)
            for one in found:
                if "error" not in one:
                    values, labels = next(rows)
                    pairs = zip(labels, values, strict=True)
                    one["classes"] = {network.classes[label]: round(value, 6) for label, value in pairs}
        yield from found


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    arguments = parser().parse_args(argv)
    return command.finish(PROG, lambda: run(arguments))


if __name__ == "__main__":
    sys.exit(main())
