"""The networks of examples/cifar10, inference and training: `python -m benchmarks.networks`.

As benchmarks.blocks does it: float64 first, then the time. Passes: "inference" is a forward pass in evaluation mode,
"step" a whole training step: forward, cross entropy, backward, SGD with momentum. "share" is over the least bytes when
every convolution and linear layer is a kernel of its own, with all that stands between them fused into these: the input
read and the output written once; in training the input read again, the output's gradient read, the input's written.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from benchmarks import suite
from benchmarks.blocks import macs
from benchmarks.check import Data, Subject, parameter_dtype
from benchmarks.suite import Job

# The examples are scripts, which find each other in their own folder.
sys.path.append(str(Path(__file__).resolve().parents[1] / "examples" / "cifar10"))
# By name: `networks` is this file, to who reads the imports of this folder.
cifar10 = importlib.import_module("networks")


def subjects(device: str, quick: bool) -> list[Subject]:
    """Return the networks, each at the batch sizes that a user would take."""
    batches = (32,) if quick else (16, 1) if device == "cpu" else (1024, 128)
    return [
        Subject(f"{name} {batch}x3x32x32", "convblocks", getattr(cifar10, name), (batch, 3, 32, 32), 3 * rank)
        for rank, batch in enumerate(batches)
        for name in cifar10.NETWORKS
    ]


def work(job: Job, data: Data) -> dict[str, Any]:
    """Return the least bytes of one kernel a layer, and the multiply-accumulates."""
    counts = [0, 0]

    def look(part: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        counts[0] += inputs[0].numel()
        counts[1] += output.numel()

    module = suite.meta(data.module)
    for part in module.modules():
        if isinstance(part, (nn.Conv2d, nn.Linear)):
            part.register_forward_hook(look)
    module(data.x.to("meta", parameter_dtype(module, data.dtype)))
    item, weights = data.x.element_size(), sum(p.nbytes for p in module.parameters())
    if job.direction == "inference":
        return {"bytes": item * sum(counts) + weights, "macs": macs(data), "images": data.x.shape[0]}
    moved = item * (3 * counts[0] + 2 * counts[1]) + 3 * weights
    return {"bytes": moved, "macs": 3 * macs(data), "images": data.x.shape[0]}


main = functools.partial(suite.main, "networks", __doc__ or "", ("inference", "step"), subjects, work)


if __name__ == "__main__":
    arguments: Sequence[str] = sys.argv[1:]
    sys.exit(main(arguments))
