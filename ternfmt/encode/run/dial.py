"""The dial: further planes for the layers that gain most by them, as far as a block ratio allows.

`spend` decides from costs, `measure` makes the costs of a layer, `choose_planes` does both for a model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise
from operator import itemgetter
from typing import Any

import numpy as np

from ...container import DTYPES, nbytes
from ...limits import PLANES_MAX
from ...ratios import BF16_BYTES
from ..calibration import DATA_METHODS
from ..quantize import quantize
from ..report.layer_report import LayerReport, Measure
from ..settings import LayerSettings
from ..weights import Array, WeightError

SAMPLE_WEIGHTS = 1 << 19
"""Weights of a layer that are quantised to learn its costs; a smaller layer is measured whole."""

SAMPLE_RUNS = 16
"""The sample is this many runs of rows, spread evenly: fused projections (q, k, v) all have their share."""

ReadRows = Callable[[str, int, int], Array]
"""``(name, start, stop)`` -> these rows of a source weight."""


class RatioError(ValueError):
    """A block ratio that no number of planes gives."""


@dataclass(frozen=True)
class Option:
    """One way to store a layer.

    Attributes:
        planes: number of planes.
        stored_bytes: of all codes and scales, and of the low-rank term.
        noise: what storing it so costs in quality, in any unit that adds up over layers.
        low_rank: rank of a low-rank term, or 0.
    """

    planes: int
    stored_bytes: int
    noise: float
    low_rank: int = 0


@dataclass(frozen=True)
class LayerCosts:
    """What the dial knows of a layer.

    Attributes:
        name: the tensor.
        weights: number of weights.
        options: at least one, in ascending order of bytes.
    """

    name: str
    weights: int
    options: tuple[Option, ...]

    def to_json(self) -> dict[str, Any]:
        """As a journal records it; floats survive exactly."""
        return {"name": self.name, "weights": self.weights, "options": [vars(option) for option in self.options]}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> LayerCosts:
        """From what `to_json` gave."""
        return cls(value["name"], value["weights"], tuple(Option(**option) for option in value["options"]))


@dataclass(frozen=True)
class DialLayer:
    """A layer before the dial is turned.

    Attributes:
        shape: its logical shape.
        settings: how it is quantised, but for method and planes; a low-rank term is one that it may be given.
        fixed: method and planes stay as they are, too (an override sets them).
    """

    shape: tuple[int, ...]
    settings: LayerSettings
    fixed: bool = False

    def with_planes(self, planes: int, low_rank: int = 0) -> LayerSettings:
        """The settings for a number of planes; one plane is method ``exact``, but for a method that needs data."""
        if self.settings.method in DATA_METHODS:
            return replace(self.settings, planes=self.settings.planes if self.fixed else planes, low_rank=low_rank)
        if self.fixed:
            return self.settings
        return replace(self.settings, method="exact" if planes == 1 else "planes", planes=planes)

    def candidates(self, planes: Iterable[int]) -> list[LayerSettings]:
        """The settings to choose from, each once, in ascending order of bytes."""
        ranks = dict.fromkeys((0, self.settings.low_rank))
        found = dict.fromkeys(self.with_planes(count, rank) for count in planes for rank in ranks)
        return sorted(found, key=self.stored_bytes)

    def stored_as(self, option: Option) -> LayerSettings:
        """The settings that an option stands for."""
        return self.with_planes(option.planes, option.low_rank)

    def stored_bytes(self, settings: LayerSettings, *, wide: bool = False) -> int:
        """Bytes of codes, scales and low-rank term; ``wide`` has F32 in place of F16 scales."""
        return sum(nbytes(*stored) for stored in settings.stored("", self.shape, wide=wide).values())


def spend(costs: Sequence[LayerCosts], ratio: float) -> dict[str, Option]:
    """How to store each layer: the least noise for the bytes, and never a block ratio below ``ratio``.

    Each layer starts with its smallest option. Steps to larger ones, along the lower convex hull of the layer's
    (bytes, noise), are taken in the order of noise saved per byte, over all layers, until the next one would take the
    block ratio below ``ratio``. So a larger ratio never gives a layer more bytes, and no other choice of options with
    as many bytes has less noise. Of equal steps the one of the layer that comes first in ``costs`` is taken first.

    Raises:
        RatioError: the smallest options are too large, or the largest are smaller than asked; names the range.
    """
    bf16_bytes = BF16_BYTES * sum(layer.weights for layer in costs)
    total = sum(layer.options[0].stored_bytes for layer in costs)
    largest = sum(layer.options[-1].stored_bytes for layer in costs)
    _check_range(ratio, bf16_bytes / largest, bf16_bytes / total)
    steps = []
    for number, layer in enumerate(costs):
        slope = -math.inf
        for before, after in pairwise(_convex_hull(layer.options)):
            # Slopes rise along a hull; where rounding has it otherwise, a layer's steps still come in their order.
            slope = max(slope, _slope(before, after))
            steps.append((slope, number, after.stored_bytes - before.stored_bytes, after))
    chosen = {layer.name: layer.options[0] for layer in costs}
    for _, number, more, option in sorted(steps, key=itemgetter(0, 1)):  # stable: a layer's steps stay in their order
        if bf16_bytes / (total + more) < ratio:
            break
        total += more
        chosen[costs[number].name] = option
    return chosen


def measure(name: str, layer: DialLayer, planes: Iterable[int], read: ReadRows) -> LayerCosts:
    """Quantise a sample of a layer's rows with each number of planes, and keep only what it costs.

    The noise is the squared error in units of the squared norm, times the number of weights. So planes go to the
    layers with the lowest signal-to-noise ratio, however large their weights: most layers' outputs are normalised.

    Memory: the sample (`SAMPLE_WEIGHTS`, at least SAMPLE_RUNS rows) and its codes.

    Raises:
        WeightError: a weight of the sample is NaN or Inf.
    """
    weights = math.prod(layer.shape)
    runs = sample(layer.shape[0], math.prod(layer.shape[1:]))
    weight = np.concatenate([read(name, run.start, run.stop) for run in runs])
    options = []
    for settings in layer.candidates(planes):
        try:
            report = _report(name, weight, settings)
        except WeightError as error:
            rows = [row for run in runs for row in range(run.start, run.stop)]
            raise WeightError(name, rows[error.row], error.column, error.value) from None
        noise = weights * report.squared_error / report.squared_norm if report.squared_norm else 0.0
        wide = report.scale_dtype == "F32"
        options.append(Option(settings.planes, layer.stored_bytes(settings, wide=wide), noise))
    return LayerCosts(name, weights, tuple(options))


def _report(name: str, weight: Array, settings: LayerSettings) -> LayerReport:
    tensor = quantize(
        weight,
        settings.method,
        planes=settings.planes,
        group_size=settings.group_size,
        scale_dtype=settings.scale_dtype and DTYPES[settings.scale_dtype],
        name=name,
        threads=1,
    )
    measured = Measure(name, tensor.shape, settings)
    measured.add(weight, tensor)
    return measured.report()


def sample(rows: int, columns: int) -> list[slice]:
    """Runs of rows to measure instead of all."""
    count = max(SAMPLE_RUNS, SAMPLE_WEIGHTS // columns)
    if count >= rows:
        return [slice(0, rows)]
    starts = [i * rows // SAMPLE_RUNS for i in range(SAMPLE_RUNS)]
    return [slice(start, start + count // SAMPLE_RUNS) for start in starts]


def choose_planes(
    layers: Mapping[str, DialLayer],
    ratio: float,
    read: ReadRows,
    *,
    measured: Iterable[Mapping[str, Any]] = (),
    record: Callable[[dict[str, Any]], None] = lambda costs: None,
    progress: Callable[[str, int], None] = lambda name, weights: None,
    jobs: int = 1,
) -> dict[str, LayerSettings]:
    """The settings of every layer for a block ratio.

    Args:
        layers: the ternary tensors.
        ratio: the block ratio to keep.
        read: reads the weights; called by several threads at once.
        measured: what an earlier, interrupted call recorded.
        record: keeps the costs of a layer, in the order of ``layers``.
        progress: called with a layer's name and number of weights when it is measured.
        jobs: threads.

    Raises:
        RatioError: the ratio is out of reach.
        WeightError: a weight that was looked at is NaN or Inf.
    """
    planes = range(1, planes_needed(layers, ratio) + 1)
    known = {value["name"]: LayerCosts.from_json(value) for value in measured}

    def cost(name: str) -> LayerCosts:
        return known[name] if name in known else measure(name, layers[name], planes, read)

    costs = []
    with ThreadPoolExecutor(jobs) as pool:
        try:
            for name, found in zip(layers, pool.map(cost, layers), strict=True):
                if name not in known:
                    record(found.to_json())
                progress(name, found.weights)
                costs.append(found)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    chosen = spend(costs, ratio)
    return {name: layer.stored_as(chosen[name]) for name, layer in layers.items()}


def planes_needed(layers: Mapping[str, DialLayer], ratio: float) -> int:
    """The fewest planes for all layers that come down to the ratio: more could not be paid for everywhere."""
    weights = sum(math.prod(layer.shape) for layer in layers.values())
    ratios = [
        BF16_BYTES * weights / sum(layer.stored_bytes(layer.with_planes(planes)) for layer in layers.values())
        for planes in range(1, PLANES_MAX + 1)
    ]
    _check_range(ratio, ratios[-1], ratios[0])
    return next(planes for planes in range(1, PLANES_MAX + 1) if ratios[planes - 1] <= ratio)


def _check_range(ratio: float, low: float, high: float) -> None:
    if not low <= ratio <= high:
        low, high = math.ceil(low * 1e4) / 1e4, math.floor(high * 1e4) / 1e4  # so that both are in reach
        raise RatioError(f"ratio: expected {low:g} to {high:g} for these layers, got {ratio:g}")


def _convex_hull(options: Sequence[Option]) -> list[Option]:
    """The options that lie on the lower convex hull of (bytes, noise), noise falling."""
    hull: list[Option] = []
    for option in options:
        if hull and option.noise >= hull[-1].noise:
            continue
        while len(hull) > 1 and _slope(hull[-2], option) < _slope(hull[-2], hull[-1]):
            hull.pop()
        hull.append(option)
    return hull


def _slope(before: Option, after: Option) -> float:
    return (after.noise - before.noise) / (after.stored_bytes - before.stored_bytes)
