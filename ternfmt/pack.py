"""Pack and unpack 2-bit codes (SPEC section 3).

One byte holds four codes of one row, the first in the low bits::

    bit    7 6   5 4   3 2   1 0
    code   k+3   k+2   k+1   k        00 = 0   01 = +1   11 = -1   10 = forbidden
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from . import native
from .errors import FormatError, Kind

CODES_PER_BYTE = 4

# Row b holds the four int8 codes of byte b. The forbidden code 10 decodes to -2, its two's-complement
# value, so that `unpack` stays a pure table look-up; `check_codes` is what refuses it.
_BYTE_TO_CODES = np.array([[((b >> shift & 3) ^ 2) - 2 for shift in (0, 2, 4, 6)] for b in range(256)], dtype=np.int8)


def packed_columns(k: int) -> int:
    """Bytes that one row of ``k`` codes takes: ceil(k / 4)."""
    return -(-k // CODES_PER_BYTE)


def pack(codes: npt.NDArray[np.int8]) -> npt.NDArray[np.uint8]:
    """Pack codes in {-1, 0, +1}: int8 ``[N, K]`` -> uint8 ``[N, ceil(K/4)]``, pad lanes 00.

    Raises:
        ValueError: ``codes`` is not a 2-D int8 array of -1, 0 and +1.
    """
    if codes.dtype != np.int8 or codes.ndim != 2:
        raise ValueError(f"codes: expected int8 [N, K], got {codes.dtype} {list(codes.shape)}")
    packed = native.pack(codes)
    if packed is not None:
        return packed
    if codes.size and (codes.min() < -1 or codes.max() > 1):
        raise ValueError(f"codes: expected -1, 0, +1, got {codes.min()}..{codes.max()}")
    n, k = codes.shape
    lanes = np.zeros((n, packed_columns(k) * CODES_PER_BYTE), dtype=np.uint8)
    np.bitwise_and(codes.view(np.uint8), 3, out=lanes[:, :k])
    # Fold four 1-byte lanes, read as one little-endian word, into that word's low byte.
    words = lanes.view("<u4")
    return (words | words >> 6 | words >> 12 | words >> 18).astype(np.uint8)


def unpack(packed: npt.NDArray[np.uint8], k: int) -> npt.NDArray[np.int8]:
    """Unpack ``[N, ceil(k/4)]`` uint8 to int8 codes ``[N, k]``; does not refuse the forbidden code."""
    if packed.dtype != np.uint8 or packed.ndim != 2 or packed.shape[1] != packed_columns(k):
        raise ValueError(
            f"packed codes: expected uint8 [N, {packed_columns(k)}] for K={k}, got {packed.dtype} {list(packed.shape)}"
        )
    codes = native.unpack(packed, k)
    if codes is not None:
        return codes
    # The words carry four codes each, so one gather moves four lanes.
    words = _BYTE_TO_CODES.view("<u4").reshape(256)[np.ascontiguousarray(packed)]
    return words.view(np.int8)[:, :k]


def check_codes(packed: npt.NDArray[np.uint8], k: int, location: str, *, first_row: int = 0) -> None:
    """Refuse the forbidden code and non-zero pad lanes (SPEC S-3.2, S-3.5).

    ``first_row`` is the tensor's row that ``packed`` starts at, for messages.

    Raises:
        FormatError: CODE or PADDING, naming the first row and column at fault.
    """
    if native.codes_are_valid(packed, k):
        return  # and where they are not, numpy finds the place
    pad_lanes = -k % CODES_PER_BYTE
    padding_mask = 0xFF00 >> 2 * pad_lanes & 0xFF
    forbidden = packed >> 1 & ~packed & 0x55
    if pad_lanes:
        forbidden[:, -1] &= ~np.uint8(padding_mask)
    if forbidden.any():
        row, byte = (int(i) for i in np.argwhere(forbidden)[0])
        lane = (int(forbidden[row, byte]) & -int(forbidden[row, byte])).bit_length() // 2
        column = byte * CODES_PER_BYTE + lane
        raise FormatError(
            Kind.CODE,
            location,
            f"forbidden code 10 at row {first_row + row}, column {column}; expected 00, 01 or 11",
        )
    if pad_lanes:
        padding = packed[:, -1] & padding_mask
        if padding.any():
            row = int(np.flatnonzero(padding)[0])
            raise FormatError(
                Kind.PADDING,
                location,
                f"row {first_row + row} ends in {packed[row, -1]:#010b}; its {pad_lanes} pad lanes (K={k}) must be 00",
            )
