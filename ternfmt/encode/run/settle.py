"""Turn a plan's dial: measure the layers, then give second planes to those that gain most."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..plan import Plan, with_layers
from ..source.recipe import read
from ..source.tensor_source import TensorSource
from ..weights import Array
from .dial import DialLayer, choose_planes
from .journal import Journal


def settle(
    plan: Plan,
    source: TensorSource,
    journal: Path | None = None,
    *,
    jobs: int = 1,
    progress: Callable[[int], None] = lambda weights: None,
) -> Plan:
    """The plan with its dial turned; a plan without one as it is.

    Args:
        plan: from `plan_conversion`.
        source: its source.
        journal: where measurements are kept for the next run.
        jobs: threads.
        progress: called with the weights of each layer that is measured.

    Raises:
        RatioError: the ratio is out of reach.
        WeightError: a weight that was looked at is NaN or Inf.
        SourceChangedError, OSError: reading or writing fails.
    """
    if plan.dial is None:
        return plan
    layers = {
        name: DialLayer(plan.recipes[name].shape, layer, name in plan.dial.fixed) for name, layer in plan.layers.items()
    }

    def read_rows(name: str, start: int, stop: int) -> Array:
        return read(plan.recipes[name], source, start, stop)

    def choose(measured: list[dict[str, Any]], record: Callable[[dict[str, Any]], None]) -> Plan:
        assert plan.dial is not None
        chosen = choose_planes(
            layers,
            plan.dial.ratio,
            read_rows,
            measured=measured,
            record=record,
            progress=lambda name, weights: progress(weights),
            jobs=jobs,
        )
        return with_layers(replace(plan, dial=None), chosen, plan.dial.shard_bytes)

    if journal is None:
        return choose([], lambda costs: None)
    kept = Journal(journal, plan.fingerprint)
    try:
        return choose(kept.records, lambda costs: kept.append([costs]))
    finally:
        kept.close()
