"""Rewrite a ternfmt model as canonical bytes (SPEC section 11), or repair one whose metadata was dropped."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from .container import Header, Span
from .errors import FormatError, Kind
from .index import Source, find_source
from .metadata import KEY, Document, Entry
from .names import (
    CODES_SUFFIXES,
    DOWN_SUFFIX,
    SCALE_DTYPE_NAMES,
    SCALE_SUFFIXES,
    used_suffixes,
)
from .reader import Model, StoredTensors
from .rewrite import rewrite
from .structure import check_structure
from .writer import Stored, Writer, make_document


def canonicalize(path: str | Path, destination: str | Path) -> None:
    """Rewrite a valid model canonically: same tensors, same ancillary keys, digests for everything.

    Raises:
        FormatError: the model is not valid; codes and scales are checked as they are copied.
        FileExistsError, FileNotFoundError, OSError: as for `ternfmt.rewrite.rewrite`.
    """
    model = Model(find_source(Path(path)))
    for name in model.document.entries:
        model.check(name)
    documents = dict(zip(model.source.files, model.documents, strict=True))

    def write_file(file: Path, target: Path) -> Stored:
        return _write_canonical(file, target, documents[file], model.document.entries)

    rewrite(model.source, Path(destination), write_file)


def rebuild(path: str | Path, destination: str | Path, like: str | Path | None = None) -> None:
    """Write a canonical model from files that lost their metadata document.

    Shapes come from the dense original ``like``, where given. Without it K is taken to be four times the packed
    width, which is refused where the last code of every row is 0 and might be padding.

    Raises:
        FormatError: the files have a document, no ternary tensor is found, a shape stays uncertain, or the
            result would not be valid.
        FileExistsError, FileNotFoundError, OSError: as for `ternfmt.rewrite.rewrite`.
    """
    source = find_source(Path(path))
    tensors = StoredTensors(source.files)
    for header in tensors.headers:
        if KEY in header.metadata:
            raise FormatError(
                Kind.METADATA, header.file, "has its metadata document; canonicalize it without --rebuild"
            )
    shapes = {} if like is None else _shapes_of(Path(like))
    entries = _infer_entries(tensors, shapes, source)
    document = make_document(entries, entries)
    check_structure(document, tensors.spans, str(source.path), whole=source.whole)

    def write_file(file: Path, target: Path) -> Stored:
        return _write_canonical(file, target, document, entries)

    rewrite(source, Path(destination), write_file)


def _write_canonical(file: Path, target: Path, document: Document, entries: Mapping[str, Entry]) -> Stored:
    """Write one file with the entries of which it holds a part (SPEC S-11.4)."""
    tensors = StoredTensors([file])
    header = tensors.headers[0]
    held = {name: entry for name, entry in entries.items() if _holds_part(header, name, entry)}
    required = sorted(set().union(*(entry.features for entry in held.values())))
    document = replace(document, entries=held, required=tuple(required))
    stored = {name: (span.dtype, span.shape) for name, span in header.spans.items()}
    with Writer(target, stored, document, header.metadata) as writer:
        for name in stored:
            writer.write(name, tensors[name])
    return stored


def _holds_part(header: Header, name: str, entry: Entry) -> bool:
    suffixes = used_suffixes(entry.planes, entry.low_rank is not None)
    return any(name + suffix in header.spans for suffix in suffixes)


def _shapes_of(original: Path) -> dict[str, tuple[int, ...]]:
    source = find_source(original, shard=False)
    return {name: span.shape for name, span in StoredTensors(source.files).spans.items()}


def _infer_entries(tensors: StoredTensors, shapes: Mapping[str, tuple[int, ...]], source: Source) -> dict[str, Entry]:
    spans = tensors.spans
    further = {name + suffix for name in spans for suffix in CODES_SUFFIXES[1:] if name + suffix in spans}
    entries: dict[str, Entry] = {}
    for name, span in spans.items():
        scale = spans.get(name + SCALE_SUFFIXES[0])
        if (
            span.dtype != "U8"
            or len(span.shape) != 2
            or name in further
            or scale is None
            or scale.dtype not in SCALE_DTYPE_NAMES
        ):
            continue
        if len(scale.shape) != 1:
            raise FormatError(Kind.STRIPPED, f"{span.file}: {name!r}", "has group scales; their group size is lost")
        planes = sum(name + suffix in spans for suffix in CODES_SUFFIXES)
        down = spans.get(name + DOWN_SUFFIX)
        shape = shapes.get(name) or _guess_shape(tensors, name, span, planes)
        entries[name] = Entry(shape, None, planes, None if down is None else down.shape[0])
    if not entries:
        raise FormatError(Kind.STRIPPED, str(source.path), "holds no U8 codes beside a scale: it never was ternfmt")
    return entries


def _guess_shape(tensors: StoredTensors, name: str, span: Span, planes: int) -> tuple[int, ...]:
    last = [tensors[name + suffix][:, -1] >> 6 for suffix in CODES_SUFFIXES[:planes]]
    if not np.any(last):
        raise FormatError(
            Kind.STRIPPED,
            f"{span.file}: {name!r}",
            "the last code of every row is 0, so it may be padding: give the dense original with --like",
        )
    return (span.shape[0], 4 * span.shape[1])
