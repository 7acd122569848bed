"""Instructions of PTX as NumPy carries them out, against what NVIDIA's manual says of them."""

import struct

import pytest

pytest.importorskip("numpy", reason="NumPy is not installed")

import numpy as np

from benchmarks.ptx import execute, read
from benchmarks.ptx_numbers import Fault
from benchmarks.ptx_state import Memory

BASE = 1 << 40
HEAD = ".visible .entry kernel(.param .u64 kernel_param_0)\n.reqntid 64\n{\n.reg .b32 %r<9>;\n"
# Where each thread stores its result.
START = "ld.param.b64 %rd1, [kernel_param_0];\nmov.u32 %r1, %tid.x;\nmad.wide.u32 %rd2, %r1, 4, %rd1;\n"
STOP = "st.global.b32 [%rd2], %r0; // result\nret;\n}\n"


def results(body: str, words: int = 64, programs: int = 1):
    """What a program of 64 threads leaves as %r0 in each."""
    data = np.zeros((1, 4 * words), np.uint8)
    kernel = read(f"{HEAD}{START}{body}\n{STOP}", 1024)
    execute(kernel, programs, [np.array(BASE, np.uint64)], Memory(BASE, data, np.ones(4 * words, bool)))
    return data.view(np.uint32)[0]


def bits(number: float) -> int:
    return struct.unpack("I", struct.pack("f", number))[0]


ONE, NAN = "0f3F800000", "0f7FC00000"


@pytest.mark.parametrize(
    ("instruction", "result"),
    [
        ("add.s32 %r0, -5, 3", 2**32 - 2),
        ("mul.lo.s32 %r0, 65536, 65537", 65536),
        ("mul.hi.s32 %r0, -1, 5", 2**32 - 1),
        ("mul.hi.u32 %r0, -1, 5", 4),
        ("mad.lo.s32 %r0, -2, 3, 10", 4),
        ("mul.wide.s32 %rd3, -2, 3; cvt.u32.u64 %r0, %rd3", 2**32 - 6),
        ("mul.wide.s32 %rd3, -2, 3; shr.s64 %rd3, %rd3, 32; cvt.u32.u64 %r0, %rd3", 2**32 - 1),
        ("mul.wide.u32 %rd3, -2, 3; shr.u64 %rd3, %rd3, 32; cvt.u32.u64 %r0, %rd3", 2),
        ("div.s32 %r0, -7, 2", 2**32 - 3),
        ("rem.s32 %r0, -7, 2", 2**32 - 1),
        ("div.u32 %r0, -7, 2", (2**32 - 7) // 2),
        ("shl.b32 %r0, 3, 31", 2**31),
        ("shl.b32 %r0, 3, 32", 0),
        ("shr.u32 %r0, -1, 32", 0),
        ("shr.s32 %r0, -8, 1", 2**32 - 4),
        ("shr.s32 %r0, -8, 40", 2**32 - 1),
        ("shf.l.wrap.b32 %r0, 0xF0000000, 0x12345678, 4", 0x2345678F),
        ("shf.r.wrap.b32 %r0, 0xF0000000, 0x12345678, 36", 0x8F000000),
        ("bfe.u32 %r0, 0x12345678, 8, 12", 0x456),
        ("bfe.s32 %r0, 0x12345F78, 8, 4", 2**32 - 1),
        ("bfe.s32 %r0, 0x80000000, 28, 8", 0xFFFFFFF8),
        ("bfe.u32 %r0, -1, 0, 0", 0),
        ("bfi.b32 %r0, 0xAB, 0x11111111, 8, 8", 0x1111AB11),
        ("prmt.b32 %r0, 0x44332211, 0x88776655, 0x7410", 0x88552211),
        ("prmt.b32 %r0, 0x44332291, 0x88776655, 0x8F71", 0xFFFF8822),
        ("lop3.b32 %r0, 0xF0, 0xCC, 0xAA, 0xE8", 0xF0 & 0xCC | 0xF0 & 0xAA | 0xCC & 0xAA),
        ("lop3.b32 %r0, 0xF0, 0xCC, 0xAA, 0x40", 0xF0 & 0xCC & ~0xAA),
        ("not.b32 %r0, 5", 2**32 - 6),
        ("min.s32 %r0, -1, 1", 2**32 - 1),
        ("min.u32 %r0, -1, 1", 1),
        (f"max.f32 %r0, {NAN}, {ONE}", bits(1)),
        (f"max.NaN.f32 %r0, {NAN}, {ONE}", 0x7FC00000),
        # A product that float32 would round away.
        ("fma.rn.f32 %r0, 0f3F800001, 0f3F800001, 0fBF800002", bits(2.0**-46)),
        ("cvt.rn.bf16x2.f32 %r0, 0f3F808000, 0f3F818000", 0x3F803F82),
        ("cvt.rn.f16x2.f32 %r0, 0f3F800000, 0f40000000", 0x3C004000),
        ("cvt.rn.bf16.f32 %rs1, 0f3F818001; cvt.f32.bf16 %r0, %rs1", 0x3F820000),
        ("mul.rn.bf16x2 %r0, 0x40003F80, 0x40404000", 0x40C04000),
        ("cvt.rzi.s32.f32 %r0, 0fC0200000", 2**32 - 2),
        ("cvt.rni.s32.f32 %r0, 0f40200000", 2),
        ("cvt.rzi.s32.f32 %r0, 0f4F800000", 2**31 - 1),
        ("cvt.rn.f32.s32 %r0, -3", bits(-3)),
        ("cvt.rn.f32.u32 %r0, -1", bits(2.0**32)),
        ("cvt.s64.s32 %rd3, -3; shr.u64 %rd3, %rd3, 60; cvt.u32.u64 %r0, %rd3", 15),
        ("cvt.u16.u32 %rs1, 0x12345678; cvt.u32.u16 %r0, %rs1", 0x5678),
        ("mov.b32 {%rs1, %rs2}, 0x12345678; mov.b32 %r0, {%rs2, %rs1}", 0x56781234),
        ("mov.b64 %rd3, {1, 2}; shr.u64 %rd3, %rd3, 31; cvt.u32.u64 %r0, %rd3", 4),
        (f"setp.ne.f32 %p1, {NAN}, {NAN}; selp.b32 %r0, 1, 2, %p1", 2),
        (f"setp.neu.f32 %p1, {NAN}, {NAN}; selp.b32 %r0, 1, 2, %p1", 1),
        (f"setp.ltu.f32 %p1, {ONE}, {NAN}; selp.b32 %r0, 1, 2, %p1", 1),
        ("setp.lt.s32 %p1, -1, 1; setp.lt.and.u32 %p2, -1, 1, %p1; selp.b32 %r0, 1, 2, %p2", 2),
        ("mov.pred %p1, -1; mov.b32 %r0, 7; @!%p1 mov.b32 %r0, 8", 7),
        ("{ .reg .pred p; setp.eq.s32 p, 1, 1; mov.b32 %r0, 7; @p mov.b32 %r0, 8; }", 8),
        ("mov.b32 %r0, 0; $L: add.s32 %r0, %r0, 3; setp.lt.s32 %p1, %r0, 10; @%p1 bra $L", 12),
    ],
)
def test_an_instruction(instruction: str, result: int) -> None:
    found = results(instruction.replace("$L: ", "$L:\n") + ";")
    assert (found == result).all(), hex(found[0])


LANE = np.arange(64) % 32


@pytest.mark.parametrize(
    ("how", "source"),
    [
        ("bfly.b32 %r0, %r1, 5, 31, -1", LANE ^ 5),
        ("idx.b32 %r0, %r1, 3, 31, -1", LANE * 0 + 3),
        ("idx.b32 %r0, %r1, 3, 0x181F, -1", LANE & 24 | 3),
        ("down.b32 %r0, %r1, 4, 31, -1", np.where(LANE < 28, LANE + 4, LANE)),
        ("up.b32 %r0, %r1, 4, 0, -1", np.where(LANE >= 4, LANE - 4, LANE)),
    ],
)
def test_shuffles_stay_in_a_warp(how: str, source) -> None:
    assert (results(f"shfl.sync.{how};") == source + np.arange(64) // 32 * 32).all()


# Numbers of 16 bits 0, 1, 2 ... in shared memory; %r3: a row of eight of them for each thread.
FILL = """shl.b32 %r2, %r1, 4; mov.b32 %r4, global_smem; add.s32 %r3, %r4, %r2;
mul.lo.s32 %r5, %r1, 0x80008; add.s32 %r5, %r5, 0x10000; add.s32 %r6, %r5, 0x20002; add.s32 %r7, %r5, 0x40004;
add.s32 %r8, %r5, 0x60006; st.shared.v4.b32 [%r3], {%r5, %r6, %r7, %r8}; bar.sync 0;"""


@pytest.mark.parametrize("matrix", range(4))
@pytest.mark.parametrize("turned", [False, True])
def test_matrices(matrix: int, turned: bool) -> None:
    names = ["%r5", "%r6", "%r7", "%r8"]
    names[matrix] = "%r0"
    found = results(
        f"{FILL} ldmatrix.sync.aligned.m8n8.x4{'.trans' * turned}.shared.b16 {{{', '.join(names)}}}, [%r3];"
    )
    numbers = np.arange(512).reshape(2, 4, 8, 8)[:, matrix]
    row, column = LANE[:32] // 4, LANE[:32] % 4 * 2
    low, high = (numbers[:, column + k, row] if turned else numbers[:, row, column + k] for k in (0, 1))
    assert (found == (high << 16 | low).ravel()).all()


def test_a_matrix_stored_turned() -> None:
    found = results(f"{FILL} stmatrix.sync.aligned.m8n8.x1.trans.shared.b16 [%r3], {{%r1}}; ld.shared.b32 %r0, [%r3];")
    # Of column c, lane 4 c + r / 2 has rows r and r + 1: here its number and 0.
    row, warp = np.arange(8), np.array([[0], [32]])
    even = np.where(row % 2, 0, warp + row // 2 | warp + row // 2 + 4 << 16)
    assert (found.reshape(2, 32)[:, :8] == even).all()


@pytest.mark.parametrize("kind", ["bf16", "f16"])
def test_a_product_of_matrices(kind: str) -> None:
    one, two = ("0x3F80", "0x4000") if kind == "bf16" else ("0x3C00", "0x4000")
    # Ones on the diagonal; the other matrix has 2 in its even rows, and 1 in those from the eighth on.
    threads = """and.b32 %r2, %r1, 31; shr.u32 %r3, %r2, 2; and.b32 %r4, %r2, 3; shl.b32 %r4, %r4, 1;
    setp.eq.s32 %p1, %r3, %r4; selp.b32 %r5, {one}, 0, %p1; add.s32 %r6, %r4, 1; setp.eq.s32 %p1, %r3, %r6;
    selp.b32 %r6, {high}, 0, %p1; or.b32 %r5, %r5, %r6; mov.b32 %r6, 0;""".format(one=one, high=f"{one}0000")
    multiply = f"""mov.b32 %r7, {two}; mov.b32 %r8, {one}; mov.b32 %r4, {ONE};
    mma.sync.aligned.m16n8k16.row.col.f32.{kind}.{kind}.f32 {{%r0, %r9, %r10, %r11}}, {{%r5, %r6, %r6, %r5}},
    {{%r7, %r8}}, {{%r4, %r4, %r4, %r4}};"""
    even = LANE // 4 % 2 == 0
    assert (results(threads + multiply) == np.where(even, bits(3.0), bits(1.0))).all()
    assert (results(f"{threads} {multiply} mov.b32 %r0, %r11;") == np.where(even, bits(2.0), bits(1.0))).all()


def test_a_copy_is_there_when_it_was_waited_for() -> None:
    copy = "cp.async.ca.shared.global [%r3 + 0], [%rd2 + 0], 0x4, {size}; cp.async.commit_group;"
    wait = "cp.async.wait_group 0;"
    store = "st.global.b32 [%rd2], 9;"
    assert (results(f"{FILL} {store} {copy} {wait} ld.shared.b32 %r0, [%r3];".replace("{size}", "4")) == 9).all()
    assert (results(f"{FILL} {store} {copy} {wait} ld.shared.b32 %r0, [%r3];".replace("{size}", "0")) == 0).all()
    early = f"{FILL} {store} {copy} ld.shared.b32 %r0, [%r3];".replace("{size}", "4")
    assert (results(early) == 2**32 - 1).all()
    newer = f"{FILL} {store} {copy} cp.async.commit_group; cp.async.wait_group 1; ld.shared.b32 %r0, [%r3];"
    assert (results(newer.replace("{size}", "4")) == 9).all()


def test_programs_that_do_not_agree_go_their_own_ways() -> None:
    part = """mov.u32 %r2, %ctaid.x; mul.lo.s32 %r3, %r2, 256; cvt.u64.u32 %rd3, %r3; add.s64 %rd2, %rd2, %rd3;
    mov.b32 %r0, 0;\n$L:\nadd.s32 %r0, %r0, 1; setp.le.s32 %p1, %r0, %r2; @%p1 bra $L;"""
    assert (results(part, words=256, programs=4).reshape(4, 64) == np.arange(1, 5)[:, None]).all()


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("wgmma.fence.sync.aligned;", "not known here: wgmma"),
        ("add.rz.f32 %r0, %r1, %r1;", "not known here"),
        ("mov.b32 %r0, %r5;", "%r5 has no value"),
        ("setp.lt.s32 %p1, %r1, 7;\n@%p1 bra $L;\n$L:\nmov.b32 %r0, 0;", "do not agree"),
        ("ld.global.b32 %r0, [%rd2+256];", "outside"),
        ("ld.global.b32 %r0, [%rd2+-4];", "outside"),
        ("ld.global.b32 %r0, [%rd2+2];", "outside, or not aligned"),
        ("ld.shared.b32 %r0, [%r1];", "outside"),
        ("mov.b32 %r0, 0; st.global.b32 [%rd1], %r1;", "different values"),
        ("shl.b32 %r0, %r1, 2; @%p1 mov.b32 %r0, 1;", "%p1 has no value"),
    ],
)
def test_faults(body: str, reason: str) -> None:
    with pytest.raises(Fault, match=reason):
        results(body)
