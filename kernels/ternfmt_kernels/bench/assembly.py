"""Instructions, the control flow between them, and the inner loop of a kernel, for any instruction set.

A compiled matmul spends its time in one loop, so what that loop holds is what a kernel costs. Loops are found as
compilers find them: an edge of the control-flow graph whose target dominates its source is a back-edge, and the loop
is everything that reaches the back-edge without passing its target (Aho et al., "Compilers", 2nd ed., section 9.6).
Addresses alone would not do: compilers move rarely taken blocks of a loop (barrier retries, for one) behind its last
branch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["mma", "alu", "uniform", "shared", "global", "control"]
"""What an instruction is for.

======== =====================================================================================================
mma      a matrix multiply-accumulate on the tensor cores
alu      per-lane arithmetic: decoding, conversion, addresses, plain fused multiply-adds
uniform  arithmetic once per warp, on the scalar unit; it still takes an issue slot
shared   shared or tensor memory
global   global memory
control  branches, barriers, waits, fences
======== =====================================================================================================
"""

KINDS: tuple[Kind, ...] = ("mma", "alu", "uniform", "shared", "global", "control")


@dataclass(frozen=True)
class Instruction:
    """One instruction.

    Attributes:
        opcode: the mnemonic with its suffixes.
        kind: what it is for.
        macs: multiply-accumulates that one *issue* of it does: one warp's part of a matrix instruction, all of it
            where a single thread issues for the whole block (tcgen05).
        per_block: one issue serves the block, not one warp.
        target: the label it may branch to, or None.
        falls: the next instruction may follow.
    """

    opcode: str
    kind: Kind
    macs: int = 0
    per_block: bool = False
    target: str | None = None
    falls: bool = True


@dataclass(frozen=True)
class Listing:
    """A kernel's instructions, in order, and where its labels point (an index, or one past the end)."""

    instructions: tuple[Instruction, ...]
    labels: dict[str, int]


@dataclass(frozen=True)
class Loop:
    """A natural loop: the indices of its instructions, in order."""

    indices: tuple[int, ...]


def natural_loops(listing: Listing) -> list[Loop]:
    """The loops of a listing; back-edges to the same place make one loop."""
    starts = _block_starts(listing)
    successors = _successors(listing, starts)
    predecessors: list[list[int]] = [[] for _ in starts]
    for block, targets in enumerate(successors):
        for target in targets:
            predecessors[target].append(block)
    dominators = _dominators(successors, predecessors)
    bodies: dict[int, set[int]] = {}
    for block, targets in enumerate(successors):
        for head in targets:
            if head in dominators[block]:
                bodies.setdefault(head, {head}).update(_reaching(block, head, predecessors))
    ends = [*starts[1:], len(listing.instructions)]
    return [
        Loop(tuple(i for block in sorted(body) for i in range(starts[block], ends[block]))) for body in bodies.values()
    ]


def inner_loop(listing: Listing, warps: int) -> Loop | None:
    """The loop a kernel of ``warps`` warps a block spends its time in, or None where it has none.

    That is an innermost loop with tensor-core instructions (of several, the one that multiplies most in a pass: a
    low-rank term's loop multiplies little); without any, an innermost loop that reads global memory (of several, the
    longest).
    """
    loops = natural_loops(listing)
    for kind in ("mma", "global"):
        having = [loop for loop in loops if any(listing.instructions[i].kind == kind for i in loop.indices)]
        innermost = [a for a in having if not any(set(b.indices) < set(a.indices) for b in having)]
        if innermost:
            return max(innermost, key=lambda loop: (mix(listing, loop, warps).macs, len(loop.indices)))
    return None


@dataclass(frozen=True)
class Mix:
    """What one pass through a loop issues, for a block of ``warps`` warps.

    Attributes:
        issued: warp-instructions of each kind that the block issues.
        macs: multiply-accumulates on tensor cores that the block does.
        opcodes: how many times a warp issues each opcode (without suffixes), most frequent first.
        matrix: the matrix instructions in the loop, with suffixes.
    """

    issued: dict[Kind, int]
    macs: int
    opcodes: dict[str, int]
    matrix: dict[str, int]

    @property
    def other(self) -> int:
        """Warp-instructions that are not matrix instructions."""
        return sum(count for kind, count in self.issued.items() if kind != "mma")

    def per_macs(self, count: int, unit: int) -> float | None:
        """``count`` per ``unit`` multiply-accumulates, or None without any."""
        return count * unit / self.macs if self.macs else None


def mix(listing: Listing, loop: Loop, warps: int) -> Mix:
    """Count what ``loop`` issues in a block of ``warps`` warps that all run it."""
    inside = [listing.instructions[i] for i in loop.indices]
    issued: dict[Kind, int] = dict.fromkeys(KINDS, 0)
    macs = 0
    for instruction in inside:
        issues = 1 if instruction.per_block else warps
        issued[instruction.kind] += issues
        macs += issues * instruction.macs
    opcodes = Counter(i.opcode.split(".")[0] for i in inside if i.kind != "mma")
    matrix = Counter(i.opcode for i in inside if i.kind == "mma")
    return Mix(issued, macs, dict(opcodes.most_common()), dict(matrix))


def _block_starts(listing: Listing) -> list[int]:
    size = len(listing.instructions)
    leaders = {0, *listing.labels.values()}
    leaders |= {
        i + 1 for i, instruction in enumerate(listing.instructions) if instruction.target or not instruction.falls
    }
    return sorted(i for i in leaders if i < size)


def _successors(listing: Listing, starts: Sequence[int]) -> list[list[int]]:
    block_at = {start: block for block, start in enumerate(starts)}
    result = []
    for block, _ in enumerate(starts):
        end = starts[block + 1] if block + 1 < len(starts) else len(listing.instructions)
        last = listing.instructions[end - 1]
        targets = []
        if last.target is not None:
            targets.append(block_at.get(listing.labels.get(last.target, -1), -1))
        if last.falls:
            targets.append(block_at.get(end, -1))
        result.append([t for t in targets if t >= 0])
    return result


def _dominators(successors: Sequence[Sequence[int]], predecessors: Sequence[Sequence[int]]) -> list[set[int]]:
    """For each block, the blocks that every path from the entry to it passes; empty where no path leads."""
    order, seen, stack = [], {0}, [0]
    while stack:
        block = stack.pop()
        order.append(block)
        for target in successors[block]:
            if target not in seen:
                seen.add(target)
                stack.append(target)
    everything = set(order)
    dominators = [set(everything) if block in everything else set() for block in range(len(successors))]
    dominators[0] = {0}
    changed = True
    while changed:
        changed = False
        for block in order[1:]:
            met = set.intersection(*(dominators[p] for p in predecessors[block] if p in everything)) | {block}
            if met != dominators[block]:
                dominators[block] = met
                changed = True
    return dominators


def _reaching(source: int, head: int, predecessors: Sequence[Sequence[int]]) -> set[int]:
    """The blocks that reach ``source`` without passing ``head``."""
    found, stack = {source}, [source]
    while stack:
        block = stack.pop()
        if block == head:
            continue
        for p in predecessors[block]:
            if p not in found:
                found.add(p)
                stack.append(p)
    return found
