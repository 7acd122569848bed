"""What the commands on a run that exists already share: their common options, and how they end."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from errors import RunError, UsageError

INTERRUPTED = 130


def parser(prog: str, doc: str | None) -> argparse.ArgumentParser:
    """A parser that shows a script's docstring: its first paragraph above the options, the rest below."""
    description, _, epilog = (doc or "").partition("\n\n")
    return argparse.ArgumentParser(
        prog=prog, description=description, epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def add_network(made: argparse.ArgumentParser) -> None:
    """The options that say which weights, and where they are computed with."""
    made.add_argument(
        "--which",
        choices=("last", "best"),
        default="last",
        help="weights after the last epoch, or those that did best on held-out training images, where the run has any "
        "(default: last)",
    )
    made.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: a GPU where there is one"
    )
    made.add_argument("--precision", choices=("run", "fp32", "bf16"), default="run", help="default: that of the run")


def add_data(made: argparse.ArgumentParser) -> None:
    """The option that says what is evaluated on."""
    made.add_argument(
        "--data-dir",
        type=Path,
        metavar="DIR",
        help="holds test/<class>/*, or the official archive (default: data; a run on digits needs none)",
    )


def finish(prog: str, work: Callable[[], int]) -> int:
    """Do the work; what stops it becomes one line on stderr and an exit status."""
    try:
        return work()
    except (UsageError, RunError) as error:
        print(f"{prog}: error: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print(f"{prog}: interrupted", file=sys.stderr)
        return INTERRUPTED
