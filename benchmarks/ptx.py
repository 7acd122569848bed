"""Runs PTX without a GPU, one instruction after the other.

All threads of all programs go in lockstep, each register a NumPy array (programs, threads). A program's threads must
agree at a branch; where programs do not, each kind goes its own way from there. Copies to shared memory come only when
they are waited for, and spoil what was there at once: who reads too early or copies too early finds NaN. Barriers do
nothing, so one that is missing is not noticed. Not known here: what multiplies matrices.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

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
from benchmarks.ptx_state import Copy, Memory, State, common

Step: TypeAlias = "Callable[[State, Array | None], None]"

# Where shared memory begins.
SHARED = 1024


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


def _computing(parts: list[str], operands: list[str]) -> Step:
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
    **dict.fromkeys(("bar", "barrier", "fence", "membar"), _nothing),
}


class Instruction(NamedTuple):
    text: str
    guard: str
    unless: bool
    step: Step | None
    """None where it goes on elsewhere."""
    target: str = ""


class Kernel(NamedTuple):
    """A kernel as PTX, read."""

    code: list[Instruction]
    labels: dict[str, int]
    name: str
    threads: int
    shared: int


_GUARDED = re.compile(r"(?:@(!?)(\S+)\s+)?([\w.:]+)\s*(.*)", re.DOTALL)
_OPERAND = re.compile(r"\{[^}]*\}|\[[^\]]*\]|[^,\s]+")
END = "end"


def read(ptx: str, shared: int) -> Kernel:
    entry, body = ptx.split(".entry", 1)[1].split("\n{", 1)
    lines = [line.partition("//")[0].strip() for line in body.splitlines()]
    # A label ends in a colon; of what begins with a dot, no line changes what is computed.
    text = " ".join(f"{line};" if line.endswith(":") else line for line in lines if not line.startswith("."))
    code: list[Instruction] = []
    labels: dict[str, int] = {}
    depth = 1
    for part in text.split(";"):
        statement = part.strip()
        while statement[:1] in ("{", "}"):
            depth += 1 if statement[0] == "{" else -1
            statement = statement[1:].strip()
            if not depth:
                break
        if not depth:
            break
        if statement.endswith(":"):
            labels[statement[:-1]] = len(code)
        elif statement and not statement.startswith("."):
            code.append(_instruction(statement))
    labels[END] = len(code)
    threads = re.findall(r"\.(?:req|max)ntid\s+(\d+)", entry)
    return Kernel(code, labels, entry.partition("(")[0].strip(), int(threads[0]), shared)


def _instruction(text: str) -> Instruction:
    found = _GUARDED.fullmatch(text)
    if found is None:
        raise Fault(f"not known here: {text}")
    unless, guard, opcode, rest = found.groups(default="")
    parts, operands = opcode.split("."), _OPERAND.findall(rest)
    if parts[0] in ("bra", "ret", "exit"):
        return Instruction(text, guard, bool(unless), None, operands[0] if parts[0] == "bra" else END)
    try:
        step = INSTRUCTIONS.get(parts[0], _computing)(parts, operands)
    except (KeyError, ValueError, IndexError):
        raise Fault(f"not known here: {text}") from None
    return Instruction(text, guard, bool(unless), step)


def execute(kernel: Kernel, programs: int, arguments: Sequence[Array], memory: Memory) -> None:
    """Run all programs; an argument is its bits."""

    def same(value: int) -> Array:
        return np.full((1, 1), value, np.uint32)

    registers = {f"{kernel.name}_param_{k}": x.reshape(1, 1) for k, x in enumerate(arguments)}
    registers |= {"%tid.x": np.arange(kernel.threads, dtype=np.uint32)[None]}
    registers |= {"%ctaid.x": np.arange(programs, dtype=np.uint32)[:, None], "%ntid.x": same(kernel.threads)}
    registers |= {"%nctaid.x": same(programs), "%laneid": registers["%tid.x"] % 32, "global_smem": same(SHARED)}
    registers |= {f"%{name}.{axis}": same(0) for name in ("tid", "ctaid") for axis in "yz"}
    size = -(-kernel.shared // 16) * 16
    shared = Memory(SHARED, np.full((programs, size), 255, np.uint8), np.ones(size, bool))
    states = [State(programs, registers, shared, memory)]
    with np.errstate(all="ignore"):
        while states:
            state = states.pop()
            while state.at < len(kernel.code):
                instruction = kernel.code[state.at]
                try:
                    state = _advance(state, instruction, kernel.labels, states)
                except Fault as fault:
                    raise Fault(f"{fault}, in {kernel.name}: {instruction.text}") from None


def _advance(state: State, instruction: Instruction, labels: dict[str, int], others: list[State]) -> State:
    mask = None
    if instruction.guard:
        mask = state.get(instruction.guard, 0)
        mask = ~mask if instruction.unless else mask
    state.at += 1
    if instruction.step is not None:
        instruction.step(state, mask)
        return state
    target = labels[instruction.target]
    taken: Array = np.ones(1, bool) if mask is None else np.asarray(mask.any(1))
    if mask is not None and (taken != mask.all(1)).any():
        raise Fault("the threads of a program do not agree where to go")
    if taken.all():
        state.at = target
    elif taken.any():
        others.append(state.part(taken, target))
        return state.part(~taken, state.at)
    return state
