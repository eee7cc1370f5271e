"""The rules of docs/methods.md for one row or group, in plain Python floats.

Never tuned: `quantize` must give the same bits. Python floats are IEEE binary64; every operation
below rounds once.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from .least_squares import PIVOT_MIN
from .methods import GEOMETRIC_FACTORS, GEOMETRIC_RATIOS, SCALE_RATIO_MIN, STEPS_MAX, TRIAL_STEPS
from .scales import F16_MAX, F16_MIN, NORMAL_MIN

SIGNIFICANT_BITS = {
    "float16": (11, F16_MAX),
    "bfloat16": (8, (2.0 - 2.0**-7) * 2.0**127),
    "float32": (24, (2.0 - 2.0**-23) * 2.0**127),
}
"""Of each scale dtype: significant bits and the largest value."""


def prefix_sums(magnitudes: Sequence[float]) -> list[float]:
    """``[0, largest, largest + second largest, ...]``."""
    return list(itertools.accumulate(sorted(magnitudes, reverse=True), initial=0.0))


def absmean(magnitudes: Sequence[float]) -> float:
    """The mean."""
    return prefix_sums(magnitudes)[-1] / len(magnitudes)


def exact(magnitudes: Sequence[float]) -> float:
    """Mean of the n largest, for the first n that maximises (their sum)^2 / n."""
    sums = prefix_sums(magnitudes)
    support = max(range(1, len(sums)), key=lambda n: sums[n] * sums[n] / n)
    return sums[support] / support


def planes(magnitudes: Sequence[float], count: int) -> list[float]:
    """Scales of ``count`` planes: Lloyd's algorithm from the best of several starts."""
    first = exact(magnitudes)
    starts = [greedy(magnitudes, count)]
    for factor in GEOMETRIC_FACTORS:
        starts.append([first * (factor * ratio) for ratio in GEOMETRIC_RATIOS[:count]])
    trials = [lloyd(magnitudes, start, TRIAL_STEPS) for start in starts]
    winner, _ = max(trials, key=lambda trial: trial[1])
    best, _ = lloyd(magnitudes, winner, STEPS_MAX)
    return [scale if scale >= best[0] * SCALE_RATIO_MIN else 0.0 for scale in best]


def greedy(magnitudes: Sequence[float], count: int) -> list[float]:
    """Exact on the magnitudes, then on the magnitudes of what is left, and so on."""
    scales = []
    rest = list(magnitudes)
    for _ in range(count):
        scale = exact(rest)
        rest = [abs(m - scale) if m > scale * 0.5 else m for m in rest]
        scales.append(scale)
    return sorted(scales, reverse=True)


def lloyd(magnitudes: Sequence[float], scales: list[float], steps: int) -> tuple[list[float], float]:
    """Alternate nearest levels and least squares while the gain rises: best scales, their gain."""
    sums = prefix_sums(magnitudes)
    best, best_gain = scales, -1.0
    for step in range(steps + 1):
        grid = levels(scales)
        above = [sum(m > t for m in magnitudes) for t in thresholds(grid)] + [0]
        gain = 0.0
        classes = []
        for (level, codes), n, m in zip(grid[1:], above, above[1:], strict=False):
            total = sums[n] - sums[m]
            gain += level * (2.0 * total - level * (n - m))
            classes.append((codes, n - m, total))
        if not gain > best_gain:
            break
        best, best_gain = scales, gain
        if step < steps:
            scales = least_squares(classes, len(scales))
    return best, best_gain


def levels(scales: Sequence[float]) -> list[tuple[float, tuple[int, ...]]]:
    """Distinct levels >= 0, ascending, each with its preferred codes."""
    combinations = sorted(
        itertools.product((1, 0, -1), repeat=len(scales)),
        key=lambda codes: sum(map(abs, codes)),
    )
    preferred: dict[float, tuple[int, ...]] = {}
    for codes in combinations:
        if codes < tuple(-c for c in codes):
            continue
        level = 0.0
        for scale, code in zip(scales, codes, strict=True):
            level += scale * code
        if level < 0:
            codes = tuple(-c for c in codes)
        preferred.setdefault(abs(level), codes)
    return sorted(preferred.items())


def thresholds(grid: Sequence[tuple[float, tuple[int, ...]]]) -> list[float]:
    """Midpoints of neighbouring levels."""
    return [(low + high) * 0.5 for (low, _), (high, _) in itertools.pairwise(grid)]


def nearest_codes(weight: float, scales: Sequence[float]) -> tuple[int, ...]:
    """Codes of the level nearest to a weight, of two the smaller, for stored scales."""
    grid = levels(scales)
    _, codes = grid[sum(abs(weight) > t for t in thresholds(grid))]
    return tuple(-c for c in codes) if math.copysign(1.0, weight) < 0 else codes


def least_squares(classes: Sequence[tuple[tuple[int, ...], int, float]], count: int) -> list[float]:
    """Scales that fit classes (codes, count, sum of magnitudes) best, made >= 0 and descending."""
    gram = [[0.0] * count for _ in range(count)]
    moment = [0.0] * count
    for codes, n, total in classes:
        for p in range(count):
            moment[p] += total * codes[p]
            for q in range(count):
                gram[p][q] += n * (codes[p] * codes[q])
    diagonal = [gram[p][p] for p in range(count)]
    for p in range(count):
        if not gram[p][p] > PIVOT_MIN * diagonal[p]:
            gram[p][p] = 0.0
            continue
        for q in range(p + 1, count):
            factor = gram[q][p] / gram[p][p]
            for r in range(count):
                gram[q][r] -= factor * gram[p][r]
            moment[q] -= factor * moment[p]
    solution = [0.0] * count
    for p in reversed(range(count)):
        if gram[p][p] == 0.0:
            continue
        rest = moment[p]
        for q in range(p + 1, count):
            rest -= gram[p][q] * solution[q]
        solution[p] = rest / gram[p][p]
    return sorted((abs(x) for x in solution), reverse=True)


def stored_scales(scales: Sequence[float], dtype: str) -> tuple[str, list[float]]:
    """The dtype that holds all scales of a tensor, and the scales rounded to it."""
    scales = [scale if scale >= NORMAL_MIN else 0.0 for scale in scales]
    if dtype == "float16" and any(s != 0 and not F16_MIN <= s <= F16_MAX for s in scales):
        dtype = "float32"
    digits, largest = SIGNIFICANT_BITS[dtype]
    rounded = []
    for scale in scales:
        fraction, exponent = math.frexp(scale)
        units = round(math.ldexp(fraction, digits))
        rounded.append(min(math.ldexp(units, exponent - digits), largest))
    return dtype, rounded
