"""The stages of a network as feature maps, as timm's `features_only=True` gives them."""

from __future__ import annotations

from collections.abc import Sequence

from timm.models import FeatureListNet
from torch import nn

from convblocks import receptive_field
from data import SIZE


def feature_info(model: nn.Module, in_chans: int = 3) -> list[dict[str, int | str]]:
    """Name every stage but the last, the head, with its channels and its reduction, both measured."""
    field = receptive_field(model, (in_chans, SIZE, SIZE))
    found: list[dict[str, int | str]] = []
    for name, _ in list(model.named_children())[:-1]:
        stage = field.layers[name]
        jump = stage.local.jump[0]
        if jump is None:
            raise ValueError(f"features_only=True: stage {name} is no map of a whole reduction")
        found.append({"num_chs": stage.shape[1], "reduction": int(jump), "module": name})
    return found


def features_only(model: nn.Module, out_indices: Sequence[int] | None = None, in_chans: int = 3) -> FeatureListNet:
    """Return a network that gives the maps of its stages, all of them or those of `out_indices`, also from the end."""
    info = feature_info(model, in_chans)
    wrong = [at for at in out_indices or () if not -len(info) <= at < len(info)]
    if wrong:
        raise ValueError(f"out_indices must be of {len(info)} stages, got {wrong[0]}")
    model.feature_info = info  # pyright: ignore[reportArgumentType]  (torch types every attribute as a module)
    return FeatureListNet(model, out_indices=tuple(range(len(info)) if out_indices is None else out_indices))
