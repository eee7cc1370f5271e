"""Metadata against tensors: SPEC section 10, steps 21 to 23."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain

from .container import Span, is_tensor_name
from .errors import FormatError, Kind
from .limits import NAME_MAX
from .metadata import Document, Entry
from .names import (
    CODES_SUFFIXES,
    DOWN_SUFFIX,
    RESERVED_SUFFIXES,
    SCALE_DTYPE_NAMES,
    SCALE_SUFFIXES,
    UP_SUFFIX,
    longest_suffix,
    used_suffixes,
)
from .pack import packed_columns


def check_structure(document: Document, spans: Mapping[str, Span], location: str, *, whole: bool) -> None:
    """Check that the document describes the stored tensors.

    Args:
        document: the document, or the union of all shards' documents.
        spans: every stored tensor of the file or of all shards.
        location: file, index or folder, for messages about tensors that are absent.
        whole: read as a whole model; else as a shard, where absent tensors are ignored (SPEC S-7.2).

    Raises:
        FormatError: NAME, METADATA or SCALE.
    """
    _check_names(document.entries, spans, location)
    for name, entry in document.entries.items():
        shape = (entry.n, packed_columns(entry.k))
        for suffix in CODES_SUFFIXES[: entry.planes]:
            _check_part(name + suffix, ("U8",), shape, spans, location, Kind.METADATA, whole)
        if entry.low_rank is not None:
            down, up = name + DOWN_SUFFIX, name + UP_SUFFIX
            dtypes = (spans[down].dtype,) if down in spans else SCALE_DTYPE_NAMES
            _check_part(down, SCALE_DTYPE_NAMES, (entry.low_rank, entry.k), spans, location, Kind.METADATA, whole)
            _check_part(up, dtypes, (entry.n, entry.low_rank), spans, location, Kind.METADATA, whole)
    _check_digest_names(document, spans, location, whole)
    _check_all_declared(document.entries, spans)
    for name, entry in document.entries.items():
        dtypes = SCALE_DTYPE_NAMES
        for suffix in SCALE_SUFFIXES[: entry.planes]:
            part = name + suffix
            _check_part(part, dtypes, entry.scale_shape, spans, location, Kind.SCALE, whole)
            if part in spans:  # every further plane has this one's dtype
                dtypes = (spans[part].dtype,)


def _check_names(entries: Mapping[str, Entry], spans: Mapping[str, Span], location: str) -> None:
    """Step 21."""
    for name, entry in entries.items():
        longest = len(name) + longest_suffix(entry.planes, entry.low_rank is not None)
        if longest > NAME_MAX or not (name in spans or is_tensor_name(name)):
            raise FormatError(
                Kind.NAME,
                f"{location}: {name[:NAME_MAX]!r}",
                f"tensor names have 1 to {NAME_MAX} characters in 0x21..0x7e; with its derived names' suffixes "
                f"this one has {longest}",
            )
    for name in [name for name in chain(spans, entries) if name.endswith(RESERVED_SUFFIXES)]:
        if name.removesuffix(SCALE_SUFFIXES[0]) in entries and name not in entries:
            continue  # the common case: a scale in its place
        for suffix in RESERVED_SUFFIXES:
            owner = entries.get(name[: -len(suffix)]) if name.endswith(suffix) else None
            if owner is not None and (
                name in entries or suffix not in used_suffixes(owner.planes, owner.low_rank is not None)
            ):
                raise FormatError(
                    Kind.NAME,
                    f"{spans[name].file if name in spans else location}: {name!r}",
                    f"this name is reserved by ternary tensor {name[: -len(suffix)]!r}, "
                    "whose entry does not call for it",
                )


def _check_part(
    part: str,
    dtypes: tuple[str, ...],
    shape: tuple[int, ...],
    spans: Mapping[str, Span],
    location: str,
    kind: Kind,
    whole: bool,
) -> None:
    """Check that ``part`` is stored with one of ``dtypes`` and ``shape``."""
    span = spans.get(part)
    if span is None:
        if whole:
            raise FormatError(kind, f"{location}: {part!r}", f"absent; expected {' or '.join(dtypes)} {list(shape)}")
    elif span.dtype not in dtypes or span.shape != shape:
        raise FormatError(
            kind,
            f"{span.file}: {part!r}",
            f"expected {' or '.join(dtypes)} {list(shape)}, got {span.dtype} {list(span.shape)}",
        )


def _check_digest_names(document: Document, spans: Mapping[str, Span], location: str, whole: bool) -> None:
    if not whole:
        return
    for name in [name for name in document.tensor_digests if name not in spans][:1]:
        raise FormatError(Kind.METADATA, f"{location}: {name!r}", "has a digest, but there is no such tensor")


def _check_all_declared(entries: Mapping[str, Entry], spans: Mapping[str, Span]) -> None:
    """SPEC S-6.3: codes beside their scales that no entry declares."""
    further_planes = {
        name + suffix
        for name, entry in entries.items()
        if entry.planes > 1
        for suffix in CODES_SUFFIXES[1 : entry.planes]
    }
    for name, span in spans.items():
        if span.dtype != "U8" or name in entries or name in further_planes:
            continue
        scale = spans.get(name + SCALE_SUFFIXES[0])
        if (
            scale is not None
            and len(span.shape) == 2
            and scale.dtype in SCALE_DTYPE_NAMES
            and scale.shape[:1] == span.shape[:1]
        ):
            raise FormatError(
                Kind.METADATA,
                f"{span.file}: {name!r}",
                f"looks like packed codes (U8 {list(span.shape)} beside its scale), but the metadata "
                "document does not declare it",
            )
