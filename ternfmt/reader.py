"""Open a model: bytes -> headers -> checked structure -> memory-mapped tensors on demand."""

from __future__ import annotations

import contextlib
import gc
import mmap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from .check import check_plane_codes, check_scale
from .container import DTYPES, Header, Span, read_header
from .errors import FormatError, Kind
from .index import Source, check_config, check_index, find_source
from .metadata import Document, Entry, parse_document
from .names import DOWN_SUFFIX, UP_SUFFIX, codes_suffix, scale_suffix, used_suffixes
from .strict_json import canonical
from .structure import check_structure
from .tensor import LowRank, Plane, TernaryTensor


@dataclass(frozen=True)
class TensorInfo:
    """What a model says of one tensor.

    Attributes:
        name: full name; the derived tensors of a ternary tensor are not listed by themselves.
        ternary: packed codes and scales; else dense.
        shape: logical shape.
        dtype: safetensors dtype of a dense tensor, or of a ternary tensor's scales.
        nbytes: bytes on disk, derived tensors included.
        file: the file that holds the tensor (a ternary tensor's codes).
        planes, group_size, low_rank: the features a ternary tensor uses (SPEC section 5).
    """

    name: str
    ternary: bool
    shape: tuple[int, ...]
    dtype: str
    nbytes: int
    file: str
    planes: int = 1
    group_size: int | None = None
    low_rank: int | None = None

    @property
    def size(self) -> int:
        """Number of weights."""
        total = 1
        for dimension in self.shape:
            total *= dimension
        return total


class StoredTensors:
    """The tensors of some safetensors files as they are stored, memory-mapped when first asked for.

    Arrays are views of the files and stay valid after `close`. They are read-only or, if ``private``,
    writable: what is written is copied to memory, a page at a time, and never reaches the file.

    Attributes:
        headers: the checked header of each file.
        spans: every stored tensor of all files, by name.
    """

    def __init__(self, files: Iterable[Path] = (), *, private: bool = False) -> None:
        """Read the headers of ``files``, as `add` does."""
        self._access = mmap.ACCESS_COPY if private else mmap.ACCESS_READ
        self.headers: list[Header] = []
        self.spans: dict[str, Span] = {}
        self._data_starts: dict[str, int] = {}
        self._maps: dict[str, mmap.mmap] = {}
        self._closed = False
        for path in files:
            self.add(path)

    def add(self, path: Path) -> Header:
        """Read the header of one more file: SPEC section 10, steps 1 to 12.

        Raises:
            FormatError: the header is not valid.
            OSError: the file cannot be read.
        """
        with path.open("rb") as stream:
            header = read_header(stream, str(path))
        self.headers.append(header)
        self.spans.update(header.spans)
        self._data_starts[header.file] = header.data_start
        return header

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        """The stored tensor, a view of its file.

        Raises:
            KeyError: no such tensor.
            ValueError: the files are closed.
        """
        span = self.spans[name]
        if self._closed:
            raise ValueError(f"{span.file}: closed")
        if span.file not in self._maps:
            with open(span.file, "rb") as stream:
                self._maps[span.file] = mmap.mmap(stream.fileno(), 0, access=self._access)
        mapped = self._maps[span.file]
        start = self._data_starts[span.file]
        if len(mapped) < start + span.end:
            raise FormatError(Kind.LAYOUT, span.file, f"shrank to {len(mapped)} bytes while it was open")
        flat = np.frombuffer(mapped, np.uint8, span.end - span.begin, start + span.begin)
        return flat.view(DTYPES[span.dtype]).reshape(span.shape)

    def close(self) -> None:
        """Let go of the files; arrays that were handed out keep theirs mapped."""
        self._closed = True
        self._maps.clear()


class Model(Mapping[str, TernaryTensor | npt.NDArray[Any]]):
    """An open model: a mapping from tensor names to lazily memory-mapped tensors.

    Attributes:
        source: the files behind the model.
        stored: every tensor as it is stored, derived ones included.
        documents: the metadata document of each file.
        document: the union of the documents.
    """

    def __init__(self, source: Source, *, private: bool = False) -> None:
        """Run SPEC section 10, steps 1 to 23; use `ternfmt.open` instead."""
        self.source = source
        self.stored = StoredTensors(private=private)
        # Each file's header and document before the next file's (SPEC S-10.2).
        with _collector_paused():
            self.documents = [parse_document(self.stored.add(file)) for file in source.files]
        headers = self.stored.headers
        if source.index is not None:
            check_index(source.index, {p: h.spans for p, h in zip(source.files, headers, strict=True)})
        self.document = _union(self.documents, headers)
        check_structure(self.document, self.stored.spans, str(source.path), whole=source.whole)
        if source.config is not None:
            check_config(source.config, {document.version for document in self.documents})

    @cached_property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Every logical tensor by name; of a shard, those that it holds whole."""
        return _tensor_infos(self.document, self.stored.spans)

    def __getitem__(self, name: str) -> TernaryTensor | npt.NDArray[Any]:
        """The tensor, memory-mapped. Codes and scales are not checked here: see `check`.

        Raises:
            KeyError: no such tensor, or (reading a shard) parts of it lie elsewhere.
            ValueError: the model is closed.
        """
        if not self.tensors[name].ternary:
            return self.stored[name]
        entry = self.document.entries[name]
        planes = tuple(
            Plane(self.stored[name + codes_suffix(p)], self.stored[name + scale_suffix(p)]) for p in range(entry.planes)
        )
        low_rank = None
        if entry.low_rank is not None:
            low_rank = LowRank(self.stored[name + DOWN_SUFFIX], self.stored[name + UP_SUFFIX])
        return TernaryTensor(entry.shape, planes, entry.group_size, low_rank)

    def check(self, name: str) -> None:
        """Check the scales, codes and padding of a ternary tensor (SPEC section 10, step 24).

        Of a shard, the parts that it holds are checked.

        Raises:
            FormatError: SCALE, CODE or PADDING.
            KeyError: no such ternary tensor.
        """
        entry = self.document.entries[name]
        for p in range(entry.planes):
            scale, codes = name + scale_suffix(p), name + codes_suffix(p)
            spans = self.stored.spans
            if scale in spans:
                check_scale(self.stored[scale], f"{spans[scale].file}: {scale!r}")
            if codes in spans:
                check_plane_codes(self.stored[codes], entry.k, f"{spans[codes].file}: {codes!r}")

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    def __contains__(self, name: object) -> bool:
        return name in self.tensors

    def close(self) -> None:
        """Let go of the files; arrays that were handed out stay valid."""
        self.stored.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def open_model(
    path: str | Path, *, shard: bool | None = None, strict_links: bool = False, private: bool = False
) -> Model:
    """Open a safetensors file, an index JSON or a model folder.

    Reads headers only. ``shard`` says whether a single file is one shard of a model; None decides by its
    name (SPEC S-7.2). ``strict_links`` refuses shards that are symbolic links. ``private`` makes arrays
    writable; what is written stays in this process.

    Raises:
        FormatError: SPEC section 10, steps 1 to 23.
        OSError: a file cannot be read.
    """
    return Model(find_source(Path(path), shard=shard, strict_links=strict_links), private=private)


@contextlib.contextmanager
def _collector_paused() -> Iterator[None]:
    """Spare the garbage collector thousands of parsed objects that all stay: 15% of the time to open."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _union(documents: list[Document], headers: list[Header]) -> Document:
    """One document for all shards; shards that disagree are refused (SPEC S-7.6)."""
    if len(documents) == 1:
        return documents[0]
    entries: dict[str, Entry] = {}
    digests: dict[str, str] = {}
    for document, header in zip(documents, headers, strict=True):
        for known, new in ((entries, document.entries), (digests, document.tensor_digests)):
            _merge(known, new, header.file)
    required = sorted({feature for document in documents for feature in document.required})
    first = replace(documents[0], header_digest=None) if documents else Document()
    return replace(first, required=tuple(required), entries=entries, tensor_digests=digests)


def _merge(known: dict[str, Any], new: Mapping[str, Any], file: str) -> None:
    for name, value in new.items():
        if not _same_json(known.setdefault(name, value), value):
            raise FormatError(
                Kind.METADATA,
                f"{file}: {name!r}",
                f"its metadata document says {value}, another shard's says {known[name]}",
            )


def _same_json(a: Any, b: Any) -> bool:
    """Whether two entries or digests are equal as JSON values; to Python alone, 1 equals true."""
    if isinstance(a, Entry) and a is not b and (a.ancillary or b.ancillary):
        return canonical(a.to_json()) == canonical(b.to_json())
    return bool(a == b)


def _tensor_infos(document: Document, spans: Mapping[str, Span]) -> dict[str, TensorInfo]:
    infos: dict[str, TensorInfo] = {}
    parts: set[str] = set()
    for name, entry in document.entries.items():
        names = [name + suffix for suffix in used_suffixes(entry.planes, entry.low_rank is not None)]
        parts.update(names)
        if all(part in spans for part in names):
            infos[name] = TensorInfo(
                name,
                True,
                entry.shape,
                spans[name + scale_suffix(0)].dtype,
                sum(spans[part].end - spans[part].begin for part in names),
                spans[name].file,
                entry.planes,
                entry.group_size,
                entry.low_rank,
            )
    for name, span in spans.items():
        if name not in parts:
            infos[name] = TensorInfo(name, False, span.shape, span.dtype, span.end - span.begin, span.file)
    return dict(sorted(infos.items()))
