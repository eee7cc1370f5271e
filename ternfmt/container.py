"""The safetensors container under SPEC section 1: header bytes to checked tensor spans, and back."""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from math import prod
from operator import mod, mul, sub
from typing import Any, BinaryIO, NamedTuple, NoReturn

import ml_dtypes
import numpy as np

from .errors import FormatError, Kind
from .limits import ALIGNMENT, HEADER_MAX, INTEGER_MAX, NAME_MAX, RANK_MAX
from .strict_json import canonical, consist_of, decode_utf8, parse_object, parse_pairs, unique_keys

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

_ITEM_BYTES = {name: dtype.itemsize for name, dtype in DTYPES.items()}
_INFO_KEYS = {"dtype", "shape", "data_offsets"}
_NAME_CHARACTERS = bytes(range(0x21, 0x7F))
_NAME = re.compile(rf"[\x21-\x7e]{{1,{NAME_MAX}}}")


class Span(NamedTuple):
    """A stored tensor: what it is and where it lies.

    ``begin`` and ``end`` are its ``data_offsets``: bytes from the start of the data section.
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
        data_start: where in the file the data section starts.
    """

    file: str
    spans: dict[str, Span]
    metadata: dict[str, str]
    data_start: int


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
    """Steps 3 to 12 on the header's bytes: at once where nothing is unusual, else plainly."""
    text = decode_utf8(raw, f"{file}: header")
    data_start = PREFIX_BYTES + len(raw)
    header = header_at_once(text, data_start, file_size, file)
    if header is not None:
        return header
    value = parse_object(text, f"{file}: header", framed=True)
    metadata = value.pop(METADATA_KEY, {})
    spans = _parse_spans(value, data_start, file_size, file)
    if type(metadata) is not dict or not all(type(v) is str for v in metadata.values()):
        raise FormatError(Kind.METADATA, f"{file}: {METADATA_KEY}", "expected an object of strings")
    return Header(file, spans, metadata, data_start)


def nbytes(dtype: str, shape: Sequence[int]) -> int:
    """Bytes of a tensor of this dtype and shape."""
    return _ITEM_BYTES[dtype] * prod(shape)


def layout(tensors: Mapping[str, tuple[str, tuple[int, ...]]]) -> dict[str, tuple[int, int]]:
    """Canonical order and data offsets (SPEC S-11.3) of ``name -> (dtype, shape)``."""
    order = sorted(tensors, key=lambda name: (-DTYPES[tensors[name][0]].itemsize, name))
    offsets: dict[str, tuple[int, int]] = {}
    position = 0
    for name in order:
        end = position + nbytes(*tensors[name])
        offsets[name] = (position, end)
        position = end
    return offsets


def build_header(tensors: Mapping[str, tuple[str, tuple[int, ...]]], metadata: Mapping[str, str]) -> bytes:
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


def header_at_once(text: str, data_start: int, file_size: int, file: str) -> Header | None:
    """Steps 4 to 12 by columns, at the speed of built-ins; None leaves the decision to the plain way.

    A header of FLUX.1's size has 1,655 entries and is opened within milliseconds. What is rare is left to the plain
    way, too: tensors with a zero dimension, names and metadata that are not ASCII, keys in an order of their own.
    """
    value = unique_keys(parse_pairs(text) or ())
    metadata = None if value is None else unique_keys(value.pop(METADATA_KEY, ()))
    if not value or metadata is None or set(map(type, metadata.values())) - {str}:
        return None
    infos = list(value.values())
    lengths = list(map(len, value))
    if (
        not "".join(chain(*metadata.items())).isascii()
        or not 1 <= min(lengths) <= max(lengths) <= NAME_MAX
        or not consist_of(value, _NAME_CHARACTERS)
        or set(map(type, infos)) != {tuple}
        or set(map(len, infos)) != {len(_INFO_KEYS)}
    ):
        return None
    keys, values = map(list, zip(*chain.from_iterable(infos), strict=True))
    order = keys[: len(_INFO_KEYS)]
    if set(order) != _INFO_KEYS or keys != order * len(infos):
        return None
    dtypes, shapes, offsets = (values[order.index(key) :: len(order)] for key in ("dtype", "shape", "data_offsets"))
    if set(map(type, dtypes)) != {str} or not DTYPES.keys() >= set(dtypes):
        return None
    if set(map(type, shapes)) != {list} or set(map(type, offsets)) != {list}:
        return None
    if max(map(len, shapes)) > RANK_MAX or set(map(len, offsets)) != {2}:
        return None
    dimensions = list(chain.from_iterable(shapes))
    begins, ends = zip(*offsets, strict=True)
    if {*map(type, dimensions), *map(type, begins), *map(type, ends)} != {int}:
        return None
    if min(dimensions, default=1) < 1 or min(begins) < 0 or max(*begins, *ends) > INTEGER_MAX:
        return None
    item_bytes = list(map(_ITEM_BYTES.__getitem__, dtypes))
    sizes = list(map(mul, map(prod, shapes), item_bytes))
    edges = [0, *sorted(ends)]
    # Sizes are positive, so each begin is before its end. Then tensors follow each other without hole or overlap
    # exactly where each end but the last is another's begin.
    if (
        list(map(sub, ends, begins)) != sizes
        or sorted(begins) != edges[:-1]
        or data_start + edges[-1] != file_size
        or any(map(mod, map(data_start.__add__, begins), item_bytes))
    ):
        return None
    columns = zip(repeat(file), dtypes, map(tuple, shapes), begins, ends)
    spans = dict(zip(value, map(Span._make, columns), strict=True))
    return Header(file, spans, metadata, data_start)


def _parse_spans(value: Mapping[str, Any], data_start: int, file_size: int, file: str) -> dict[str, Span]:
    """Steps 7 to 11, plainly, on the header's JSON value without ``__metadata__``."""
    _check_names(value, file)
    spans = _make_spans(value, file)
    _check_layout(spans, data_start, file_size, file)
    _check_sizes(spans, file)
    return spans


def _check_names(value: Mapping[str, Any], file: str) -> None:
    """Step 7."""
    for name in [name for name in value if not _NAME.fullmatch(name)][:1]:
        raise FormatError(
            Kind.NAME,
            f"{file}: {name[:NAME_MAX]!r}",
            f"tensor names have 1 to {NAME_MAX} characters in 0x21..0x7e",
        )


def _make_spans(value: Mapping[str, Any], file: str) -> dict[str, Span]:
    """Steps 8 and 9."""

    def fail(name: str, message: str) -> NoReturn:
        raise FormatError(Kind.TENSOR_INFO, f"{file}: {name!r}", message)

    spans: dict[str, Span] = {}
    for name, info in value.items():
        if type(info) is not dict or info.keys() != _INFO_KEYS:
            fail(name, "expected an object with exactly dtype, shape and data_offsets")
        dtype, shape, offsets = info["dtype"], info["shape"], info["data_offsets"]
        if type(dtype) is not str or dtype not in DTYPES:
            fail(name, f"dtype {dtype!r}; expected one of {', '.join(DTYPES)}")
        if type(shape) is not list or len(shape) > RANK_MAX:
            fail(name, f"shape must be an array of at most {RANK_MAX} integers")
        if type(offsets) is not list or len(offsets) != 2:
            fail(name, "data_offsets must be an array of two integers")
        if not all(type(i) is int and i >= 0 for i in shape + offsets):
            fail(name, "shape and data_offsets hold integers >= 0, written in plain digits")
        spans[name] = Span(file, dtype, tuple(shape), *offsets)
    for name, span in spans.items():
        product = nbytes(span.dtype, [d or 1 for d in span.shape])
        if product > INTEGER_MAX or span.end > INTEGER_MAX or span.begin > INTEGER_MAX:
            raise FormatError(
                Kind.OVERFLOW,
                f"{file}: {name!r}",
                f"{span.dtype} {list(span.shape)} at [{span.begin}, {span.end}]: an offset, or the bytes "
                f"of the non-zero dimensions, exceed {INTEGER_MAX}",
            )
    return spans


def _check_layout(spans: Mapping[str, Span], data_start: int, file_size: int, file: str) -> None:
    """Step 10."""
    position = 0
    for begin, end, name in sorted((span.begin, span.end, name) for name, span in spans.items()):
        if begin != position or end < begin:
            raise FormatError(
                Kind.LAYOUT,
                f"{file}: {name!r}",
                f"data_offsets [{begin}, {end}]; expected it to begin at {position}: "
                "tensors must follow each other without hole or overlap",
            )
        position = end
    if data_start + position != file_size:
        fault = "bytes follow the last tensor"
        if data_start + position > file_size:
            fault = "the file is truncated: fetch it again"
        raise FormatError(
            Kind.LAYOUT,
            file,
            f"tensors end at byte {data_start + position}, the file at {file_size}: {fault}",
        )
    for name, span in spans.items():
        if (data_start + span.begin) % _ITEM_BYTES[span.dtype]:
            raise FormatError(
                Kind.LAYOUT,
                f"{file}: {name!r}",
                f"{span.dtype} at byte {data_start + span.begin} of the file is not aligned to its size",
            )


def _check_sizes(spans: Mapping[str, Span], file: str) -> None:
    """Step 11."""
    for name, span in spans.items():
        if span.end - span.begin != nbytes(span.dtype, span.shape):
            raise FormatError(
                Kind.SIZE,
                f"{file}: {name!r}",
                f"{span.dtype} {list(span.shape)} takes {nbytes(span.dtype, span.shape)} bytes, "
                f"data_offsets span {span.end - span.begin}",
            )
