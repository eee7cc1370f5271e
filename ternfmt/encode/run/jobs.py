"""Do the same to many things with several threads.

Threads, not processes: numpy and the native loops let go of the interpreter while they work, and threads share
files, journal and memory. Two take 0.64 of the time of one (docs/encoder.md).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from typing import TypeVar

T = TypeVar("T")


class Stop(Exception):
    """The work is given up, because of another thread's error or the user."""


def run_jobs(work: Callable[[T], None], items: Iterable[T], jobs: int, stop: threading.Event) -> None:
    """Call ``work`` for each item, ``jobs`` at a time.

    After the first error, or when the caller is interrupted, ``stop`` is set; items not yet begun are dropped, and
    ``work`` may look at ``stop`` and raise `Stop` to end early.

    Raises:
        Exception: the first error that is not `Stop`.
    """
    pool = ThreadPoolExecutor(jobs, thread_name_prefix="convert")
    futures: list[Future[None]] = []
    try:
        for item in items:
            futures.append(pool.submit(work, item))
        wait(futures, return_when=FIRST_EXCEPTION)
    finally:
        if not all(future.done() for future in futures):
            stop.set()
        pool.shutdown(wait=True, cancel_futures=True)
    errors = [future.exception() for future in futures if not future.cancelled()]
    for error in errors:
        if error is not None and not isinstance(error, Stop):
            raise error
