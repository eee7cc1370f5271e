"""Locks between processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ternfmt.encode.run.lock import BusyError, FileLock

ROOT = Path(__file__).parents[3]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lock"


def test_a_lock_is_held_once_and_names_its_holder(path: Path) -> None:
    message = rf"a conversion is going on already \(by process {os.getpid()}\)"
    with FileLock(path, "a conversion"), pytest.raises(BusyError, match=message):
        FileLock(path, "a conversion")
    FileLock(path, "a conversion").release()


def test_shared_locks_go_together_and_not_with_another(path: Path) -> None:
    with FileLock(path, "x", shared=True), FileLock(path, "x", shared=True), pytest.raises(BusyError):
        FileLock(path, "x")
    with FileLock(path, "x"), pytest.raises(BusyError):
        FileLock(path, "x", shared=True)


def test_it_ends_with_its_process(path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from ternfmt.encode.run.lock import FileLock\n"
        "lock = FileLock(Path(sys.argv[1]), 'x'); print('held', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, path], cwd=ROOT, stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(BusyError, match=f"process {process.pid}"):
            FileLock(path, "x")
        process.send_signal(signal.SIGKILL)
        process.wait()
    FileLock(path, "x").release()


def test_a_lock_whose_file_was_removed_meanwhile_is_not_mistaken(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = FileLock._take
    times = []

    def take(lock: FileLock, what: str, shared: bool) -> None:
        if not times:
            path.unlink()  # its last holder tidies up between our open and our lock
        times.append(1)
        real(lock, what, shared)

    monkeypatch.setattr(FileLock, "_take", take)
    with FileLock(path, "x"):
        assert len(times) == 2
        with pytest.raises(BusyError):
            FileLock(path, "x")
