"""The ahead-of-time table as Markdown, as JSON and on a terminal."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any, Literal

from . import gemlite_peer
from .aot import Row, fewer, violations
from .arch import ARCHS, arch
from .build import MMA_MACS, Reading

COMMAND = (
    "python -m ternfmt_kernels.bench aot --markdown kernels/bench/RESULTS-aot.md --json kernels/bench/RESULTS-aot.json"
)

OPCODES = 10
"""Most frequent opcodes of a loop that the JSON keeps."""

HEAD = (
    "| kernel | configuration | regs | spills | shared KiB | blocks | occupancy | matrix instruction "
    "| other/MMA | decode/MMA | peer other | peer decode |",
    "|---|---|--:|--:|--:|--:|--:|---|--:|--:|--:|--:|",
)


def markdown(rows: Sequence[Row], toolchain: str, total: int) -> str:
    """The committed document, of a run of ``total`` rows."""
    parts = [_preamble(toolchain), _summary(rows), _missed(rows)]
    if len(rows) < total:
        parts.insert(1, f"**Incomplete: {len(rows)} of {total} rows, the run was cut short.**")
    for target in _targets(rows):
        mine = [row for row in rows if row.target == target]
        a = arch(target)
        parts.append("\n".join([f"## {target} ({a.devices})", "", *HEAD, *(_line(row) for row in mine)]))
    return "\n\n".join(part for part in parts if part) + "\n"


def as_json(rows: Sequence[Row], toolchain: str) -> str:
    """The same, for programs."""
    document = {
        "command": COMMAND,
        "toolchain": toolchain,
        "mma_macs": MMA_MACS,
        "missed": violations(rows),
        "rows": [
            {
                **_trimmed(dataclasses.asdict(row)),
                "other_per_mma": row.ours.other_per_mma if row.ours else None,
                "alu_per_mma": row.ours.alu_per_mma if row.ours else None,
                "peer_other_per_mma": row.peer.other_per_mma if row.peer else None,
                "peer_alu_per_mma": row.peer.alu_per_mma if row.peer else None,
            }
            for row in rows
        ],
    }
    return json.dumps(document, indent=1) + "\n"


def _trimmed(row: dict[str, Any]) -> dict[str, Any]:
    """Without the opcodes that are rare."""
    for side in ("ours", "peer"):
        if row[side] is not None and row[side]["loop"] is not None:
            loop = row[side]["loop"]
            loop["opcodes"] = dict(list(loop["opcodes"].items())[:OPCODES])
    return row


def one_line(row: Row) -> str:
    """A row as text, for progress on a terminal."""
    head = f"{row.target:8}{row.kernel} {row.config}: "
    if row.ours is None:
        return head + f"FAILS: {row.error}"
    text = f"{row.ours.registers} regs, {row.ours.spills} spills, occupancy {row.ours.occupancy.share:.0%}"
    if row.ours.other_per_mma is not None:
        text += f", {row.ours.other_per_mma:.2f} other and {row.ours.alu_per_mma:.2f} decode per MMA"
    if row.peer is not None and row.peer.other_per_mma is not None:
        text += f" ({gemlite_peer.NAME} {row.peer.other_per_mma:.2f} and {row.peer.alu_per_mma:.2f})"
    return head + text


def _preamble(toolchain: str) -> str:
    return f"""# What the compiled kernels take and do

Generated, without a GPU, by

    {COMMAND}

with {toolchain}. Each kernel is compiled ahead of time, specialised as its launcher would for FLUX.1's shapes, and
its machine code read back (`nvdisasm`, `cuobjdump`, AMD assembly).

- **spills**: NVIDIA: loads and stores of local memory in the code; AMD: registers that did not fit.
- **blocks, occupancy**: resident blocks of a core, and their warps' share of the most it can hold (`bench/arch.py`).
- **other/MMA**: warp-instructions that are no matrix instructions, in one pass of the inner loop, per {MMA_MACS:,}
  multiply-accumulates done there: the work of one bf16 `HMMA.16816`. Matrix instructions of different generations
  differ in size a thousandfold, so instructions are counted against work. **decode/MMA**: of those, the per-lane
  arithmetic, which unpacks and converts weights (addresses are in it too).
- **peer**: {gemlite_peer.NAME}'s kernel for ternary weights, compiled the same way for the same tile, warps and stages,
  which need not be those it would choose. Empty where it has no counterpart (several planes, groups, low-rank terms)
  and on AMD. Where its loop spills, the moves are counted.

Our loops are short in part because activations come permuted: `arrange` does that for W2A16 in a pass of its own, which
{gemlite_peer.NAME} does not need; for W2A8 `quantise` does it on the way, and both libraries have that pass. It is
not in these counts; ROOFLINE.md says what it costs.

None of this is a time. It bounds what the loop issues; only a GPU says how well it hides (`make bench-gpu`).
"""


def _summary(rows: Sequence[Row]) -> str:
    lines = [
        "## Summary",
        "",
        "| target | variants | spills | matrix instructions | other/MMA | peer | fewer | decode/MMA | peer | fewer |",
        "|---|--:|--:|---|--:|--:|--:|--:|--:|--:|",
    ]
    for target in _targets(rows):
        mine = [row for row in rows if row.target == target]
        built = [row.ours for row in mine if row.ours is not None]
        matmuls = [row for row in mine if row.matrix and row.ours is not None]
        names = sorted({_family(name) for r in matmuls if r.ours and r.ours.loop for name in r.ours.loop.matrix})
        compared = [row for row in matmuls if row.peer is not None and row.peer.other_per_mma is not None]
        cells = [
            target,
            str(len(mine)),
            str(sum(reading.spills for reading in built)),
            ", ".join(names),
            _range([row.ours for row in matmuls], "other_per_mma"),
            _range([row.peer for row in compared], "other_per_mma"),
            _wins(compared, "other_per_mma"),
            _range([row.ours for row in matmuls], "alu_per_mma"),
            _range([row.peer for row in compared], "alu_per_mma"),
            _wins(compared, "alu_per_mma"),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _missed(rows: Sequence[Row]) -> str:
    missed = violations(rows)
    if not missed:
        text = "All goals are met: no spills, tensor cores in every matmul's inner loop, every block fits"
        return text + (
            f", fewer instructions to decode than {gemlite_peer.NAME} on NVIDIA." if any(r.peer for r in rows) else "."
        )
    return "\n".join(["## Goals missed", "", *(f"- {text}" for text in missed)])


def _line(row: Row) -> str:
    if row.ours is None:
        return f"| {row.kernel} | {row.config} | fails: {row.error} |" + " |" * 9
    ours = row.ours
    matrix = ", ".join(sorted(ours.loop.matrix)) if row.matrix and ours.loop else ""
    cells = [
        row.kernel,
        row.config,
        str(ours.registers),
        str(ours.spills),
        f"{ours.shared / 1024:.0f}",
        str(ours.occupancy.blocks),
        f"{ours.occupancy.share:.0%}",
        matrix,
        _number(ours.other_per_mma),
        _number(ours.alu_per_mma),
        _number(row.peer.other_per_mma) if row.peer else ("fails" if row.peer_error else ""),
        _number(row.peer.alu_per_mma) if row.peer else "",
    ]
    return "| " + " | ".join(cells) + " |"


def _targets(rows: Sequence[Row]) -> list[str]:
    return [a.name for a in ARCHS if any(row.target == a.name for row in rows)]


def _family(name: str) -> str:
    return name.split(".")[0] if not name.startswith("v_") else "_".join(name.split("_")[:2])


def _range(readings: Sequence[Reading | None], field: str) -> str:
    values = [value for r in readings if r is not None and (value := getattr(r, field)) is not None]
    if not values:
        return ""
    return f"{min(values):.2f}–{max(values):.2f}"


def _wins(rows: Sequence[Row], measure: Literal["alu_per_mma", "other_per_mma"]) -> str:
    return f"{sum(fewer(row, measure) for row in rows)} of {len(rows)}" if rows else ""


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
