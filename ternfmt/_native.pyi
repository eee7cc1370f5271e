"""The extension module built from native/, where there was a compiler. Only ternfmt/native.py uses it.

Arguments are any C-contiguous and aligned buffers; their sizes are checked against the dimensions (ValueError).
"""

from typing import Any

import numpy.typing as npt

Buffer = npt.NDArray[Any]

def pack(codes: Buffer, rows: int, columns: int, packed: Buffer, /) -> bool:
    """False, and garbage in ``packed``, if a code is not -1, 0 or +1."""

def unpack(packed: Buffer, rows: int, columns: int, codes: Buffer, /) -> None: ...
def valid(packed: Buffer, rows: int, columns: int, /) -> bool:
    """Whether there is neither a forbidden code nor a non-zero pad lane."""

def exact_scales(weights: Buffer, rows: int, columns: int, group_size: int, dtype: str, scales: Buffer, /) -> bool:
    """False, and garbage in ``scales``, if a weight is NaN or Inf."""

def assign_codes(
    weights: Buffer,
    rows: int,
    columns: int,
    group_size: int,
    dtype: str,
    floors: Buffer,
    changes: Buffer,
    packed: tuple[Buffer, ...],
    /,
) -> None: ...
def non_zero(packed: Buffer, rows: int, columns: int, /) -> int: ...
def squares(
    weights: Buffer,
    rows: int,
    columns: int,
    group_size: int,
    dtype: str,
    chunk_rows: int,
    packed: tuple[Buffer, ...],
    scales: Buffer,
    errors: Buffer,
    norms: Buffer,
    /,
) -> None: ...
def available() -> tuple[str, ...]:
    """The instruction sets this machine can run, fastest first."""

def select(name: str, /) -> None:
    """Use this instruction set from now on."""
