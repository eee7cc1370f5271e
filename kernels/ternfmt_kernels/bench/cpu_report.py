"""Tables of a CPU benchmark, for a terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Iterator

from .cpu import Cell, Results
from .cpu_peers import PEERS

_OTHERS = [peer.name for peer in PEERS if not peer.ours]


def header() -> list[str]:
    """Columns of the table."""
    ours = [f"{mode} GMAC/s" for mode in ("a8", "a16")]
    limits = ["a8 / read", "a8 / int8", "a16 / read", "a16 / FMA"]
    return ["T", "shape", "M", *ours, *limits, *(f"a8 / {o}" for o in _OTHERS), *(f"a16 / {o}" for o in _OTHERS)]


def row(cell: Cell) -> list[str]:
    """One cell, in the columns of `header`."""
    parts = [("a8", "read"), ("a8", "int8"), ("a16", "read"), ("a16", "float")]
    against = [cell.against(mode, other) for mode in ("a8", "a16") for other in _OTHERS]
    return [
        str(cell.threads),
        cell.shape,
        str(cell.m),
        *(f"{cell.rate(mode) / 1e9:.1f}" for mode in ("a8", "a16")),
        *(f"{cell.of_limit(mode, limit):.2f}" for mode, limit in parts),
        *("" if a is None else f"{a:.2f}" for a in against),
    ]


def markdown(results: Results, command: str) -> str:
    """RESULTS-cpu.md."""
    return "\n".join(_lines(results, command)) + "\n"


def _lines(results: Results, command: str) -> Iterator[str]:
    machine = results.machine
    yield "# CPU kernels, measured"
    yield ""
    yield f"`{command}` on {machine['processor']}, {machine['cores']} cores, {machine['instruction set']}, torch"
    yield f"{machine['torch']}, load {machine['load']} before the run. {len(results.verdicts)} checks against float64"
    yield "passed first."
    yield ""
    yield "`a8`: activations int8 per token. `a16`: activations as they are. Times are medians of the same turns,"
    yield "weights cold. `a / b`: how many times faster a is than b; for limits, the part of it that is reached: of the"
    yield "bytes a second that one pass over memory reads, of the multiply-accumulates that the inner loop's code"
    yield "alone do on registers."
    yield ""
    for name, what in ((peer.name, peer.what) for peer in PEERS):
        yield f"- {name}: {what}"
    for threads in dict.fromkeys(cell.threads for cell in results.cells):
        cells = [cell for cell in results.cells if cell.threads == threads]
        limits = {name: max(cell.limits[name] for cell in cells) / 1e9 for name in ("read", "int8", "float")}
        yield ""
        yield (
            f"## T={threads}: read {limits['read']:.1f} GB/s, int8 {limits['int8']:.0f} GMAC/s, "
            f"FMA {limits['float']:.0f} GMAC/s"
        )
        yield ""
        yield "| " + " | ".join(header()[1:]) + " |"
        yield "|" + "---|" * (len(header()) - 1)
        for cell in cells:
            yield "| " + " | ".join(row(cell)[1:]) + " |"
