"""Networks by name, as the command line takes them."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

FORMS = "module:callable, path/to/file.py:callable, timm:name or torchvision:name"


def load_model(spec: str) -> Callable[..., Any]:
    """Build the network that `spec` names, without weights.

    Args:
        spec: `package.module:callable` or `path/to/file.py:callable`, where the callable is a module class, a function
            that returns a module, or a module; `timm:name`; `torchvision:name`.

    Raises:
        ValueError: nothing of that name, or it gives no module.
    """
    source, separator, name = spec.rpartition(":")
    if not separator or not source or not name:
        raise ValueError(f"MODEL must be {FORMS}, got {spec!r}")
    try:
        model = _build(source, name)
    except ImportError as error:
        raise ValueError(f"cannot load {spec!r}: {error}") from error
    if not isinstance(model, nn.Module):
        raise ValueError(f"{spec!r} gives {type(model).__name__}, not a torch module")
    return model


def _build(source: str, name: str) -> Any:
    # Imports stay outside of the meta device: a module's own constants are to be real.
    if source == "timm":
        timm = importlib.import_module("timm")
        try:
            with torch.device("meta"):
                return timm.create_model(name, pretrained=False)
        except RuntimeError as error:
            raise ValueError(f"timm has no model {name!r}: {error}") from error
    if source == "torchvision":
        models = importlib.import_module("torchvision.models")
        options = {"weights": None}
        if "deeplab" in name or "fcn" in name or "rcnn" in name or "retinanet" in name or "ssd" in name:
            options["weights_backbone"] = None
        with torch.device("meta"):
            return models.get_model(name, **options)
    module = _from_file(Path(source)) if source.endswith(".py") else importlib.import_module(source)
    found = module
    for part in name.split("."):
        if not hasattr(found, part):
            raise ValueError(f"{source} has no {name!r}")
        found = getattr(found, part)
    if isinstance(found, nn.Module):
        return found
    with torch.device("meta"):
        return cast("Callable[[], Any]", found)()


def _from_file(path: Path) -> Any:
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    # A script imports what lies beside it, as when Python runs it.
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    module_spec = importlib.util.spec_from_file_location(path.stem, path)
    assert module_spec is not None
    assert module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[path.stem] = module
    module_spec.loader.exec_module(module)
    return module
