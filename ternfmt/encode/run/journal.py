"""An append-only record of finished work, which a later run goes on from.

A text file: a line that says what the work is, then a line for each record, all JSON. A line counts once its line
end is written, so a run that dies while it writes loses that line and no other.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any


class Journal:
    """A journal that is open for appending.

    Attributes:
        records: what was there when it was opened.
    """

    def __init__(self, path: Path, work: str) -> None:
        """Open or create the journal.

        Args:
            path: the file.
            work: names the work and everything that its results depend on; a journal of other work is begun anew.

        Raises:
            OSError: the file cannot be read or written.
        """
        self.path = path
        self._stream = open(path, "a+b", buffering=0)  # noqa: SIM115 - closed by close
        try:
            self._stream.seek(0)
            lines, length = _whole_lines(self._stream.read())
            if not lines or lines[0] != {"work": work}:
                lines, length = [{"work": work}], 0
            self.records: list[dict[str, Any]] = lines[1:]
            self._stream.truncate(length)
            if not length:
                self._write(lines[:1])
        except BaseException:
            self.close()
            raise

    def append(self, records: Iterable[dict[str, Any]]) -> None:
        """Add records; they survive whatever happens after this returns.

        Raises:
            OSError: the disk is full or failing.
        """
        self._write(records)

    def close(self) -> None:
        """Close the file."""
        self._stream.close()

    def _write(self, values: Iterable[dict[str, Any]]) -> None:
        data = "".join(json.dumps(value) + "\n" for value in values).encode()
        while data:
            data = data[self._stream.write(data) :]
        os.fsync(self._stream.fileno())


def read_records(path: Path) -> list[dict[str, Any]]:
    """The records of a journal that is closed; none if there is no such file.

    Raises:
        OSError: the file cannot be read.
    """
    if not path.exists():
        return []
    return _whole_lines(path.read_bytes())[0][1:]


def _whole_lines(raw: bytes) -> tuple[list[dict[str, Any]], int]:
    """The values of all lines before the first that is not whole, and how many bytes they take."""
    values: list[dict[str, Any]] = []
    length = 0
    for line in raw.splitlines(keepends=True):
        try:
            value = json.loads(line) if line.endswith(b"\n") else None
        except ValueError:
            value = None
        if not isinstance(value, dict):
            break
        values.append(value)
        length += len(line)
    return values, length
