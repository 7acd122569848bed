"""Where and how numbers are computed: which device, in which precision, and whether the same way every time."""

import os
from dataclasses import dataclass

import environment
import torch
from errors import UsageError


@dataclass(frozen=True)
class Device:
    """Where and how numbers are computed.

    Args:
        name: ``"cpu"`` or ``"cuda"``.
        bf16: bfloat16 autocast.
        compile: torch.compile.
        graph: Forward and backward pass as one CUDA graph.
        deterministic: The same figures every time, to the last digit.
    """

    name: str
    bf16: bool = False
    compile: bool = False
    graph: bool = False
    deterministic: bool = True


def choose(asked: str, precision: str, **options: bool) -> Device:
    """Choose a device and set torch up for it.

    Args:
        asked: ``"auto"`` (a GPU where there is one), ``"cpu"`` or ``"cuda"``.
        precision: ``"fp32"``, ``"bf16"``, or ``"auto"`` for bf16 where the hardware multiplies it.
        options: Of ``Device``.

    Raises:
        UsageError: There is no GPU and one is needed.
    """
    name = asked
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    elif name == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: torch sees no GPU here")
    bf16 = precision == "bf16" or (precision == "auto" and environment.bf16_is_fast(name))
    made = Device(name, bf16, **options)
    if made.graph and name != "cuda":
        raise UsageError("--graph: CUDA graphs need a GPU, and this runs on the CPU")
    if name == "cuda":
        _set_up_cuda(made.deterministic, bf16)
    return made


def _set_up_cuda(deterministic: bool, bf16: bool) -> None:
    # torch's convolutions take TF32 for float32 unless told otherwise, and a record of fp32 would not be true.
    torch.backends.cudnn.allow_tf32 = bf16
    if deterministic:
        # What a resumed run needs to be the run that was interrupted, and an evaluation to be that of its run.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        # Every new tensor would be filled once more, which for small networks is a large part of all that is written.
        torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]
    else:
        torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark = not deterministic
