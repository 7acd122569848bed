"""Makes README's table of the seven networks from results/*.json.

Without an option it prints the table; --write puts it into README.md; --add copies the results of a run from its folder
runs/<name> to results/<name>.json, where the table finds them.
"""

import argparse
import json
import statistics
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import recipes
from checkpoint import write_atomic

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
README = HERE.parents[1] / "README.md"
START = "<!-- table: python examples/cifar10/table.py --write -->"
END = "<!-- end of table -->"

# Test accuracy in percent on the original CIFAR-10, as the authors of each network report it.
PUBLISHED = {"era_s9": 85.08, "late_100k": 85.5, "net4": 85.26, "eva8_s6": 85.39, "twelve_layer": 86.15}

TTA = "mirror+shift"
"""The test-time augmentation that the table shows, in a column of its own."""

HEAD = (
    "| network | parameters | receptive field | MACs | published | ours: test accuracy | with TTA | data "
    "| trained on | recipe | hardware |\n"
    "|---|---:|---:|---:|---:|---:|---:|---|---|---|---|"
)


def runs(results: Path) -> list[dict[str, Any]]:
    """The metrics of every run in the folder, with its recipe and images; each must be of a finished run."""
    found = []
    for path in sorted(results.glob("*.json")):
        content = json.loads(path.read_text())
        if "metrics" not in content:
            continue
        if not content["metrics"]["finished"]:
            raise ValueError(f"{path.name} is of a run that has not finished")
        config = content["config"]
        found.append(content["metrics"] | {"settings": config["recipe"], "images": config["images"]})
    return found


def table(results: Path = RESULTS, only: Sequence[str] = ()) -> str:
    """The table, of all networks or of some."""
    networks = json.loads((RESULTS / "networks.json").read_text())
    found = runs(results)
    lines = [HEAD]
    for name, facts in networks.items():
        if only and name not in only:
            continue
        own = [run for run in found if run["model"] == name and run["dataset"].startswith("CIFAR-10")]
        cells = [f"`{name}`", f"{facts['parameters']:,}", _field(facts), f"{facts['macs'] / 1e6:.1f} M"]
        cells.append(f"{PUBLISHED[name]:.2f}" if name in PUBLISHED else "")
        for group in _alike(own) or [[]]:
            lines.append("| " + " | ".join(cells + _outcome(group)) + " |")
    return "\n".join(lines)


def _field(facts: dict[str, int]) -> str:
    plain, pooled = facts["receptive_field"], facts["receptive_field_with_pool"]
    return f"{plain}" if plain == pooled else f"{plain} ({pooled})"


def _alike(found: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Runs that differ in nothing but the seed, together."""
    groups: defaultdict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    for run in found:
        # A recipe's name is not enough: what it stands for may have changed, or the command line have changed it.
        settings = tuple(sorted(run["settings"].items()))
        groups[settings, run["dataset"], _trained_on(run), run["precision"], _hardware(run)].append(run)
    return list(groups.values())


def _outcome(group: list[dict[str, Any]]) -> list[str]:
    if not group:
        return ["not run yet", "", "", "", "", ""]
    first = group[0]
    seconds = statistics.mean(run["wall_time_s"] for run in group)
    took = f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"
    return [
        _accuracy(group, "last_epoch")
        + (f" ({_accuracy(group, 'best_on_validation')})" if first["best_on_validation"] else ""),
        _averaged(group),
        first["dataset"],
        _trained_on(first),
        f"{first['recipe']} ({first['settings']['augment']}), {_schedule(first)}"
        + (f", {len(group)} seeds" if len(group) > 1 else ""),
        f"{_hardware(first)}, {first['precision']}, {took}",
    ]


def _trained_on(run: dict[str, Any]) -> str:
    """The number of training images, and whether these are all."""
    images = run["images"]
    return f"{images['train']:,}" if images["validation"] else f"all {images['train']:,}"


def _schedule(run: dict[str, Any]) -> str:
    """The epochs, and where the recipe of that name has more of them, how many: a short run is no result of it."""
    whole = recipes.choose(run["recipe"], run["model"]).epochs
    return f"{run['epochs']} of {whole} epochs" if run["epochs"] < whole else f"{run['epochs']} epochs"


def _accuracy(group: list[dict[str, Any]], which: str) -> str:
    return mean([run[which]["test_acc"] for run in group])


def _averaged(group: list[dict[str, Any]]) -> str:
    """With test-time augmentation, after the last epoch; empty where a run is from before it was noted."""
    found = [run.get("test_time_augmentation", {}).get(TTA, {}).get("test_acc") for run in group]
    return "" if None in found else mean(found)


def mean(values: Sequence[float]) -> str:
    """A mean, and where there are several values, their standard deviation."""
    shown = f"{statistics.mean(values):.2f}"
    return shown if len(values) == 1 else f"{shown} ± {statistics.stdev(values):.2f}"


def _hardware(run: dict[str, Any]) -> str:
    hardware = run["hardware"]
    threads = hardware["threads"]
    return hardware.get("gpu") or f"{hardware['cpu']}, {threads} thread{'s' if threads > 1 else ''}"


def replaced(page: str, block: str, start: str = START) -> str:
    """The text of README, or of a page with another first mark, with the block between the two marks."""
    before, rest = page.split(start)
    _, after = rest.split(END, 1)
    return f"{before}{start}\n{block}\n{END}{after}"


def add(run: Path, results: Path = RESULTS, **more: Any) -> Path:
    """Copy the results of a run, and what else is to be said of it, to where the table finds them."""
    parts: dict[str, Any] = {part: json.loads((run / f"{part}.json").read_text()) for part in ("config", "metrics")}
    if not parts["metrics"]["finished"]:
        raise ValueError(f"{run} has not finished: {parts['metrics']['epochs']} epochs so far")
    path = results / f"{run.resolve().name}.json"
    write_atomic(path, json.dumps(parts | more, indent=2) + "\n")
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--add", type=Path, metavar="RUN", help="a run's folder, runs/<name>")
    parser.add_argument("--write", action="store_true", help="put the table into README.md")
    arguments = parser.parse_args()
    if arguments.add:
        print(f"wrote {add(arguments.add)}")
    if arguments.write:
        write_atomic(README, replaced(README.read_text(), table()))
    else:
        print(table())


if __name__ == "__main__":
    main()
