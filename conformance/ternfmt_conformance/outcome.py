"""What can come of a case."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from .foreign import clean


class Outcome(str, Enum):
    """The outcome of one case; everything but EXACT and SKIPPED is a failure."""

    EXACT = "exact"
    WRONG_CLASS = "wrong-class"
    WRONGLY_ACCEPTED = "wrongly-accepted"
    WRONGLY_REJECTED = "wrongly-rejected"
    WRONG_VALUE = "wrong-value"
    GARBAGE = "garbage"
    CRASH = "crash"
    TIMEOUT = "timeout"
    OVER_BUDGET = "over-budget"
    SKIPPED = "skipped"

    def __str__(self) -> str:
        return self.value

    @property
    def failed(self) -> bool:
        """Neither exact nor skipped."""
        return self not in (Outcome.EXACT, Outcome.SKIPPED)


MEANINGS = {
    Outcome.EXACT: "the right answer",
    Outcome.WRONG_CLASS: "refused with another error class",
    Outcome.WRONGLY_ACCEPTED: "accepted what must be refused",
    Outcome.WRONGLY_REJECTED: "refused what must be accepted",
    Outcome.WRONG_VALUE: "accepted, with wrong values",
    Outcome.GARBAGE: "an answer that the protocol does not allow",
    Outcome.CRASH: "died, or reported a failure of its own",
    Outcome.TIMEOUT: "no answer in time; ended by the runner",
    Outcome.OVER_BUDGET: "used more time or memory than allowed",
    Outcome.SKIPPED: "not run",
}


@dataclass(frozen=True)
class Result:
    """The outcome of one case, with what a report needs to stand alone.

    Attributes:
        id, title, level, severity, rules, op: of the case.
        path: what the case gave the testee, relative to the corpus (or to the case's recipe).
        outcome: see `Outcome`.
        expected: the right answer, in short.
        got: the testee's answer, in short.
        detail: for people: the testee's own words, a first difference, the end of its standard error.
        seconds: wall time of the answer; None where there was none.
        memory_bytes: growth of the peak resident memory; None where it was not measured.
        expected_failure: listed as such.
    """

    id: str
    title: str
    level: str
    severity: str
    rules: tuple[str, ...]
    op: str
    path: str
    outcome: Outcome
    expected: str
    got: str
    detail: str = ""
    seconds: float | None = None
    memory_bytes: int | None = None
    expected_failure: bool = False

    @property
    def must(self) -> bool:
        """Whether a badge depends on it."""
        return self.severity == "MUST"


class Fault(Exception):
    """A testee that gave no answer that could be judged: it died, hung, overran or spoke garbage.

    Attributes:
        outcome: GARBAGE, CRASH, TIMEOUT or OVER_BUDGET.
        detail: what happened, for people.
    """

    def __init__(self, outcome: Outcome, detail: str) -> None:
        self.outcome = outcome
        self.detail = clean(detail)
        super().__init__(f"{outcome}: {self.detail}")
