"""Read the rows of a checkpoint's tensors into memory of our own.

Not through a memory map: pages of a map that have been read count as this process's memory until the system takes
them back, and a checkpoint is larger than memory.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from ...container import DTYPES, Header, Span, read_header
from ..weights import Array


class SourceChangedError(ValueError):
    """A source file is not what it was when the conversion began."""


@dataclass(frozen=True)
class Stamp:
    """By what a file is known again.

    Attributes:
        size: bytes.
        mtime_ns: time of the last change of its contents.
        inode: the file's number in its file system.
    """

    size: int
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, file: Path | int) -> Stamp:
        """The stamp of a path or of an open descriptor.

        Raises:
            OSError: the file cannot be reached.
        """
        status = os.stat(file)
        return cls(status.st_size, status.st_mtime_ns, status.st_ino)


class TensorSource(Protocol):
    """The tensors of a checkpoint; `read` may be called by several threads at once."""

    @property
    def spans(self) -> Mapping[str, Span]:
        """Every tensor."""

    @property
    def metadata(self) -> Mapping[str, str]:
        """Keys for ``__metadata__``, without ``format``."""

    @property
    def stamps(self) -> Mapping[Path, Stamp]:
        """Every file, as it was when it was opened."""

    def read(self, name: str, start: int, stop: int) -> Array:
        """A private copy of rows ``[start, stop)``: ``[stop - start, ...]``.

        Of a 1-D tensor rows are elements; a scalar is one row, and comes as ``[1]``.

        Raises:
            SourceChangedError: the file has shrunk.
            OSError: the file cannot be read.
        """

    def close(self) -> None:
        """Let go of the files."""


class SafetensorsSource:
    """Tensors of safetensors files.

    Attributes:
        spans: every tensor of all files, by name.
        metadata: of the first file; shards of one model have the same.
        stamps: every file, as it was when it was opened.
    """

    def __init__(self, files: Iterable[Path]) -> None:
        """Open the files and check their headers: SPEC section 10, steps 1 to 12.

        Raises:
            FormatError: a header is not valid.
            OSError: a file cannot be read.
        """
        self.spans: dict[str, Span] = {}
        self.metadata: dict[str, str] = {}
        self.stamps: dict[Path, Stamp] = {}
        self.headers: list[Header] = []
        self._open: dict[str, tuple[int, int]] = {}  # file -> descriptor, start of its data
        try:
            for path in files:
                self._add(path)
        except BaseException:
            self.close()
            raise
        if self.headers:
            self.metadata = dict(self.headers[0].metadata)

    def _add(self, path: Path) -> None:
        with path.open("rb") as stream:
            self.stamps[path] = Stamp.of(stream.fileno())
            header = read_header(stream, str(path))
            self._open[header.file] = (os.dup(stream.fileno()), header.data_start)
        self.headers.append(header)
        self.spans.update(header.spans)

    def read(self, name: str, start: int, stop: int) -> Array:
        """As `TensorSource.read`."""
        span = self.spans[name]
        descriptor, data_start = self._open[span.file]
        shape = (stop - start, *span.shape[1:])
        data = np.empty(shape, DTYPES[span.dtype])
        row_bytes = data.nbytes // len(data) if len(data) else 0
        _read_fully(descriptor, data, data_start + span.begin + start * row_bytes, span.file, name)
        return data

    def close(self) -> None:
        """Let go of the files."""
        for descriptor, _ in self._open.values():
            os.close(descriptor)
        self._open.clear()


def check_unchanged(stamps: Mapping[Path, Stamp]) -> None:
    """Compare the files with what they were.

    Raises:
        SourceChangedError: one is another, or is gone.
    """
    for path, before in stamps.items():
        try:
            now = Stamp.of(path)
        except FileNotFoundError:
            raise SourceChangedError(f"{path}: vanished while it was converted") from None
        if now != before:
            was, found = (f"{s.size} bytes, last changed at {s.mtime_ns} ns" for s in (before, now))
            raise SourceChangedError(
                f"{path}: changed while it was converted: it was {was}; it is {found}. Convert it when it is at rest"
            )


def _read_fully(descriptor: int, data: Array, offset: int, file: str, name: str) -> None:
    """Fill ``data`` from the file's bytes at ``offset``."""
    view = data.reshape(-1).view(np.uint8).data
    done = 0
    while done < len(view):
        count = os.preadv(descriptor, [view[done:]], offset + done)
        if count == 0:
            raise SourceChangedError(f"{file}: {name!r}: the file ends within it; it shrank while it was converted")
        done += count
