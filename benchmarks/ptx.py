"""Runs PTX without a GPU, one instruction after the other.

All threads of all programs go in lockstep, each register a NumPy array (programs, threads). A program's threads must
agree at a branch; where programs do not, each kind goes its own way from there. Copies to shared memory come only when
they are waited for, and spoil what was there at once: who reads too early or copies too early finds NaN. Barriers do
nothing, so one that is missing is not noticed. Not known here: wgmma, and what else few kernels need.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from benchmarks.ptx_numbers import Array, Fault
from benchmarks.ptx_state import Memory, State
from benchmarks.ptx_steps import INSTRUCTIONS, Step, computing

# Where shared memory begins.
SHARED = 1024


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
        step = INSTRUCTIONS.get(parts[0], computing)(parts, operands)
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
