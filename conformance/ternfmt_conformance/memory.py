"""The memory of a testee and its children, read from /proc.

The runner polls rather than setting RLIMIT_AS, because address space is not memory: Node reserves many gigabytes
of it before it runs a line, and a memory-mapped file takes some without costing anything. Where there is no
/proc, nothing is measured, and nothing is capped.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

_PROC = Path("/proc")
_FIELD = re.compile(r"^(\w+):\s+(\d+) kB$", re.MULTILINE)


def can_measure() -> bool:
    """Whether this system tells the memory of a process."""
    return "VmHWM" in _status(_PROC / "self")


def private_bytes(pid: int) -> int:
    """Memory that a process and its children hold now, in bytes; mapped files, which cost nothing, do not count."""
    return sum(
        fields.get("RssAnon", fields.get("VmRSS", 0)) + fields.get("RssShmem", 0) for fields in map(_status, _tree(pid))
    )


def peak_bytes(pid: int) -> int:
    """Largest resident memory so far of a process and its living children, in bytes, mapped files included."""
    return sum(fields.get("VmHWM", 0) for fields in map(_status, _tree(pid)))


def _tree(pid: int) -> Iterator[Path]:
    folder = _PROC / str(pid)
    yield folder
    try:
        listed = list(folder.glob("task/*/children"))
    except OSError:  # it has ended meanwhile
        return
    for children in listed:
        for child in _read(children).split():
            yield from _tree(int(child))


def _status(folder: Path) -> dict[str, int]:
    return {name: int(kilobytes) * 1024 for name, kilobytes in _FIELD.findall(_read(folder / "status"))}


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # it has ended, or this is not Linux
        return ""
