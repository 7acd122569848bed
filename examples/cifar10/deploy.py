"""Size, accuracy and latency of trained networks by every way out of PyTorch.

Examples:
  python examples/cifar10/deploy.py --measure accuracy --data-dir data
  python examples/cifar10/deploy.py --measure latency --threads 2 --networks twelve_layer
  python examples/cifar10/deploy.py --write

Weights are those of --run, else those that `pretrained=True` loads, else random ones: these have no accuracy. Results
are added to benchmarks/results/deployment.json, which --write turns into the table of docs/pages/deploy-table.md.
Latency is measured well only where nothing else runs.
"""

import argparse
import json
import re
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import command

PROG = "deploy.py"
ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "deployment.json"
PAGE = ROOT / "docs" / "pages" / "deploy-table.md"
BATCHES = (1, 64)
EVALUATED = 250
"""Images computed at once for accuracy."""
CALIBRATION = 512
"""Training images that int8 measures its ranges on."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = command.parser(PROG, __doc__)
    made.add_argument("--measure", choices=("accuracy", "latency"), help="what to measure")
    made.add_argument("--networks", nargs="+", metavar="NAME", help="default: all")
    made.add_argument("--run", type=Path, action="append", default=[], metavar="runs/<name>", help="take its weights")
    made.add_argument("--threads", type=int, default=1, metavar="N", help="for latency (default: 1)")
    made.add_argument("--milliseconds", type=float, default=400, help="how long each call is repeated (default: 400)")
    made.add_argument("--data-dir", type=Path, default=Path("data"), help="test and training images (default: data)")
    made.add_argument("--results", type=Path, default=RESULTS, metavar="FILE", help="where the figures go")
    made.add_argument("--write", action="store_true", help="write the table of the results into the page")
    return made


def run(arguments: argparse.Namespace) -> int:
    """Measure, or write the table, as the command line says."""
    if arguments.measure:
        measure(arguments)
    if arguments.write:
        PAGE.write_text(replaced(PAGE.read_text(), json.loads(arguments.results.read_text())))
    return 0


def measure(arguments: argparse.Namespace) -> None:
    # These import torch, which --help need not wait for.
    import environment
    import networks
    import sources
    import torch
    import waysout

    torch.set_num_threads(arguments.threads)
    data, shown = sources.load("auto", arguments.data_dir)
    if shown:
        print(shown)
    for name in arguments.networks or networks.NETWORKS:
        model, weights, (mean, std) = subject(name, arguments.run, data)

        def normalised(images: Any, mean: Any = mean, std: Any = std) -> torch.Tensor:
            pixels = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous() / 255
            return (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)

        accuracy = arguments.measure == "accuracy"
        batches = (EVALUATED,) if accuracy else BATCHES
        # Every 90th training image: class folders are sorted.
        chosen = data.train.images[:: max(1, len(data.train) // CALIBRATION)][:CALIBRATION]
        if not weights:
            settle(model, normalised(chosen))
        source = waysout.Source(model, normalised(chosen), batches)
        expected = None
        for way, make in waysout.WAYS.items():
            torch.compiler.reset()
            with torch.no_grad():
                deployed = make(source)
                row: dict[str, Any] = {"weights": weights, "bytes": deployed.bytes}
                if accuracy:
                    images = data.test.images if weights else data.test.images[:EVALUATED]
                    logits = computed(deployed.run, normalised, images)
                    expected = logits if expected is None else expected
                    row["moves"] = float((logits - expected).abs().max() / expected.abs().max())
                    if weights:
                        row["agree"] = share(logits.argmax(1) == expected.argmax(1))
                        row["data"] = data.name
                        row["accuracy"] = share(logits.argmax(1) == torch.from_numpy(data.test.labels))
                else:
                    row["latency_ms"] = {
                        f"{arguments.threads} thread{'s' * (arguments.threads > 1)}, batch {batch}": latency(
                            deployed.run,
                            source.calibration[:batch].contiguous(),
                            arguments.milliseconds,
                            arguments.threads,
                        )
                        for batch in BATCHES
                    }
            print(name, way, json.dumps(row), flush=True)
            about = {"hardware": environment.hardware("cpu") | {"threads": None}, "versions": environment.versions()}
            keep(arguments.results, about, name, way, row)


def subject(name: str, runs: Sequence[Path], data: Any) -> tuple[Any, str | None, tuple[Any, Any]]:
    """A network, where its weights are from, and the normalisation of its images."""
    import timm
    import torch
    import trained

    from data import channel_statistics

    for folder in runs:
        found = trained.load(folder, "last", device="cpu", precision="fp32")
        if found.identity["network"] == name:
            return found.model.eval(), f"run {found.name}", (found.mean, found.std)
    torch.manual_seed(0)
    try:
        model = timm.create_model(name, pretrained=True).eval()
    except ValueError as error:
        print(f"{name}: random weights: {error}")
        return timm.create_model(name).eval(), None, channel_statistics(data.train.images)
    about: Any = model.pretrained_cfg
    return model, "pretrained", (about["mean"], about["std"])


def settle(model: Any, images: Any) -> None:
    """Give the norms of an untrained network the statistics of images: without, what it computes fades to nothing."""
    import torch
    from torch import nn

    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = None
    with torch.no_grad():
        model.train()(images)
    model.eval()


def computed(run: Any, normalised: Any, images: Any) -> Any:
    """The logits of all images, in batches of one size: another size would be compiled anew."""
    import torch

    found = []
    for at in range(0, len(images), EVALUATED):
        part = normalised(images[at : at + EVALUATED])
        padded = torch.cat([part, part[:1].expand(EVALUATED - len(part), -1, -1, -1)])
        found.append(run(padded.contiguous())[: len(part)])
    return torch.cat(found)


def share(right: Any) -> float:
    return round(100 * float(right.float().mean()), 2)


def latency(run: Any, images: Any, milliseconds: float, threads: int) -> float:
    """The median of calls in a row; of one thread the time that it computed, without the time that it waited."""
    clock = time.process_time if threads == 1 else time.perf_counter
    times: list[float] = []
    run(images)
    until = clock() + milliseconds / 1e3
    while len(times) < 10 or clock() < until:
        start = clock()
        run(images)
        times.append(1e3 * (clock() - start))
    return round(statistics.median(times), 3)


def keep(path: Path, about: dict[str, Any], name: str, way: str, row: dict[str, Any]) -> None:
    """Add figures to the file; those of other weights are thrown out."""
    result = json.loads(path.read_text()) if path.exists() else {}
    ways = result.setdefault("networks", {}).setdefault(name, {})
    before = ways.get(way, {})
    if before.get("weights") == row["weights"]:
        row["latency_ms"] = before.get("latency_ms", {}) | row.get("latency_ms", {})
        row = before | row
    ways[way] = row
    result = {"command": "python examples/cifar10/deploy.py", **about, "networks": result["networks"]}
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(result, indent=1) + "\n")
    temporary.replace(path)


def table(result: dict[str, Any]) -> str:
    """The figures as Markdown."""
    measured = {c for ways in result["networks"].values() for row in ways.values() for c in row.get("latency_ms", {})}
    columns = sorted(measured, key=lambda column: [int(number) for number in re.findall(r"\d+", column)])
    lines = [
        f"| network | way | kB | accuracy | same class | {' | '.join(columns)} |",
        f"|---|---|{'---:|' * (3 + len(columns))}",
    ]
    for name, ways in result["networks"].items():
        for way, row in ways.items():
            accuracy = f"{row['accuracy']:.2f}" if "accuracy" in row else "" if row["weights"] else "not trained yet"
            times = [row.get("latency_ms", {}).get(column) for column in columns]
            cells = [f"`{name}`", way, f"{row['bytes'] / 1000:,.0f}", accuracy]
            cells += [f"{row['agree']:.2f}" if "agree" in row else ""]
            cells += ["" if time is None else f"{time:.2f}" for time in times]
            lines.append(f"| {' | '.join(cells)} |")
    about = f"{result['hardware']['cpu']}, {result['hardware']['cpus']} CPUs, torch {result['versions']['torch']}"
    return "\n".join([*lines, "", f"Times are milliseconds a call, median. {about}."])


def replaced(page: str, result: dict[str, Any]) -> str:
    """The page with the table of these results between its marks."""
    start, end = "<!-- table: python examples/cifar10/deploy.py --write -->\n", "<!-- end of table -->"
    before, _, rest = page.partition(start)
    _, found, after = rest.partition(end)
    if not found:
        raise ValueError(f"{PAGE} has no marks for the table")
    return before + start + table(result) + "\n" + end + after


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    arguments = parser().parse_args(argv)
    return command.finish(PROG, lambda: run(arguments))


if __name__ == "__main__":
    sys.exit(main())
