"""An output file that may take several runs to write: blocks at their places, and a journal of what is finished."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ...container import nbytes
from ...metadata import Document
from ...writer import Stored, Writer
from ..weights import Array

COPY_BYTES = 1 << 24
"""Bytes copied at a time."""


@dataclass(frozen=True)
class Finished:
    """An output tensor whose bytes are written.

    Attributes:
        name: the tensor.
        digests: SHA-256 of each of its stored tensors.
        spilled: where in the temporary file those stored tensors lie whose dtype is not the planned one (F32 scales
            in place of F16), byte from its start.
        report: of a ternary tensor, what was measured while it was quantised.
    """

    name: str
    digests: Mapping[str, str]
    spilled: Mapping[str, int] = field(default_factory=dict)
    report: Mapping[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """The tensor's record in the journal."""
        return {
            "name": self.name,
            "digests": dict(self.digests),
            "spilled": dict(self.spilled),
            "report": self.report,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Finished:
        """From what `to_json` gave."""
        return cls(value["name"], value["digests"], value["spilled"], value["report"])


class BlockWriter(Writer):
    """A `Writer` for several threads and several runs.

    Tensors are written in blocks of bytes, in any order; each counts as written when it is finished. Whether F16
    holds the scales of a tensor shows when it is quantised, after the layout is fixed: scales that need F32 are
    spilled past the end, and if there are any, `commit` copies everything to the layout that they lead to.
    """

    def __init__(
        self, path: Path, partial: Path, stored: Stored, document: Document, metadata: Mapping[str, str]
    ) -> None:
        """Create or continue ``partial``, which becomes ``path`` on `commit`.

        Raises:
            ValueError, FormatError, OSError: as for `Writer`.
        """
        self._kept = partial
        self._lock = threading.Lock()
        self._spilled: dict[str, int] = {}
        try:
            super().__init__(path, stored, document, metadata)
        except OSError as error:
            raise _named(error, partial) from error
        self._end = self._header_bytes + max((end for _, end in self._offsets.values()), default=0)

    def _open(self) -> tuple[Path, BinaryIO]:
        descriptor = os.open(self._kept, os.O_RDWR | os.O_CREAT, 0o666)
        return self._kept, open(descriptor, "r+b", buffering=0)

    def write_block(self, name: str, start: int, data: Array) -> None:
        """Write some bytes of a stored tensor, from its byte ``start`` on.

        Raises:
            OSError: the disk is full or failing.
        """
        begin, _ = self._offsets[name]
        self._write_at(self._header_bytes + begin + start, data)

    def spill(self, data: Array) -> int:
        """Write the whole data of a stored tensor that is not of the planned dtype; returns its place."""
        with self._lock:
            place = self._end
            self._end += data.nbytes
        self._write_at(place, data)
        return place

    def finish(self, tensor: Finished) -> None:
        """Take a tensor as written, in this run or in one before."""
        with self._lock:
            self._digests.update(tensor.digests)
            self._spilled.update(tensor.spilled)
            for part, place in tensor.spilled.items():
                self._end = max(self._end, place + self._spilled_bytes(part))

    def sync(self) -> None:
        """Make durable what has been written."""
        os.fsync(self._stream.fileno())

    def commit(self) -> None:
        """As `Writer.commit`."""
        if not self._spilled:
            super().commit()
            return
        stored = {
            name: ("F32", shape) if name in self._spilled else (dtype, shape)
            for name, (dtype, shape) in self._stored.items()
        }
        assert self._document is not None
        final = BlockWriter(self.path, self._kept.with_suffix(".wide"), stored, self._document, self._metadata)
        try:
            for name in stored:
                self._copy(name, final)
            final.finish(Finished("", self._digests))
            final.commit()
        finally:
            final.abort()
        self.abort()
        self._kept.unlink()

    def abort(self) -> None:
        """Close the file; it stays."""
        self._stream.close()

    def _copy(self, name: str, target: BlockWriter) -> None:
        begin, end = target._offsets[name]
        place = self._spilled.get(name, self._header_bytes + self._offsets[name][0])
        for start in range(0, end - begin, COPY_BYTES):
            block = os.pread(self._stream.fileno(), min(COPY_BYTES, end - begin - start), place + start)
            target._write_at(target._header_bytes + begin + start, block)

    def _spilled_bytes(self, part: str) -> int:
        return nbytes("F32", self._stored[part][1])

    def _write_at(self, place: int, data: Array | bytes) -> None:
        view = memoryview(data) if isinstance(data, bytes) else data.reshape(-1).view(np.uint8).data
        while view:
            try:
                written = os.pwrite(self._stream.fileno(), view, place)
            except OSError as error:
                raise _named(error, self._kept) from error
            view, place = view[written:], place + written


def _named(error: OSError, file: Path) -> OSError:
    """The error with the name of the file, which descriptors do not know."""
    return error if error.filename else OSError(error.errno, error.strerror, str(file))
