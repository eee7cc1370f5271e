"""Metadata against tensors: SPEC section 10, steps 21 to 23."""

from __future__ import annotations

from collections.abc import Mapping

from .container import Span, is_tensor_name
from .errors import FormatError, Kind
from .limits import NAME_MAX
from .metadata import Document, Entry
from .names import (
    SCALE_DTYPE_NAMES,
    codes_name,
    codes_shapes,
    low_rank_shapes,
    part_names,
    reserved_names,
    scale_name,
    scale_shapes,
)


def check_structure(
    document: Document, spans: Mapping[str, Span], location: str, *, whole: bool
) -> None:
    """Check that the document describes the stored tensors.

    Args:
        document: the document, or the union of all shards' documents.
        spans: every stored tensor of the file or of all shards.
        location: file, index or folder, for messages about tensors that are absent.
        whole: read as a whole model; else as a shard, where absent tensors are ignored (SPEC S-7.2).

    Raises:
        FormatError: NAME, METADATA or SCALE.
    """
    for name, entry in document.entries.items():
        _check_derived_names(name, entry, document.entries, spans, location)
    for name, entry in document.entries.items():
        for part, shape in codes_shapes(name, entry).items():
            _check_part(part, shape, ("U8",), spans, location, Kind.METADATA, whole)
        factors = low_rank_shapes(name, entry)
        for part, shape in factors.items():
            _check_part(part, shape, SCALE_DTYPE_NAMES, spans, location, Kind.METADATA, whole)
        _check_one_dtype(list(factors), spans, Kind.METADATA)
    for name in document.tensor_digests:
        if whole and name not in spans:
            raise FormatError(
                Kind.METADATA, f"{location}: {name!r}", "has a digest, but there is no such tensor"
            )
    _check_all_declared(document, spans)
    for name, entry in document.entries.items():
        scales = scale_shapes(name, entry)
        for part, scale_shape in scales.items():
            _check_part(part, scale_shape, SCALE_DTYPE_NAMES, spans, location, Kind.SCALE, whole)
        _check_one_dtype(list(scales), spans, Kind.SCALE)


def _check_derived_names(
    name: str,
    entry: Entry,
    entries: Mapping[str, Entry],
    spans: Mapping[str, Span],
    location: str,
) -> None:
    parts = part_names(name, entry)
    for part in parts:
        if not is_tensor_name(part):
            raise FormatError(
                Kind.NAME,
                f"{location}: {part[: NAME_MAX + 1]!r}",
                f"tensor names have 1 to {NAME_MAX} characters in 0x21..0x7e",
            )
    for reserved in reserved_names(name):
        if reserved in entries or (reserved in spans and reserved not in parts):
            raise FormatError(
                Kind.NAME,
                f"{spans[reserved].file if reserved in spans else location}: {reserved!r}",
                f"this name is reserved by ternary tensor {name!r}, whose entry does not call for it",
            )


def _check_part(
    part: str,
    shape: tuple[int, ...],
    dtypes: tuple[str, ...],
    spans: Mapping[str, Span],
    location: str,
    kind: Kind,
    whole: bool,
) -> None:
    span = spans.get(part)
    expected = f"{' or '.join(dtypes)} {list(shape)}"
    if span is None:
        if whole:
            raise FormatError(kind, f"{location}: {part!r}", f"absent; expected {expected}")
    elif span.dtype not in dtypes or span.shape != shape:
        raise FormatError(
            kind,
            f"{span.file}: {part!r}",
            f"expected {expected}, got {span.dtype} {list(span.shape)}",
        )


def _check_one_dtype(parts: list[str], spans: Mapping[str, Span], kind: Kind) -> None:
    present = [part for part in parts if part in spans]
    for part in present[1:]:
        if spans[part].dtype != spans[present[0]].dtype:
            raise FormatError(
                kind,
                f"{spans[part].file}: {part!r}",
                f"expected {spans[present[0]].dtype} as {present[0]!r}, got {spans[part].dtype}",
            )


def _check_all_declared(document: Document, spans: Mapping[str, Span]) -> None:
    """SPEC S-6.3: codes beside their scales that no entry declares."""
    declared = {
        codes_name(name, p) for name, entry in document.entries.items() for p in range(entry.planes)
    }
    for name, span in spans.items():
        scale = spans.get(scale_name(name, 0))
        if (
            scale is not None
            and name not in declared
            and span.dtype == "U8"
            and len(span.shape) == 2
            and scale.dtype in SCALE_DTYPE_NAMES
            and scale.shape[:1] == span.shape[:1]
        ):
            raise FormatError(
                Kind.METADATA,
                f"{span.file}: {name!r}",
                f"looks like packed codes (U8 {list(span.shape)} beside {scale_name(name, 0)!r}) but the "
                "metadata document does not declare it",
            )
