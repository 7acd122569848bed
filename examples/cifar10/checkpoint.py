"""Files that are either the old one or the new one, never half of one; checkpoints that hold no code."""

import contextlib
import io
import os
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from errors import RunError, UsageError

FORMAT = 1


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write a file beside its place, flush it to the disk, then rename it.

    Raises:
        RunError: It cannot be written; what was there before is untouched.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise RunError(f"cannot write {path}: {error.strerror or error}; what was saved before is intact") from None


def save(path: Path, state: Mapping[str, Any]) -> None:
    """Save tensors and plain values.

    Raises:
        RunError: As ``write_atomic``.
    """
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **state}, buffer)
    write_atomic(path, buffer.getvalue())


def load(path: Path) -> dict[str, Any]:
    """Load what ``save`` wrote, on the CPU, running no code from the file.

    Raises:
        UsageError: The file is absent, damaged or of another format.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UsageError(f"there is no checkpoint {path} to resume from") from None
    except Exception as error:
        # torch.load raises whatever the damaged byte leads to: RuntimeError, EOFError, UnpicklingError, ...
        raise UsageError(
            f"{path} cannot be loaded: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
        ) from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise UsageError(f"{path} is not a checkpoint of this script (format {FORMAT})")
    return state


def require_same(path: Path, saved: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Refuse a checkpoint of another run.

    Args:
        path: The checkpoint, for the message.
        saved: What the checkpoint says of its run.
        asked: The same of this run.

    Raises:
        UsageError: They differ; the first difference is named with both values.
    """
    for key, value in asked.items():
        if saved.get(key) != value:
            raise UsageError(f"{path} is of another run: its {key} is {saved.get(key)!r}, not {value!r}")


def random_state() -> dict[str, Any]:
    """State of every global random stream, as tensors and plain values."""
    name, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    version, words, python_gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        # Of the GPU that trains: a run may go on on a machine that has fewer of them.
        "cuda": [torch.cuda.get_rng_state()] if torch.cuda.is_initialized() else [],
        "numpy": [str(name), [int(key) for key in keys], int(position), int(has_gauss), float(gauss)],
        "python": [version, list(words), python_gauss],
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """Put back what ``random_state`` gave."""
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_initialized() and state["cuda"]:
        torch.cuda.set_rng_state(state["cuda"][0])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, np.uint32), *rest))
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
