"""Size, accuracy and latency of trained networks by every way out of PyTorch.

Examples:
  python examples/cifar10/deploy.py --measure accuracy --data-dir data/cifar10-jpeg
  python examples/cifar10/deploy.py --measure latency --threads 2 --networks twelve_layer
  python examples/cifar10/deploy.py --write

Weights are those of --run, else those that `pretrained=True` loads, else random ones: these have no accuracy. Results
are added to benchmarks/results/deployment.json, each with the command, machine and weights that it is of, and --write
turns them into the table of docs/pages/deploy-table.md. Latency is measured well only where nothing else runs.
"""

import argparse
import json
import shlex
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import command
import deployed
from errors import UsageError

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
    made.add_argument("--ways", nargs="+", metavar="WAY", help="default: all; eager comes first, to compare with")
    made.add_argument("--run", type=Path, action="append", default=[], metavar="runs/<name>", help="take its weights")
    made.add_argument("--threads", type=int, default=1, metavar="N", help="for latency (default: 1)")
    made.add_argument("--milliseconds", type=float, default=400, help="how long each call is repeated (default: 400)")
    made.add_argument("--images", type=int, metavar="N", help="for accuracy: test images, spread (default: all)")
    made.add_argument("--data-dir", type=Path, default=Path("data"), help="test and training images (default: data)")
    made.add_argument("--results", type=Path, default=RESULTS, metavar="FILE", help="where the figures go")
    made.add_argument("--write", action="store_true", help="write the table of the results into the page")
    return made


def run(arguments: argparse.Namespace) -> int:
    """Measure, or write the table, as the command line says."""
    if arguments.measure:
        measure(arguments)
    if arguments.write:
        PAGE.write_text(deployed.replaced(PAGE.read_text(), json.loads(arguments.results.read_text())))
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
    machine = environment.hardware("cpu") | {"threads": None, "instructions": environment.instructions()}
    about = {"command": arguments.command, "hardware": machine, "versions": environment.versions()}
    for name in arguments.networks or networks.NETWORKS:
        model, weights, (mean, std) = subject(name, arguments.run, data)

        def normalised(images: Any, mean: Any = mean, std: Any = std) -> torch.Tensor:
            pixels = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous() / 255
            return (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)

        if weights.get("data", data.name) != data.name:
            raise UsageError(f"the weights of {name} are of {weights['data']}, --data-dir holds {data.name}")
        accuracy, trained = arguments.measure == "accuracy", weights["from"] != deployed.RANDOM
        # Every 90th training image: class folders are sorted.
        chosen = data.train.images[:: max(1, len(data.train) // CALIBRATION)][:CALIBRATION]
        step = max(1, len(data.test) // (arguments.images or len(data.test) if trained else EVALUATED))
        if not trained:
            settle(model, normalised(chosen))
        source = waysout.Source(model, normalised(chosen), (EVALUATED,) if accuracy else BATCHES)
        expected = None
        wanted = {"eager", *(arguments.ways or waysout.WAYS)}
        if wrong := wanted - set(waysout.WAYS):
            raise UsageError(f"--ways {', '.join(sorted(wrong))}: not one of {', '.join(waysout.WAYS)}")
        for way, make in waysout.WAYS.items():
            if way not in wanted:
                continue
            torch.compiler.reset()
            figures: dict[str, Any] = {}
            with torch.no_grad():
                made = make(source)
                if accuracy:
                    images, labels = data.test.images[::step], torch.from_numpy(data.test.labels)[::step]
                    logits = computed(made.run, normalised, images)
                    expected = logits if expected is None else expected
                    row = {"bytes": made.bytes, "moves": float((logits - expected).abs().max() / expected.abs().max())}
                    if trained:
                        row["agree"] = share(logits.argmax(1) == expected.argmax(1))
                        row["data"] = data.name
                        row["images"] = len(images)
                        row["accuracy"] = share(logits.argmax(1) == labels)
                    figures["accuracy"] = row
                else:
                    figures["latency"] = {
                        f"{arguments.threads} thread{'s' * (arguments.threads > 1)}, batch {batch}": {
                            "ms": latency(
                                made.run,
                                source.calibration[:batch].contiguous(),
                                arguments.milliseconds,
                                arguments.threads,
                            ),
                            "bytes": made.bytes,
                        }
                        for batch in BATCHES
                    }
            print(name, way, json.dumps(figures), flush=True)
            deployed.keep(arguments.results, about, weights, name, way, **figures)


def subject(name: str, runs: Sequence[Path], data: Any) -> tuple[Any, dict[str, Any], tuple[Any, Any]]:
    """A network, what its weights are, and the normalisation of its images."""
    import pretrained
    import timm
    import torch
    import trained

    from data import channel_statistics

    for folder in runs:
        found = trained.load(folder, "last", device="cpu", precision="fp32")
        if found.identity["network"] == name:
            return found.model.eval(), of_run(found), (found.mean, found.std)
    torch.manual_seed(0)
    try:
        model = timm.create_model(name, pretrained=True).eval()
    except ValueError as error:
        print(f"{name}: random weights: {error}")
        return timm.create_model(name).eval(), {"from": deployed.RANDOM}, channel_statistics(data.train.images)
    normalisation: Any = model.pretrained_cfg
    about = pretrained.facts(name)
    kept = {
        "from": "pretrained",
        "epochs": about["epochs"],
        "recipe": about["recipe"]["name"],
        "device": about["hardware"]["device"],
        "test_accuracy": about["test_accuracy"],
        "data": about["dataset"],
        "command": about["command"],
    }
    return model, kept, (normalisation["mean"], normalisation["std"])


def of_run(found: Any) -> dict[str, Any]:
    """What weights of a run are, as its folder says."""
    config, metrics = (json.loads((found.folder / name).read_text()) for name in ("config.json", "metrics.json"))
    return {
        "from": f"run {found.name}",
        "epochs": found.epoch,
        "recipe": config["recipe"]["name"],
        "device": config["hardware"]["device"],
        "test_accuracy": metrics["last_epoch"]["test_acc"],
        "data": config["dataset"],
        "command": config["command"],
    }


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


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    arguments = parser().parse_args(argv)
    given = sys.argv[1:] if argv is None else argv
    arguments.command = shlex.join(["python", "examples/cifar10/deploy.py", *given])
    return command.finish(PROG, lambda: run(arguments))


if __name__ == "__main__":
    sys.exit(main())
