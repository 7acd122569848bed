"""Turns a finished run into weights that `pretrained=True` loads, and into the card that says what they are.

  python examples/cifar10/weights.py runs/frontier_100k-modern-0

writes weights/frontier_100k.safetensors, .json (facts and hash) and .md (the card), of the last epoch.
Weights that are there already stay unless --replace is given.
"""

import argparse
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import networks
import pretrained
import recipes
import record
import safetensors.torch
import torch
import trained
from checkpoint import write_atomic
from errors import RunError, UsageError

LIMIT = 1_000_000
"""Bytes of a file of weights at most: they travel with every clone."""


def convert(run: Path, folder: Path = pretrained.FOLDER, *, replace: bool = False) -> Path:
    """Write weights, facts and card of a run; returns the path of the weights.

    Raises:
        UsageError: The run is not finished, is of another network or of other data, or there are weights already.
        RunError: A file cannot be written.
    """
    about = record.read(run)
    name, metrics = about.config["model"], about.metrics
    if name not in networks.NETWORKS:
        raise UsageError(f"{run} is of {name}; weights are kept of {', '.join(networks.NETWORKS)}")
    if not metrics["finished"]:
        raise UsageError(f"{run} has not finished: {metrics['epochs']} of {about.config['recipe']['epochs']} epochs")
    if not metrics["dataset"].startswith("CIFAR-10"):
        raise UsageError(f"{run} is of {metrics['dataset']}; weights are kept of CIFAR-10")
    path = folder / f"{name}.safetensors"
    if path.exists() and not replace:
        raise UsageError(f"{path} exists; --replace replaces it")
    model = trained.load(run, "last", device="cpu", precision="fp32").model
    content = safetensors.torch.save({key: value.contiguous() for key, value in model.state_dict().items()})
    if len(content) > LIMIT:
        raise UsageError(f"{path.name} would have {len(content):,} bytes, more than {LIMIT:,}")
    facts = _facts(about, content, model)
    folder.mkdir(exist_ok=True)
    # The facts last: until they are there, and hold the right hash, nothing loads the weights.
    write_atomic(path, content)
    write_atomic(path.with_suffix(".md"), card(facts))
    write_atomic(path.with_suffix(".json"), json.dumps(facts, indent=2) + "\n")
    return path


def probe(model: torch.nn.Module) -> list[float]:
    """Logits of a fixed image: they change with the weights, and with what the network does with them."""
    values = torch.arange(3 * 32 * 32, dtype=torch.float64)
    with torch.no_grad():
        return model.double().eval()((values * 0.37).sin().view(1, 3, 32, 32))[0].tolist()


def _facts(about: record.Record, content: bytes, model: torch.nn.Module) -> dict[str, Any]:
    config, metrics = about.config, about.metrics
    full = recipes.choose(config["recipe"]["name"].split()[0], config["model"]).epochs
    return {
        "network": config["model"],
        "parameters": config["parameters"],
        "sha256": hashlib.sha256(content).hexdigest(),
        "bytes": len(content),
        "dataset": config["dataset"],
        "dataset_sha256": config["dataset_sha256"],
        "images": config["images"],
        "classes": config["classes"],
        "mean": config["mean"],
        "std": config["std"],
        "test_accuracy": metrics["last_epoch"]["test_acc"],
        "validation_accuracy": metrics["last_epoch"].get("val_acc"),
        "epochs": metrics["epochs"],
        "epochs_of_the_recipe": full,
        "recipe": config["recipe"],
        "evaluated_weights": config["evaluated_weights"],
        "seed": config["seed"],
        "precision": config["precision"],
        "hardware": config["hardware"],
        "versions": config["versions"],
        "train_seconds": metrics["wall_time_s"],
        "command": config["command"],
        "commit": config["git_commit"],
        "probe": [round(value, 6) for value in probe(model)],
    }


def card(facts: dict[str, Any]) -> str:
    """The card of a network, in Markdown."""
    name, hardware, held_out = facts["network"], facts["hardware"], facts["images"]["validation"]
    short = facts["epochs"] < facts["epochs_of_the_recipe"]
    schedule = f"{facts['epochs']} epochs"
    if short:
        schedule += f" of the recipe's {facts['epochs_of_the_recipe']}"
    where = hardware.get("gpu") or f"{hardware['cpu']}, {hardware['threads']} of {hardware['cpus']} CPUs"
    recipe = ", ".join(f"{key} {value}" for key, value in facts["recipe"].items() if key not in ("name", "source"))
    rows = {
        "Data": f"{facts['dataset']}; sha256 of its pixels and labels `{facts['dataset_sha256']}`",
        "Test accuracy": f"{facts['test_accuracy']:.2f} %, after the last epoch, one crop, one seed ({facts['seed']})",
        "Validation accuracy": f"{facts['validation_accuracy']:.2f} %, on {held_out:,} held-out training images"
        if held_out
        else "none: no training image is held out",
        "Trained on": f"{facts['images']['train']:,} images",
        "Schedule": schedule,
        "Recipe": f"{facts['recipe']['name']}: {recipe}",
        "Weights": f"{facts['evaluated_weights']}; {facts['parameters']:,} parameters, float32, "
        f"{facts['bytes']:,} bytes",
        "Hardware": f"{where}, {facts['precision']}, {facts['train_seconds'] / 60:.0f} min",
        "Versions": ", ".join(f"{key} {value}" for key, value in facts["versions"].items()),
        "Command": f"`{facts['command']}`, at commit `{facts['commit']}`",
        "sha256": f"`{facts['sha256']}`",
        "Licence": "Apache-2.0, as the code",
    }
    remarks = []
    if short:
        remarks.append("A short schedule: the accuracy says little about what the network can reach.")
    if facts["dataset"] != "CIFAR-10":
        remarks.append("The images are lossy: the accuracy is not to be compared with one on CIFAR-10.")
    lines = [f"# {name}", "", *(line for remark in remarks for line in (remark, ""))]
    lines += ["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows.items()), ""]
    mean, std = (f"({', '.join(f'{value:.4f}' for value in facts[key])})" for key in ("mean", "std"))
    lines.append(
        f"Images are RGB, 32 x 32, as fractions of 255, normalised by mean {mean} and standard deviation {std}."
    )
    lines += [f"Classes, in the order of the logits: {', '.join(facts['classes'])}.", ""]
    return "\n".join(lines)


def main() -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="runs/<name>", help="the folder of a finished run")
    parser.add_argument("--replace", action="store_true", help="replace the weights that are there")
    arguments = parser.parse_args()
    try:
        path = convert(arguments.run, replace=arguments.replace)
    except (UsageError, RunError) as error:
        print(f"weights.py: error: {error}", file=sys.stderr)
        return error.exit_status
    print(f"wrote {path}, and its .json and .md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
