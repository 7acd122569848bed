"""Compare the candidates of candidates.py on a short schedule, and write what each one reached.

Every candidate trains on the same images in the same order with the same crops and flips, for the same number of steps.
What counts is the accuracy on held-out training images; the test images are not even classified. A few epochs on a
ninth of the images favour what learns fast, and one seed does not tell one percent from none: this finds ideas that do
not pay, and does not rank those that do.

It goes on where it stopped: a candidate that results/search.json holds already is not trained again.
"""

import argparse
import json
import math
import shlex
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import checkpoint
import environment
import numpy as np
import sources
import torch
import torch.nn.functional as F
from candidates import CANDIDATES
from optim import make_optimizer, make_schedule
from recipes import Recipe
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from data import Channels, ImageSet, channel_statistics, split

RESULTS = Path(__file__).parent / "results" / "search.json"
PAGE = Path(__file__).parents[2] / "docs" / "pages" / "train.md"
START = "<!-- table: python examples/cifar10/search.py --write -->"
END = "<!-- end of table -->"
PAD = 4


@dataclass(frozen=True)
class Protocol:
    """What all candidates have in common.

    Args:
        images: Training images, the first of a fixed shuffle.
        epochs: Passes over them.
        batch_size: Images a step.
        lr: Peak learning rate of AdamW, one cycle.
        weight_decay: Not on norms and biases.
        seed: Of split, shuffle, augmentation and weights.
        precision: ``"fp32"`` or ``"bf16"`` autocast.
        device: ``"cpu"`` or ``"cuda"``.
    """

    images: int = 5_000
    epochs: int = 3
    batch_size: int = 64
    lr: float = 0.01
    weight_decay: float = 0.02
    seed: int = 0
    precision: str = "fp32"
    device: str = "cpu"


def batches(images: Tensor, labels: Tensor, protocol: Protocol) -> Iterator[tuple[Tensor, Tensor]]:
    """Flipped and shifted batches, the same ones for every candidate.

    Args:
        images: ``(N, 3, 32, 32)``, normalised.
        labels: ``(N,)``.
        protocol: What is drawn, and how often.
    """
    # Drawn on the CPU: a device of another kind gets the same batches.
    generator = torch.Generator().manual_seed(protocol.seed)
    window = torch.arange(images.shape[-1])
    padded = F.pad(images, [PAD] * 4, mode="reflect")
    for _ in range(protocol.epochs):
        order = torch.randperm(len(images), generator=generator)
        for rows in order.split(protocol.batch_size):
            down, right = torch.randint(2 * PAD + 1, (2, len(rows)), generator=generator)
            mirrored = torch.rand(len(rows), generator=generator) < 0.5
            # A mirrored crop is one whose columns are read from right to left.
            columns = right[:, None] + torch.where(mirrored[:, None], window.flip(0), window)
            index = (rows[:, None, None], (down[:, None] + window)[:, :, None], columns[:, None, :])
            batch = padded.permute(0, 2, 3, 1)[tuple(part.to(images.device) for part in index)]
            yield batch.permute(0, 3, 1, 2), labels[rows.to(images.device)]


def measure(model: nn.Module, train: tuple[Tensor, Tensor], held: tuple[Tensor, Tensor], protocol: Protocol) -> dict:
    """Train one candidate and classify the held-out images once, after its last step."""
    recipe = Recipe(
        "search",
        optimizer="adamw",
        lr=protocol.lr,
        weight_decay=protocol.weight_decay,
        schedule="one-cycle",
        warmup=0.2,
        epochs=protocol.epochs,
    )
    device = protocol.device
    model = model.to(device, memory_format=torch.channels_last).train()  # pyright: ignore[reportCallIssue]
    optimizer = make_optimizer(recipe, model)
    schedule = make_schedule(recipe, optimizer, -(-len(train[1]) // protocol.batch_size))
    bf16 = protocol.precision == "bf16"
    losses: list[Tensor] = []
    start = time.perf_counter()
    for images, labels in batches(*train, protocol):
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            logits = model(images)
        loss = F.cross_entropy(logits.float(), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.after_step()
        losses.append(loss.detach())
    tail = float(torch.stack(losses[-(len(losses) // protocol.epochs) :]).mean())
    seconds = time.perf_counter() - start
    if not math.isfinite(tail):
        raise SystemExit(f"search.py: error: the loss of the last epoch is {tail}")
    model.eval()
    right, total = 0, 0.0
    with torch.no_grad(), torch.autocast(device, torch.bfloat16, enabled=bf16):
        for images, labels in zip(held[0].split(500), held[1].split(500), strict=True):
            logits = model(images.contiguous(memory_format=torch.channels_last)).float()
            right += int((logits.argmax(1) == labels).sum())
            total += float(F.cross_entropy(logits, labels, reduction="sum"))
    return {
        "held_out_accuracy": round(100 * right / len(held[1]), 2),
        "held_out_loss": round(total / len(held[1]), 4),
        "train_loss": round(tail, 4),
        "images_per_s": round(protocol.epochs * len(train[1]) / seconds, 1),
        "seconds": round(seconds, 1),
    }


def facts(model: nn.Module) -> dict[str, int]:
    """Parameters and multiply-accumulates."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.eval()(torch.zeros(1, 3, 32, 32))
    return {"parameters": sum(p.numel() for p in model.parameters()), "macs": counter.get_total_flops() // 2}


def search(protocol: Protocol, data_dir: Path, path: Path, names: list[str], words: list[str]) -> None:
    """Measure what the file lacks, and write the file after each candidate."""
    dataset, _ = sources.load("auto", data_dir)
    train_set, held_set = split(dataset.train, protocol.seed)
    mean, std = channel_statistics(train_set.images)
    chosen = np.random.default_rng(protocol.seed).permutation(len(train_set))[: protocol.images]
    train, held = (_tensors(part, mean, std, protocol.device) for part in (train_set.take(chosen), held_set))
    head: dict[str, Any] = {
        "protocol": asdict(protocol),
        "dataset": dataset.name,
        "dataset_sha256": dataset.sha256(),
        "held_out": len(held_set),
    }
    found: dict[str, Any] = {}
    if path.exists():
        before = json.loads(path.read_text())
        for key in ("protocol", "dataset_sha256"):
            if before[key] != head[key]:
                raise SystemExit(f"search.py: error: {path} is of another {key}: {before[key]}, not {head[key]}")
        head, found = {key: before[key] for key in head}, before["candidates"]
    # Each candidate's own: a file that goes on later may go on elsewhere.
    how = {
        "command": shlex.join(["python", "examples/cifar10/search.py", *words]),
        "commit": environment.git_commit(),
        "hardware": environment.hardware(protocol.device),
        "versions": environment.versions(),
    }
    for name in names:
        if name in found:
            continue
        torch.manual_seed(protocol.seed)
        model = CANDIDATES[name]()
        found[name] = {**facts(model), **measure(model, train, held, protocol), **how}
        checkpoint.write_atomic(path, json.dumps({**head, "candidates": found}, indent=2) + "\n")
        print(f"{name:<24} {found[name]}", flush=True)


def _tensors(images: ImageSet, mean: Channels, std: Channels, device: str) -> tuple[Tensor, Tensor]:
    pixels = torch.from_numpy(images.images).permute(0, 3, 1, 2).float() / 255
    shift, scale = (torch.tensor(values).view(1, 3, 1, 1) for values in (mean, std))
    return ((pixels - shift) / scale).to(device), torch.from_numpy(images.labels).to(device)


def table(path: Path) -> str:
    """The candidates of a file, best first, and after them those that it lacks."""
    content = json.loads(path.read_text())
    lines = ["| candidate | held-out accuracy | parameters | MACs |", "|---|---:|---:|---:|"]
    rows = sorted(content["candidates"].items(), key=lambda item: -item[1]["held_out_accuracy"])
    for name, row in rows:
        cells = [name, f"{row['held_out_accuracy']:.2f}", f"{row['parameters']:,}", f"{row['macs'] / 1e6:.1f} M"]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [f"| {name} | not run yet | | |" for name in CANDIDATES if name not in content["candidates"]]
    return "\n".join(lines)


def replaced(page: str, block: str) -> str:
    """The text of a page with the block between the two marks."""
    before, rest = page.split(START)
    _, after = rest.split(END, 1)
    return f"{before}{START}\n{block}\n{END}{after}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, default=Path("data"), metavar="DIR")
    parser.add_argument("--only", nargs="+", choices=CANDIDATES, metavar="NAME", help="these candidates alone")
    parser.add_argument("--images", type=int, default=Protocol.images, help="training images")
    parser.add_argument("--epochs", type=int, default=Protocol.epochs)
    parser.add_argument("--seed", type=int, default=Protocol.seed)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default=Protocol.precision)
    parser.add_argument("--device", choices=("cpu", "cuda"), default=Protocol.device)
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="FILE")
    parser.add_argument("--table", action="store_true", help="only print what the file holds")
    parser.add_argument("--write", action="store_true", help="only put what the file holds into docs/pages/train.md")
    arguments = parser.parse_args()
    if arguments.write:
        checkpoint.write_atomic(PAGE, replaced(PAGE.read_text(), table(arguments.out)))
        return
    if not arguments.table:
        protocol = Protocol(
            **{key: getattr(arguments, key) for key in ("images", "epochs", "seed", "precision", "device")}
        )
        names = arguments.only or list(CANDIDATES)
        search(protocol, arguments.data_dir, arguments.out, names, sys.argv[1:])
    print(table(arguments.out))


if __name__ == "__main__":
    main()
