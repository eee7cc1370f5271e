"""What the CPU kernels are meant to reach on one thread, and what a run shows of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .cpu import LIMITS, Cell

VNNI = ("avx512vnni", "avxvnni")
"""Instruction sets that multiply int8 and add four products in one instruction; goals of int8 were set for those."""

TORCH_INT8 = ("dynamic int8", "_int_mm", "qlinear")


@dataclass(frozen=True)
class Goal:
    """One mode against a limit or the fastest of some peers, at some M, on one thread.

    Attributes:
        factor: the part of the limit, or how many times faster.
        against: a name of `LIMITS`, or of peers.
    """

    mode: str
    rows: Sequence[int]
    factor: float
    against: Sequence[str]

    @property
    def of_limit(self) -> bool:
        """It is a part of one of the machine's limits."""
        return self.against[0] in LIMITS

    def __str__(self) -> str:
        rows = " and ".join(map(str, self.rows))
        what = {"read": "read bandwidth", "int8": "int8 peak"}.get(self.against[0], " or ".join(self.against))
        kind = f"{self.factor:.2f} of {what}" if self.of_limit else f"{self.factor:g}x {what}"
        return f"{self.mode}, M={rows}: {kind}"

    def reached(self, cells: Sequence[Cell]) -> list[tuple[Cell, float]]:
        """Of each cell that it is about and that was timed: the part, or the ratio to the fastest of the peers."""
        return [(cell, value) for cell in cells for value in self._of(cell)]

    def concerns(self, cell: Cell) -> bool:
        """The cell has its M, on one thread."""
        return cell.threads == 1 and cell.m in self.rows

    def takes(self, cell: Cell) -> float:
        """The part of the machine's limits at which it would be reached there, above 1 where it cannot be."""
        if self.of_limit:
            return self.factor
        fastest = max(cell.rate(peer) for peer in self.against if peer in cell.times)
        return self.factor * fastest / cell.roof(self.mode)

    def _of(self, cell: Cell) -> Iterator[float]:
        if not self.concerns(cell):
            return
        if self.of_limit:
            yield cell.of_limit(self.mode, self.against[0])
            return
        ratios = [ratio for peer in self.against if (ratio := cell.against(self.mode, peer)) is not None]
        if ratios:
            yield min(ratios)


GOALS = (
    Goal("a8", (1,), 0.90, ("read",)),
    Goal("a8", (1,), 1.9, ("TQ2_0",)),
    Goal("a8", (1,), 15, ("bf16",)),
    Goal("a8", (8,), 0.85, ("int8",)),
    Goal("a8", (8,), 1.3, TORCH_INT8),
    Goal("a8", (512,), 0.95, ("int8",)),
    Goal("a8", (512,), 1.05, TORCH_INT8),
    Goal("a8", (512,), 2, ("bf16",)),
    Goal("a8", (512,), 4, ("TQ2_0",)),
    Goal("a8", (4608,), 1, ("qlinear",)),
    Goal("a16", (64, 512, 4608), 1, ("bf16",)),
    Goal("a16", (1,), 8, ("bf16",)),
)
