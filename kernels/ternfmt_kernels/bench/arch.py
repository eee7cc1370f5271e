"""The targets, and how many blocks of a kernel one of their cores holds at a time.

NVIDIA limits: CUDA C++ Programming Guide 12.9, "Compute Capabilities", table "Technical Specifications per Compute
Capability", and the CUDA occupancy calculator for allocation granularity. AMD limits: the "CDNA2", "CDNA3" and
"RDNA3" ISA reference guides (register file, LDS) and LLVM's "User Guide for AMDGPU Backend" (allocation granularity).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

KIB = 1024


@dataclass(frozen=True)
class Arch:
    """What one core (NVIDIA: SM; AMD: compute unit, on RDNA workgroup processor) holds.

    Attributes:
        name: as in the tables, e.g. "sm_90".
        vendor: of the compiler: "cuda" or "hip".
        arch: what triton calls it.
        devices: what carries it, as an example.
        lanes: threads a warp.
        schedulers: of the core; warps are spread over them.
        warps: most resident warps.
        blocks: most resident blocks.
        registers: 32-bit registers for each lane of a scheduler: resident warps share them.
        register_step: a warp's registers are rounded up to this many, a lane.
        registers_max: most registers a thread can name.
        shared: bytes of shared memory of the core.
        shared_block: most bytes that one block can have.
        shared_reserved: bytes the system takes from each block's share.
        shared_step: a block's bytes are rounded up to this many.
        matrix: what matrix instructions are called there.
    """

    name: str
    vendor: Literal["cuda", "hip"]
    arch: int | str
    devices: str
    lanes: int
    schedulers: int
    warps: int
    blocks: int
    registers: int
    register_step: int
    registers_max: int
    shared: int
    shared_block: int
    shared_reserved: int
    shared_step: int
    matrix: str


def _nvidia(capability: int, devices: str, warps: int, blocks: int, shared_kib: int, matrix: str) -> Arch:
    # 65,536 registers an SM are 512 for each lane of its four schedulers. A block can have all shared memory but 1 KiB.
    return Arch(
        name=f"sm_{capability}",
        vendor="cuda",
        arch=capability,
        devices=devices,
        lanes=32,
        schedulers=4,
        warps=warps,
        blocks=blocks,
        registers=512,
        register_step=8,
        registers_max=255,
        shared=shared_kib * KIB,
        shared_block=(shared_kib - 1) * KIB,
        shared_reserved=KIB,
        shared_step=128,
        matrix=matrix,
    )


def _cdna(arch: str, devices: str) -> Arch:
    return Arch(
        name=arch,
        vendor="hip",
        arch=arch,
        devices=devices,
        lanes=64,
        schedulers=4,
        warps=32,
        blocks=16,
        registers=512,
        register_step=8,
        registers_max=512,
        shared=64 * KIB,
        shared_block=64 * KIB,
        shared_reserved=0,
        shared_step=512,
        matrix="v_mfma",
    )


ARCHS: tuple[Arch, ...] = (
    _nvidia(80, "A100", 64, 32, 164, "HMMA/IMMA"),
    _nvidia(86, "A10, RTX 3090", 48, 16, 100, "HMMA/IMMA"),
    _nvidia(89, "L20, L40S, RTX 4090", 48, 24, 100, "HMMA/IMMA"),
    _nvidia(90, "H100, H200", 64, 32, 228, "HGMMA/IGMMA"),
    _nvidia(100, "B200", 64, 32, 228, "UTCHMMA"),
    _nvidia(120, "RTX 5090", 48, 24, 100, "HMMA/IMMA"),
    _cdna("gfx90a", "MI210, MI250X"),
    _cdna("gfx942", "MI300X"),
    Arch(
        name="gfx1100",
        vendor="hip",
        arch="gfx1100",
        devices="RX 7900 XTX",
        lanes=32,
        schedulers=4,
        warps=64,
        blocks=32,
        registers=1536,
        register_step=24,
        registers_max=256,
        shared=128 * KIB,
        shared_block=64 * KIB,
        shared_reserved=0,
        shared_step=1024,
        matrix="v_wmma",
    ),
)


def arch(name: str) -> Arch:
    """The target of that name.

    Raises:
        ValueError: there is none; names those there are.
    """
    for candidate in ARCHS:
        if candidate.name == name:
            return candidate
    raise ValueError(f"target: expected one of {', '.join(a.name for a in ARCHS)}, got {name}")


@dataclass(frozen=True)
class Occupancy:
    """How full a kernel can keep a core.

    Attributes:
        blocks: resident blocks.
        warps: resident warps.
        share: of the most warps, 0 to 1.
        limit: what runs out first.
    """

    blocks: int
    warps: int
    share: float
    limit: str


def occupancy(target: Arch, *, warps: int, registers: int, shared: int) -> Occupancy:
    """Resident blocks of a kernel.

    Args:
        target: where it runs.
        warps: a block's.
        registers: a thread's.
        shared: bytes a block asks for.
    """
    rounded = _round_up(max(registers, 1), target.register_step)
    block_shared = _round_up(shared, target.shared_step) + target.shared_reserved
    # Warps are spread over the schedulers, and each scheduler's registers are its own.
    warps_by_registers = target.registers // rounded * target.schedulers
    limits = {
        "registers": warps_by_registers // warps,
        "shared memory": target.shared // block_shared if block_shared else target.blocks,
        "warps": target.warps // warps,
        "blocks": target.blocks,
    }
    limit = min(limits, key=lambda name: limits[name])
    blocks = limits[limit] if shared <= target.shared_block and registers <= target.registers_max else 0
    return Occupancy(blocks, blocks * warps, blocks * warps / target.warps, limit)


def _round_up(value: int, step: int) -> int:
    return -(-value // step) * step
