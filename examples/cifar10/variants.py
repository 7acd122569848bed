"""Compare variants of a recipe on held-out training images, several at a time, and make the table of them.

Examples:
  python examples/cifar10/variants.py --data-dir data/cifar10-jpeg --minutes 9
  python examples/cifar10/variants.py --data-dir data/cifar10-jpeg --variants "lr 0.1" "no mixup" -- --no-deterministic
  python examples/cifar10/variants.py --write

Each variant is a run of train.py with fewer epochs than the recipe's own. What counts is the accuracy on the held-out
images after the last epoch; figures of the test images are neither shown nor kept.

What is finished is skipped and what was interrupted goes on. What should matter most comes first: one seed of each
variant, then the next seed. Words after -- go to train.py and say how it computes, such as --no-deterministic. --out
gets each run as it finishes, and experiments.json in --run-dir says how each went.
"""

import argparse
import json
import re
import statistics
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

import command
import experiments
import record
import table
import train
from checkpoint import write_atomic
from errors import UsageError
from experiments import Experiments, Job
from rundir import CONFIG

PROG = "variants.py"
OUT = table.RESULTS / "variants.json"
PAGE = Path(__file__).resolve().parents[2] / "docs" / "pages" / "train.md"
START = "<!-- table: python examples/cifar10/variants.py --write -->"
MODEL, EPOCHS = "frontier_100k", 40
HOW = ("dataset", "device", "precision", "threads", "workers", "compile", "deterministic", "save_every")
"""Options of train.py that may stand after --: the others are the variant's to say, or this command's."""
KEPT = ("val_acc", "val_loss", "train_acc", "train_loss")

LONG: Mapping[str, str] = MappingProxyType(
    {
        "as it is": "",
        "lr 0.1": "--lr 0.1",
        "no mixup": "--mixup 0",
        "adamw, as tiniest was": "--optimizer adamw --lr 0.02 --weight-decay 0.01",
        "decay 1e-4": "--weight-decay 1e-4",
        "lr 0.1, decay 1e-4": "--lr 0.1 --weight-decay 1e-4",
        "no mixup, lr 0.1, decay 1e-4": "--mixup 0 --lr 0.1 --weight-decay 1e-4",
        "lr 0.2": "--lr 0.2",
        "crops and flips alone": "--augment gentle --mixup 0",
        "adamw": "--optimizer adamw --lr 0.004 --weight-decay 0.02",
        "adamw, no mixup": "--optimizer adamw --lr 0.004 --weight-decay 0.02 --mixup 0",
    }
)
VARIANTS: Mapping[str, Mapping[str, str]] = MappingProxyType({"long": LONG})
"""Variants of each recipe, in the order of what should matter most: names, and words of train.py."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = command.parser(PROG, __doc__)
    made.add_argument("--data-dir", type=Path, default=Path("data"), metavar="DIR", help="as train.py (default: data)")
    made.add_argument("--model", default=MODEL, metavar="NAME", help=f"as train.py (default: {MODEL})")
    made.add_argument("--recipe", choices=VARIANTS, default="long", help="what is varied (default: long)")
    made.add_argument("--variants", nargs="+", metavar="NAME", help="default: all that there are")
    made.add_argument("--epochs", type=int, default=EPOCHS, metavar="N", help=f"default: {EPOCHS}")
    made.add_argument("--seeds", nargs="+", type=int, default=[0], metavar="N", help="default: 0")
    made.add_argument("--minutes", type=float, default=float("inf"), metavar="X", help="then save, and leave the rest")
    made.add_argument("--jobs", type=int, metavar="N", help="runs at once (default: 3 on a GPU, 1 without)")
    made.add_argument("--run-dir", type=Path, default=Path("runs/variants"), metavar="DIR", help="default: %(default)s")
    made.add_argument("--out", type=Path, default=OUT, metavar="FILE", help="default: results/variants.json")
    made.add_argument("--table", action="store_true", help="only print what the file holds")
    made.add_argument("--write", action="store_true", help="only put what the file holds into docs/pages/train.md")
    # Known here so that the refusal can give its reason.
    made.add_argument("--no-validation", action="store_true", help=argparse.SUPPRESS)
    made.add_argument("words", nargs="*", metavar="-- OPTION", help="options of train.py that say how it computes")
    return made


class Variants(Experiments):
    """All runs of a command; they are kept in one file, without what is known of the test images."""

    prog = PROG
    counts = "validation", "val"

    def __init__(self, jobs: list[Job], at_once: int, arguments: argparse.Namespace) -> None:
        self.out: Path = arguments.out
        self.kept = entries(self.out)
        for job in jobs:
            self._require_same_recipe(job, arguments.run_dir / job.name / CONFIG)
        super().__init__(jobs, at_once, arguments)

    def _require_same_recipe(self, job: Job, config: Path) -> None:
        """What is there of a run must be of the recipe that the name stands for now."""
        found: list[tuple[Path, dict[str, Any], str, str]] = []
        if job.name in self.kept:
            entry = self.kept[job.name]
            found.append((self.out, entry["settings"], entry["data"], "--out"))
        if config.exists():
            said = json.loads(config.read_text())
            found.append((config, said["recipe"], said["dataset"], "--run-dir"))
        for path, there, data, option in found:
            now = settings(job, data)
            other = [key for key in there if key not in ("name", "source") and there[key] != now.get(key)]
            if other:
                raise UsageError(
                    f"{path} holds {job.name} by another recipe: "
                    + ", ".join(f"{key} {there[key]!r}, not {now.get(key)!r}" for key in other)
                    + f"; choose another {option}"
                )

    def _is_finished(self, job: Job) -> bool:
        return job.name in self.kept or super()._is_finished(job)

    def _keep(self, job: Job, beside: dict[str, int]) -> None:
        if job.name in self.kept:
            return
        self.kept[job.name] = entry(job, self.arguments.run_dir / job.name) | beside
        self.out.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(self.out, json.dumps({"runs": self.kept}, indent=2) + "\n")


def entries(path: Path) -> dict[str, dict[str, Any]]:
    """The runs that a file holds; none where there is no file yet.

    Raises:
        UsageError: It cannot be read.
    """
    try:
        return json.loads(path.read_text())["runs"]
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UsageError(f"{path} cannot be read ({error or type(error).__name__})") from None


def entry(job: Job, folder: Path) -> dict[str, Any]:
    """What is kept of a finished run: nothing of the test images."""
    run = record.read(folder)
    config, metrics = run.config, run.metrics
    variant = next(name for name in VARIANTS[job.recipe] if _called(name, metrics["epochs"]) == job.variant)
    return {
        "variant": variant,
        "words": VARIANTS[job.recipe][variant],
        "model": job.model,
        "recipe": job.recipe,
        "settings": config["recipe"],
        "epochs": metrics["epochs"],
        "seed": job.seed,
        "images": {part: config["images"][part] for part in ("train", "validation")},
        **{key: metrics["last_epoch"][key] for key in KEPT},
        "train_seconds": metrics["train_seconds"],
        "images_per_s": metrics["images_per_s"],
        "data": config["dataset"],
        "data_sha256": config["dataset_sha256"],
        **{key: config[key] for key in ("precision", "graph", "deterministic", "hardware", "versions", "git_commit")},
    }


def plan(
    model: str, recipe: str, variants: Sequence[str], epochs: int, seeds: Sequence[int], *, graph: bool
) -> list[Job]:
    """All runs: one seed of each variant, then the next seed."""

    def words(variant: str) -> list[str]:
        return ["--epochs", str(epochs), "--no-test-time-augmentation", *VARIANTS[recipe][variant].split()]

    return [
        Job(model, recipe, seed, graph, variant=_called(variant, epochs), words=words(variant))
        for seed in seeds
        for variant in variants
    ]


def _called(variant: str, epochs: int) -> str:
    """What the folder of a run calls a variant."""
    return f"{re.sub(r'[^a-z0-9.-]+', '-', variant)}-{epochs}-epochs"


def settings(job: Job, data: str = "") -> dict[str, Any]:
    """The recipe of a run on data of a name, with its changes."""
    # These import torch, which --help need not wait for.
    import sources
    import training

    words = ["--model", job.model, "--recipe", job.recipe, *job.words]
    asked = train.parser().parse_args(words)
    return asdict(training.asked_recipe(asked, digits=data == sources.DIGITS))


def show(path: Path, model: str, recipe: str, epochs: int) -> str:
    """The table of a file: the variants of a network and recipe after as many epochs, best first, then what lacks."""
    groups: defaultdict[tuple[str, ...], list[dict[str, Any]]] = defaultdict(list)
    for run in entries(path).values():
        if (run["model"], run["recipe"], run["epochs"]) == (model, recipe, epochs):
            where = run["hardware"].get("gpu") or run["hardware"]["cpu"]
            same = run["variant"], _told(run["settings"]), run["data"], f"{where}, {run['precision']}"
            groups[same].append(run)
    lines = [
        "| variant | trained with | validation accuracy | training accuracy | seconds | data | hardware |",
        "|---|---|---:|---:|---:|---|---|",
    ]
    for same, runs in sorted(groups.items(), key=lambda item: -_mean(item[1], "val_acc")):
        variant, told, data, hardware = same
        cells = [f"{variant}, {len(runs)} seeds" if len(runs) > 1 else variant, told]
        cells += [table.mean([run[key] for run in runs]) for key in ("val_acc", "train_acc")]
        cells += [f"{_mean(runs, 'train_seconds'):.0f}", data, hardware]
        lines.append(f"| {' | '.join(cells)} |")
    done = {same[0] for same in groups}
    for variant in VARIANTS[recipe]:
        if variant not in done:
            (job,) = plan(model, recipe, [variant], epochs, [0], graph=False)
            lines.append(f"| {variant} | {_told(settings(job))} | not run yet | | | | |")
    return "\n".join(lines)


def _mean(runs: Sequence[Mapping[str, Any]], key: str) -> float:
    return statistics.mean(run[key] for run in runs)


def _told(recipe: Mapping[str, Any]) -> str:
    """The part of a recipe that variants change."""
    share = f"{100 * recipe['mix_share']:g} %"
    mixup = f"mixup {recipe['mixup']:g} of {share}" if recipe["mixup"] else "no mixup"
    decay = f"decay {recipe['weight_decay']:g}"
    return f"{recipe['optimizer']}, lr {recipe['lr']:g}, {decay}, {recipe['augment']}, {mixup}"


def _chosen(arguments: argparse.Namespace) -> Sequence[str]:
    known = VARIANTS[arguments.recipe]
    for name in arguments.variants or ():
        if name not in known:
            raise UsageError(
                f"--variants {name!r} is not known; those of --recipe {arguments.recipe} are "
                + ", ".join(f"'{one}'" for one in known)
            )
    return arguments.variants or list(known)


def _require_comparable(arguments: argparse.Namespace) -> None:
    usual = vars(train.parser().parse_args([]))
    asked = vars(train.parser().parse_args(arguments.words))
    if arguments.no_validation or not asked["validation"]:
        raise UsageError("--no-validation does not fit: variants are compared by the images that are held out")
    if arguments.epochs < 1:
        raise UsageError(f"--epochs {arguments.epochs} is not at least 1")
    other = [key for key in asked if key not in HOW and asked[key] != usual[key]]
    if other:
        options = ", ".join(f"--{key.replace('_', '-')}" for key in other)
        raise UsageError(
            f"{options} after -- would be another comparison than the file says; words there only say how it is "
            f"computed: {', '.join('--' + key.replace('_', '-') for key in HOW)}"
        )


def run(arguments: argparse.Namespace) -> int:
    """Run as the command line says."""
    if arguments.write:
        page = PAGE.read_text()
        write_atomic(PAGE, table.replaced(page, show(arguments.out, MODEL, "long", EPOCHS), START))
        return 0
    status = 0
    if not arguments.table:
        # These import torch, which --help need not wait for.
        import models
        import torch

        chosen = _chosen(arguments)
        _require_comparable(arguments)
        models.require_known(arguments.model)
        gpu = torch.cuda.is_available()
        at_once = experiments.runs_at_once(arguments.jobs, gpu=gpu)
        jobs = plan(arguments.model, arguments.recipe, chosen, arguments.epochs, arguments.seeds, graph=gpu)
        status = Variants(jobs, at_once, arguments).run()
        print(experiments.summary(jobs))
    print(show(arguments.out, arguments.model, arguments.recipe, arguments.epochs))
    return status


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    arguments = parser().parse_args(argv)
    return command.finish(PROG, lambda: run(arguments))


if __name__ == "__main__":
    sys.exit(main())
