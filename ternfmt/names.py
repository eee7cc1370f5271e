"""Derived names (SPEC section 6): which stored tensors make up a ternary tensor."""

from __future__ import annotations

from .container import DTYPE_NAMES
from .limits import PLANES_MAX
from .metadata import Entry
from .pack import packed_columns
from .tensor import SCALE_DTYPES

SCALE_DTYPE_NAMES = tuple(DTYPE_NAMES[dtype] for dtype in SCALE_DTYPES)
"""``F32``, ``F16``, ``BF16``: what a scale or a low-rank factor may be."""


def codes_name(name: str, plane: int) -> str:
    """Stored name of a plane's codes; planes count from 0, names from 1."""
    return name if plane == 0 else f"{name}_plane{plane + 1}"


def scale_name(name: str, plane: int) -> str:
    """Stored name of a plane's scales."""
    return f"{codes_name(name, plane)}_scale"


def down_name(name: str) -> str:
    """Stored name of the low-rank factor ``[R, K]``."""
    return f"{name}_lowrank_down"


def up_name(name: str) -> str:
    """Stored name of the low-rank factor ``[N, R]``."""
    return f"{name}_lowrank_up"


def reserved_names(name: str) -> list[str]:
    """Every derived name of ``name``, used or not (SPEC S-6.1)."""
    planes = range(PLANES_MAX)
    return [
        *(codes_name(name, p) for p in planes if p),
        *(scale_name(name, p) for p in planes),
        down_name(name),
        up_name(name),
    ]


def codes_shapes(name: str, entry: Entry) -> dict[str, tuple[int, int]]:
    """Stored name -> shape of every plane's codes."""
    shape = (entry.n, packed_columns(entry.k))
    return {codes_name(name, p): shape for p in range(entry.planes)}


def scale_shapes(name: str, entry: Entry) -> dict[str, tuple[int, ...]]:
    """Stored name -> shape of every plane's scales."""
    return {scale_name(name, p): entry.scale_shape for p in range(entry.planes)}


def low_rank_shapes(name: str, entry: Entry) -> dict[str, tuple[int, int]]:
    """Stored name -> shape of the low-rank factors; empty without one."""
    if entry.low_rank is None:
        return {}
    return {down_name(name): (entry.low_rank, entry.k), up_name(name): (entry.n, entry.low_rank)}


def part_names(name: str, entry: Entry) -> list[str]:
    """Stored names of everything that makes up the tensor."""
    return [
        *codes_shapes(name, entry),
        *scale_shapes(name, entry),
        *low_rank_shapes(name, entry),
    ]

