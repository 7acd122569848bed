"""Write a report of a run: one HTML page that needs no other file, and its pictures as PNG files.

Examples:
  python examples/cifar10/report.py runs/twelve_layer-modern-0
  python examples/cifar10/report.py runs/twelve_layer-modern-0 runs/era_s9-modern-0 --which best

It goes to runs/<name>/report/, the page as index.html; a report that is there already is replaced. It shows the first
run, and the learning curves of all that are named side by side.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import command

PROG = "report.py"
FOLDER, PAGE = "report", "index.html"
SOMETIMES = ("compare.png", "compare-dark.png", "mistakes.png", "grad-cam.png", "augmented.png")
"""Pictures that not every report has."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = command.parser(PROG, __doc__)
    made.add_argument("run", type=Path, metavar="runs/<name>", help="the folder of the run")
    made.add_argument("others", type=Path, nargs="*", metavar="runs/<other>", help="runs to show beside it")
    command.add_network(made)
    command.add_data(made)
    return made


def write(
    run: Path,
    others: Sequence[Path] = (),
    *,
    which: str = "last",
    data_dir: Path | None = None,
    device: str = "auto",
    precision: str = "run",
) -> Path:
    """Write the report of a run.

    Args:
        run: The run folder.
        others: Run folders to show beside it.
        which: ``"last"`` or ``"best"``: the weights that are looked at.
        data_dir: Where the test images are, as in ``testset.read``.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
        precision: ``"fp32"``, ``"bf16"`` or ``"run"``.

    Returns:
        The page.

    Raises:
        UsageError: A run, its checkpoint or the data does not fit.
        RunError: The report cannot be written.
    """
    # These import torch, which --help need not wait for.
    import exhibits
    import page
    import record
    import sections
    import testset
    import trained
    from checkpoint import write_atomic
    from errors import RunError, UsageError
    from evaluation import evaluate

    own, *rest = runs = [record.read(folder) for folder in (run, *others)]
    if len({one.folder.resolve() for one in runs}) < len(runs):
        raise UsageError("a run is named twice")
    folder = run / FOLDER
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise RunError(f"cannot write {folder}: {error.strerror or error}") from None
    network = trained.load(run, which, device=device, precision=precision)
    test = testset.read(network, data_dir)
    found = evaluate(network, test.images)

    lead = sections.summary(network, test, found, own)
    parts = {"Learning curves": sections.learning_curves(own)}
    if rest:
        parts["Runs side by side"] = sections.side_by_side(runs)
    parts |= {
        "Classes": sections.classes(network, found),
        "Confusion": sections.confusion(network, found),
        "Most confident mistakes": exhibits.mistakes(network, test, found),
        "Where the network looks": exhibits.attention(network, test, found),
        "Augmented images": exhibits.augmented(own),
        "Network": sections.layers(network.model),
        "Configuration": sections.configuration(own),
    }
    html = page.document(own.name, lead.html, {name: part.html for name, part in parts.items()})

    files = {name: content for part in parts.values() for name, content in part.files.items()}
    for name, content in files.items():
        write_atomic(folder / name, content)
    # What an earlier report has left would be taken for a part of this one.
    for stale in set(SOMETIMES) - files.keys():
        (folder / stale).unlink(missing_ok=True)
    write_atomic(folder / PAGE, html)
    return folder / PAGE


def run(arguments: argparse.Namespace) -> int:
    """Report as the command line says."""
    written = write(
        arguments.run,
        arguments.others,
        which=arguments.which,
        data_dir=arguments.data_dir,
        device=arguments.device,
        precision=arguments.precision,
    )
    print(written)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    arguments = parser().parse_args(argv)
    return command.finish(PROG, lambda: run(arguments))


if __name__ == "__main__":
    sys.exit(main())
