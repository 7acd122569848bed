"""Compiles a kernel to machine code, on any machine, and counts what is in it."""

# Triton need not be there to check the types.
# pyright: reportMissingImports=false

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, CompiledKernel

_TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
_INSTRUCTION = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)(.*)")
_LABEL = re.compile(r"\s*(\.L_x_\d+):")


REGISTERS = 65536


@dataclass(frozen=True)
class Chip:
    """What one multiprocessor has: bytes of shared memory, warps and programs at most."""

    shared: int
    warps: int
    programs: int


CHIPS = {80: Chip(164 * 1024, 64, 32), 90: Chip(228 * 1024, 64, 32)}


@dataclass(frozen=True)
class Loop:
    start: int
    end: int

    def holds(self, other: Loop) -> bool:
        return self != other and self.start <= other.start and other.end <= self.end

    def __len__(self) -> int:
        return self.end - self.start


@dataclass(frozen=True)
class Assembly:
    instructions: tuple[str, ...]
    loops: tuple[Loop, ...]
    registers: int
    stack: int
    shared: int
    warps: int
    arch: int
    carried: tuple[int, ...] = ()
    """How many values each loop hands on from round to round, before anything is optimised away."""

    def spills(self) -> int:
        """Accesses to local memory, where registers spill to. A frame on the stack without one counts too."""
        return self.stack + sum(name.startswith(("LDL", "STL")) for name in self.instructions)

    def warps_at_work(self) -> int:
        """Warps that one multiprocessor holds at a time, by registers and shared memory."""
        chip = CHIPS[self.arch]
        # Registers are handed out to a warp by 256, and shared memory with 1 kB a program for the driver.
        of_registers = REGISTERS // (-(-32 * self.registers // 256) * 256) // self.warps
        of_shared = chip.shared // (self.shared + 1024)
        return min(of_registers, of_shared, chip.warps // self.warps, chip.programs) * self.warps

    def fits(self) -> bool:
        """Whether a program of it can be started at all."""
        return self.shared <= CHIPS[self.arch].shared - 1024 and self.warps_at_work() > 0

    def inner(self) -> Loop:
        """The longest of the innermost loops."""
        return max((a for a in self.loops if not any(a.holds(b) for b in self.loops)), key=len)

    def count(self, loop: Loop) -> Counter[str]:
        return Counter(self.instructions[loop.start : loop.end])

    def executed(self, rounds: int, tiles: int) -> int:
        """Instructions a thread runs through, when the outer loop makes `tiles` rounds and the inner one `rounds`."""
        inner = self.inner()
        (outer,) = (loop for loop in self.loops if loop.holds(inner))
        return len(self.instructions) - len(outer) + tiles * (len(outer) - len(inner) + rounds * len(inner))


def build(
    kernel, kinds: dict[str, str], aligned: Collection[str], constants: dict[str, object], arch: int, options
) -> CompiledKernel:
    """Compile a kernel for arguments of these types, those named in `aligned` divisible by 16."""
    names = kernel.arg_names
    source = ASTSource(
        fn=kernel,
        signature={name: "constexpr" if name in constants else kinds[name] for name in names},
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs={(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if name in aligned},
    )
    return triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)


def compile_kernel(kernel, pointers: dict[str, str], constants: dict[str, object], arch: int, warps: int) -> Assembly:
    kinds = {name: f"*{pointers[name]}" if name in pointers else "i32" for name in kernel.arg_names}
    # Said aloud, since Triton is changing its default; the kernels ask for every fused multiply-add by name.
    options = {"num_warps": warps, "enable_fp_fusion": False}
    built = build(kernel, kinds, pointers, constants, arch, options)
    heads = [line for line in built.asm["ttir"].splitlines() if "scf.for" in line]
    carried = tuple(len(re.findall(r"%\w+ = %", line.partition("iter_args")[2])) for line in heads)
    return _read(built.asm["cubin"], built.metadata.shared, warps, arch, carried)


def _read(cubin: bytes, shared: int, warps: int, arch: int, carried: tuple[int, ...]) -> Assembly:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        usage = _tool("cuobjdump", "-res-usage", path)
        text = _tool("nvdisasm", "-c", path)
    names: list[str] = []
    labels: dict[str, int] = {}
    jumps: list[tuple[int, str]] = []
    for line in text.splitlines():
        if label := _LABEL.match(line):
            labels[label[1]] = len(names)
        elif (found := _INSTRUCTION.match(line)) and found[1] != "NOP":
            if found[1].startswith("BRA") and (target := re.search(r"\.L_x_\d+", found[2])):
                jumps.append((len(names), target[0]))
            names.append(found[1])
    loops = {Loop(labels[target], at + 1) for at, target in jumps if labels.get(target, at + 1) <= at}
    # The trap after the end jumps to itself.
    loops = {loop for loop in loops if len(loop) > 1}
    registers, stack = (int(re.findall(rf"{word}:(\d+)", usage)[0]) for word in ("REG", "STACK"))
    ordered = tuple(sorted(loops, key=lambda loop: loop.start))
    return Assembly(tuple(names), ordered, registers, stack, shared, warps, arch, carried)


def _tool(name: str, *arguments: object) -> str:
    command = [str(_TOOLS / name), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
