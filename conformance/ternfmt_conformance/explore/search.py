"""The search: draw subjects, compare answers, shrink the first difference."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from ..optional import hypothesis
from .ask import Driver, Question, Said, ask, first_question, probe_question
from .place import level_of
from .subject import Subject, subjects

_BATCH = 200
"""Examples that one Hypothesis run draws; what it has learnt is forgotten after them."""

SHRINK_SECONDS = 60.0
"""How long a difference is made smaller, at most."""

Progress = Callable[[int, float, bool], None]
"""Called with the number of examples, the seconds taken, and whether a difference is being shrunk."""


@dataclass(frozen=True)
class Budget:
    """When to stop; at least one of them is set.

    Attributes:
        seconds: of wall time.
        examples: how many.
    """

    seconds: float | None
    examples: int | None


@dataclass(frozen=True)
class Difference:
    """Two answers to one question that should be the same.

    Attributes:
        subject: what was asked about.
        question: what was asked.
        level: the level that decides the answer.
        answers: that of the implementation explored, that of the other.
    """

    subject: Subject
    question: Question
    level: str
    answers: tuple[Said, Said]

    @property
    def signature(self) -> tuple[str, ...]:
        """What stays the same while it is shrunk, so that it does not turn into another difference."""
        return (self.question.op, *(said.outcome for said in self.answers))


class _Differs(Exception):
    """Tells Hypothesis that an example is one to shrink."""


class _Over(KeyboardInterrupt):
    """The time is up. As an interrupt, because Hypothesis takes any other exception for a failing example."""


class Search:
    """A search in progress.

    Attributes:
        examples: drawn until the first difference.
        best: the smallest difference so far.
    """

    def __init__(self, drivers: tuple[Driver, Driver], levels: Collection[str], scratch: Path, timeout: float) -> None:
        """Prepare.

        Args:
            drivers: the implementation explored and the one it is compared with; both have been started.
            levels: those that both claim.
            scratch: an empty folder.
            timeout: seconds for an answer.
        """
        self.examples = 0
        self.best: Difference | None = None
        self._drivers, self._levels, self._scratch, self._timeout = drivers, levels, scratch, timeout

    def run(self, seed: int, features: Collection[str], one_shot: bool, budget: Budget, progress: Progress) -> None:
        """Search until the budget is spent or a difference is found and shrunk."""
        started = time.monotonic()
        ends = None if budget.seconds is None else started + budget.seconds

        def check(subject: Subject) -> None:
            nonlocal ends
            now = time.monotonic()
            if ends is not None and now > ends:
                raise _Over
            if self.best is None:
                self.examples += 1
            progress(self.examples, now - started, self.best is not None)
            found = self.compare(subject)
            if found is None:
                return
            if self.best is None:
                ends = time.monotonic() + SHRINK_SECONDS
                self.best = found
            if found.signature != self.best.signature:
                return
            if found.subject.size <= self.best.subject.size:
                self.best = found
            raise _Differs

        batch = 0
        while self.best is None and (budget.examples is None or self.examples < budget.examples):
            count = _BATCH if budget.examples is None else min(_BATCH, budget.examples - self.examples)
            before = self.examples
            test = hypothesis.given(subjects(features, self._levels, one_shot))(check)
            test = hypothesis.seed((seed << 32) + batch)(_settings(count)(test))
            try:
                test()
            except (_Differs, hypothesis.errors.Flaky):
                return
            except _Over:
                return
            batch += 1
            if self.examples == before:  # no example can be drawn
                return

    def compare(self, subject: Subject) -> Difference | None:
        """Ask both all that the subject says; the first difference."""
        folder = self._scratch / "subject"
        shutil.rmtree(folder, ignore_errors=True)
        path = subject.write(folder)
        question = first_question(subject)
        answers = self._ask(question, path)
        if not answers[0].agrees(answers[1]):
            level = level_of(path, subject)
            # A reader of low levels need not find the faults of higher ones.
            return Difference(subject, question, level, answers) if level in self._levels else None
        if answers[0].outcome != "ok" or subject.probe is None:
            return None
        question = Question("describe", {})
        answers = self._ask(question, path)
        if answers[0].agrees(answers[1]) and answers[1].outcome == "ok":
            probe = probe_question(subject.probe, answers[1].value)
            if probe is None:
                return None
            question = probe
            answers = self._ask(question, path)
        level = "R4" if question.op == "matmul" else "R2"
        return None if answers[0].agrees(answers[1]) else Difference(subject, question, level, answers)

    def _ask(self, question: Question, path: Path) -> tuple[Said, Said]:
        one, other = (ask(driver, question, path, self._scratch, self._timeout) for driver in self._drivers)
        return one, other


def _settings(examples: int) -> hypothesis.settings:
    return hypothesis.settings(
        max_examples=examples,
        database=None,
        deadline=None,
        derandomize=False,
        phases=(hypothesis.Phase.generate, hypothesis.Phase.shrink),
        report_multiple_bugs=False,
        suppress_health_check=list(hypothesis.HealthCheck),
        verbosity=hypothesis.Verbosity.quiet,
    )
