"""Starts Triton's kernels sooner than Triton does: what it works out for every launch is known from the one before."""

# Triton's kernels have no types, and Triton itself need not be there to check the rest.
# pyright: reportMissingImports=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportAttributeAccessIssue=false, reportMissingTypeStubs=false

from __future__ import annotations

import functools
import os
from types import ModuleType
from typing import Any

import torch
from triton.compiler import CompiledKernel

_WIDE = 2**31
OVERLAP = os.environ.get("CONVBLOCKS_OVERLAP") == "1"
"""Let programs of a kernel in while the last ones of the kernel before end, by programmatic dependent launch.

No GPU has run it yet: off unless the environment asks for it.
"""


class Options(dict[str, Any]):
    """The constants that a kernel is compiled for, and what Triton is told of a launch; told apart by identity."""

    __slots__ = ()
    __hash__ = object.__hash__  # pyright: ignore[reportAssignmentType] - a mapping that nobody changes

    def __eq__(self, other: object) -> bool:
        return self is other


@functools.lru_cache(4096, typed=True)
def options(**named: Any) -> Options:
    """Return the options of these names and values, the same object each time; True is not 1."""
    return Options({"OVERLAP": False} | named)


def overlap(device: int) -> bool:
    """Tell whether kernels are started so on a device."""
    return OVERLAP and _can_overlap(device)


@functools.lru_cache(4096)
def _overlapping(given: Any) -> Options:
    return Options(given | {"OVERLAP": True, "launch_pdl": True})


@functools.lru_cache(64)
def _can_overlap(device: int) -> bool:
    if device < 0 or torch.cuda.get_device_capability(device) < (9, 0):
        return False
    from triton.backends.nvidia.compiler import CUDAOptions

    return "launch_pdl" in CUDAOptions.__dataclass_fields__


class Kernels:
    """The kernels of a module by their names: `kernels.name.start(programs, arguments, options)`.

    Every integer argument must be one that the kernel is not specialised for, and the constants stand last, OVERLAP of
    `_kernels_sums.enter` among them.
    """

    def __init__(self, module: ModuleType) -> None:
        self._module = module

    def __getattr__(self, name: str) -> _Kernel:
        kernel = _Kernel(getattr(self._module, name))
        setattr(self, name, kernel)
        return kernel


class _Kernel:
    def __init__(self, kernel: Any) -> None:
        self._kernel = kernel
        self._known: dict[Any, tuple[CompiledKernel, tuple[Any, ...]]] = {}

    def start(self, programs: int, given: tuple[Any, ...], options: Options) -> None:
        device = given[0].get_device()
        if overlap(device):
            options = _overlapping(options)  # pyright: ignore[reportArgumentType] - they have a hash
        # What Triton compiles a kernel for, and no more: dtypes, whether 16 divides an address, the constants.
        kind: list[Any] = [device, options]
        for x in given:
            if type(x) is not int:
                kind += (x.dtype, x.data_ptr() % 16 == 0)
            elif x >= _WIDE:
                kind.append(x)
        key = tuple(kind)
        found = self._known.get(key)
        if found is None:
            made = self._kernel[(programs,)](*given, **options)
            # Neither Triton's interpreter nor its compilation in the background gives what can be started again.
            if type(made) is CompiledKernel:
                names = [name for name in self._kernel.arg_names if name in options]
                self._known[key] = made, tuple(options[name] for name in names)
            return
        compiled, constants = found
        compiled[(programs, 1, 1)](*given, *constants)
