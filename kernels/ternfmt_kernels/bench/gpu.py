"""Gate, products and a transformer step on one device: what `python -m ternfmt_kernels.bench gpu` runs."""

from __future__ import annotations

import platform
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from . import flux, flux_step, gate, roofline
from .clock import Timing, accelerator, free_bytes, limit_memory, measure
from .contenders import CONTENDERS, Contender, Product, backend_for, random_weight
from .flux_step import FLUX_1, TINY, Geometry, StepResult

TINY_SCALE = flux.WIDTH // TINY.width
TINY_ROWS = (1, 2, 8, 16, 64)


@dataclass(frozen=True)
class Plan:
    """What to run.

    Attributes:
        device: on which.
        cap: bytes of the device to use at most, None for all.
        shapes: (N, K) of weights.
        rows: M of activations.
        geometry: of the step, None to leave it out.
        budget: seconds for each product; a step takes ten times as long.
        small: the gate keeps to sizes an interpreter can do.
        contenders: names, the first is what others are compared with.
    """

    device: torch.device
    cap: int | None
    shapes: tuple[tuple[int, int], ...]
    rows: tuple[int, ...]
    geometry: Geometry | None
    budget: float
    small: bool
    contenders: tuple[str, ...]


def plan(
    device: torch.device,
    *,
    cap: int | None,
    tiny: bool,
    rows: Sequence[int],
    budget: float,
    step: bool,
    only: Sequence[str],
) -> Plan:
    """A plan for ``device``: FLUX.1's shapes, or with ``tiny`` the same scaled down 48 times."""
    shapes = flux.SHAPES
    if tiny:
        shapes = tuple((n // TINY_SCALE, k // TINY_SCALE) for n, k in shapes)
    names = tuple(c.name for c in CONTENDERS if not only or c.name in only or c.name == CONTENDERS[0].name)
    return Plan(
        device=device,
        cap=cap,
        shapes=shapes,
        rows=tuple(rows) or (TINY_ROWS if tiny else flux.ROWS),
        geometry=None if not step else TINY if tiny else FLUX_1,
        budget=budget,
        small=tiny,
        contenders=names,
    )


@dataclass(frozen=True)
class Measurement:
    """One product by one contender.

    Attributes:
        contender: its name.
        m: rows of x.
        n: rows of the weight.
        k: columns.
        timing: None where it did not run.
        skipped: why.
    """

    contender: str
    m: int
    n: int
    k: int
    timing: Timing | None
    skipped: str | None


@dataclass(frozen=True)
class Results:
    """All of a run.

    Attributes:
        machine: what it ran on.
        gate: verdicts; speeds are reported only when all passed.
        skipped: contenders that cannot run here, and why.
        products: in the order they ran.
        steps: one a contender.
    """

    machine: dict[str, str | int | float | None]
    gate: tuple[gate.Verdict, ...]
    skipped: dict[str, str]
    products: tuple[Measurement, ...]
    steps: tuple[StepResult, ...]

    @property
    def passed(self) -> bool:
        """The gate is green."""
        return all(verdict.passed for verdict in self.gate)


def machine(device: torch.device, cap: int | None) -> dict[str, str | int | float | None]:
    """The device and the software, as far as they decide the numbers."""
    module = accelerator(device)
    try:
        import triton

        triton_version: str | None = triton.__version__
    except ImportError:
        triton_version = None
    facts: dict[str, str | int | float | None] = {
        "device": platform.processor() or "CPU",
        "torch": torch.__version__,
        "triton": triton_version,
        "cuda": torch.version.cuda,
        "rocm": torch.version.hip,
        "backend": backend_for(device, flux.WIDTH, flux.WIDTH),
        "free_bytes": free_bytes(device, cap),
    }
    if module is not None:
        properties = module.get_device_properties(device)
        facts["device"] = properties.name
        facts["memory_bytes"] = properties.total_memory
        facts["capability"] = ".".join(map(str, (getattr(properties, "major", "?"), getattr(properties, "minor", "?"))))
    return facts


def run(what: Plan, begin: Callable[[str, int], Callable[[], None]]) -> Results:
    """Run a plan to its end.

    Args:
        what: the plan.
        begin: called with the name and length of each part; returns what to call after each piece of it.
    """
    limit_memory(what.device, what.cap)
    chosen = list(gate.cases(small=what.small))
    verdicts = gate.run(chosen, what.device, begin("gate", len(chosen)))
    skipped = {}
    contenders = []
    for contender in (c for c in CONTENDERS if c.name in what.contenders):
        reason = contender.unavailable(what.device)
        if reason is None:
            contenders.append(contender)
        else:
            skipped[contender.name] = reason
    facts = machine(what.device, what.cap)
    if not all(verdict.passed for verdict in verdicts):
        return Results(facts, tuple(verdicts), skipped, (), ())
    products = _products(what, contenders, begin)
    steps = []
    if what.geometry is not None:
        for contender in contenders:
            tick = begin(f"step {contender.name}", what.geometry.double + what.geometry.single)
            steps.append(flux_step.run(contender, what.geometry, what.device, what.cap, 10 * what.budget, tick))
    return Results(facts, tuple(verdicts), skipped, tuple(products), tuple(steps))


def _products(
    what: Plan, contenders: Sequence[Contender], begin: Callable[[str, int], Callable[[], None]]
) -> list[Measurement]:
    measurements = []
    tick = begin("products", len(what.shapes) * len(contenders) * len(what.rows))
    for n, k in what.shapes:
        for contender in contenders:
            for m in what.rows:
                measurements.append(_product(what, contender, m, n, k))
                tick()
    return measurements


def _product(what: Plan, contender: Contender, m: int, n: int, k: int) -> Measurement:
    def without(reason: str) -> Measurement:
        return Measurement(contender.name, m, n, k, None, reason)

    refusal = contender.refuses(m, n, k)
    if refusal is not None:
        return without(refusal)
    # Weight, dense copies on the way to it, activations with workspaces, and the buffer that flushes the cache.
    needed = 8 * n * k + 8 * m * (n + k) + (1 << 28)
    available = free_bytes(what.device, what.cap)
    if needed > available:
        return without(f"needs about {needed / 1e9:.1f} GB, {available / 1e9:.1f} GB are free")
    try:
        with torch.inference_mode():
            product, x = _prepared(contender, m, n, k, what.device)
            return Measurement(contender.name, m, n, k, measure(lambda: product(x), what.device, what.budget), None)
    except torch.OutOfMemoryError:
        return without("out of memory")
    except Exception as error:
        if contender.ours:
            raise
        # A peer that fails is reported, not fatal.
        return without(f"{type(error).__name__}: {' '.join(str(error).split())}"[:300])


def _prepared(contender: Contender, m: int, n: int, k: int, device: torch.device) -> tuple[Product, Tensor]:
    product = contender.prepare(random_weight(n, k, device, seed=0))
    generator = torch.Generator(device).manual_seed(1)
    return product, torch.randn((m, k), device=device, generator=generator).to(torch.bfloat16)


def ratios(results: Results) -> dict[tuple[int, int, int], dict[str, float]]:
    """For each (N, K, M), how many times faster than the first contender each is."""
    times: dict[tuple[int, int, int], dict[str, float]] = {}
    for found in results.products:
        if found.timing is not None:
            times.setdefault((found.n, found.k, found.m), {})[found.contender] = found.timing.median
    base = CONTENDERS[0].name
    return {at: {name: t[base] / s for name, s in t.items()} for at, t in times.items() if base in t}


def limit_seconds(results: Results, found: Measurement) -> float | None:
    """The least time on paper, for devices and methods that the roofline knows."""
    known = str(results.machine["device"])
    device = next((d for d in roofline.DEVICES if re.search(rf"\b{d.name.removesuffix(' 80 GB')}\b", known)), None)
    method = next((method for method in roofline.METHODS if method.name == found.contender), None)
    if device is None or method is None:
        return None
    return roofline.limit(method, device, found.m, found.n, found.k).seconds
