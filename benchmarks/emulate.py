"""Runs Triton's kernels on tensors of the CPU as compiled for a GPU: all that Triton's compiler does shows.

What its interpreter runs is what was written; a kernel may be right there and wrong where it is compiled. Global memory
is the tensors that were handed over and gaps between them: an access outside of every one is a fault.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.assembly import build
from benchmarks.ptx import Kernel, execute, read
from benchmarks.ptx_numbers import Array
from benchmarks.ptx_state import Memory

# High, so that an address cut to 32 bits is none.
GLOBAL = 0x7E00_0000_0000
GAP = 1 << 16
TYPES = {
    torch.float64: "fp64",
    torch.float32: "fp32",
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.int64: "i64",
    torch.int32: "i32",
}


def _lay_out(tensors: list[Tensor]) -> tuple[Memory, list[int], list[tuple[Array, int]]]:
    """Return the memory, the address of each tensor, and the bytes of every storage with where they are in it."""
    places: dict[int, tuple[Array, int]] = {}
    end = 0
    for x in tensors:
        storage = x.untyped_storage()
        if storage.data_ptr() not in places:
            held = torch.empty(0, dtype=torch.uint8).set_(storage, 0, (storage.nbytes(),), (1,)).numpy()
            # Alignment by more than 16 bytes is nothing that a kernel may know of.
            start = -(-(end + GAP) // 256) * 256 + storage.data_ptr() % 16
            places[storage.data_ptr()] = held, start
            end = start + len(held)
    size = -(-(end + GAP) // 256) * 256
    data, allowed = np.zeros((1, size), np.uint8), np.zeros(size, bool)
    addresses: list[int] = []
    for held, start in places.values():
        data[0, start : start + len(held)] = held
    for x in tensors:
        held, start = places[x.untyped_storage().data_ptr()]
        own = torch.zeros(len(held) // x.element_size(), dtype=torch.bool)
        own.as_strided(x.shape, x.stride(), x.storage_offset()).fill_(True)
        spread = own.numpy().repeat(x.element_size())
        allowed[start : start + len(spread)] |= spread
        addresses.append(GLOBAL + start + int(x.storage_offset()) * x.element_size())
    return Memory(GLOBAL, data, allowed), addresses, list(places.values())


@functools.lru_cache(256)
def _compiled(kernel: Any, kinds: tuple[tuple[str, str], ...], aligned: frozenset[str], options: Any) -> Kernel:
    constants = {name: options[name] for name in kernel.arg_names if name in options}
    told = {name: value for name, value in options.items() if name not in constants}
    built = build(kernel, dict(kinds), aligned, constants, 90, told)
    return read(built.asm["ptx"], built.metadata.shared)


def run(kernel: Any, programs: int, given: Sequence[Any], options: Any) -> None:
    """Do on tensors of the CPU what `kernel[(programs,)](*given, **options)` does on a GPU; `options` can be hashed."""
    named = dict(zip(kernel.arg_names, given, strict=False))
    tensors = {name: x for name, x in named.items() if isinstance(x, Tensor)}
    kinds = {n: f"*{TYPES[x.dtype]}" if n in tensors else "i64" if x >= 2**31 else "i32" for n, x in named.items()}
    aligned = frozenset(name for name, x in tensors.items() if x.data_ptr() % 16 == 0)
    compiled = _compiled(kernel, tuple(kinds.items()), aligned, options)
    memory, addresses, held = _lay_out(list(tensors.values()))
    at = dict(zip(tensors, addresses, strict=True))
    bits = [np.array(at.get(n, x)).astype(np.uint32 if kinds[n] == "i32" else np.uint64) for n, x in named.items()]
    execute(compiled, programs, bits, memory)
    for own, start in held:
        own[:] = memory.data[0, start : start + len(own)]
