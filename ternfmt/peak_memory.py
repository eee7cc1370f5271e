"""How much memory this process has had resident at most."""

from __future__ import annotations

from pathlib import Path


def peak_rss() -> int | None:
    """The most memory this process has had resident, bytes; None where the system does not say.

    Not from getrusage: there a process begins with the peak of the one that started it.
    """
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:")), None)
