"""What every command prints: JSON or tables on stdout, progress and errors on stderr."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ..errors import FormatError

TELL_SECONDS = 20.0
"""Between two lines that say what is being done, where there is no terminal to show it on."""

Advance = Callable[[str, int], None]
"""Tells a progress bar that so many bytes of a tensor are done."""


def print_json(value: Any) -> None:
    """Print one JSON value on stdout."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def print_error(error: Exception, *, as_json: bool) -> None:
    """Print an error on stderr; with ``as_json`` also as a JSON object on stdout."""
    if as_json:
        kind = error.kind.value if isinstance(error, FormatError) else type(error).__name__
        location = error.location if isinstance(error, FormatError) else None
        message = error.message if isinstance(error, FormatError) else str(error)
        print_json({"ok": False, "error": {"kind": kind, "location": location, "message": message}})
    print(f"error: {error}", file=sys.stderr)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print an aligned table; columns of numbers are right-aligned."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for i, column in enumerate(columns):
        numeric = all(row[i][:1].isdigit() or row[i] in ("", "-", "inf") for row in rows)
        table.add_column(column, justify="right" if numeric and rows else "left", overflow="fold", no_wrap=i > 0)
    for row in rows:
        table.add_row(*row)
    width = None if sys.stdout.isatty() else 200
    Console(width=width, highlight=False, markup=False).print(table)


@contextmanager
def progress_bar(description: str, total_bytes: int) -> Iterator[Advance]:
    """Show a progress bar on stderr, with throughput and time left, where stderr is a terminal."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(description, total=total_bytes)

        def advance(name: str, nbytes: int) -> None:
            progress.update(task, advance=nbytes)

        yield advance


@dataclass(frozen=True)
class Bars:
    """Progress of a conversion.

    Attributes:
        weights: by description, a function to call with a number of weights that are done.
        tell: to be called with what is being done besides, and the share of it that is done.
    """

    weights: Mapping[str, Callable[[int], None]]
    tell: Callable[[str, float], None]

    def __getitem__(self, description: str) -> Callable[[int], None]:
        return self.weights[description]


@contextmanager
def weights_bars(totals: Mapping[str, int]) -> Iterator[Bars]:
    """Progress bars that count weights, on stderr where that is a terminal; none for a total of 0.

    Where it is no terminal, what is being told is a line now and then (`TELL_SECONDS`).

    Args:
        totals: number of weights by description.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        ProgressColumn,
        Task,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Speed(ProgressColumn):
        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text("" if speed is None else f"{speed / 1e6:.0f} Mweights/s")

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), Speed(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:

        def bar(description: str, total: int) -> Callable[[int], None]:
            task = progress.add_task(description, total=total, visible=total > 0, start=False)

            def advance(weights: int) -> None:
                progress.start_task(task)  # only the first time: a bar's speed counts from its first weights
                progress.update(task, advance=weights)

            return advance

        status = progress.add_task("", total=1.0, visible=False)
        said = -math.inf

        def tell(what: str, share: float) -> None:
            nonlocal said
            progress.update(status, description=what, completed=share, visible=share < 1)
            if not console.is_terminal and (time.monotonic() - said > TELL_SECONDS or share == 1):
                print(what, file=sys.stderr, flush=True)
                said = time.monotonic()

        yield Bars({description: bar(description, total) for description, total in totals.items()}, tell)


def format_bytes(count: int) -> str:
    """Bytes for people: ``3.10 GB``."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":
            return f"{count} B" if unit == "B" else f"{value:.2f} {unit}"
        value /= 1000
    raise AssertionError("unreachable")


def format_shape(shape: Sequence[int]) -> str:
    """``3072x768``; ``scalar`` for rank 0."""
    return "x".join(map(str, shape)) or "scalar"
