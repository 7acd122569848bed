"""The network of a run folder, rebuilt from what its checkpoint says of it."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import checkpoint
import devices
import models
import numpy as np
import torch
from devices import Device
from engine import EVALUATED_AT_ONCE, Run
from errors import UsageError
from numpy.typing import NDArray
from recipes import Recipe
from rundir import BEST, CONFIG, LAST
from torch import Tensor, nn

FILES = {"last": LAST, "best": BEST}
BATCH = EVALUATED_AT_ONCE
"""Images computed at once: as many as training evaluates at once, or the last digits of a figure would differ."""


@dataclass(frozen=True)
class Trained:
    """A network with the weights that its run evaluated.

    Args:
        folder: The run folder.
        which: ``"last"`` or ``"best"``.
        epoch: Epochs after which the weights were saved.
        step: Steps of the epoch that was under way then; 0 between two epochs.
        identity: What the checkpoint says of its run: network, data and its hash, recipe, seed, precision.
        classes: Class names, in the order of the logits.
        mean: Of the training images, a channel, as fractions of 255.
        std: The same for the standard deviation.
        run: The engine that holds the network: figures equal those of training because the code is the same.
    """

    folder: Path
    which: str
    epoch: int
    step: int
    identity: dict[str, Any]
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    run: Run

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    @property
    def model(self) -> nn.Module:
        return self.run.model

    @property
    def device(self) -> Device:
        return self.run.device

    @torch.no_grad()
    def logits(self, images: NDArray[np.uint8]) -> Tensor:
        """Classify ``(N, 32, 32, 3)`` uint8 images: ``(N, classes)`` float32, on the network's device."""
        starts = range(0, len(images), BATCH)
        return torch.cat([self.run.logits(self.model, torch.from_numpy(images[at : at + BATCH])) for at in starts])

    def __str__(self) -> str:
        after = f"after epoch {self.epoch}" + (f" and {self.step} steps" if self.step else "")
        return f"{self.name}, {self.identity['network']}, {FILES[self.which]} {after}"


def load(
    folder: Path, which: str = "last", *, device: str = "auto", precision: str = "run", deterministic: bool = True
) -> Trained:
    """Load the network of a run.

    Args:
        folder: The run folder.
        which: ``"last"`` or ``"best"``.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
        precision: ``"fp32"``, ``"bf16"``, or ``"run"`` for that of the run.
        deterministic: On a GPU the same figures every time.

    Raises:
        UsageError: There is no such checkpoint, it is damaged, or its weights do not fit its network.
    """
    path = folder / FILES[which]
    if not path.is_file():
        if which == "best" and _without_validation(folder / LAST):
            raise UsageError(
                f"--which best: {folder} was trained with --no-validation, on all training images, so that no epoch "
                "is known to be the best; use --which last"
            )
        raise UsageError(f"{folder} holds no {path.name}; a run folder is what train.py writes, runs/<name>")
    state = checkpoint.load(path)
    try:
        identity: dict[str, Any] = state["identity"]
        about = state.get("config") or _config(path, identity)
        classes, mean, std = (tuple(about[key]) for key in ("classes", "mean", "std"))
        if which == "best":
            weights, epoch, step = state["weights"], about["epoch"], 0
        else:
            # The averaged weights, where there are some, are those that the run evaluated.
            weights = state["average"] or state["model"]
            epoch, step = state["progress"]["epoch"], state["progress"]["step"]
        network, recorded = identity["network"], identity["precision"]
    except KeyError as error:
        raise UsageError(f"{path} is not a checkpoint of train.py: it says nothing of {error}") from None
    try:
        model = models.build(network, len(classes), identity.get("dropout"))
    except UsageError as error:
        raise UsageError(f"{path} cannot be rebuilt: {error}") from None
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise UsageError(f"{path} does not fit {network} of {len(classes)} classes: {_second_line(error)}") from None
    # As in training: another kernel rounds otherwise, and an image at the edge of two classes changes sides.
    chosen = devices.choose(device, recorded if precision == "run" else precision, deterministic=deterministic)
    # A recipe of no interest: nothing is trained.
    run = Run(model.eval(), Recipe("none"), 1, (mean, std), chosen)
    return Trained(folder, which, epoch, step, identity, classes, mean, std, run)


def _without_validation(last: Path) -> bool:
    return last.is_file() and checkpoint.load(last).get("identity", {}).get("validation") is False


def weights_sha256(trained: Trained) -> str:
    """Hash of every weight and statistic of a network, and of their names."""
    digest = hashlib.sha256()
    for name, value in sorted(trained.model.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype} ".encode())
        digest.update(value.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _config(path: Path, identity: dict[str, Any]) -> dict[str, Any]:
    """What config.json says, for a checkpoint from before it was in both."""
    config_path = path.with_name(CONFIG)
    try:
        config = json.loads(config_path.read_text())
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{path} needs {config_path}, which cannot be read ({error}); {BEST} needs no other file"
        ) from None
    for ours, theirs in (("network", "model"), ("data_sha256", "dataset_sha256"), ("seed", "seed")):
        if identity[ours] != config[theirs]:
            raise UsageError(
                f"{config_path} is not of the run of {path.name}: its {theirs} is {config[theirs]!r}, "
                f"not {identity[ours]!r}"
            )
    return config


def _second_line(error: Exception) -> str:
    """Of torch's message: the first says only that loading failed."""
    lines = [line.strip() for line in str(error).splitlines()]
    return lines[min(1, len(lines) - 1)]
