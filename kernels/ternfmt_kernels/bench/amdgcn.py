"""AMD machine code: the assembly that triton emits, read into a listing, with the resources in its metadata.

Opcodes: AMD's "CDNA2", "CDNA3" and "RDNA3" Instruction Set Architecture reference guides.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from .assembly import Instruction, Kind, Listing

_LABEL = re.compile(r"^([.\w$]+):")
_LINE = re.compile(r"^\s+([a-z]\w+)\s*([^;]*)")
_MATRIX = re.compile(r"^v_(?:s?mfmac?|swmmac|wmma)_(?:scale_)?[a-z]+\d+_(\d+)x(\d+)x(\d+)(?:_(\d+)b)?")
_NOT_CODE = re.compile(r"^\s*\.")
_WAITS = ("s_waitcnt", "s_wait_", "s_barrier", "s_nop", "s_delay_alu", "s_setprio", "s_sleep", "s_sched", "s_clause")


@dataclass(frozen=True)
class Resources:
    """What a kernel takes.

    Attributes:
        vector: vector registers a lane, accumulation registers included where the file is unified.
        scalar: scalar registers a wave.
        spilled: vector and scalar registers that did not fit.
        scratch: bytes of private memory a lane.
        wgp_mode: RDNA: a workgroup may spread over both compute units of a workgroup processor.
    """

    vector: int
    scalar: int
    spilled: int
    scratch: int
    wgp_mode: bool


def parse(text: str) -> Listing:
    """Read the assembly of one kernel: from its entry to ``s_endpgm``'s section end."""
    instructions: list[Instruction] = []
    labels: dict[str, int] = {}
    inside = False
    for line in text.splitlines():
        if label := _LABEL.match(line):
            inside = inside or not label[1].startswith(".")
            labels[label[1]] = len(instructions)
        elif line.lstrip().startswith((".section", ".rodata")) and instructions:
            break  # the descriptor and the debug data follow the code
        elif inside and not _NOT_CODE.match(line) and (found := _LINE.match(line)):
            instructions.append(_instruction(found[1], found[2].strip()))
    return Listing(tuple(instructions), labels)


def resources(text: str) -> Resources:
    """Read the metadata behind the assembly."""
    return Resources(
        vector=_field(text, r"; NumVGPRsForWavesPerEU:\s+(\d+)"),
        scalar=_field(text, r"\.sgpr_count:\s+(\d+)"),
        spilled=_field(text, r"\.vgpr_spill_count:\s+(\d+)") + _field(text, r"\.sgpr_spill_count:\s+(\d+)"),
        scratch=_field(text, r"\.private_segment_fixed_size:\s+(\d+)"),
        wgp_mode=re.search(r"\.amdhsa_workgroup_processor_mode\s+1", text) is not None,
    )


def _field(text: str, pattern: str) -> int:
    found = re.search(pattern, text)
    if found is None:
        raise ValueError(f"assembly: expected {pattern}, found none")
    return int(found[1])


def _instruction(opcode: str, operands: str) -> Instruction:
    matrix = _MATRIX.match(opcode)
    macs = 0
    if matrix is not None:
        macs = int(matrix[1]) * int(matrix[2]) * int(matrix[3]) * int(matrix[4] or 1)
    branch = opcode.startswith(("s_branch", "s_cbranch"))
    return Instruction(
        opcode=opcode,
        kind=_kind(opcode, is_mma=macs > 0),
        macs=macs,
        target=operands.split()[0] if branch else None,
        falls=opcode not in ("s_branch", "s_endpgm", "s_setpc_b64"),
    )


def _kind(opcode: str, *, is_mma: bool) -> Kind:
    if is_mma:
        return "mma"
    if opcode.startswith("ds_"):
        return "shared"
    if opcode.startswith(("global_", "buffer_", "flat_", "scratch_")):
        return "global"
    if opcode.startswith(("s_branch", "s_cbranch", "s_endpgm", "s_setpc", *_WAITS)):
        return "control"
    return "uniform" if opcode.startswith("s_") else "alu"
