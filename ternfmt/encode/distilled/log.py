"""A run's log, a line of JSON for each validation, and the time that is left."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


class Log:
    """Lines of JSON in a file; what a killed run wrote after its last checkpoint is taken back."""

    def __init__(self, path: Path, step: float) -> None:
        """Open for a run that has done ``step`` steps.

        Attributes:
            last: the last line that is there, or nothing.
        """
        self._path = path
        lines = path.read_text().splitlines() if path.exists() else []
        kept = [line for line in lines if (of := _step_of(line)) is not None and of <= step]
        self.last: dict[str, Any] = json.loads(kept[-1]) if kept else {}
        partial = path.with_suffix(".partial")
        partial.write_text("".join(line + "\n" for line in kept))
        os.replace(partial, path)

    def add(self, **values: Any) -> None:
        """Append a line."""
        self.last = values
        with self._path.open("a") as file:
            print(json.dumps(values), file=file)


def duration(seconds: float) -> str:
    """``40 s``, ``12 min``, ``3 h 20 min``."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def _step_of(line: str) -> float | None:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return None  # half a line, of a run that was killed
