"""Write canonical files as a stream: layout first, tensors in any order, header last (SPEC section 11)."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from .check import check_ternary, header_digest, tensor_digest
from .container import DTYPE_NAMES, PREFIX_BYTES, build_header, layout, parse_header
from .errors import FormatError, Kind
from .metadata import KEY, Document, Entry, parse_document
from .names import DOWN_SUFFIX, RESERVED_SUFFIXES, UP_SUFFIX, codes_suffix, scale_suffix
from .strict_json import canonical
from .structure import check_structure
from .tensor import TernaryTensor
from .version import __version__

Stored = Mapping[str, tuple[str, tuple[int, ...]]]
"""Stored tensor name -> (dtype, shape)."""

_NO_DIGEST = "0" * 64


class Writer:
    """A file in the making.

    Its layout is fixed from the start, so tensors are written at their offsets in whatever order they
    come, one in memory at a time. The destination appears, complete and synced, on `commit`; until then,
    and after any failure, whatever was at the destination is untouched.

    As a context manager it commits on success and aborts on an exception.
    """

    def __init__(
        self,
        path: str | Path,
        stored: Stored,
        document: Document | None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """Reserve the file's space under a temporary name beside ``path``.

        Args:
            path: destination.
            stored: every tensor of the file, derived ones included.
            document: the metadata document, whose digests are computed here; None for a plain
                safetensors file without one.
            metadata: further keys for ``__metadata__``.

        Raises:
            ValueError: names or dtypes that cannot be stored.
            FormatError: a header that no reader would accept.
            OSError: no space, or no permission.
        """
        self.path = Path(path)
        self._stored = dict(stored)
        self._document = document
        self._metadata = dict(metadata or {})
        self._digests = dict.fromkeys(stored, "")
        header = self._header(dict.fromkeys(stored, _NO_DIGEST))
        self._header_bytes = len(header)
        self._offsets = layout(stored)
        size = self._header_bytes + max((end for _, end in self._offsets.values()), default=0)
        self._check_readable(header, size)
        self._partial, self._stream = self._open()
        try:
            _reserve(self._stream.fileno(), size)
        except BaseException:
            self.abort()
            raise

    def _open(self) -> tuple[Path, BinaryIO]:
        """The temporary file: a new one, under a name that no other writer has."""
        partial = self.path.with_name(f"{self.path.name}.{secrets.token_hex(4)}.partial")
        return partial, partial.open("xb")

    def write(self, name: str, data: npt.NDArray[Any]) -> None:
        """Write one stored tensor.

        Raises:
            ValueError: not in the layout, written before, or of another dtype or shape.
            OSError: the disk is full or failing.
        """
        expected = self._stored.get(name)
        actual = (DTYPE_NAMES.get(data.dtype), data.shape)
        if expected != actual:
            raise ValueError(f"{self.path}: {name!r}: expected {expected}, got {actual}")
        if self._digests[name]:
            raise ValueError(f"{self.path}: {name!r} was written before")
        begin, _ = self._offsets[name]
        flat = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
        self._stream.seek(self._header_bytes + begin)
        self._stream.write(flat.data)
        self._digests[name] = tensor_digest(flat)

    def write_tensor(self, name: str, tensor: TernaryTensor | npt.NDArray[Any]) -> None:
        """Write a dense tensor, or all parts of a ternary one after checking its codes and scales.

        Raises:
            FormatError: the ternary tensor's codes or scales are not valid.
            ValueError, OSError: as for `write`.
        """
        if isinstance(tensor, TernaryTensor):
            check_ternary(tensor, f"{self.path}: {name!r}")
        for part, data in stored_parts(name, tensor).items():
            self.write(part, data)

    def commit(self) -> None:
        """Write the header, sync and move the file to its destination.

        Raises:
            ValueError: a tensor of the layout was not written.
            OSError: the disk is full or failing.
        """
        missing = [name for name, digest in self._digests.items() if not digest]
        if missing:
            self.abort()
            raise ValueError(f"{self.path}: {len(missing)} tensors were not written, first {missing[0]!r}")
        try:
            self._stream.seek(0)
            self._stream.write(self._header(self._digests))
            self._stream.flush()
            os.fsync(self._stream.fileno())
            self._stream.close()
            os.replace(self._partial, self.path)
            sync_folder(self.path.parent)
        except BaseException:
            self.abort()
            raise

    def abort(self) -> None:
        """Remove the temporary file."""
        with contextlib.suppress(OSError):  # a full disk fails again when buffers are flushed
            self._stream.close()
        self._partial.unlink(missing_ok=True)

    def _header(self, digests: Mapping[str, str]) -> bytes:
        """Prefix and header with these tensor digests and the header's own."""
        if self._document is None:
            return build_header(self._stored, {**self._metadata, "format": "pt"})
        document = replace(self._document, tensor_digests=digests, header_digest=_NO_DIGEST)
        metadata = {**self._metadata, "format": "pt", KEY: canonical(document.to_json())}
        digest = header_digest(self._stored, metadata, _NO_DIGEST)
        document = replace(document, header_digest=digest)
        return build_header(self._stored, {**metadata, KEY: canonical(document.to_json())})

    def _check_readable(self, prefix_and_header: bytes, file_size: int) -> None:
        """Put the header through the reader's own checks, before hours are spent on its data."""
        location = str(self.path)
        header = parse_header(prefix_and_header[PREFIX_BYTES:], file_size, location)
        if self._document is not None:
            check_structure(parse_document(header), header.spans, location, whole=False)

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc_type is None:
            self.commit()
        else:
            self.abort()


def save(
    path: str | Path,
    tensors: Mapping[str, TernaryTensor | npt.NDArray[Any]],
    *,
    ancillary: Mapping[str, Any] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write tensors that are in memory to one canonical file.

    Args:
        path: destination.
        tensors: name -> ternary tensor or dense array of a dtype in SPEC S-1.9.
        ancillary: keys of the metadata document such as ``source`` and ``encoder``.
        metadata: further keys for ``__metadata__``.

    Raises:
        FormatError, ValueError, OSError: as for `Writer`.
    """
    entries = {n: entry_of(t) for n, t in tensors.items() if isinstance(t, TernaryTensor)}
    stored: dict[str, tuple[str, tuple[int, ...]]] = {}
    for name, tensor in tensors.items():
        for part, data in stored_parts(name, tensor).items():
            stored[part] = (_dtype_name(part, data), data.shape)
    document = make_document(entries, tensors, ancillary)
    with Writer(path, stored, document, metadata) as writer:
        for name, tensor in tensors.items():
            writer.write_tensor(name, tensor)


def make_document(
    entries: Mapping[str, Entry],
    names: Mapping[str, Any],
    ancillary: Mapping[str, Any] | None = None,
) -> Document:
    """The document of a file that holds the logical tensors ``names``, of which ``entries`` are ternary.

    Raises:
        FormatError: NAME, where a logical tensor's name is reserved by a ternary one (SPEC S-6.1).
    """
    for name in entries:
        for suffix in RESERVED_SUFFIXES:
            if name + suffix in names:
                raise FormatError(
                    Kind.NAME,
                    repr(name + suffix),
                    f"this name is reserved by ternary tensor {name!r}: rename it",
                )
    required = sorted(set().union(*(entry.features for entry in entries.values())))
    producer = {"producer": {"name": "ternfmt", "version": __version__}}
    return Document(required=tuple(required), entries=dict(entries), ancillary={**producer, **(ancillary or {})})


def entry_of(tensor: TernaryTensor) -> Entry:
    """What the document says of a tensor in memory."""
    low_rank = None if tensor.low_rank is None else len(tensor.low_rank.down)
    return Entry(tensor.shape, tensor.group_size, len(tensor.planes), low_rank)


def stored_parts(name: str, tensor: TernaryTensor | npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
    """Stored name -> array of everything that makes up a tensor."""
    if not isinstance(tensor, TernaryTensor):
        return {name: tensor}
    parts: dict[str, npt.NDArray[Any]] = {}
    for p, plane in enumerate(tensor.planes):
        parts[name + codes_suffix(p)] = plane.codes
        parts[name + scale_suffix(p)] = plane.scale
    if tensor.low_rank is not None:
        parts[name + DOWN_SUFFIX] = tensor.low_rank.down
        parts[name + UP_SUFFIX] = tensor.low_rank.up
    return parts


def sync_folder(folder: Path) -> None:
    """Make a rename in ``folder`` durable, where the system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _dtype_name(name: str, data: npt.NDArray[Any]) -> str:
    if data.dtype not in DTYPE_NAMES:
        raise ValueError(f"{name!r}: dtype {data.dtype} cannot be stored; see SPEC S-1.9")
    return DTYPE_NAMES[data.dtype]


def _reserve(descriptor: int, size: int) -> None:
    """Take the space now, so that a full disk shows before hours are spent."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
    else:
        os.truncate(descriptor, size)
