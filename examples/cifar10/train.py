"""Train a small image network on CIFAR-10, on a folder of 32x32 images, or on digits where neither is to be had.

Examples:
  python examples/cifar10/train.py
  python examples/cifar10/train.py --data-dir data/cifar10-jpeg --model era_s9 --recipe published
  python examples/cifar10/train.py --data-dir data/cifar10-jpeg --model era_s9 --recipe published --resume
  torchrun --nproc-per-node=4 examples/cifar10/train.py --data-dir data/cifar10-jpeg
"""

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pipelines
import recipes
from errors import RunError, UsageError

INTERRUPTED = 130


def _whole(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text} is not between {low} and {high}")
        return value

    return parse


def _real(low_allowed: bool, high: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
        if not (0 <= value < high and (low_allowed or value > 0)):
            raise argparse.ArgumentTypeError(
                f"{text} is not {'at least' if low_allowed else 'above'} 0 and below {high:g}"
            )
        return value

    return parse


def _share(text: str) -> float:
    value = _real(True, math.inf)(text)
    if value > 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def parser() -> argparse.ArgumentParser:
    """The command line."""
    description, _, epilog = (__doc__ or "").partition("\n\n")
    made = argparse.ArgumentParser(
        prog="train.py", description=description, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    data = made.add_argument_group("data")
    data.add_argument(
        "--dataset",
        choices=("auto", "cifar10", "folder", "digits"),
        default="auto",
        help="auto: class folders in --data-dir, else the official archive, else digits (default: auto)",
    )
    data.add_argument(
        "--data-dir",
        type=Path,
        default=Path("data"),
        metavar="DIR",
        help="holds train/<class>/* and test/<class>/*, or the official archive (default: data)",
    )
    data.add_argument(
        "--validation",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="hold out training images and classify them and the test images after each epoch, or train on all images "
        "and classify the test images after the last epoch alone (default: hold out)",
    )
    what = made.add_argument_group("what is trained")
    what.add_argument(
        "--model",
        default="twelve_layer",
        metavar="NAME",
        help="one of networks.py (frontier_100k, frontier_200k, era_s9, late_100k, net4, eva8_s6, twelve_layer), or a "
        "name of timm's (default: twelve_layer)",
    )
    what.add_argument(
        "--recipe",
        choices=recipes.NAMES,
        default="modern",
        help="the network's published recipe, or one for all: modern, long, or fast (default: modern)",
    )
    what.add_argument(
        "--seed", type=_whole(0, 2**31), default=0, metavar="N", help="of weights, split and order (default: 0)"
    )
    change = made.add_argument_group("changes to the recipe")
    change.add_argument("--epochs", type=_whole(1, 10**6), metavar="N", help="passes over the training images")
    change.add_argument("--batch-size", type=_whole(2, 10**6), metavar="N", help="images a step")
    change.add_argument(
        "--optimizer", choices=recipes.OPTIMIZERS, help="another wants another --lr and --weight-decay too"
    )
    change.add_argument("--lr", type=_real(False, math.inf), metavar="X", help="(peak) learning rate")
    change.add_argument("--weight-decay", type=_real(True, math.inf), metavar="X", help="of all but norms and biases")
    change.add_argument("--label-smoothing", type=_real(True, 1), metavar="X", help="of the cross entropy")
    change.add_argument("--augment", choices=pipelines.NAMES, help="augmentation pipeline")
    change.add_argument(
        "--augment-with", choices=recipes.BACKENDS, help="in processes of the CPU, or on the device that trains"
    )
    change.add_argument("--flip", choices=recipes.FLIPS, help="alternating: each image by turns as it is and mirrored")
    change.add_argument("--mixup", type=_real(True, math.inf), metavar="X", help="parameters of its Beta; 0 is none")
    change.add_argument("--cutmix", type=_real(True, math.inf), metavar="X", help="parameters of its Beta; 0 is none")
    change.add_argument("--mix-share", type=_share, metavar="X", help="share of the images that are mixed")
    change.add_argument("--mix-rising", action="store_true", default=None, help="that share rises from 0 over the run")
    change.add_argument(
        "--ema-decay", type=_real(True, 1), metavar="X", help="of the averaged weights; 0 averages none"
    )
    taught = made.add_argument_group("distillation")
    taught.add_argument(
        "--teacher", type=Path, metavar="runs/<name>", help="a finished run, whose network is learned from as well"
    )
    taught.add_argument("--distill", type=_share, metavar="X", help="weight of the teacher against the labels (0.5)")
    taught.add_argument("--temperature", type=_real(False, math.inf), metavar="X", help="of both answers (4)")
    how = made.add_argument_group("how it is computed")
    how.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: a GPU where there is one")
    how.add_argument(
        "--precision",
        choices=("auto", "fp32", "bf16"),
        default="auto",
        help="auto: bf16 autocast where the hardware multiplies it",
    )
    how.add_argument("--threads", type=_whole(1, 1024), metavar="N", help="CPU threads of torch (default: torch's own)")
    how.add_argument(
        "--workers",
        type=_whole(0, 1024),
        metavar="N",
        help="processes that augment; the results do not depend on it (default: by the number of CPUs)",
    )
    how.add_argument("--compile", action="store_true", help="use torch.compile")
    how.add_argument("--graph", action="store_true", help="forward and backward pass as one CUDA graph")
    how.add_argument(
        "--deterministic",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="on a GPU the same figures every time, or the fastest algorithms (default: the same figures)",
    )
    how.add_argument("--sync-batch-norm", action="store_true", help="batch norms see the batches of all GPUs")
    results = made.add_argument_group("results")
    results.add_argument(
        "--run-dir", type=Path, default=Path("runs"), metavar="DIR", help="folder of all runs (default: runs)"
    )
    results.add_argument(
        "--name",
        help="folder of this run (default: <model>-<recipe>-<seed>, or <model>-<recipe>-all-<seed> by --no-validation)",
    )
    results.add_argument("--resume", action="store_true", help="go on with the run in that folder, bit for bit")
    results.add_argument("--overwrite", action="store_true", help="replace the run in that folder")
    results.add_argument(
        "--save-every",
        type=_real(True, math.inf),
        default=5.0,
        metavar="SECONDS",
        help="between two checkpoints at least; they are written between two epochs (default: 5)",
    )
    results.add_argument(
        "--test-time-augmentation",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="at the end classify mirrored and shifted test images too (default: do)",
    )
    results.add_argument(
        "--report",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="write report/index.html at the end (default: write it)",
    )
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    words = sys.argv[1:] if argv is None else list(argv)
    arguments = parser().parse_args(words)
    try:
        # torch and the rest take seconds to import: --help and a misspelt option need not wait for them.
        from training import train

        return train(arguments, words)
    except ModuleNotFoundError as error:
        print(f"train.py: error: {error}; in the repository's folder: pip install -e '.[examples]'", file=sys.stderr)
        return UsageError.exit_status
    except (UsageError, RunError) as error:
        print(f"train.py: error: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print("train.py: interrupted before training began; nothing is lost", file=sys.stderr)
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
