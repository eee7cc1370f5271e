"""Locks between processes. They end with the process that holds them, however it ends."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import TracebackType

if sys.platform != "win32":
    import fcntl


class BusyError(OSError):
    """Another process holds the lock."""


class FileLock:
    """An advisory lock on a file, made where it is absent; not taken on Windows.

    Attributes:
        path: the file.
    """

    def __init__(self, path: Path, what: str, *, shared: bool = False) -> None:
        """Take the lock.

        Args:
            path: the file.
            what: what it guards, for the message: "conversion to model/".
            shared: others may share it; else nobody.

        Raises:
            BusyError: somebody else has it.
            OSError: the file cannot be made.
        """
        self.path = path
        while True:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                self._take(what, shared)
                if self._is_current():
                    break
            except BaseException:
                os.close(self._descriptor)
                raise
            os.close(self._descriptor)  # its last holder has just removed it

    def release(self) -> None:
        """Let go of the lock; the file stays."""
        os.close(self._descriptor)

    def _take(self, what: str, shared: bool) -> None:
        if sys.platform == "win32":
            return
        try:
            fcntl.flock(self._descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._descriptor, 100, 0).decode(errors="replace").strip()
            by = f" (by process {holder})" if holder else ""
            raise BusyError(f"{what} is going on already{by}: wait for it, or end it") from None
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def _is_current(self) -> bool:
        try:
            there = os.stat(self.path)
        except FileNotFoundError:
            return False
        ours = os.fstat(self._descriptor)
        return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)

    def __enter__(self) -> FileLock:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()
