"""Times our CPU kernels, all peers and the machine's limits in one process, in turns, so that all see the same machine.

Weights are cold, as in a model that is larger than the caches: products take turns among copies that together are
larger. Ratios are medians over turns of the two times of a turn, so what disturbs both does not show.
"""

from __future__ import annotations

import itertools
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..cpu_backend import isa
from . import gate
from .contenders import Product, Weight, forced, random_weight
from .cpu_peers import Copies, Peer, activations

SHAPES = {"A": (3072, 3072), "B": (12288, 3072), "C": (3072, 12288), "D": (21504, 3072), "E": (3072, 15360)}
"""(N, K) of FLUX.1's linears, by the letters of the tables."""

ROWS = dict.fromkeys(SHAPES, (1, 8, 64, 512)) | {"A": (1, 8, 64, 512, 4608)}
"""M that a whole run times; 4608 rows of the smallest shape alone, for the time they take."""

OURS = ("a8", "a16")

STREAMS = {"read": 1, "read4": 4}
"""Limits of memory: parts of it that are read side by side, which some processors do faster than one by one."""

LIMITS = (*STREAMS, "int8", "float")
"""Of the machine: bytes, and multiply-accumulates of the best instructions, a second."""

HEAD_ROWS = 16
"""Ours is timed with so few rows of the weight, too: that is the call, and preparing x."""

CACHED_BYTES = 256 << 10
"""And with so much of the weight, again and again, which stays in the second level of the cache."""

COLD_BYTES = 160 << 20
COPIES_MAX = 80
WARM_ROWS = 512
"""From so many rows on, the time for reading the weight is lost in that for multiplying: two copies will do."""

TURNS_FEWEST, TURNS_MOST = 5, 60
BURST_SECONDS = 2e-3
"""A turn is at least so long: it repeats short products."""

WARM_SECONDS = 5e-3
"""Before it, the same product runs for so long: in a model, too, layers follow each other. After another product, or
sleep, code comes from memory, and the processor takes milliseconds to be as fast as it was."""

PROBE_SECONDS = 1e-2
SETTLE_SECONDS = 8e-3
"""After a product on several threads, OpenMP's wait for the next in a loop for about this long."""

LONGEST_SECONDS = 7.0
"""A product that would take longer is left out."""


@dataclass(frozen=True)
class Plan:
    """What to time.

    Attributes:
        rows: M, for each letter of `SHAPES` that is timed.
        peers: ours and others.
        threads: T.
        seconds: for each product of a cell; at least `TURNS_FEWEST` turns are taken.
    """

    rows: Mapping[str, Sequence[int]]
    peers: Sequence[Peer]
    threads: Sequence[int] = (1, 2)
    seconds: float = 0.4


@dataclass(frozen=True)
class Shares:
    """What a product's time goes to: parts of it, of which the last is what the others leave.

    Attributes:
        call: the call, quantising and laying out x.
        instructions: on codes that are in the cache.
        memory: waiting for those that are not.
    """

    call: float
    instructions: float
    memory: float

    def __str__(self) -> str:
        return f"{self.call:.0%} call, {self.instructions:.0%} instructions, {self.memory:.0%} memory"


@dataclass(frozen=True)
class Cell:
    """One shape, M and T.

    Attributes:
        times: of each peer, limit and slice, seconds a product or unit, a turn each; one that takes long has fewer.
        units: multiply-accumulates or bytes that are one unit of each limit.
        left_out: peers that would have taken too long, with the seconds expected.
    """

    shape: str
    n: int
    k: int
    m: int
    threads: int
    times: dict[str, list[float]]
    units: dict[str, float]
    left_out: dict[str, float]

    @property
    def macs(self) -> int:
        """Multiply-accumulates of a product."""
        return self.m * self.n * self.k

    def rate(self, name: str) -> float:
        """Multiply-accumulates (of limits of memory: bytes) a second, the median."""
        return self.units.get(name, self.macs) / statistics.median(self.times[name])

    def of_limit(self, ours: str, limit: str) -> float:
        """What part of the limit our mode reaches, in the same turns."""
        done = self.n * self.k / 4 if limit in STREAMS else self.macs
        return done / self.units[limit] * _paired(self.times[limit], self.times[ours])

    def against(self, ours: str, peer: str) -> float | None:
        """How many times faster than the peer, in the same turns; None where it did not run."""
        return _paired(self.times[peer], self.times[ours]) if peer in self.times else None

    def roof(self, ours: str) -> float:
        """Multiply-accumulates a second that neither memory nor the best instructions exceed."""
        # a16 takes either floats or a bfloat16 as three digits of int8.
        best = {"a8": self.rate("int8"), "a16": max(self.rate("float"), self.rate("int8") / 3)}[ours]
        return min(4 * self.m * max(self.rate(name) for name in STREAMS), best)

    def shares(self, ours: str) -> Shares | None:
        """What the time of our mode goes to, by what slices of the weight take; None where they were not timed."""
        if not all(name in self.times for name in _slices(ours)):
            return None
        head, cached = (_paired(self.times[name], self.times[ours]) for name in _slices(ours))
        a_row = max(0.0, cached - head) / (_cached_rows(self.n, self.k) - HEAD_ROWS)
        call, instructions = max(0.0, head - HEAD_ROWS * a_row), self.n * a_row
        return Shares(call, instructions, max(0.0, 1 - call - instructions))

    def as_dict(self) -> dict[str, Any]:
        """For JSON: rates and ratios, four digits, in place of every time."""
        ours = [name for name in OURS if name in self.times]
        slices = [name for mode in OURS for name in _slices(mode)]
        peers = [name for name in self.times if name not in (*LIMITS, *slices)]
        shares = {
            mode: {part: _digits(v) for part, v in asdict(of).items()} for mode in ours if (of := self.shares(mode))
        }
        faster = {mode: {peer: _digits(self.against(mode, peer) or 0) for peer in peers} for mode in ours}
        limits = {mode: {limit: _digits(self.of_limit(mode, limit)) for limit in LIMITS} for mode in ours}
        return {
            "shape": self.shape,
            "n": self.n,
            "k": self.k,
            "m": self.m,
            "threads": self.threads,
            "turns": {name: len(times) for name, times in self.times.items()},
            "median seconds": {name: _digits(statistics.median(times)) for name, times in self.times.items()},
            "shortest seconds": {name: _digits(min(times)) for name, times in self.times.items()},
            "rates": {name: _digits(self.rate(name)) for name in self.times if name not in slices},
            "times faster than": faster,
            "part of limit": limits,
            "shares of the time": shares,
            "left out, seconds expected": {name: _digits(seconds) for name, seconds in self.left_out.items()},
        }


def _slices(mode: str) -> tuple[str, str]:
    """Names of our mode with the first rows of the weight alone."""
    return f"{mode} head", f"{mode} cached"


def _cached_rows(n: int, k: int) -> int:
    return min(n, max(2 * HEAD_ROWS, CACHED_BYTES // math.ceil(k / 4) // HEAD_ROWS * HEAD_ROWS))


def _digits(value: float) -> float:
    return float(f"{value:.4g}")


def _paired(a: list[float], b: list[float]) -> float:
    return statistics.median(x / y for x, y in zip(a, b, strict=False))


@dataclass
class Results:
    """All of a run.

    Attributes:
        machine: what it ran on.
        peers: what each is, by name; those that ran.
        missing: why others did not.
        verdicts: of the gate; nothing is timed where one failed.
        cells: the times.
    """

    machine: dict[str, Any]
    peers: dict[str, str]
    missing: dict[str, str]
    verdicts: list[gate.Verdict] = field(default_factory=list)
    cells: list[Cell] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """The kernels compute what they should."""
        return all(v.passed for v in self.verdicts)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        failed = [asdict(v) for v in self.verdicts if not v.passed]
        return {
            "machine": self.machine,
            "peers": self.peers,
            "missing": self.missing,
            "gate": {"cases": len(self.verdicts), "failed": failed},
            "cells": [c.as_dict() for c in self.cells],
        }


def machine() -> dict[str, Any]:
    """What the numbers depend on."""
    lines = _lines("/proc/cpuinfo")
    name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
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


def run(plan: Plan, tick: Callable[[str], None], keep: Callable[[Results], None] = lambda _: None) -> Results:
    """Check, then time every cell; ``tick`` is told of each before it begins, ``keep`` of the results so far."""
    reasons = {peer: peer.unavailable() for peer in plan.peers}
    results = Results(
        machine(),
        {peer.name: peer.what for peer, reason in reasons.items() if reason is None},
        {peer.name: reason for peer, reason in reasons.items() if reason is not None},
    )
    before = torch.get_num_threads()
    with forced("cpu"), torch.inference_mode():
        tick("correctness")
        torch.set_num_threads(max(plan.threads))
        results.verdicts = gate.run(list(gate.cases(small=False)), torch.device("cpu"), lambda: None)
        try:
            for letter in plan.rows if results.passed else ():
                _shape(plan, letter, [peer for peer in plan.peers if reasons[peer] is None], results, tick)
                keep(results)
        finally:
            torch.set_num_threads(before)
    return results


def _shape(plan: Plan, letter: str, peers: list[Peer], results: Results, tick: Callable[[str], None]) -> None:
    n, k = SHAPES[letter]
    tick(f"{letter} {n}x{k}")
    weight = random_weight(n, k, torch.device("cpu"), seed=0)
    products = {
        peer: peer.copies(weight, min(COPIES_MAX, math.ceil(COLD_BYTES / (n * k * peer.weight_bits / 8))))
        for peer in peers
    }
    slices = dict(_of_slices(weight, [peer for peer in peers if peer.ours]))
    memory = bytearray(COLD_BYTES)
    for threads in plan.threads:
        torch.set_num_threads(threads)
        rates: dict[str, float] = {}  # multiply-accumulates a second with fewer rows
        for m in plan.rows[letter]:
            tick(f"{letter} {n}x{k}, M={m}, T={threads}")
            expected = {peer.name: m * n * k / rates[peer.name] for peer in peers if peer.name in rates}
            long = {name: seconds for name, seconds in expected.items() if seconds > LONGEST_SECONDS}
            left_out = {name: seconds for name, seconds in long.items() if name not in OURS}
            chosen = {peer: copies for peer, copies in products.items() if peer.name not in left_out}
            with ThreadPoolExecutor(threads) as executor:
                runs = _runs(chosen | slices if threads == 1 else chosen, m, k)
                units = _limits(runs, threads, memory, executor)
                times = _turns(runs, plan.seconds, SETTLE_SECONDS if threads > 1 else 0)
            cell = Cell(letter, n, k, m, threads, times, units, left_out)
            rates |= {peer.name: cell.rate(peer.name) for peer in chosen}
            results.cells.append(cell)


def _of_slices(weight: Weight, ours: list[Peer]) -> Iterator[tuple[Peer, Copies]]:
    for peer in ours:
        for name, rows in zip(_slices(peer.name), (HEAD_ROWS, _cached_rows(weight.n, weight.k)), strict=True):
            slice_of = replace(weight, codes=weight.codes[:rows].clone(), scale=weight.scale[:rows])
            yield replace(peer, name=name), peer.copies(slice_of, 1)


def _runs(products: dict[Peer, Copies], m: int, k: int) -> dict[str, Callable[[], object]]:
    x = torch.randn(m, k)
    return {
        peer.name: _rotating(copies[:2] if m >= WARM_ROWS else copies, activations(peer, x))
        for peer, copies in products.items()
    }


def _rotating(copies: list[Product], x: Tensor) -> Callable[[], object]:
    turn = itertools.cycle(copies)
    return lambda: next(turn)(x)


def _limits(
    runs: dict[str, Callable[[], object]], threads: int, memory: bytearray, executor: ThreadPoolExecutor
) -> dict[str, float]:
    """Add the machine's limits to ``runs``, on so many threads; returns what one run of each does."""
    module, name = isa.module(), isa.selected()
    units = {}
    for kind in ("int8", "float"):
        steps = 1000
        while (taken := _time(lambda kind=kind, steps=steps: module.probe(name, kind, steps))) < PROBE_SECONDS:  # type: ignore[misc]
            steps = int(steps * max(2, min(100, PROBE_SECONDS / max(taken, 1e-6))))
        units[kind] = threads * module.probe(name, kind, steps)
        probes = [(name, kind, steps)] * threads
        runs[kind] = lambda probes=probes: list(executor.map(module.probe, *zip(*probes, strict=True)))  # type: ignore[misc]
    view, part = memoryview(memory), len(memory) // threads
    parts = [view[i * part :][:part] for i in range(threads)]
    for limit, streams in STREAMS.items():
        runs[limit] = lambda s=streams: list(executor.map(module.read, [name] * threads, parts, [s] * threads))  # type: ignore[misc]
        units[limit] = float(threads * part)
    return units


def _time(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def _once(run: Callable[[], object]) -> float:
    """After a warm-up, unless that took long."""
    first = _time(run)
    return first if first > 1 else min(_time(run), _time(run))


def _turns(runs: dict[str, Callable[[], object]], seconds: float, settle: float) -> dict[str, list[float]]:
    """Times of all, in turns, of which those that take long have fewer: the first ones.

    In a turn each waits for the others' threads to sleep, runs for `WARM_SECONDS`, and then as often as it takes.
    """
    once = {name: _once(run) for name, run in runs.items()}
    repeats = {name: max(1, round(BURST_SECONDS / taken)) for name, taken in once.items()}
    left = {
        name: max(TURNS_FEWEST, min(TURNS_MOST, int(seconds / (taken * repeats[name] + WARM_SECONDS + settle))))
        for name, taken in once.items()
    }
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(max(left.values())):
        for name, run in runs.items():
            if turn >= left[name]:
                continue
            time.sleep(settle)
            until = time.perf_counter() + (WARM_SECONDS if once[name] < WARM_SECONDS else 0)
            while time.perf_counter() < until:
                run()
            times[name].append(_time(lambda run=run, name=name: [run() for _ in range(repeats[name])]) / repeats[name])  # type: ignore[misc]
    return times
