"""The rules that choose scales: absmean, exact and planes (docs/methods.md).

A rule maps the spectrum of R rows (or groups) to unrounded scales, float64 ``[R, P]``, descending
over the planes. Each takes its sums from the spectrum and otherwise works element by element, so
its bits depend on nothing but the row.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from .least_squares import solve
from .levels import Levels, levels
from .spectrum import Spectrum, prefix_sums
from .weights import Float64, Int64

Method = Callable[[Spectrum, int], Float64]

GEOMETRIC_RATIOS = (1.0, 0.6, 0.36, 0.216)
GEOMETRIC_FACTORS = (1.2, 1.6, 2.2)
"""Besides the greedy start, `planes` tries the starts factor * ratios times the exact scale. On
Gaussian and Student-t5 rows of 3072 the method ends 0.2 to 1.6 dB above the greedy start alone."""

TRIAL_STEPS = 6
"""Lloyd steps each start is given before all but the best are dropped."""

STEPS_MAX = 64
"""Lloyd steps after that: a cap on cost. Many rows of three or four planes reach it."""

SCALE_RATIO_MIN = 2.0**-24
"""A plane whose scale is below this part of the row's largest is dropped: float32 sums lose it."""

CACHED_VALUES = 1 << 15
"""Float64 temporaries that `exact` reuses: 256 KiB stay in an L2 cache."""


def absmean(spectrum: Spectrum, planes: int) -> Float64:
    """The mean magnitude (BitNet b1.58)."""
    mean: Float64 = spectrum.prefix[:, -1:] / spectrum.keys.shape[1]
    return mean


def exact(spectrum: Spectrum, planes: int) -> Float64:
    """The scale of least squared error over all ternary codes of the row."""
    return _exact(spectrum.prefix)[:, None]


def planes(spectrum: Spectrum, planes: int) -> Float64:
    """Scales of planes that add up, by Lloyd's algorithm from the best of several starts."""
    first = _exact(spectrum.prefix)
    starts = [_greedy(spectrum, first, planes)]
    for factor in GEOMETRIC_FACTORS:
        ratios = GEOMETRIC_RATIOS[:planes]
        starts.append(np.stack([first * (factor * ratio) for ratio in ratios], axis=1))
    rows = np.arange(len(first))
    tried, gain = _lloyd(spectrum, np.tile(rows, len(starts)), np.concatenate(starts), TRIAL_STEPS)
    winner = np.argmax(gain.reshape(len(starts), -1), axis=0)
    best, _ = _lloyd(spectrum, rows, tried.reshape(len(starts), -1, planes)[winner, rows], STEPS_MAX)
    best[best < best[:, :1] * SCALE_RATIO_MIN] = 0.0
    return best


METHODS: dict[str, Method] = {
    "absmean": absmean,
    "exact": exact,
    "planes": planes,
}


def _exact(prefix: Float64) -> Float64:
    """Mean of the n largest for the first n to maximise (their sum)^2 / n: float64 ``[R]``."""
    sums = prefix[:, 1:]
    sizes = np.arange(1.0, sums.shape[1] + 1)
    step = max(1, CACHED_VALUES // len(sizes))
    gain = np.empty((step, len(sizes)))
    support = np.empty(len(sums), dtype=np.int64)
    for start in range(0, len(sums), step):
        part = sums[start : start + step]
        part_gain = np.multiply(part, part, out=gain[: len(part)])
        part_gain /= sizes
        support[start : start + step] = np.argmax(part_gain, axis=1)
    scale: Float64 = sums[np.arange(len(sums)), support] / (support + 1)
    return scale


def _greedy(spectrum: Spectrum, first: Float64, planes: int) -> Float64:
    """Exact on the magnitudes, then on those of what is left, and so on: float64 ``[R, P]``."""
    scales = [first]
    residual = spectrum.values
    for _ in range(1, planes):
        scale = scales[-1][:, None]
        residual = np.abs(residual - scale * (residual > scale * 0.5))
        residual.sort(axis=1)
        residual = residual[:, ::-1]
        scales.append(_exact(prefix_sums(residual)))
    return _descending(np.stack(scales, axis=1))


def _lloyd(spectrum: Spectrum, rows: Int64, scales: Float64, steps: int) -> tuple[Float64, Float64]:
    """Alternate nearest levels and least squares while the squared error falls.

    Args:
        spectrum: the magnitudes.
        rows: the row each start belongs to, ``[S]``.
        scales: the starts, ``[S, P]``.
        steps: limit on least-squares steps.

    Returns:
        The best scales ``[S, P]`` and their gain ``[S]``: squared error of all zeros minus theirs.
    """
    best = scales.copy()
    best_gain = np.full(len(rows), -1.0)
    active = np.arange(len(rows))
    for step in range(steps + 1):
        grid = levels(scales)
        counts, sums = _classes(spectrum, grid, rows[active])
        gain = np.zeros(len(active))
        for j in range(counts.shape[1]):
            level = grid.values[:, j + 1]
            gain += level * (2.0 * sums[:, j] - level * counts[:, j])
        better = gain > best_gain[active]
        active = active[better]
        best[active], best_gain[active] = scales[better], gain[better]
        if step == steps or not active.size:
            break
        scales = _least_squares(grid.codes[better, 1:], counts[better], sums[better])
    return best, best_gain


def _classes(spectrum: Spectrum, grid: Levels, rows: Int64) -> tuple[Float64, Float64]:
    """How many magnitudes each level above zero stands for, and their sum: ``[R, L - 1]`` each."""
    counts = spectrum.count_above(grid.thresholds, rows)
    sums = spectrum.sum_largest(counts, rows)
    counts[:, :-1] -= counts[:, 1:]
    sums[:, :-1] -= sums[:, 1:]
    return counts.astype(np.float64), sums


def _least_squares(codes: npt.NDArray[np.int8], counts: Float64, sums: Float64) -> Float64:
    """Scales that fit magnitudes of given codes best, made non-negative and descending.

    Changing the sign or the order of scales leaves the set of levels as it is.

    Args:
        codes: of each level above zero, int8 ``[R, L - 1, P]``.
        counts: magnitudes of each level, ``[R, L - 1]``.
        sums: sums of those magnitudes, ``[R, L - 1]``.
    """
    rows, n_levels, n_planes = codes.shape
    gram = np.zeros((rows, n_planes, n_planes))
    moment = np.zeros((rows, n_planes))
    for j in range(n_levels):
        code = codes[:, j].astype(np.float64)
        gram += counts[:, j, None, None] * (code[:, :, None] * code[:, None, :])
        moment += sums[:, j, None] * code
    return _descending(np.abs(solve(gram, moment)))


def _descending(scales: Float64) -> Float64:
    return -np.sort(-scales, axis=1)
