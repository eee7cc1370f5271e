"""Is a product within the bound of SPEC S-12.2, or exact as S-12.3 asks?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

F32_ROUNDOFF = 2.0**-24
"""Unit roundoff of F32: the widest that SPEC section 12 allows for sums, and that of the output."""


def product_fault(output: bytes, expect: Mapping[str, Any], corpus_root: Path) -> str | None:
    """What is wrong with a product, or None.

    Args:
        output: raw little-endian F32 ``[M, N]``.
        expect: of the case: file ``y``, and either ``exact`` or file ``a`` and ``terms``.
        corpus_root: the folder that holds the files.
    """
    y = np.fromfile(corpus_root / expect["y"], "<f8")
    if len(output) != 4 * y.size:
        return f"{len(output)} bytes; expected {4 * y.size}"
    got = np.frombuffer(output, "<f4").astype(np.float64)
    if "exact" in expect:
        bound = np.zeros_like(y)
    else:
        a = np.fromfile(corpus_root / expect["a"], "<f8")
        n = int(expect["terms"])
        gamma = n * F32_ROUNDOFF / (1 - n * F32_ROUNDOFF)
        bound = gamma * a + F32_ROUNDOFF * (np.abs(y) + gamma * a)
    with np.errstate(invalid="ignore"):  # infinite or NaN: never within the bound unless it is expected
        within = (np.abs(got - y) <= bound) | (got == y) | (np.isnan(got) & np.isnan(y))
    if within.all():
        return None
    worst = int(np.flatnonzero(~within)[0])
    return (
        f"{int((~within).sum())} of {y.size} values are wrong, the first at {worst}: got {got[worst]!r}, "
        f"expected {y[worst]!r} within {bound[worst]:.3g}"
    )
