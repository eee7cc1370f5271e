"""Compile every shipped kernel for every target without a GPU, and table what the compiled code takes and does.

The goals that `violations` checks: no spills; tensor-core instructions in the inner loop of every matmul (wgmma on
sm_90); shared memory and registers within what the target gives a block; and, on NVIDIA, fewer instructions to decode
per matrix work than GemLite's kernel for the same tile.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from . import gemlite_peer
from .arch import Arch, arch
from .build import Reading, build
from .variants import Tile, Variant, shipped


@dataclass(frozen=True)
class Job:
    """One cell of the table: the ``index``-th variant that ships for a target. Functions do not pickle; this does."""

    target: str
    index: int
    peer: bool
    plain: bool


@dataclass(frozen=True)
class Row:
    """One kernel in one configuration on one target.

    Attributes:
        target: e.g. "sm_90".
        kernel: its name.
        config: its configuration, short.
        tile: of a block, None for kernels that are no matmul.
        dtype: of the activations.
        matrix: it must use tensor cores.
        ours: None where it failed to compile.
        error: why.
        peer: GemLite's kernel for the same tile, None where there is none to compare with.
        peer_error: why, where it was tried.
    """

    target: str
    kernel: str
    config: str
    tile: Tile | None
    dtype: str
    matrix: bool
    ours: Reading | None
    error: str | None = None
    peer: Reading | None = None
    peer_error: str | None = None


def jobs(targets: Sequence[str], only: Sequence[str] = (), *, peer: bool = True) -> list[Job]:
    """The cells for ``targets``; with ``only``, those whose "kernel configuration" one of its patterns matches.

    Patterns are those of `fnmatch`: "gemm w2a8*", "*planes=2*".
    """
    return [
        Job(target, index, peer, variant.plain)
        for target in targets
        for index, variant in enumerate(shipped(target))
        if not only or any(fnmatchcase(f"{variant.name} {variant.config}", pattern) for pattern in only)
    ]


def run(job: Job) -> Row:
    """Compile one cell, and its peer."""
    target = arch(job.target)
    variant = list(shipped(job.target))[job.index]
    ours, error = _try(variant, target)
    peer, peer_error = _peer(variant, target) if job.peer else (None, None)
    return Row(
        target=job.target,
        kernel=variant.name,
        config=variant.config,
        tile=variant.tile,
        dtype=variant.dtype,
        matrix=variant.matrix,
        ours=ours,
        error=error,
        peer=peer,
        peer_error=peer_error,
    )


def run_all(todo: Sequence[Job], workers: int) -> Iterator[tuple[int, Row]]:
    """Compile all cells in ``workers`` processes (1 compiles in this one): each cell's index and row, as they end.

    What other libraries compute too comes first, on all targets, so that a run that is cut short shows most.
    """
    order = sorted(range(len(todo)), key=lambda index: not todo[index].plain)
    if workers == 1:
        yield from ((index, run(todo[index])) for index in order)
        return
    # Triton's compiler starts threads, so that a fork of a process that used it may hang: spawn.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        futures = {pool.submit(run, todo[index]): index for index in order}
        for future in as_completed(futures):
            yield futures[future], future.result()


def violations(rows: Sequence[Row]) -> list[str]:
    """The goals that are missed, in words."""
    return [f"{row.target} {row.kernel} {row.config}: {what}" for row in rows for what in _missed(row)]


def _missed(row: Row) -> Iterator[str]:
    if row.ours is None:
        yield f"does not compile: {row.error}"
        return
    target = arch(row.target)
    if row.ours.spills or row.ours.stack:
        yield f"spills {row.ours.spills}, {row.ours.stack} bytes of stack a thread"
    if not row.ours.occupancy.blocks:
        yield f"does not fit: {row.ours.registers} registers, {row.ours.shared} bytes of shared memory"
    if not row.matrix:
        return
    loop = row.ours.loop
    if loop is None or not loop.macs:
        yield "no matrix instruction in the inner loop"
        return
    if row.tile is not None and loop.macs % (row.tile.m * row.tile.n * row.tile.k):
        # The listing was misread: a pass through the loop must do whole tiles.
        yield f"inner loop: expected a multiple of the tile's multiply-accumulates, got {loop.macs}"
    if row.target == "sm_90" and not all("GMMA" in name for name in loop.matrix):
        yield f"expected wgmma, got {', '.join(loop.matrix)}"
    if target.vendor == "cuda" and row.peer is not None and row.peer.alu_per_mma is not None and not fewer(row):
        yield f"{row.ours.alu_per_mma:.2f} decode instructions per MMA, GemLite {row.peer.alu_per_mma:.2f}"


def fewer(row: Row, measure: Literal["alu_per_mma", "other_per_mma"] = "alu_per_mma") -> bool:
    """Ours issues fewer instructions per MMA than the peer: of per-lane arithmetic, or of all but matrix ones."""
    ours = getattr(row.ours, measure, None)
    peer = getattr(row.peer, measure, None)
    return ours is not None and peer is not None and bool(ours < peer)


def _try(variant: Variant, target: Arch) -> tuple[Reading | None, str | None]:
    try:
        return build(variant, target), None
    except (RuntimeError, ValueError) as error:
        return None, " ".join(str(error).split())[:300]


def _peer(variant: Variant, target: Arch) -> tuple[Reading | None, str | None]:
    if not variant.plain or variant.tile is None or target.vendor != "cuda":
        return None, None
    peer = gemlite_peer.variant(variant.tile, variant.dtype, variant.warps, variant.stages)
    return (None, None) if peer is None else _try(peer, target)
