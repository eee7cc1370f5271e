"""A child process under a memory cap, with its standard error kept and its whole process group ended together."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from typing import IO

from .command import Command
from .memory import private_bytes
from .outcome import Fault, Outcome

POLL_SECONDS = 0.01
"""How often memory is looked at while an answer is awaited."""

_TAIL_BYTES = 2000


class NotStarted(Fault):
    """There is no process."""


class Process:
    """A running child.

    Attributes:
        stdin, stdout: its streams; ``stdin`` is None when it was started without.
    """

    def __init__(self, command: Command, memory_cap: int, *, stdin: bool, stdout: IO[bytes] | None) -> None:
        """Start it.

        Args:
            command: what to run.
            memory_cap: bytes of private memory that it and its children may hold together.
            stdin: whether to write to it; else its input is empty.
            stdout: file for its output; None for a pipe.

        Raises:
            NotStarted: there is no such program, or it may not be run.
        """
        self._memory_cap = memory_cap
        self._stderr = tempfile.TemporaryFile("a+b")  # noqa: SIM115 closed in `end`
        try:
            self._child = subprocess.Popen(
                command.words,
                env={**os.environ, **command.environment},
                stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
                stdout=subprocess.PIPE if stdout is None else stdout,
                stderr=self._stderr,
                start_new_session=True,
            )
        except OSError as error:
            self._stderr.close()
            raise NotStarted(Outcome.CRASH, f"could not be started: {error}") from error
        self.stdin, self.stdout = self._child.stdin, self._child.stdout

    @property
    def pid(self) -> int:
        """Process id."""
        return self._child.pid

    def check_memory(self) -> None:
        """Compare its memory with the cap.

        Raises:
            Fault: OVER_BUDGET.
        """
        used = private_bytes(self.pid)
        if used > self._memory_cap:
            raise Fault(
                Outcome.OVER_BUDGET, f"held {used} bytes of memory, the cap is {self._memory_cap}: ended by the runner"
            )

    def poll(self, deadline: float) -> int | None:
        """Wait a moment for its exit code, under the memory cap; None while it runs.

        Raises:
            Fault: TIMEOUT past ``deadline`` (of `time.monotonic`), OVER_BUDGET.
        """
        try:
            return self._child.wait(POLL_SECONDS)
        except subprocess.TimeoutExpired:
            self.check_memory()
            if time.monotonic() > deadline:
                raise Fault(Outcome.TIMEOUT, "still running when its time was up: ended by the runner") from None
            return None

    def wait(self, deadline: float) -> int:
        """Wait for its exit code.

        Raises:
            Fault: as for `poll`.
        """
        while True:
            code = self.poll(deadline)
            if code is not None:
                return code

    def death(self) -> str:
        """How it ended and its last words, for people; ends it if it closed its output but lives on."""
        try:
            code = self._child.wait(1)
        except subprocess.TimeoutExpired:
            return f"closed its output without an answer{self.last_words()}"
        how = f"exit code {code}"
        if code < 0:
            with contextlib.suppress(ValueError):
                how = f"signal {signal.Signals(-code).name}"
        return f"ended by itself: {how}{self.last_words()}"

    def last_words(self) -> str:
        """The end of its standard error, set off by a colon and a line break; empty if it said nothing."""
        with contextlib.suppress(OSError, ValueError):
            size = self._stderr.seek(0, os.SEEK_END)
            self._stderr.seek(max(0, size - _TAIL_BYTES))
            text = self._stderr.read().decode(errors="replace").strip()
            return f":\n{text}" if text else ""
        return ""

    def end(self) -> None:
        """Kill whatever is left of it."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if hasattr(os, "killpg"):
                os.killpg(self.pid, signal.SIGKILL)
            else:
                self._child.kill()
        self._child.wait()
        for stream in (self.stdin, self._stderr):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
