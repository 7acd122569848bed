"""From the text of an instruction of PTX to what it does to a program: a function of the state and the predicate."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from benchmarks.ptx_numbers import (
    COMBINATIONS,
    COMPARISONS,
    KINDS,
    ODD,
    OPERATIONS,
    PLAIN,
    TO_WHOLE,
    Array,
    Fault,
    bits_of,
)
from benchmarks.ptx_state import Copy, State, common

Step: TypeAlias = "Callable[[State, Array | None], None]"


def _constant(text: str, size: int) -> str | Array:
    """A number as its bits, or the name of a register."""
    if found := re.fullmatch(r"0[fF]([0-9a-fA-F]{8})|0[dD]([0-9a-fA-F]{16})", text):
        return np.full((1, 1), int(found[1] or found[2], 16), bits_of(4 if found[1] else 8))
    if re.fullmatch(r"-?(0[xX][0-9a-fA-F]+|\d+)U?", text):
        number = int(text.rstrip("U"), 0)
        return np.full((1, 1), number & (1 << 8 * size) - 1 if size else bool(number), bits_of(size))
    return text


def _names(operand: str) -> list[str]:
    return [name.strip() for name in operand.strip("{} ").split(",")]


def _address(operand: str) -> Callable[[State], Array]:
    """Of `[register + offset]`."""
    base, _, offset = operand.strip("[] ").partition("+")
    name, more = base.strip(), int(offset or "0", 0)

    def of(state: State) -> Array:
        return state.get(name, 0).astype(np.int64) + more

    return of


def computing(parts: list[str], operands: list[str]) -> Step:
    *words, own = parts
    names = [w for w in words if w not in PLAIN]
    key = ".".join(names)
    function = OPERATIONS[key]
    kinds = [KINDS[_twice(own) if odd == "2" else odd or own] for odd in ODD.get(key, ("",) * (len(operands) - 1))]
    result = KINDS[_twice(own) if names[-1] == "wide" else own]
    inputs = [(_constant(x, kind.size), kind) for x, kind in zip(operands[1:], kinds, strict=True)]
    target = operands[0]

    def step(state: State, mask: Array | None) -> None:
        numbers = [kind.read(state.get(x, kind.size)) for x, kind in inputs]
        state.set(target, result.write(function(*numbers)), mask)

    return step


def _twice(kind: str) -> str:
    return f"{kind[0]}{2 * int(kind[1:])}"


def _comparing(parts: list[str], operands: list[str]) -> Step:
    compare, kind = COMPARISONS[parts[1]], KINDS[parts[-1]]
    combine = COMBINATIONS[parts[2]] if len(parts) == 4 else None
    if len(parts) > 4 or "|" in operands[0]:
        raise KeyError
    target, a, b = operands[0], *(_constant(x, kind.size) for x in operands[1:3])

    def step(state: State, mask: Array | None) -> None:
        found = compare(kind.read(state.get(a, kind.size)), kind.read(state.get(b, kind.size)))
        if combine is not None:
            found = combine(found, state.get(operands[3], 0))
        state.set(target, found, mask)

    return step


def _converting(parts: list[str], operands: list[str]) -> Step:
    *words, to, of = parts[1:]
    packed, source = to.endswith("x2"), KINDS[of]
    result = KINDS[to.removesuffix("x2")]
    whole = [TO_WHOLE[w] for w in words if w != "rn"]
    limits = None if "f" in to else np.iinfo(f"{'i' if to[0] == 's' else 'u'}{result.size}")
    inputs = [_constant(x, source.size) for x in operands[1:]]

    def convert(number: Array) -> Array:
        for function in whole:
            number = function(number)
        if "f" in of and limits is not None:
            number = np.nan_to_num(number.astype(np.float64))
            low, high = number <= limits.min, number >= limits.max
            number = np.where(low | high, 0, number).astype(limits.dtype)
            number = np.where(low, limits.min, np.where(high, limits.max, number))
        return result.write(number if limits is None else number.astype(limits.dtype))

    def step(state: State, mask: Array | None) -> None:
        found = [convert(source.read(state.get(x, source.size))) for x in inputs]
        if packed:
            high, low = (x.astype(np.uint32) for x in found)
            found = [high << 16 | low]
        state.set(operands[0], found[0], mask)

    return step


def _moving(parts: list[str], operands: list[str]) -> Step:
    """Between registers, and apart into those of fewer bits or together from them."""
    size, (target, source) = KINDS[parts[1]].size, operands
    targets, sources = _names(target), [_constant(x, size) for x in _names(source)]

    def step(state: State, mask: Array | None) -> None:
        bits = size // len(sources)
        value = state.get(sources[0], bits)
        if len(sources) > 1:
            value = np.zeros((1, 1), bits_of(size))
            for k, x in enumerate(sources):
                # Half of a register may be nobody's.
                lacking = isinstance(x, str) and x not in state.registers
                part = np.full((1, 1), -1).astype(bits_of(bits)) if lacking else state.get(x, bits)
                value = value | part.astype(value.dtype) << 8 * bits * k
        for k, name in enumerate(targets):
            if len(targets) > 1:
                bits = size // len(targets)
                state.set(name, (value >> 8 * bits * k).astype(bits_of(bits)), mask)
            else:
                state.set(name, value, mask)

    return step


def _space(parts: list[str]) -> tuple[bool, int, int]:
    """Whether it is shared memory, and the size and count of what a thread moves."""
    words = [p.partition("::")[0] for p in parts[1:]]
    count = {"v2": 2, "v4": 4, "v8": 8}.get(words[-2], 1)
    if words[0] not in ("global", "shared") or len(words) != 2 + (count > 1):
        raise KeyError
    return words[0] == "shared", KINDS[words[-1]].size, count


def _loading(parts: list[str], operands: list[str]) -> Step:
    targets = _names(operands[0])
    if parts[1] == "param":
        return _moving(["mov", parts[2]], [operands[0], operands[1].strip("[]")])
    shared, size, count = _space(parts)
    address = _address(operands[1])
    if count != len(targets):
        raise KeyError

    def step(state: State, mask: Array | None) -> None:
        found = (state.shared if shared else state.memory).load(address(state), size, count, mask)
        for k, name in enumerate(targets):
            state.set(name, found[..., k], mask)

    return step


def _storing(parts: list[str], operands: list[str]) -> Step:
    shared, size, count = _space(parts)
    address, sources = _address(operands[0]), [_constant(x, size) for x in _names(operands[1])]
    if count != len(sources):
        raise KeyError

    def step(state: State, mask: Array | None) -> None:
        values = np.stack(np.broadcast_arrays(*(state.get(x, size) for x in sources)), -1)
        (state.shared if shared else state.memory).store(address(state), values, mask)

    return step


def _copying(parts: list[str], operands: list[str]) -> Step:
    if parts[2] == "commit_group":
        return lambda state, mask: state.groups.append([])
    if parts[2] == "wait_group":
        newest = int(operands[0])

        def wait(state: State, mask: Array | None) -> None:
            done = max(0, len(state.groups) - 1 - newest)
            for group in state.groups[:done]:
                for copy in group:
                    state.shared.store(*copy)
            del state.groups[:done]

        return wait
    if parts[2] not in ("ca", "cg") or [p.partition("::")[0] for p in parts[3:]] != ["shared", "global"]:
        raise KeyError
    (to, of), size = (_address(x) for x in operands[:2]), int(operands[2], 0)
    filled = _constant(operands[3], 4) if len(operands) > 3 else np.full((1, 1), size, np.uint32)

    def step(state: State, mask: Array | None) -> None:
        given = state.get(filled, 4)
        if ((given != 0) & (given != size)).any():
            raise Fault("a copy of some of its bytes is not known here")
        there = given != 0
        values = state.memory.load(of(state), 4, size // 4, there if mask is None else there & mask)
        values = np.where(there[..., None], values, np.uint32(0))
        at = to(state)
        state.shared.store(at, np.full_like(values, 0xFFFFFFFF), mask)
        state.groups[-1].append(Copy(at, values, mask))

    return step


def _matrices(parts: list[str], operands: list[str]) -> Step:
    """Of ldmatrix and stmatrix: 8 x 8 numbers of 16 bits each; a row's address is in one thread of a warp."""
    if parts[1:4] != ["sync", "aligned", "m8n8"] or parts[-1] != "b16":
        raise KeyError
    storing, count, turned = parts[0] == "stmatrix", int(parts[4][1:]), "trans" in parts
    where, names = (operands[0], operands[1]) if storing else (operands[1], operands[0])
    address, registers = _address(where), _names(names)
    lane = np.arange(32)
    if count != len(registers):
        raise KeyError

    def step(state: State, mask: Array | None) -> None:
        if mask is not None:
            raise Fault("matrices under a predicate are not known here")
        threads = state.registers["%tid.x"].shape[1]
        rows = address(state)
        rows = np.broadcast_to(rows, (len(rows), threads)).reshape(len(rows), -1, 32)
        if (rows[:, :, : 8 * count] % 16).any():
            raise Fault("a row of a matrix is not aligned")
        for k, name in enumerate(registers):
            first = 8 * k + (lane % 4 * 2 if turned else lane // 4)
            # Two numbers, one after the other in a row or in a column.
            pair = [
                rows[:, :, first + (half if turned else 0)] + (2 * (lane // 4) if turned else 4 * (lane % 4) + 2 * half)
                for half in (0, 1)
            ]
            pair = [x.reshape(len(rows), threads) for x in pair]
            if storing:
                value = state.get(name, 4)
                for half, at in enumerate(pair):
                    state.shared.store(at, (value >> 16 * half).astype(np.uint16)[..., None], None)
            else:
                low, high = (state.shared.load(at, 2, 1, None)[..., 0].astype(np.uint32) for at in pair)
                state.set(name, high << 16 | low, None)

    return step


def _shuffling(parts: list[str], operands: list[str]) -> Step:
    how = parts[2]
    if parts[1] != "sync" or how not in ("bfly", "idx", "down", "up") or "|" in operands[0]:
        raise KeyError
    target, *inputs = operands[0], *(_constant(x, 4) for x in operands[1:4])

    def step(state: State, mask: Array | None) -> None:
        if mask is not None:
            raise Fault("a shuffle under a predicate is not known here")
        value, other, clamp = (state.get(x, 4) for x in inputs)
        threads = state.registers["%tid.x"].shape[1]
        lane = np.arange(threads)[None] % 32
        other, most, segment = (x.astype(np.int64) for x in (other & 31, clamp & 31, clamp >> 8 & 31))
        last = lane & segment | most & ~segment
        of = {
            "bfly": lane ^ other,
            "idx": lane & segment | other & ~segment,
            "down": lane + other,
            "up": lane - other,
        }[how]
        of = np.where(of >= last if how == "up" else of <= last, of, lane) + np.arange(threads)[None] // 32 * 32
        value = np.broadcast_to(value, (len(value), threads))
        state.set(target, np.take_along_axis(*_together(value, of), 1), None)

    return step


def _multiplying(parts: list[str], operands: list[str]) -> Step:
    """Of mma: a warp multiplies 16 x k by k x 8, and adds. The sum is exact here before it is rounded, on a GPU not."""
    shape, order, kinds = parts[3], parts[4:6], parts[6:]
    size, kind = {"bf16": (2, KINDS["bf16"]), "f16": (2, KINDS["f16"]), "tf32": (4, KINDS["f32"])}[kinds[1]]
    if order != ["row", "col"] or kinds != ["f32", kinds[1], kinds[1], "f32"] or not shape.startswith("m16n8k"):
        raise KeyError
    targets, *inputs = (_names(x) for x in operands)
    lane, each, depth = np.arange(32), 4 // size, int(shape[6:])
    row, column = lane // 4, lane % 4
    if [len(x) for x in (targets, *inputs)] != [4, depth * size // 8, depth * size // 16, 4]:
        raise KeyError

    def spread(state: State, names: list[str], k: int) -> Array:
        """Of each thread what it has of the matrix, by warps."""
        value = state.get(names[k], 4)
        threads = state.registers["%tid.x"].shape[1]
        return np.broadcast_to(value, (len(value), threads)).reshape(len(value), -1, 32)

    def gather(state: State, names: list[str], outer: int) -> Array:
        """A matrix (.., outer, depth)."""
        values = np.broadcast_arrays(*(spread(state, names, k) for k in range(len(names))))
        matrix = np.zeros((*values[0].shape[:2], outer, depth))
        for k, value in enumerate(values):
            across, along = k % (outer // 8), k // (outer // 8)
            # Of float32, the last 13 bits are not looked at.
            value = value & np.uint32(0xFFFFE000) if each == 1 else value
            for half in range(each):
                number = kind.read((value >> 16 * half).astype(bits_of(size)))
                matrix[:, :, row + 8 * across, column * each + half + 4 * each * along] = number
        return matrix

    def step(state: State, mask: Array | None) -> None:
        if mask is not None:
            raise Fault("matrices under a predicate are not known here")
        one, other = gather(state, inputs[0], 16), gather(state, inputs[1], 8)
        found: dict[str, Array] = {}
        product = one @ other.swapaxes(2, 3)
        for k, name in enumerate(targets):
            before = spread(state, inputs[2], k).view(np.float32)
            # Whatever it is added to, in the same thread.
            value = product[:, :, row + 8 * (k // 2), 2 * column + k % 2] + before
            found[name] = value.astype(np.float32).view(np.uint32).reshape(len(value), -1)
        for name, value in found.items():
            state.set(name, value, None)

    return step


def _together(value: Array, of: Array) -> tuple[Array, Array]:
    shape = common(value, of)
    return np.broadcast_to(value, shape), np.broadcast_to(of, shape)


def _nothing(parts: list[str], operands: list[str]) -> Step:
    return lambda state, mask: None


INSTRUCTIONS: dict[str, Callable[[list[str], list[str]], Step]] = {
    "setp": _comparing,
    "cvt": _converting,
    "mov": _moving,
    "ld": _loading,
    "st": _storing,
    "cp": _copying,
    **dict.fromkeys(("ldmatrix", "stmatrix"), _matrices),
    "shfl": _shuffling,
    "mma": _multiplying,
    **dict.fromkeys(("bar", "barrier", "fence", "membar"), _nothing),
}
