"""The data itself: scale values, codes, padding and digests (SPEC section 10, steps 24 and 25)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from .container import METADATA_KEY, Header
from .errors import FormatError, Kind
from .metadata import KEY
from .pack import check_codes
from .strict_json import canonical
from .tensor import TernaryTensor

BLOCK_BYTES = 1 << 20
"""Packed bytes checked at a time: bounds the temporaries, and they stay in cache."""


def check_ternary(tensor: TernaryTensor, location: str) -> None:
    """Check every plane's scale values, then codes, then padding (SPEC S-4.2, S-3.2, S-3.5).

    Raises:
        FormatError: SCALE, CODE or PADDING.
    """
    for number, plane in enumerate(tensor.planes, start=1):
        where = location if number == 1 else f"{location}, plane {number}"
        check_scale(plane.scale, where)
        check_plane_codes(plane.codes, tensor.k, where)


def check_scale(scale: npt.NDArray[Any], location: str) -> None:
    """Check that every scale is finite with a clear sign bit.

    Raises:
        FormatError: SCALE, naming the first scale at fault.
    """
    bad = np.signbit(scale) | ~np.isfinite(scale)
    if bad.any():
        place = [int(i) for i in np.argwhere(bad)[0]]
        raise FormatError(
            Kind.SCALE,
            location,
            f"scale {scale[tuple(place)]} at {place}; expected a finite number with its sign bit clear",
        )


def check_plane_codes(codes: npt.NDArray[np.uint8], k: int, location: str) -> None:
    """Check a plane's packed codes ``[N, ceil(k/4)]``, a block of rows at a time.

    Raises:
        FormatError: CODE or PADDING.
    """
    rows = max(1, BLOCK_BYTES // codes.shape[1])
    padding_error: FormatError | None = None
    for start in range(0, len(codes), rows):
        try:
            check_codes(codes[start : start + rows], k, location, first_row=start)
        except FormatError as error:
            # A forbidden code anywhere in the plane comes before padding: keep looking.
            if error.kind is Kind.CODE:
                raise
            padding_error = padding_error or error
    if padding_error is not None:
        raise padding_error


def tensor_digest(data: npt.NDArray[Any]) -> str:
    """SHA-256 of a stored tensor's bytes (SPEC S-8.1)."""
    return hashlib.sha256(np.ascontiguousarray(data).reshape(-1).view(np.uint8).data).hexdigest()


def header_digest(tensors: Mapping[str, tuple[str, tuple[int, ...]]], metadata: Mapping[str, str], digest: str) -> str:
    """SHA-256 of what a header says, layout aside (SPEC S-8.2).

    Args:
        tensors: stored tensor name -> (dtype, shape).
        metadata: ``__metadata__``, the document holding ``digest`` in its place.
        digest: the 64 digits that stand in the document, blanked out for this purpose.
    """
    view: dict[str, Any] = {name: {"dtype": dtype, "shape": list(shape)} for name, (dtype, shape) in tensors.items()}
    view[METADATA_KEY] = {**metadata, KEY: metadata[KEY].replace(digest, "0" * 64)}
    return hashlib.sha256(canonical(view).encode("ascii")).hexdigest()


def check_header_digest(header: Header, digest: str) -> None:
    """Compare a header with its digest.

    Raises:
        FormatError: DIGEST.
    """
    tensors = {name: (span.dtype, span.shape) for name, span in header.spans.items()}
    actual = header_digest(tensors, header.metadata, digest)
    if actual != digest:
        raise FormatError(Kind.DIGEST, f"{header.file}: header", f"SHA-256 {actual}, expected {digest}")
