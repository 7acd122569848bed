"""Networks by name, as the command line takes them."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

_SMALL = 2**26
"""Parameters of a network that is built with data: 256 MB of them."""

FORMS = "module:callable, path/to/file.py:callable, path/to/file.py of one network, timm:name or torchvision:name"


def load_model(spec: str) -> nn.Module:
    """Build the network that `spec` names, without weights.

    Args:
        spec: `package.module:callable` or `path/to/file.py:callable`, where the callable is a module class, a function
            that returns a module, or a module; `path/to/file.py` alone where it holds one network; `timm:name`;
            `torchvision:name`.

    Raises:
        ValueError: nothing of that name, or it gives no module; what building it raises is in the message.
    """
    source, _, name = spec.rpartition(":")
    if spec.endswith(".py"):
        source, name = spec, ""
    elif not source or not name:
        raise ValueError(f"MODEL must be {FORMS}, got {spec!r}")
    if source == "timm":
        return _from_timm(name)
    if source == "torchvision":
        return _from_torchvision(name)
    # Imports stay outside of the meta device: a module's own constants are to be real.
    module = _imported(source)
    found = _named(module, source, name) if name else _only_network(module, source)
    if isinstance(found, nn.Module):
        return found
    if not callable(found):
        raise ValueError(f"{spec!r} is of type {type(found).__name__}, not a torch module nor what builds one")
    model = _built(found, spec)
    if not isinstance(model, nn.Module):
        raise ValueError(f"{spec!r} gives {type(model).__name__}, not a torch module")
    return _with_constants(model, found)


def _from_timm(name: str) -> nn.Module:
    timm = _imported("timm")
    if not timm.is_model(name.partition(".")[0]):
        raise ValueError(f"timm has no model {name!r}{_close(name, timm.list_models())}")
    return _built(lambda: timm.create_model(name, pretrained=False), f"timm:{name}")


def _from_torchvision(name: str) -> nn.Module:
    models = _imported("torchvision.models")
    known: list[str] = models.list_models()
    if name.lower() not in known:
        raise ValueError(f"torchvision has no model {name!r}{_close(name, known)}")
    options = {"weights": None}
    if "deeplab" in name or "fcn" in name or "rcnn" in name or "retinanet" in name or "ssd" in name:
        options["weights_backbone"] = None
    return _built(lambda: models.get_model(name, **options), f"torchvision:{name}")


def _close(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), 3)
    return f"; close are {', '.join(close)}" if close else ""


def _built(build: Callable[[], Any], spec: str) -> Any:
    """What `build` gives: on the meta device, or, where it reads values while it builds, on the CPU."""
    try:
        with torch.device("meta"):
            return build()
    except Exception:
        pass
    try:
        return build()
    except Exception as error:
        raise ValueError(f"{spec!r} called without arguments raises {type(error).__name__}: {error}") from error


def _with_constants(model: nn.Module, build: Callable[[], Any]) -> nn.Module:
    """The same network built with data where it is small: what its masks hide is a matter of their values."""
    on_meta = any(buffer.is_meta for buffer in model.buffers())
    if not on_meta or sum(parameter.numel() for parameter in model.parameters()) > _SMALL:
        return model
    try:
        return build()
    except Exception:
        return model


def _named(module: ModuleType, source: str, name: str) -> Any:
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            known = [key for key in vars(module) if not key.startswith("_")]
            raise ValueError(f"{source} has no {name!r}{_close(name, known)}")
        found = getattr(found, part)
    return found


def _only_network(module: ModuleType, source: str) -> Any:
    """The one network of a file: a module, or a class of one that takes no arguments."""
    own: dict[str, Any] = vars(module)
    built = [name for name, value in own.items() if isinstance(value, nn.Module)]
    names = built or [name for name, value in own.items() if _is_network_class(value, module.__name__)]
    if len(names) == 1:
        return own[names[0]]
    if not names:
        raise ValueError(f"{source} holds no network that takes no arguments: name one, as {source}:callable")
    raise ValueError(f"{source} holds {', '.join(names)}: name one, as {source}:{names[0]}")


def _is_network_class(value: Any, module: str) -> bool:
    if not (inspect.isclass(value) and issubclass(value, nn.Module) and value.__module__ == module):
        return False
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    asked = inspect.signature(value).parameters.values()
    return all(p.default is not inspect.Parameter.empty or p.kind in kinds for p in asked)


def _imported(source: str) -> ModuleType:
    try:
        return _from_file(Path(source)) if source.endswith(".py") else importlib.import_module(source)
    except ValueError:
        raise
    except Exception as error:
        raise ValueError(f"cannot import {source!r}: {type(error).__name__}: {error}") from error


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    # A script imports what lies beside it, as when Python runs it.
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    # A file may be called as a library is that has been imported.
    name = f"_{path.stem}_of_the_command_line" if path.stem in sys.modules else path.stem
    module_spec = importlib.util.spec_from_file_location(name, path)
    assert module_spec is not None
    assert module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[name] = module
    try:
        module_spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
