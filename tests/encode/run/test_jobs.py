"""Several threads on many things: errors and interruptions end all of them."""

from __future__ import annotations

import threading
import time

import pytest

from ternfmt.encode.run.jobs import Stop, run_jobs


@pytest.mark.parametrize("jobs", [1, 3, 100])
def test_everything_is_done_once(jobs: int) -> None:
    done: list[int] = []
    run_jobs(done.append, range(50), jobs, threading.Event())
    assert sorted(done) == list(range(50))


def test_an_error_stops_the_others_and_is_raised() -> None:
    stop = threading.Event()
    begun: list[int] = []

    def work(item: int) -> None:
        begun.append(item)
        if item == 1:
            raise ValueError("the fault")
        if not stop.wait(10):
            raise AssertionError("was not stopped")
        raise Stop

    with pytest.raises(ValueError, match="the fault"):
        run_jobs(work, range(50), 2, stop)
    assert sorted(begun) == [0, 1]


@pytest.mark.parametrize("moment", [0, 5])
def test_an_interruption_stops_all(moment: int) -> None:
    stop = threading.Event()
    running = threading.Semaphore(0)

    def work(item: int) -> None:
        running.release()
        while not stop.is_set():
            time.sleep(0.001)
        raise Stop

    def items() -> object:
        for item in range(10):
            if item == moment:
                raise KeyboardInterrupt  # as the signal handler does, here at a known place
            yield item

    with pytest.raises(KeyboardInterrupt):
        run_jobs(work, items(), 2, stop)  # type: ignore[arg-type]
    assert moment == 0 or stop.is_set()
