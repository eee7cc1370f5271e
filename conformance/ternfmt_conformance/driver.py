"""Keeps a testee answering: starts it, starts it again when it was lost, stops it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .command import Command
from .corpus import Case
from .judge import VALIDATE_DEFAULTS
from .oneshot import OneShot
from .outcome import Fault
from .process import NotStarted
from .testee import Answer, Info, Testee

SPEC_FEATURES = ("group-scale", "low-rank", "planes")
"""The features of SPEC section 5; a one-shot testee, which cannot say, is taken to know them."""


class LoopDriver:
    """Drives a JSON Lines testee.

    Attributes:
        info: what it said when it first started; before that its command for a name.
        problems: times it did not stop properly.
    """

    def __init__(self, command: Command, timeout: float, memory_cap: int) -> None:
        self.info = Info(command.text, "", "", (), ())
        self.problems: list[str] = []
        self._command, self._timeout, self._memory_cap = command, timeout, memory_cap
        self._testee: Testee | None = None

    def start(self) -> None:
        """Start it for the first time.

        Raises:
            Fault: it does not start.
        """
        self.info = self._start()

    def refusal(self, case: Case) -> str | None:
        """Why a case cannot be asked at all, or None."""
        return None

    def ask(self, request: Mapping[str, Any], timeout: float, *, fresh: bool) -> Answer:
        """Ask, after starting it anew if it was lost, or if it must be ``fresh`` so that no memory is left over.

        Raises:
            Fault: it has been ended, and will be started again when next asked.
        """
        if fresh:
            self.stop()
        if self._testee is None:
            self._start()
        assert self._testee is not None
        testee, self._testee = self._testee, None
        answer = testee.ask(request, timeout)
        self._testee = testee
        return answer

    def stop(self) -> None:
        """Stop it; `problems` says if it does not do so properly."""
        testee, self._testee = self._testee, None
        if testee is not None:
            try:
                testee.stop(self._timeout)
            except Fault as fault:
                self.problems.append(f"the testee did not stop properly: {fault}")

    def close(self) -> None:
        """End it, whatever it is doing."""
        if self._testee is not None:
            self._testee.close()

    def _start(self) -> Info:
        testee = Testee(self._command, self._memory_cap)
        try:
            info = testee.start(self._timeout)
        except Fault as fault:
            raise NotStarted(fault.outcome, fault.detail) from None
        self._testee = testee
        return info


class OneShotDriver:
    """Drives a one-shot testee; attributes and methods are those of `LoopDriver`."""

    def __init__(self, command: Command, timeout: float, memory_cap: int) -> None:
        self.info = Info(command.text, "", "", (), SPEC_FEATURES)
        self.problems: list[str] = []
        self._timeout = timeout
        self._testee = OneShot(command, memory_cap)

    def start(self) -> None:
        """See what the command costs on an empty file.

        Raises:
            Fault: it cannot be run.
        """
        self._testee.start(self._timeout)

    def refusal(self, case: Case) -> str | None:
        """Why a case cannot be asked at all, or None."""
        if case.op != "validate":
            return f"one-shot testees do not {case.op}"
        other = [key for key, default in VALIDATE_DEFAULTS.items() if case.arguments.get(key, default) != default]
        return f"one-shot testees know no {' or '.join(other)}" if other else None

    def ask(self, request: Mapping[str, Any], timeout: float, *, fresh: bool) -> Answer:
        """Run the command on the request's path.

        Raises:
            Fault: no answer that can be judged.
        """
        return self._testee.ask(request, timeout)

    def stop(self) -> None:
        """Nothing runs between requests."""

    def close(self) -> None:
        """Nothing runs between requests."""
