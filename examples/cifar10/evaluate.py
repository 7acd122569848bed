"""Evaluate the network of a run on the test images of CIFAR-10, or of any tree of the same class folders.

Examples:
  python examples/cifar10/evaluate.py runs/twelve_layer-modern-0
  python examples/cifar10/evaluate.py runs/twelve_layer-modern-0 --which best --tta --json
  python examples/cifar10/evaluate.py runs/twelve_layer-modern-0 --data-dir my-images

On the data of the run the figures equal those of metrics.json. Images in class folders must be 32x32; predict.py takes
any size.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import command

PROG = "evaluate.py"
TTA = {"tta": "mirror", "tta_shift": "mirror+shift"}
"""Kinds of test-time augmentation, by their key in the JSON."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = command.parser(PROG, __doc__)
    made.add_argument("run", type=Path, metavar="runs/<name>", help="the folder of the run")
    command.add_network(made)
    command.add_data(made)
    made.add_argument("--tta", action="store_true", help="test-time augmentation too: mirrored, and shifted")
    made.add_argument("--json", action="store_true", help="print JSON")
    return made


def run(arguments: argparse.Namespace) -> int:
    """Evaluate as the command line says."""
    # These import torch, which --help need not wait for.
    import testset
    import trained
    from errors import UsageError
    from evaluation import evaluate

    network = trained.load(arguments.run, arguments.which, device=arguments.device, precision=arguments.precision)
    test = testset.read(network, arguments.data_dir)
    if arguments.tta and not test.mirrored:
        raise UsageError(f"--tta: in {test.name} a mirrored image is no image of its class")
    plain = evaluate(network, test.images)
    found: dict[str, Any] = {
        "run": network.name,
        "checkpoint": trained.FILES[network.which],
        "epoch": network.epoch,
        "step": network.step,
        "model": network.identity["network"],
        "device": network.device.name,
        "precision": "bf16" if network.device.bf16 else "fp32",
        "data": test.name,
        "data_of_the_run": test.same,
        "images": len(test.images),
        "accuracy": round(plain.accuracy, 4),
        "loss": round(plain.loss, 4),
        "classes": {},
    }
    for label, name in enumerate(network.classes):
        images, accuracy = plain.class_accuracy(label)
        found["classes"][name] = {"images": images, "accuracy": round(accuracy, 4)}
    if arguments.tta:
        for key, kind in TTA.items():
            averaged = evaluate(network, test.images, tta=kind)
            found[key] = {"accuracy": round(averaged.accuracy, 4), "loss": round(averaged.loss, 4)}
    print(json.dumps(found, indent=2) if arguments.json else _text(found, str(network), str(test)))
    return 0


def _text(found: dict[str, Any], network: str, test: str) -> str:
    lines = [
        f"run       {network}",
        f"data      {test}",
        f"computed  {found['device']}, {found['precision']}",
        f"accuracy  {found['accuracy']:.2f} %, loss {found['loss']:.4f}",
    ]
    for key, kind in TTA.items():
        if key in found:
            lines.append(f"with TTA  {found[key]['accuracy']:.2f} %, loss {found[key]['loss']:.4f} ({kind})")
    width = max(len("class"), *map(len, found["classes"]))
    lines += ["", f"{'class':<{width}}  images  accuracy"]
    lines += [
        f"{name:<{width}}  {own['images']:>6}  {own['accuracy']:>6.2f} %" for name, own in found["classes"].items()
    ]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    arguments = parser().parse_args(argv)
    return command.finish(PROG, lambda: run(arguments))


if __name__ == "__main__":
    sys.exit(main())
