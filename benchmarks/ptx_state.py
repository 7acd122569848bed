"""What programs of a kernel on a GPU have, in NumPy: registers, shared memory, and the memory of all."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from benchmarks.ptx_numbers import Array, Fault, bits_of


class Memory:
    """Bytes (rows, size) from an address on: of every program one row, or one row for all."""

    def __init__(self, base: int, data: Array, allowed: Array) -> None:
        self.base, self.data, self._allowed = base, data, {1: allowed}

    def _places(self, address: Array, size: int, count: int, mask: Array | None) -> tuple[Array, Array, Array]:
        """Return rows, indices by `size`, and which of them are meant; a fault where one of these is not there."""
        if size not in self._allowed:
            self._allowed[size] = np.asarray(self._allowed[1].reshape(-1, size).all(1))
        offset = address.astype(np.int64) - self.base
        meant = np.ones(offset.shape, bool) if mask is None else mask
        rows = np.arange(len(self.data))[:, None]
        offset, meant, rows = np.broadcast_arrays(offset, meant, rows if len(rows) > 1 else 0)
        inside = (offset >= 0) & (offset + size * count <= self.data.shape[1]) & (offset % (size * count) == 0)
        index = np.where(inside, offset // size, 0)[..., None] + np.arange(count)
        inside &= self._allowed[size][index].all(-1)
        if (wrong := meant & ~inside).any():
            at = int(offset[wrong][0])
            raise Fault(f"{size * count} bytes at {at:#x} of {self.data.shape[1]:#x}: outside, or not aligned")
        return rows[..., None], index, meant

    def load(self, address: Array, size: int, count: int, mask: Array | None) -> Array:
        """Return (programs, threads, count); any value where the mask is not."""
        rows, index, _ = self._places(address, size, count, mask)
        return self.data.view(bits_of(size))[rows, index]

    def store(self, address: Array, values: Array, mask: Array | None) -> None:
        size, count = values.dtype.itemsize, values.shape[-1]
        # The mask alone may tell threads apart.
        rows, index, meant = self._places(np.broadcast_to(address, common(address, values[..., 0])), size, count, mask)
        values = np.broadcast_to(values, index.shape)[meant]
        place = np.broadcast_to(rows, index.shape)[meant], index[meant]
        view = self.data.view(bits_of(size))
        view[place] = values
        if (view[place] != values).any():
            raise Fault("threads store different values to one place")


def common(*arrays: Array) -> tuple[int, ...]:
    return np.broadcast_shapes(*(a.shape for a in arrays))


class Copy(NamedTuple):
    address: Array
    values: Array
    mask: Array | None


class State:
    """Programs that went the same way. A register that is the same in all of them, or in all threads, has length 1."""

    def __init__(self, programs: int, registers: dict[str, Array], shared: Memory, memory: Memory) -> None:
        self.programs, self.registers, self.shared, self.memory = programs, registers, shared, memory
        self.groups: list[list[Copy]] = [[]]
        self.at = 0

    def get(self, operand: str | Array, size: int) -> Array:
        if not isinstance(operand, str):
            return operand
        found = self.registers.get(operand)
        if found is None:
            raise Fault(f"{operand} has no value")
        return found if size in (0, found.itemsize) else found.astype(bits_of(size))

    def set(self, name: str, value: Array, mask: Array | None) -> None:
        if mask is not None:
            old = self.registers.get(name)
            value = np.where(mask, value, np.full((1, 1), -1).astype(value.dtype) if old is None else old)
        self.registers[name] = value

    def part(self, chosen: Array, at: int) -> State:
        def cut(x: Array) -> Array:
            return x[chosen] if len(x) == self.programs else x

        shared = Memory(self.shared.base, cut(self.shared.data), self.shared._allowed[1])
        registers = {name: cut(x) for name, x in self.registers.items()}
        made = State(int(chosen.sum()), registers, shared, self.memory)
        made.groups = [
            [Copy(cut(c.address), cut(c.values), None if c.mask is None else cut(c.mask)) for c in group]
            for group in self.groups
        ]
        made.at = at
        return made
