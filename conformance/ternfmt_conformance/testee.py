"""A testee that speaks JSON Lines (PROTOCOL.md): start, ask, stop."""

from __future__ import annotations

import contextlib
import json
import queue
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import IO, Any

from .command import Command
from .foreign import clean
from .levels import LEVELS
from .memory import can_measure, peak_bytes
from .outcome import Fault, Outcome
from .process import POLL_SECONDS, Process

PROTOCOL = 1
"""The version of PROTOCOL.md that this runner speaks."""

LINE_MAX = 1 << 26
"""Bytes in an answer. A description of a thousand tensors takes less than one in a hundred of it."""


@dataclass(frozen=True)
class Info:
    """What a testee says of itself.

    Attributes:
        name, version, language: of the implementation.
        levels: those it claims, in order.
        features: those of SPEC section 5 that it implements.
    """

    name: str
    version: str
    language: str
    levels: tuple[str, ...]
    features: tuple[str, ...]


@dataclass(frozen=True)
class Answer:
    """An answer as it came.

    Attributes:
        value: the JSON object.
        seconds: wall time from request to answer.
        memory_bytes: growth of the peak resident memory since start; None where it cannot be measured.
    """

    value: Mapping[str, Any]
    seconds: float
    memory_bytes: int | None


class Testee:
    """One running testee. A `Fault` from any method means that it has been ended."""

    def __init__(self, command: Command, memory_cap: int) -> None:
        """Start the process.

        Raises:
            Fault: it cannot be started.
        """
        self._process = Process(command, memory_cap, stdin=True, stdout=None)
        self._lines: queue.Queue[bytes | None] = queue.Queue(maxsize=4)
        self._next_id = 0
        self._started_peak = 0
        assert self._process.stdout is not None  # a pipe
        self._reader = threading.Thread(target=_read_lines, args=(self._process.stdout, self._lines), daemon=True)
        self._reader.start()

    def start(self, timeout: float) -> Info:
        """Exchange greetings.

        Raises:
            Fault: no answer, garbage, or another version of the protocol.
        """
        answer = self.ask({"op": "start", "protocol": PROTOCOL}, timeout)
        try:
            info = _parse_info(answer.value)
        except Fault:
            self.close()
            raise
        self._started_peak = peak_bytes(self._process.pid)
        return info

    def ask(self, request: Mapping[str, Any], timeout: float) -> Answer:
        """Send a request and wait for its answer.

        Raises:
            Fault: GARBAGE, CRASH, TIMEOUT or OVER_BUDGET.
        """
        identifier = self._next_id
        self._next_id += 1
        try:
            started = time.monotonic()
            self._send({"id": identifier, **request})
            line = self._receive(started + timeout)
            seconds = time.monotonic() - started
            value = _parse_answer(line, identifier)
        except BaseException:
            self.close()
            raise
        growth = max(0, peak_bytes(self._process.pid) - self._started_peak) if can_measure() else None
        return Answer(value, seconds, growth)

    def stop(self, timeout: float) -> None:
        """Ask it to stop, and end it.

        Raises:
            Fault: it does not answer, or does not exit with code 0.
        """
        try:
            self.ask({"op": "stop"}, timeout)
            code = self._process.wait(time.monotonic() + timeout)
            if code != 0:
                raise Fault(Outcome.CRASH, f"after stop: {self._process.death()}")
        finally:
            self.close()

    def close(self) -> None:
        """End the process, whatever it is doing."""
        self._process.end()
        while self._reader.is_alive():  # it may be waiting for room in the queue
            with contextlib.suppress(queue.Empty):
                self._lines.get(timeout=POLL_SECONDS)

    def __enter__(self) -> Testee:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _send(self, message: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None  # a pipe
        try:
            self._process.stdin.write(json.dumps(message).encode("ascii") + b"\n")
            self._process.stdin.flush()
        except OSError:  # closed: its output says the rest
            pass

    def _receive(self, deadline: float) -> bytes:
        while True:
            try:
                line = self._lines.get(timeout=POLL_SECONDS)
            except queue.Empty:
                self._process.check_memory()
                if time.monotonic() > deadline:
                    detail = f"no answer when its time was up: ended by the runner{self._process.last_words()}"
                    raise Fault(Outcome.TIMEOUT, detail) from None
                continue
            if line is None:
                raise Fault(Outcome.CRASH, self._process.death())
            return line


def _read_lines(stream: IO[bytes], lines: queue.Queue[bytes | None]) -> None:
    """Pass on lines, or pieces of over-long ones, and None at the end."""
    with stream, contextlib.suppress(ValueError):  # closed under us
        while line := stream.readline(LINE_MAX):
            lines.put(line)
    lines.put(None)


def _parse_answer(line: bytes, identifier: int) -> dict[str, Any]:
    shown = repr(line[:200])[1:]
    try:
        value = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError):
        raise Fault(Outcome.GARBAGE, f"expected one line of JSON, got {shown}") from None
    if not isinstance(value, dict):
        raise Fault(Outcome.GARBAGE, f"expected a JSON object, got {shown}")
    if type(value.get("id")) is not int or value["id"] != identifier:
        raise Fault(Outcome.GARBAGE, f"expected the answer to request {identifier}, got {shown}")
    return value


def _parse_info(value: Mapping[str, Any]) -> Info:
    def fail(what: str) -> Fault:
        return Fault(Outcome.GARBAGE, f"answer to start: {what}, got {json.dumps(value)[:500]}")

    if value.get("errored"):
        raise Fault(Outcome.CRASH, f"answer to start: {value.get('detail')}")
    if type(value.get("protocol")) is not int or value["protocol"] != PROTOCOL:
        raise fail(f"expected protocol {PROTOCOL}")
    implementation = value.get("implementation")
    keys = ("name", "version", "language")
    if not isinstance(implementation, dict) or not all(isinstance(implementation.get(key), str) for key in keys):
        raise fail("expected implementation with name, version and language")
    levels, features = value.get("levels"), value.get("features")
    if not isinstance(levels, list) or not all(level in LEVELS for level in levels):
        raise fail(f"expected levels among {', '.join(LEVELS)}")
    if not isinstance(features, list) or not all(isinstance(feature, str) for feature in features):
        raise fail("expected features, an array of strings")
    name, version, language = (clean(implementation[key]) for key in keys)
    return Info(name, version, language, tuple(level for level in LEVELS if level in levels), tuple(features))
