"""Times our CPU kernels, PyTorch's and the machine's limits in one run, in turns, so that all see the same machine.

Weights are cold, as in a model that is larger than the caches: products take turns among copies that together are
larger. What is compared are medians of the same turns.
"""

from __future__ import annotations

import itertools
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..cpu_backend import isa
from . import gate
from .contenders import Product, Weight, forced, random_weight
from .cpu_peers import PEERS, Peer

SHAPES = {"A": (3072, 3072), "B": (12288, 3072), "C": (3072, 12288), "D": (21504, 3072), "E": (3072, 15360)}
"""(N, K) of FLUX.1's linears, by the letters of the tables."""

ROWS = (1, 8, 64, 512, 4608)
COLD_BYTES = 160 << 20
COPIES_MAX = 80
FEWEST = 5
PROBE_SECONDS = 1e-3


@dataclass(frozen=True)
class Plan:
    """What to time.

    Attributes:
        shapes: letters of `SHAPES`.
        rows: M.
        threads: T.
        seconds: for each product of a cell; at least `FEWEST` turns are taken.
        only: names of peers beside ours, None for all.
    """

    shapes: Sequence[str] = tuple(SHAPES)
    rows: Sequence[int] = ROWS
    threads: Sequence[int] = (1, 2)
    seconds: float = 0.5
    only: Sequence[str] | None = None

    @property
    def peers(self) -> list[Peer]:
        """Ours, and those asked for."""
        return [p for p in PEERS if p.ours or self.only is None or p.name in self.only]


@dataclass(frozen=True)
class Cell:
    """One shape, M and T.

    Attributes:
        seconds: of each peer, and of each limit for one unit of it: the median of the turns.
        best: the shortest of them.
        turns: how many.
        limits: multiply-accumulates or bytes a second: "int8", "float" and "read".
    """

    shape: str
    n: int
    k: int
    m: int
    threads: int
    turns: int
    seconds: dict[str, float]
    best: dict[str, float]
    limits: dict[str, float]

    def rate(self, peer: str) -> float:
        """Multiply-accumulates a second."""
        return self.m * self.n * self.k / self.seconds[peer]

    def of_limit(self, peer: str, limit: str) -> float:
        """What part of the limit our mode reaches."""
        done = self.n * self.k / 4 if limit == "read" else self.m * self.n * self.k
        return done / self.seconds[peer] / self.limits[limit]

    def against(self, ours: str, peer: str) -> float | None:
        """How many times faster than the peer, None where it did not run."""
        return self.seconds[peer] / self.seconds[ours] if peer in self.seconds else None


@dataclass
class Results:
    """All of a run.

    Attributes:
        machine: what it ran on.
        verdicts: of the gate; nothing is timed where one failed.
        cells: the times.
    """

    machine: dict[str, Any]
    verdicts: list[gate.Verdict] = field(default_factory=list)
    cells: list[Cell] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """The kernels compute what they should."""
        return all(v.passed for v in self.verdicts)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        failed = [asdict(v) for v in self.verdicts if not v.passed]
        summary = {"cases": len(self.verdicts), "failed": failed}
        return {"machine": self.machine, "gate": summary, "cells": [asdict(c) for c in self.cells]}


def machine() -> dict[str, Any]:
    """What the numbers depend on."""
    name = next(
        (line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.processor(),
    )
    return {
        "processor": name,
        "cores": os.cpu_count(),
        "instruction set": isa.selected(),
        "torch": torch.__version__,
        "load": round(os.getloadavg()[0], 2),
    }


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def run(plan: Plan, tick: Callable[[str], None]) -> Results:
    """Check, then time every cell; ``tick`` is told of each before it begins."""
    results = Results(machine())
    before = torch.get_num_threads()
    with forced("cpu"):
        tick("correctness")
        torch.set_num_threads(max(plan.threads))
        results.verdicts = gate.run(list(gate.cases(small=False)), torch.device("cpu"), lambda: None)
        try:
            for letter in plan.shapes if results.passed else ():
                results.cells += _shape(plan, letter, tick)
        finally:
            torch.set_num_threads(before)
    return results


def _shape(plan: Plan, letter: str, tick: Callable[[str], None]) -> list[Cell]:
    n, k = SHAPES[letter]
    cells = []
    products = {peer: _copies(peer, n, k) for peer in plan.peers}
    memory = bytearray(COLD_BYTES)
    for m, threads in itertools.product(plan.rows, plan.threads):
        tick(f"{letter} {n}x{k}, M={m}, T={threads}")
        torch.set_num_threads(threads)
        cells.append(_cell(letter, n, k, m, threads, products, memory, plan.seconds))
    return cells


def _copies(peer: Peer, n: int, k: int) -> list[Product]:
    """As many as it takes for the weights not to stay in the caches."""
    count = min(COPIES_MAX, -(-COLD_BYTES // (n * k * peer.weight_bits // 8)))
    weights: list[Weight] = [random_weight(n, k, torch.device("cpu"), seed) for seed in range(count)]
    products = [peer.prepare(weight) for weight in weights]
    return [p for p in products if p is not None]


def _cell(
    letter: str,
    n: int,
    k: int,
    m: int,
    threads: int,
    products: dict[Peer, list[Product]],
    memory: bytearray,
    seconds: float,
) -> Cell:
    x = {dtype: torch.randn(m, k).to(dtype) for dtype in {peer.x_dtype for peer in products}}
    runs: dict[str, Callable[[], Any]] = {}
    for peer, copies in products.items():
        if copies:
            runs[peer.name] = _rotating(copies, x[peer.x_dtype])
    with ThreadPoolExecutor(threads) as executor:
        units = _limits(runs, threads, memory, executor)
        times = _turns(runs, seconds)
    return Cell(
        shape=letter,
        n=n,
        k=k,
        m=m,
        threads=threads,
        turns=len(times["a8"]),
        seconds={name: statistics.median(t) for name, t in times.items()},
        best={name: min(t) for name, t in times.items()},
        limits={name: unit / statistics.median(times[name]) for name, unit in units.items()},
    )


def _rotating(copies: list[Product], x: Tensor) -> Callable[[], Any]:
    turn = itertools.cycle(copies)
    return lambda: next(turn)(x)


def _limits(
    runs: dict[str, Callable[[], Any]], threads: int, memory: bytearray, executor: ThreadPoolExecutor
) -> dict[str, float]:
    """Add the machine's limits to ``runs``, on so many threads; returns what one run of each does."""
    module, name = isa.module(), isa.selected()

    def everywhere(work: Callable[[int], object]) -> Callable[[], object]:
        return lambda: list(executor.map(work, range(threads)))

    units = {}
    for kind in ("int8", "float"):
        steps = 1000
        while (taken := _time(lambda kind=kind, steps=steps: module.probe(name, kind, steps))) < PROBE_SECONDS:  # type: ignore[misc]
            steps = int(steps * max(2, min(100, PROBE_SECONDS / max(taken, 1e-6))))
        units[kind] = threads * module.probe(name, kind, steps)
        runs[kind] = everywhere(lambda _, kind=kind, steps=steps: module.probe(name, kind, steps))  # type: ignore[misc]
    view, part = memoryview(memory), len(memory) // threads // 2
    halves = itertools.cycle((0, 1))  # each read finds the other half in the cache, if anything

    def read(half: int) -> object:
        return list(executor.map(lambda i: module.read(name, view[(2 * i + half) * part :][:part]), range(threads)))

    runs["read"] = lambda: read(next(halves))
    units["read"] = threads * part
    return units


def _time(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def _turns(runs: dict[str, Callable[[], object]], seconds: float) -> dict[str, list[float]]:
    """Times of all, in turns: one warm-up, at least `FEWEST`, then until the time is up."""
    once = sum(_time(run) for run in runs.values())
    times: dict[str, list[float]] = {name: [] for name in runs}
    turns = max(FEWEST, min(1000, int(seconds * len(runs) / once)))
    for _ in range(turns):
        for name, run in runs.items():
            times[name].append(_time(run))
    return times
