"""Reading machine code: loops, work of matrix instructions, occupancy. On listings written here, without triton."""

from __future__ import annotations

import pytest

from ternfmt_kernels.bench import amdgcn, sass
from ternfmt_kernels.bench.arch import ARCHS, arch, occupancy
from ternfmt_kernels.bench.assembly import inner_loop, mix, natural_loops

# A loop of two blocks, one of them moved behind the end as compilers do with retries, around an inner loop.
SASS = """
.text.kernel:
        /*0000*/                   MOV R1, c[0x0][0x28] ;
        /*0010*/              @!P0 BRA `(.L_x_9) ;
.L_x_1:
        /*0020*/                   LDG.E.128 R4, [R2.64] ;
        /*0030*/                   SYNCS.PHASECHK.TRANS64.TRYWAIT P1, [R3], R5 ;
        /*0040*/              @!P1 BRA `(.L_x_7) ;
.L_x_2:
        /*0050*/                   LOP3.LUT R4, R4, 0xc000c000, RZ, 0xc0, !PT ;
        /*0060*/                   UIADD3 UR4, UR4, 0x1, URZ ;
        /*0070*/                   HMMA.16816.F32.BF16 R8, R4, R6, R8 ;
        /*0080*/                   HMMA.16816.F32.BF16 R8, R4, R6, R8 ;
        /*0090*/                   BRA.U !UP0, `(.L_x_2) ;
        /*00a0*/               @P0 BRA `(.L_x_1) ;
.L_x_9:
        /*00b0*/                   STG.E [R2.64], R8 ;
        /*00c0*/                   EXIT ;
.L_x_7:
        /*00d0*/                   NANOSLEEP 0x20 ;
        /*00e0*/                   NOP ;
        /*00f0*/                   BRA `(.L_x_2) ;
"""


def test_a_loop_holds_blocks_that_lie_behind_it() -> None:
    loops = natural_loops(sass.parse(SASS))
    opcodes = [[sass.parse(SASS).instructions[i].opcode for i in loop.indices] for loop in loops]
    outer = max(opcodes, key=len)
    assert "NANOSLEEP" in outer
    assert "STG.E" not in outer
    assert len(loops) == 2


def test_the_inner_loop_is_the_innermost_with_matrix_instructions() -> None:
    listing = sass.parse(SASS)
    loop = inner_loop(listing, warps=4)
    assert loop is not None
    counted = mix(listing, loop, warps=4)
    assert counted.macs == 4 * 2 * 16 * 8 * 16
    assert counted.issued == {"mma": 8, "alu": 4, "uniform": 4, "shared": 0, "global": 0, "control": 4}
    assert counted.other == 12
    assert counted.per_macs(counted.other, 2048) == pytest.approx(12 * 2048 / counted.macs)
    assert counted.matrix == {"HMMA.16816.F32.BF16": 2}


def test_without_matrix_instructions_the_loop_that_reads() -> None:
    listing = sass.parse(SASS.replace("HMMA.16816.F32.BF16 R8, R4, R6, R8", "FFMA R8, R4, R6, R8"))
    loop = inner_loop(listing, warps=1)
    assert loop is not None
    counted = mix(listing, loop, warps=1)
    assert (counted.issued["global"], counted.macs) == (1, 0)
    assert counted.per_macs(counted.other, 2048) is None


def test_of_two_loops_the_one_that_multiplies_more() -> None:
    def loop(label: str, opcode: str, count: int) -> str:
        body = f"        /*0000*/                   {opcode} R8, R4, R6, R8 ;\n" * count
        return f".L_x_{label}:\n{body}        /*0010*/              @!P0 BRA `(.L_x_{label}) ;\n"

    # One thread issues UTCHMMA for the block, every warp issues its IMMAs: 8 x 64 x 4,096 against 6 x 131,072.
    text = loop("1", "IMMA.16832.S8.S8.SAT", 64) + loop("2", "UTCHMMA", 6)
    listing = sass.parse(text, block_mma_macs=131_072)
    chosen = inner_loop(listing, warps=8)
    assert chosen is not None
    assert mix(listing, chosen, warps=8).macs == 8 * 64 * 4096
    chosen = inner_loop(listing, warps=1)
    assert chosen is not None
    assert mix(listing, chosen, warps=1).macs == 6 * 131_072


@pytest.mark.parametrize(
    ("opcode", "macs"),
    [
        ("HMMA.16816.F32.BF16", 16 * 8 * 16),
        ("HMMA.1688.F32.TF32", 16 * 8 * 8),
        ("IMMA.16832.S8.S8.SAT", 16 * 8 * 32),
        ("HGMMA.64x128x16.F32.BF16", 64 * 128 * 16 // 4),
        ("IGMMA.64x256x32.S8.S8", 64 * 256 * 32 // 4),
        ("UTCHMMA", 128 * 128 * 16),
        ("FFMA", 0),
        ("LDSM.16.M88.4", 0),
    ],
)
def test_work_of_nvidia_instructions(opcode: str, macs: int) -> None:
    text = f"        /*0000*/                   {opcode} R8, R4, R6, R8 ;\n"
    (instruction,) = sass.parse(text, block_mma_macs=128 * 128 * 16).instructions
    assert instruction.macs == macs
    assert (instruction.kind == "mma") == (macs > 0)
    assert instruction.per_block == (opcode == "UTCHMMA")


def test_tcgen05_descriptor() -> None:
    # 128 x 128: N/8 = 16 in bits 17-22, M/16 = 8 in bits 24-28.
    ptx = """
    mov.b32 \t%r433, 136380432;
    @%p13 tcgen05.mma.cta_group::1.kind::f16 [ %r1046 + 0 ], %rd119, %rd120, %r433, %p12;
    """
    assert sass.tcgen05_macs(ptx) == 128 * 128 * 16
    assert sass.tcgen05_macs("") == 0
    with pytest.raises(ValueError, match="constant descriptor"):
        sass.tcgen05_macs(ptx.replace("mov.b32", "add.s32"))


AMD = """
kernel:
\ts_load_dwordx2 s[0:1], s[4:5], 0x0
.LBB0_1:
\t.loc\t1 2 3
\tbuffer_load_dwordx4 v[0:3], v4, s[0:3], 0 offen
\ts_waitcnt vmcnt(0)
\tv_and_b32_e32 v0, 0xc000c000, v0
\tds_read_b128 v[8:11], v7
\tv_mfma_f32_32x32x8_bf16 v[16:31], v[0:1], v[8:9], v[16:31]
\tv_mfma_i32_4x4x4_16b_i8 v[16:31], v[0:1], v[8:9], v[16:31]
\ts_add_i32 s2, s2, 1
\ts_cbranch_scc1 .LBB0_1
\ts_endpgm
\t.section\t.rodata
\t.amdhsa_workgroup_processor_mode 1
; NumVGPRsForWavesPerEU: 172
    .sgpr_count:     28
    .sgpr_spill_count: 0
    .vgpr_count:     172
    .vgpr_spill_count: 3
    .private_segment_fixed_size: 16
"""


def test_amd() -> None:
    listing = amdgcn.parse(AMD)
    loop = inner_loop(listing, warps=2)
    assert loop is not None
    counted = mix(listing, loop, warps=2)
    assert counted.macs == 2 * (32 * 32 * 8 + 4 * 4 * 4 * 16)
    assert counted.issued == {"mma": 4, "alu": 2, "uniform": 2, "shared": 2, "global": 2, "control": 4}
    taken = amdgcn.resources(AMD)
    assert (taken.vector, taken.scalar, taken.spilled, taken.scratch) == (172, 28, 3, 16)
    with pytest.raises(ValueError, match="NumVGPRs"):
        amdgcn.resources("")


@pytest.mark.parametrize(
    ("target", "warps", "registers", "shared", "blocks", "limit"),
    [
        # Worked by hand; the first three as NVIDIA's occupancy calculator does.
        ("sm_80", 4, 128, 0, 4, "registers"),
        ("sm_86", 8, 32, 48 * 1024, 2, "shared memory"),
        ("sm_90", 4, 168, 110 * 1024, 2, "shared memory"),
        ("sm_89", 1, 32, 1024, 24, "blocks"),
        ("sm_120", 8, 40, 0, 6, "registers"),
        # LLVM's own note for these two says occupancy 2 and 5 waves a SIMD.
        ("gfx942", 4, 180, 0, 2, "registers"),
        ("gfx1100", 4, 256, 0, 5, "registers"),
        ("sm_86", 4, 64, 100 * 1024, 0, "shared memory"),
    ],
)
def test_occupancy(target: str, warps: int, registers: int, shared: int, blocks: int, limit: str) -> None:
    found = occupancy(arch(target), warps=warps, registers=registers, shared=shared)
    assert (found.blocks, found.limit) == (blocks, limit)
    assert found.share == pytest.approx(blocks * warps / arch(target).warps)


def test_unknown_target() -> None:
    assert len(ARCHS) == 9
    with pytest.raises(ValueError, match=r"expected one of sm_80.*gfx1100, got sm_75"):
        arch("sm_75")
