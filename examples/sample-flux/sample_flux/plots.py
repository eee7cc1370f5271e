"""The pictures of numbers that documents show."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure


def plot_loss(log: Path, path: Path) -> None:
    """Draw a training log, log.jsonl, as a PNG."""
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    figure = Figure(figsize=(6, 3), layout="constrained")
    axes = figure.add_subplot()
    axes.plot([line["step"] for line in lines], [line["loss"] for line in lines], linewidth=1)
    axes.set(xlabel="step", ylabel="velocity loss", yscale="log")
    rates = axes.twinx()
    rates.plot([line["step"] for line in lines], [line["rate"] for line in lines], color="gray", linewidth=0.8)
    rates.set(ylabel="learning rate (of the highest)", ylim=(0, 1.05))
    figure.savefig(path, dpi=100, metadata={"Software": None})


def plot_retention(points: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Draw docs/quality.json, retention against block ratio, as a PNG."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    by_method = defaultdict(list)
    for point in sorted(points.values(), key=lambda point: point["block_ratio"]):
        by_method[point["method"]].append(point)
    for method, of in by_method.items():
        ratios = [point["block_ratio"] for point in of]
        kept = [100 * point["retention"]["value"] for point in of]
        down = [100 * (point["retention"]["value"] - point["retention"]["low"]) for point in of]
        up = [100 * (point["retention"]["high"] - point["retention"]["value"]) for point in of]
        axes.errorbar(ratios, kept, yerr=[down, up], label=method, marker="o", markersize=4, capsize=3)
    axes.set(xlabel="block ratio (bf16 bytes / ternary bytes)", ylabel="kept of full precision's score, %")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=100, metadata={"Software": None})
