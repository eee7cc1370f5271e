"""``DST.partial``: what a conversion keeps until its result stands at DST.

::

    DST.partial/
        lock              held by whoever works here
        work.json         what the work is
        plan.json         the plan, for people
        measure.journal   what the dial has measured
        data/ calibrated/ distilled/ work/    see ternfmt/encode/solve.py
        files/            of each output file: its bytes (.partial), its journal, its lock
        out/              the result as it will be at DST; output files move here when they are complete
        finished.json     the result is complete; all that is left to do is to rename it and to tidy up

The name follows from DST, so that the next run finds what the last one left.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from ...rewrite import check_destination
from ...writer import sync_folder
from ..source.tensor_source import SourceChangedError
from .journal import read_records
from .lock import FileLock

MEASUREMENTS = "measure.journal"
"""In a work folder: what the dial has measured."""


def work_path(destination: Path) -> Path:
    """The work folder of a destination."""
    return destination.with_name(destination.name + ".partial")


class WorkFolder:
    """The work folder of a destination, locked.

    Attributes:
        path: ``DST.partial``.
        destination: DST.
        measurements: the journal of what the dial has measured.
        files: where output files are written.
        out: where the result is put together.
    """

    def __init__(self, destination: Path, *, shared: bool = False) -> None:
        """Make the folder if need be, and lock it.

        Args:
            destination: where the result will stand.
            shared: other jobs of the same plan may work here at the same time.

        Raises:
            FileExistsError: the destination exists, and not because a run was killed while it tidied up.
            FileNotFoundError: the folder that is to hold it does not exist.
            BusyError: another conversion to this destination is going on.
            OSError: the folder cannot be made.
        """
        self.destination = destination
        self.path = work_path(destination)
        self.measurements = self.path / MEASUREMENTS
        self.files = self.path / "files"
        self.out = self.path / "out"
        if not self.path.is_dir():
            check_destination(destination)
        self.path.mkdir(exist_ok=True)
        what = f"a conversion to {destination}"
        while True:
            try:
                self._lock = FileLock(self.path / "lock", what, shared=shared)
                break
            except FileNotFoundError:  # the last holder has just removed the folder
                check_destination(destination)
                self.path.mkdir(exist_ok=True)

    def leftover(self) -> dict[str, Any] | None:
        """What ``finished.json`` says, if a run was killed after its result had been moved to DST."""
        if self.destination.exists() and (self.path / "finished.json").exists():
            value: dict[str, Any] = json.loads((self.path / "finished.json").read_bytes())
            return value
        return None

    def begin(self, work: str, source_files: Mapping[str, Any], *, resume: bool) -> None:
        """Make the folder ready for this work.

        Args:
            work: names the work and everything that its bytes depend on.
            source_files: the stamps of the source, to tell what differs.
            resume: go on with what is there; else remove it.

        Raises:
            FileExistsError: the destination exists.
            SourceChangedError, ValueError: what is there is other work, or took too long to be removed unasked.
        """
        check_destination(self.destination)
        record = self.path / "work.json"
        if not resume:
            if self.holds_solution():
                raise ValueError(
                    f"{self.path} holds what an interrupted run has made, data or trained weights: --resume goes on "
                    "with it; to begin anew, remove it first"
                )
            self._empty()
        elif record.exists():
            self._compare(json.loads(record.read_bytes()), work, source_files)
        self.files.mkdir(exist_ok=True)
        self.out.mkdir(exist_ok=True)
        write_json(record, {"work": work, "source_files": dict(source_files)})

    def _compare(self, before: Mapping[str, Any], work: str, source_files: Mapping[str, Any]) -> None:
        if before["work"] == work:
            return
        for name, stamp in source_files.items():
            if name in before["source_files"] and list(stamp) != list(before["source_files"][name]):
                raise SourceChangedError(f"{name}: changed since {self.path} was begun: {self._anew()}")
        raise ValueError(
            f"{self.path} was begun with other settings or from another source: give the same ones, or {self._anew()}"
        )

    def _anew(self) -> str:
        if self.holds_solution():
            return "remove it and convert again, which begins anew"
        return "convert again without --resume, which begins anew"

    def publish(self, made: Path, summary: Mapping[str, Any]) -> None:
        """Move the result to the destination and remove the work folder.

        Args:
            made: `out`, or the one file in it.
            summary: kept until everything is done, for a run that is killed here.
        """
        check_destination(self.destination)
        sync_folder(made.parent)
        write_json(self.path / "finished.json", summary)
        os.rename(made, self.destination)
        sync_folder(self.destination.parent)
        self.remove()

    def holds_work(self) -> bool:
        """Whether a resumed run would find a finished tensor or file here, or a measured layer."""
        journals = self.files.glob("*.journal") if self.files.is_dir() else ()
        return self.holds_solution() or any(map(read_records, [self.measurements, *journals]))

    def holds_solution(self) -> bool:
        """Whether a method that needs data has made anything."""
        folders = (self.path / name for name in ("data", "work", "calibrated", "distilled"))
        return any(path.is_file() for folder in folders for path in folder.rglob("*"))

    def remove(self) -> None:
        """Remove the folder: ``finished.json``, which says that it may go, and the lock come last."""
        self._empty("finished.json")
        (self.path / "finished.json").unlink(missing_ok=True)
        (self.path / "lock").unlink(missing_ok=True)
        self.path.rmdir()

    def release(self) -> None:
        """Unlock the folder; it stays if it is not removed."""
        self._lock.release()

    def _empty(self, *keep: str) -> None:
        for entry in self.path.iterdir():
            if entry.name in ("lock", *keep):
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()

    def __enter__(self) -> WorkFolder:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON file that is either there whole or not at all."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.new")
    with temporary.open("w", encoding="utf-8") as stream:
        stream.write(json.dumps(value, indent=1) + "\n")
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, path)
