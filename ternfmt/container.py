"""The safetensors container under SPEC section 1: header bytes to checked tensor spans, and back."""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, NamedTuple, NoReturn

import ml_dtypes
import numpy as np

from .errors import FormatError, Kind
from .limits import ALIGNMENT, HEADER_MAX, INTEGER_MAX, NAME_MAX, RANK_MAX
from .strict_json import canonical, decode_utf8, parse_object

PREFIX_BYTES = 8
METADATA_KEY = "__metadata__"

DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "U8": np.dtype(np.uint8),
    "I8": np.dtype(np.int8),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "F8_E8M0": np.dtype(ml_dtypes.float8_e8m0fnu),
    "U16": np.dtype("<u2"),
    "I16": np.dtype("<i2"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "U32": np.dtype("<u4"),
    "I32": np.dtype("<i4"),
    "F32": np.dtype("<f4"),
    "U64": np.dtype("<u8"),
    "I64": np.dtype("<i8"),
    "F64": np.dtype("<f8"),
    "C64": np.dtype("<c8"),
}
"""The dtypes of SPEC S-1.9."""

DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}

_NAME = re.compile(rf"[\x21-\x7e]{{1,{NAME_MAX}}}")


class Span(NamedTuple):
    """A stored tensor: what it is and where it lies.

    ``begin`` and ``end`` are byte offsets from the start of the *file*.
    """

    file: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class Header:
    """A checked header.

    Attributes:
        file: path of the file, for messages.
        spans: every stored tensor, in the header's order.
        metadata: ``__metadata__``; absent counts as empty.
    """

    file: str
    spans: dict[str, Span]
    metadata: dict[str, str]


def is_tensor_name(name: str) -> bool:
    """Whether ``name`` obeys SPEC S-1.7."""
    return _NAME.fullmatch(name) is not None


def read_header(stream: BinaryIO, file: str) -> Header:
    """Read and check a header: SPEC section 10, steps 1 to 12.

    Raises:
        FormatError: the class of the first failing step.
    """
    size = os.fstat(stream.fileno()).st_size
    prefix = stream.read(PREFIX_BYTES)
    if len(prefix) < PREFIX_BYTES:
        raise FormatError(Kind.PREFIX, file, f"expected at least {PREFIX_BYTES} bytes, got {len(prefix)}")
    (length,) = struct.unpack("<Q", prefix)
    if not 1 <= length <= min(HEADER_MAX, size - PREFIX_BYTES):
        raise FormatError(
            Kind.HEADER_LEN,
            file,
            f"header length {length}; expected 1 to {HEADER_MAX}, within the file's {size} bytes "
            "(a truncated download, or not a safetensors file)",
        )
    return parse_header(stream.read(length), size, file)


def parse_header(raw: bytes, file_size: int, file: str) -> Header:
    """Steps 3 to 12 on the header's bytes."""
    value = parse_object(decode_utf8(raw, f"{file}: header"), f"{file}: header", framed=True)
    metadata = value.pop(METADATA_KEY, {})
    data_start = PREFIX_BYTES + len(raw)
    for name in value:
        if not is_tensor_name(name):
            raise FormatError(
                Kind.NAME,
                f"{file}: {name[:NAME_MAX]!r}",
                f"tensor names have 1 to {NAME_MAX} characters in 0x21..0x7e",
            )
    for name, info in value.items():
        _check_tensor_info(info, f"{file}: {name!r}")
    for name, info in value.items():
        _check_overflow(info, f"{file}: {name!r}")
    spans = {
        name: Span(
            file,
            info["dtype"],
            tuple(info["shape"]),
            data_start + info["data_offsets"][0],
            data_start + info["data_offsets"][1],
        )
        for name, info in value.items()
    }
    _check_layout(spans, data_start, file_size, file)
    for name, span in spans.items():
        expected = _nbytes(span.dtype, span.shape)
        if span.end - span.begin != expected:
            raise FormatError(
                Kind.SIZE,
                f"{file}: {name!r}",
                f"{span.dtype} {list(span.shape)} takes {expected} bytes, "
                f"data_offsets span {span.end - span.begin}",
            )
    if not isinstance(metadata, dict) or not all(type(v) is str for v in metadata.values()):
        raise FormatError(Kind.METADATA, f"{file}: {METADATA_KEY}", "expected an object of strings")
    return Header(file, spans, metadata)


def layout(tensors: Mapping[str, tuple[str, tuple[int, ...]]]) -> dict[str, tuple[int, int]]:
    """Canonical order and data offsets (SPEC S-11.3) of ``name -> (dtype, shape)``."""
    order = sorted(tensors, key=lambda name: (-DTYPES[tensors[name][0]].itemsize, name))
    offsets: dict[str, tuple[int, int]] = {}
    position = 0
    for name in order:
        end = position + _nbytes(*tensors[name])
        offsets[name] = (position, end)
        position = end
    return offsets


def build_header(
    tensors: Mapping[str, tuple[str, tuple[int, ...]]], metadata: Mapping[str, str]
) -> bytes:
    """Canonical prefix and header (SPEC S-11.2) for tensors in canonical layout.

    Raises:
        ValueError: a name, dtype or the header's length that SPEC section 1 forbids.
    """
    for name, (dtype, shape) in tensors.items():
        if not is_tensor_name(name) or dtype not in DTYPES or len(shape) > RANK_MAX:
            raise ValueError(
                f"{name!r}: {dtype} {list(shape)} cannot be stored; names have 1 to {NAME_MAX} characters "
                f"in 0x21..0x7e, dtypes are {', '.join(DTYPES)}, at most {RANK_MAX} dimensions"
            )
    value: dict[str, Any] = {
        name: {"dtype": tensors[name][0], "shape": list(tensors[name][1]), "data_offsets": list(offsets)}
        for name, offsets in layout(tensors).items()
    }
    value[METADATA_KEY] = dict(metadata)
    text = canonical(value).encode("ascii")
    padding = -(PREFIX_BYTES + len(text)) % ALIGNMENT
    length = len(text) + padding
    if length > HEADER_MAX:
        raise ValueError(f"header of {length} bytes; at most {HEADER_MAX}: write more, smaller shards")
    return struct.pack("<Q", length) + text + b" " * padding


def _check_tensor_info(info: Any, location: str) -> None:
    def fail(message: str) -> NoReturn:
        raise FormatError(Kind.TENSOR_INFO, location, message)

    if not isinstance(info, dict) or info.keys() != {"dtype", "shape", "data_offsets"}:
        fail("expected an object with exactly dtype, shape and data_offsets")
    if type(info["dtype"]) is not str or info["dtype"] not in DTYPES:
        fail(f"dtype {info['dtype']!r}; expected one of {', '.join(DTYPES)}")
    shape, offsets = info["shape"], info["data_offsets"]
    if not _are_naturals(shape) or len(shape) > RANK_MAX:
        fail(f"shape must be an array of at most {RANK_MAX} integers >= 0 in plain digits")
    if not _are_naturals(offsets) or len(offsets) != 2:
        fail("data_offsets must be an array of two integers >= 0 in plain digits")


def _are_naturals(values: Any) -> bool:
    return type(values) is list and all(type(v) is int and v >= 0 for v in values)


def _check_overflow(info: dict[str, Any], location: str) -> None:
    product = DTYPES[info["dtype"]].itemsize
    for dimension in info["shape"]:
        product *= dimension or 1
        if product > INTEGER_MAX:
            break
    if max(product, *info["shape"], *info["data_offsets"]) > INTEGER_MAX:
        raise FormatError(
            Kind.OVERFLOW,
            location,
            f"{info['dtype']} {info['shape']} at {info['data_offsets']}: an integer, or the bytes of the "
            f"non-zero dimensions, exceed {INTEGER_MAX}",
        )


def _check_layout(spans: Mapping[str, Span], data_start: int, file_size: int, file: str) -> None:
    position = data_start
    for name, span in sorted(spans.items(), key=lambda item: item[1][3:]):
        if span.begin != position or span.end < span.begin:
            raise FormatError(
                Kind.LAYOUT,
                f"{file}: {name!r}",
                f"spans bytes {span.begin}..{span.end} of the file; expected it to begin at {position}: "
                "tensors must follow each other without hole or overlap",
            )
        position = span.end
    if position != file_size:
        raise FormatError(
            Kind.LAYOUT,
            file,
            f"the tensors end at byte {position}, the file at {file_size} "
            f"({'truncated: fetch it again' if position > file_size else 'bytes after the last tensor'})",
        )
    for name, span in spans.items():
        if span.begin % DTYPES[span.dtype].itemsize:
            raise FormatError(
                Kind.LAYOUT,
                f"{file}: {name!r}",
                f"{span.dtype} at byte {span.begin} of the file is not aligned to its size",
            )


def _nbytes(dtype: str, shape: tuple[int, ...]) -> int:
    total = DTYPES[dtype].itemsize
    for dimension in shape:
        total *= dimension
    return total
