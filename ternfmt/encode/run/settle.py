"""Turn a plan's dial: measure the layers, then give further planes, and low-rank terms, to those that gain most."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..plan import Plan, with_layers
from ..settings import LayerSettings
from ..source.recipe import read
from ..source.tensor_source import TensorSource
from ..weights import Array
from .dial import DialLayer, choose_planes
from .journal import Journal

Records = Sequence[Mapping[str, Any]]
"""What an earlier, interrupted run has measured."""

Record = Callable[[dict[str, Any]], None]
"""Keeps what was measured of a layer."""

Settled = dict[str, LayerSettings]
"""The settings of every layer."""

Choose = Callable[[Mapping[str, DialLayer], float, Records, Record], Settled]
"""Chooses how to store layers for a ratio."""


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

    def read_rows(name: str, start: int, stop: int) -> Array:
        return read(plan.recipes[name], source, start, stop)

    def choose(layers: Mapping[str, DialLayer], ratio: float, measured: Records, record: Record) -> Settled:
        return choose_planes(
            layers,
            ratio,
            read_rows,
            measured=measured,
            record=record,
            progress=lambda name, weights: progress(weights),
            jobs=jobs,
        )

    return turn_dial(plan, choose, journal)


def dial_layers(plan: Plan) -> dict[str, DialLayer]:
    """The layers of a plan with a dial."""
    assert plan.dial is not None
    fixed = plan.dial.fixed
    return {name: DialLayer(plan.recipes[name].shape, layer, name in fixed) for name, layer in plan.layers.items()}


def turn_dial(plan: Plan, choose: Choose, journal: Path | None) -> Plan:
    """The plan with the settings that ``choose`` has for its layers and its ratio.

    Args:
        plan: one with a dial.
        choose: measures the layers, but for what an earlier run recorded, and chooses.
        journal: where measurements are kept for the next run.
    """
    assert plan.dial is not None
    layers = dial_layers(plan)
    if journal is None:
        chosen = choose(layers, plan.dial.ratio, [], lambda costs: None)
    else:
        kept = Journal(journal, plan.fingerprint)
        try:
            chosen = choose(layers, plan.dial.ratio, kept.records, lambda costs: kept.append([costs]))
        finally:
            kept.close()
    return with_layers(replace(plan, dial=None), chosen, plan.dial.shard_bytes)
