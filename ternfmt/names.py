"""Derived names (SPEC section 6): which stored tensors make up a ternary tensor."""

from __future__ import annotations

from functools import cache

from .container import DTYPE_NAMES
from .limits import PLANES_MAX
from .tensor import SCALE_DTYPES

SCALE_DTYPE_NAMES = tuple(DTYPE_NAMES[dtype] for dtype in SCALE_DTYPES)
"""``F32``, ``F16``, ``BF16``: what a scale or a low-rank factor may be."""

DOWN_SUFFIX = "_lowrank_down"
UP_SUFFIX = "_lowrank_up"


def codes_suffix(plane: int) -> str:
    """Suffix of a plane's codes: none for the first. Planes count from 0, names from 1."""
    return "" if plane == 0 else f"_plane{plane + 1}"


def scale_suffix(plane: int) -> str:
    """Suffix of a plane's scales."""
    return f"{codes_suffix(plane)}_scale"


@cache
def used_suffixes(planes: int, low_rank: bool) -> tuple[str, ...]:
    """Suffixes of everything that makes up a tensor, its first plane's codes (no suffix) included."""
    return (
        *(codes_suffix(p) for p in range(planes)),
        *(scale_suffix(p) for p in range(planes)),
        *((DOWN_SUFFIX, UP_SUFFIX) if low_rank else ()),
    )


@cache
def longest_suffix(planes: int, low_rank: bool) -> int:
    """Characters in the longest of `used_suffixes`."""
    return max(map(len, used_suffixes(planes, low_rank)))


CODES_SUFFIXES = tuple(map(codes_suffix, range(PLANES_MAX)))
SCALE_SUFFIXES = tuple(map(scale_suffix, range(PLANES_MAX)))
RESERVED_SUFFIXES = used_suffixes(PLANES_MAX, low_rank=True)[1:]
"""Suffixes of every derived name, used or not (SPEC S-6.1)."""
