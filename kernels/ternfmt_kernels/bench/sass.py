"""NVIDIA machine code: the text of ``nvdisasm -c`` read into a listing, the resources read from ``cuobjdump``.

Both tools come with the triton wheel and need no GPU. SASS has no public specification; opcode names are those of
the "Instruction Set Reference" of the CUDA Binary Utilities manual.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from .assembly import Instruction, Kind, Listing

_LINE = re.compile(r"^\s*/\*[0-9a-f]+\*/\s+(?:(@!?U?P[0-9T]+)\s+)?([A-Z][A-Za-z0-9_.]*)\s*([^;]*);")
_LABEL = re.compile(r"^(\.L_x_\d+):")
_TARGET = re.compile(r"`\((\.L_x_\d+)\)")

_SHARED = ("LDS", "STS", "LDSM", "STSM", "LDTM", "STTM", "ATOMS", "UTCCP")
_GLOBAL = ("LDG", "STG", "LD", "ST", "LDGSTS", "RED", "REDG", "ATOM", "ATOMG", "UTMALDG", "UTMASTG", "UBLKCP", "UBLKPF")
_LOCAL = ("LDL", "STL")
_CONTROL = frozenset(
    {
        "BRA",
        "BRX",
        "JMP",
        "JMX",
        "EXIT",
        "RET",
        "CALL",
        "BSSY",
        "BSYNC",
        "BREAK",
        "BAR",
        "UBAR",
        "DEPBAR",
        "LDGDEPBAR",
        "ARRIVES",
        "SYNCS",
        "WARPSYNC",
        "WARPGROUP",
        "MEMBAR",
        "FENCE",
        "ERRBAR",
        "CCTL",
        "CCTLL",
        "YIELD",
        "NANOSLEEP",
        "ELECT",
        "ACQBULK",
        "UTCBAR",
        "UTCATOMSWS",
        "UTMACMDFLUSH",
        "USETMAXREG",
        "PREEXIT",
        "WARPGROUPSET",
        "CGAERRBAR",
        "UCGABAR_ARV",
        "UCGABAR_WAIT",
        "KILL",
    }
)

# m, n, k of a warp's matrix instruction are run together in its suffix: 16816 is 16 x 8 x 16.
_WARP_MMA = re.compile(r"^[A-Z]?MMA(?:\.SP)?\.(16|8)8(4|8|16|32|64|128|256)(?:\.|$)")
_WARPGROUP_MMA = re.compile(r"^[A-Z]GMMA(?:\.SP)?\.(\d+)x(\d+)x(\d+)(?:\.|$)")
_BLOCK_MMA = re.compile(r"^UTC[A-Z]*MMA(?:\.|$)")

WARPS_PER_GROUP = 4
"""Warps that issue a wgmma together."""


@dataclass(frozen=True)
class Resources:
    """What a kernel takes, as ``cuobjdump -res-usage`` states it: registers a thread, bytes of stack a thread."""

    registers: int
    stack: int


def tool(name: str) -> Path:
    """The path of a tool inside the triton wheel.

    Raises:
        FileNotFoundError: this triton carries no such tool; names where it should be.
    """
    import triton.backends.nvidia

    path = Path(next(iter(triton.backends.nvidia.__path__))) / "bin" / name
    if not path.exists():
        raise FileNotFoundError(f"{name}: expected in the triton wheel at {path}")
    return path


def disassemble(cubin: bytes) -> tuple[str, Resources]:
    """The listing of a compiled kernel as text, and its resources."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        listing = _output([str(tool("nvdisasm")), "-c", str(path)])
        usage = _output([str(tool("cuobjdump")), "-res-usage", str(path)])
    found = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    if found is None:
        raise ValueError(f"cuobjdump -res-usage: expected REG: and STACK:, got {usage!r}")
    return listing, Resources(int(found[1]), int(found[2]))


def parse(text: str, block_mma_macs: int = 0) -> Listing:
    """Read the text of ``nvdisasm -c``.

    Args:
        text: the listing.
        block_mma_macs: multiply-accumulates of one tcgen05 instruction, which its SASS does not say: see
            `tcgen05_macs`.
    """
    instructions: list[Instruction] = []
    labels: dict[str, int] = {}
    for line in text.splitlines():
        if label := _LABEL.match(line):
            labels[label[1]] = len(instructions)
        elif found := _LINE.match(line):
            guard, opcode, operands = found[1], found[2], found[3]
            if opcode != "NOP":
                instructions.append(_instruction(guard, opcode, operands, block_mma_macs))
    return Listing(tuple(instructions), labels)


def spill_instructions(listing: Listing) -> int:
    """Loads from and stores to local memory: registers that did not fit."""
    return sum(i.opcode.split(".")[0] in _LOCAL for i in listing.instructions)


def tcgen05_macs(ptx: str) -> int:
    """Multiply-accumulates of one tcgen05.mma of this kernel, 0 without any.

    M and N are fields of its instruction descriptor (PTX ISA 8.6, section 9.7.16.4.2: N/8 in bits 17-22, M/16 in
    bits 24-28); K is 32 bytes of operand. A pair of blocks (cta_group::2) shares an instruction: half for each.

    Raises:
        ValueError: the kernel's instructions differ, or a descriptor is not a constant.
    """
    found: set[int] = set()
    for group, kind, operand in re.findall(
        r"tcgen05\.mma\.cta_group::(\d)\.kind::(\w+)[^\[]*\[[^\]]*\],\s*[^,]+,\s*[^,]+,\s*([^,;]+)", ptx
    ):
        constant = operand.strip()
        if constant.startswith("%"):
            moved = re.search(rf"mov\.b32\s+{re.escape(constant)},\s*(-?\d+);", ptx)
            if moved is None:
                raise ValueError(f"tcgen05.mma: expected a constant descriptor, got {constant}")
            constant = moved[1]
        descriptor = int(constant)
        k = {"f16": 16, "tf32": 8}.get(kind, 32)
        found.add((descriptor >> 24 & 31) * 16 * (descriptor >> 17 & 63) * 8 * k // int(group))
    if len(found) > 1:
        raise ValueError(f"tcgen05.mma: expected one size, got {sorted(found)} multiply-accumulates")
    return found.pop() if found else 0


def _instruction(guard: str | None, opcode: str, operands: str, block_mma_macs: int) -> Instruction:
    base = opcode.split(".")[0]
    macs, per_block = _macs(opcode, block_mma_macs)
    target = _TARGET.search(operands) if base in ("BRA", "JMP") else None
    conditional = guard not in (None, "@PT", "@UPT")
    if target is not None:
        # `BRA UP0, (label)`: a predicate or a register before the label makes it conditional too.
        conditional = conditional or operands[: target.start()].strip() != ""
    ends = base in ("BRA", "JMP", "BRX", "JMX", "EXIT", "RET", "KILL")
    return Instruction(
        opcode=opcode,
        kind=_kind(opcode, base, is_mma=macs > 0 or _BLOCK_MMA.match(opcode) is not None),
        macs=macs,
        per_block=per_block,
        target=target[1] if target is not None else None,
        falls=conditional or not ends,
    )


def _macs(opcode: str, block_mma_macs: int) -> tuple[int, bool]:
    """Multiply-accumulates of one issue, and whether the issue serves the whole block."""
    if warp := _WARP_MMA.match(opcode):
        return int(warp[1]) * 8 * int(warp[2]), False
    if group := _WARPGROUP_MMA.match(opcode):
        return int(group[1]) * int(group[2]) * int(group[3]) // WARPS_PER_GROUP, False
    if _BLOCK_MMA.match(opcode):
        return block_mma_macs, True
    return 0, False


def _kind(opcode: str, base: str, *, is_mma: bool) -> Kind:
    if is_mma:
        return "mma"
    if base in _SHARED:
        return "shared"
    if base in _GLOBAL or base in _LOCAL:
        return "global"
    if base in _CONTROL:
        return "control"
    if base[0] == "U" or base in ("R2UR", "S2UR", "LDCU"):
        return "uniform"
    return "alu"


def _output(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed: {done.stderr.strip()}")
    return done.stdout
