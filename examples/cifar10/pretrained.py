"""Trained weights of the networks, as weights.py wrote them into weights/, and the builders that load them."""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import features
import timm.models
from safetensors import SafetensorError
from safetensors.torch import load
from torch import nn

FOLDER = Path(__file__).parent / "weights"
TIMM_ONLY = ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")


def available(folder: Path = FOLDER) -> list[str]:
    """Names of the networks that have weights."""
    return sorted(path.stem for path in folder.glob("*.json"))


def facts(name: str, folder: Path = FOLDER) -> dict[str, Any]:
    """What is known of a network's weights: data, classes, normalisation, accuracy, hash.

    Raises:
        ValueError: There are none.
    """
    try:
        return json.loads((folder / f"{name}.json").read_text())
    except FileNotFoundError:
        others = ", ".join(available(folder)) or "no network"
        raise ValueError(
            f"pretrained=True: {name} has no weights, {others} has; make them by "
            f"python examples/cifar10/train.py --model {name}"
        ) from None


def load_into(model: nn.Module, name: str, folder: Path = FOLDER) -> None:
    """Give a network its trained weights, and what timm reads the normalisation from.

    Args:
        model: The network as built for the classes and channels of the weights.
        name: Its name.
        folder: Where the weights lie.

    Raises:
        ValueError: The network has no weights, they are missing or not the ones that were published, or the network
            was built with options that they do not fit.
    """
    about = facts(name, folder)
    path = folder / f"{name}.safetensors"
    restore = f"git checkout {path.parent.name}/{path.name} in {path.parent.parent} restores it"
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise ValueError(f"pretrained=True: {path} is missing; {restore}") from None
    found = hashlib.sha256(content).hexdigest()
    if found != about["sha256"]:
        raise ValueError(f"pretrained=True: the sha256 of {path} is {found}, not {about['sha256']}; {restore}")
    try:
        model.load_state_dict(load(content))
    except SafetensorError as error:
        raise ValueError(f"pretrained=True: {path} cannot be read: {error}") from None
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip()
        raise ValueError(
            f"pretrained=True: the weights are of {name} with its default options and do not fit these: {reason}"
        ) from None
    model.pretrained_cfg = {  # pyright: ignore[reportArgumentType]  (torch types every attribute as a module)
        "architecture": name,
        "input_size": (3, 32, 32),
        "fixed_input_size": True,
        "crop_pct": 1.0,
        "interpolation": "bilinear",
        "num_classes": len(about["classes"]),
        "label_names": tuple(about["classes"]),
        "mean": tuple(about["mean"]),
        "std": tuple(about["std"]),
    }


def registered(build: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """Make a builder an entry of timm's registry that takes `pretrained=True` and `features_only=True`.

    timm hands its own keywords to every builder, unset ones as None; what is set and not known is refused.
    """
    known = inspect.signature(build).parameters

    @functools.wraps(build)
    def entry(
        *args: Any,
        pretrained: bool = False,
        features_only: bool = False,
        out_indices: Sequence[int] | None = None,
        **options: Any,
    ) -> nn.Module:
        unknown = {key for key, value in options.items() if key not in known and value is not None}
        if unknown := sorted(unknown.difference(TIMM_ONLY)):
            raise TypeError(f"{build.__name__} got unexpected keyword arguments: {', '.join(unknown)}")
        model = build(*args, **{key: value for key, value in options.items() if key in known})
        if pretrained:
            load_into(model, build.__name__)
        return features.features_only(model, out_indices, options.get("in_chans", 3)) if features_only else model

    if not timm.models.is_model(build.__name__):
        timm.models.register_model(entry)
    return entry
