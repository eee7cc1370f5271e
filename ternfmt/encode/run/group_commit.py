"""Records go into a journal after the data they speak of is on the disk, many at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from .journal import Journal


class GroupCommit:
    """A thread that syncs data and then appends the records that have come meanwhile.

    How many share a sync follows from how long the disk takes; what a crash loses is what came during the last one.
    """

    def __init__(self, journal: Journal, sync: Callable[[], None]) -> None:
        """Start; ``sync`` makes durable all data that records have been added for."""
        self._journal = journal
        self._sync = sync
        self._changed = threading.Condition()
        self._records: list[dict[str, Any]] = []
        self._closing = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._thread.start()

    def add(self, record: dict[str, Any]) -> None:
        """Hand over the record of data that is written.

        Raises:
            OSError: the disk failed on earlier records.
        """
        with self._changed:
            if self._error is not None:
                raise self._error
            self._records.append(record)
            self._changed.notify()

    def close(self) -> None:
        """Write what is left and end.

        Raises:
            OSError: the disk failed.
        """
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._records or self._closing)
                    records, self._records = self._records, []
                if not records:
                    return
                self._sync()
                self._journal.append(records)
        except BaseException as error:
            with self._changed:
                self._error = error
