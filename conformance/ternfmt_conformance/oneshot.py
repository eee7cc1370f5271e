"""A testee that knows only ``testee validate PATH`` (PROTOCOL.md): one process a case."""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from .command import Command
from .memory import can_measure, peak_bytes
from .outcome import Fault, Outcome
from .process import NotStarted, Process
from .testee import Answer

_CLASS = re.compile(r"[A-Z][A-Z_]*")
_STDOUT_BYTES = 1000


class OneShot:
    """Runs the command anew for each request."""

    def __init__(self, command: Command, memory_cap: int) -> None:
        self._command = command
        self._memory_cap = memory_cap
        self._idle: Answer | None = None

    def ask(self, request: Mapping[str, Any], timeout: float) -> Answer:
        """Validate ``request["path"]``. Time and memory are those beyond what an empty file takes.

        Raises:
            Fault: GARBAGE, CRASH, TIMEOUT or OVER_BUDGET.
        """
        answer = self._run(request["path"], timeout)
        if self._idle is None:
            return answer
        memory = None
        if answer.memory_bytes is not None and self._idle.memory_bytes is not None:
            memory = max(0, answer.memory_bytes - self._idle.memory_bytes)
        return Answer(answer.value, max(0.0, answer.seconds - self._idle.seconds), memory)

    def start(self, timeout: float) -> None:
        """Validate an empty file, to see what the command costs. Its answer is judged with the cases.

        Raises:
            NotStarted: there is no such program, it hangs, or it takes too much memory.
        """
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "empty.safetensors"
            path.touch()
            try:
                self._idle = self._run(str(path), timeout)
            except Fault as fault:
                if isinstance(fault, NotStarted) or fault.outcome in (Outcome.TIMEOUT, Outcome.OVER_BUDGET):
                    raise NotStarted(fault.outcome, fault.detail) from None

    def _run(self, path: str, timeout: float) -> Answer:
        with tempfile.TemporaryFile() as stdout:
            started = time.monotonic()
            command = replace(self._command, words=(*self._command.words, "validate", path))
            process = Process(command, self._memory_cap, stdin=False, stdout=stdout)
            try:
                code, peak = self._watch(process, started + timeout)
                seconds = time.monotonic() - started
                stdout.seek(0)
                value = _parse(code, stdout.read(_STDOUT_BYTES), process)
            finally:
                process.end()
        return Answer(value, seconds, peak if can_measure() else None)

    def _watch(self, process: Process, deadline: float) -> tuple[int, int]:
        """Exit code and peak memory."""
        peak = 0
        while True:
            peak = max(peak, peak_bytes(process.pid))
            code = process.poll(deadline)
            if code is not None:
                return code, peak


def _parse(code: int, stdout: bytes, process: Process) -> Mapping[str, Any]:
    if code == 0:
        return {"ok": True}
    if code != 1:
        raise Fault(Outcome.CRASH, process.death())
    kind, _, detail = stdout.decode(errors="replace").partition("\n")
    if not _CLASS.fullmatch(kind.strip()):
        raise Fault(
            Outcome.GARBAGE,
            f"exit code 1; expected an error class on the first line, got {kind!r}{process.last_words()}",
        )
    return {"ok": False, "error": {"class": kind.strip(), "detail": detail.strip()}}
