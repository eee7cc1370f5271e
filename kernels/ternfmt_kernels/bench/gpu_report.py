"""What `gpu` found: tables for a terminal, JSON, and a plot."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from .contenders import CONTENDERS
from .flux_step import StepResult
from .gpu import Measurement, Results, limit_seconds, ratios

BASE = CONTENDERS[0].name


def print_tables(results: Results, console: Console) -> None:
    """The gate's verdict, then, if it is green, ratios of products and steps."""
    machine = results.machine
    console.print(
        f"{machine['device']}, torch {machine['torch']}, triton {machine['triton']}, backend {machine['backend']}"
    )
    failed = [verdict for verdict in results.gate if not verdict.passed]
    worst = max((verdict.excess for verdict in results.gate if verdict.passed), default=0.0)
    console.print(
        f"gate: {len(results.gate) - len(failed)} of {len(results.gate)} cases within SPEC's bound"
        f" (largest error {worst:.2f} of it)"
    )
    for verdict in failed:
        console.print(
            f"FAILED {verdict.case}: {verdict.error or f'error {verdict.excess:.3g} times the bound'}", markup=False
        )
    if failed:
        console.print("The gate is red: nothing was timed.")
        return
    for name, reason in results.skipped.items():
        console.print(f"without {name}: {reason}", markup=False)
    console.print(_products(results))
    for text in _skips(results):
        console.print(f"skipped {text}", markup=False)
    if results.steps:
        console.print(_steps(results))
        for step in results.steps:
            if step.note:
                console.print(f"{step.contender}: {step.note}", markup=False)


def _names(results: Results) -> list[str]:
    ran = {found.contender for found in results.products}
    return [c.name for c in CONTENDERS if c.name in ran]


def _products(results: Results) -> Table:
    names = _names(results)
    table = Table(title=f"microseconds, and how many times faster than {BASE}")
    for column in ("N", "K", "M", *names):
        table.add_column(column, justify="right")
    faster = ratios(results)
    cells = {(p.n, p.k, p.m, p.contender): p for p in results.products}
    for n, k, m in dict.fromkeys((p.n, p.k, p.m) for p in results.products):
        row = [str(n), str(k), str(m)]
        for name in names:
            timing = cells[n, k, m, name].timing
            if timing is None:
                row.append("-")
                continue
            ratio = faster.get((n, k, m), {}).get(name)
            row.append(
                f"{1e6 * timing.median:,.1f}" + (f" ({ratio:.2f}x)" if ratio is not None and name != BASE else "")
            )
        table.add_row(*row)
    return table


def _skips(results: Results) -> list[str]:
    """Each reason once, with how often it was given."""
    reasons: dict[tuple[str, str], int] = {}
    for found in results.products:
        if found.skipped is not None:
            key = (found.contender, found.skipped)
            reasons[key] = reasons.get(key, 0) + 1
    return [f"{name}, {count} products: {reason}" for (name, reason), count in reasons.items()]


def _steps(results: Results) -> Table:
    table = Table(title="a step of FLUX.1's transformer, blocks alone")
    for column in ("", "ms", f"faster than {BASE}", "peak GB", "weights GB", "blocks", "difference"):
        table.add_column(column, justify="right")
    base = next((step for step in results.steps if step.contender == BASE), None)
    for step in results.steps:
        faster = base.seconds / step.seconds if base and base.seconds and step.seconds else None
        table.add_row(
            step.contender,
            "-" if step.seconds is None else f"{1e3 * step.seconds:,.1f}",
            "-" if faster is None else f"{faster:.2f}x",
            "-" if step.peak is None else f"{step.peak / 1e9:.2f}",
            f"{step.weight_bytes / 1e9:.3f}",
            "resident" if step.resident else "one at a time",
            _difference(step, base),
        )
    return table


def _difference(step: StepResult, base: StepResult | None) -> str:
    """Of the results, relative to the base's: all contenders have the same weights (GemLite's scales excepted)."""
    if base is None or step is base or base.output is None or step.output is None:
        return ""
    return f"{((step.output - base.output).norm() / base.output.norm()).item():.1%}"


def as_json(results: Results) -> str:
    """Everything that was found."""
    faster = ratios(results)
    document = {
        "machine": results.machine,
        "gate": [{**dataclasses.asdict(verdict), "passed": verdict.passed} for verdict in results.gate],
        "skipped": results.skipped,
        "products": [_product(results, found, faster) for found in results.products],
        "steps": [
            {f.name: getattr(step, f.name) for f in dataclasses.fields(step) if f.name != "output"}
            for step in results.steps
        ],
    }
    return json.dumps(document, indent=1, default=str) + "\n"


def _product(
    results: Results, found: Measurement, faster: dict[tuple[int, int, int], dict[str, float]]
) -> dict[str, Any]:
    entry = dataclasses.asdict(found)
    entry["faster_than_bf16"] = faster.get((found.n, found.k, found.m), {}).get(found.contender)
    entry["limit_seconds"] = limit_seconds(results, found)
    if found.timing is not None:
        entry["operations_per_second"] = 2 * found.m * found.n * found.k / found.timing.median
    return entry


def plot(results: Results, path: Path) -> str | None:
    """Draw ratios over M, a panel a shape; why not, where it cannot."""
    try:
        import matplotlib
    except ImportError:
        return "matplotlib is not installed (pip install matplotlib)"
    matplotlib.use("Agg")
    from matplotlib import pyplot

    shapes = list(dict.fromkeys((found.n, found.k) for found in results.products))
    if not shapes:
        return "nothing was timed"
    faster = ratios(results)
    figure, axes = pyplot.subplots(1, len(shapes), figsize=(4 * len(shapes), 4), sharey=True, squeeze=False)
    for axis, (n, k) in zip(axes[0], shapes, strict=True):
        for name in _names(results):
            points = sorted((m, r[name]) for (n_, k_, m), r in faster.items() if (n_, k_) == (n, k) and name in r)
            if points:
                axis.plot(*zip(*points, strict=True), marker="o", label=name)
        axis.set(title=f"{n} x {k}", xlabel="M", xscale="log", yscale="log")
        axis.grid(True, which="both", alpha=0.3)
    axes[0][0].set_ylabel(f"times faster than {BASE}")
    axes[0][-1].legend()
    figure.suptitle(f"{results.machine['device']}")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    return None
