"""The result of running the corpus against one implementation, and what it proves."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .corpus import EXPLORED
from .levels import LEVELS, complete_levels
from .outcome import Outcome, Result
from .rules import rule_order

FORMAT = 1
"""Version of report.json."""


@dataclass(frozen=True)
class Report:
    """One run.

    Attributes:
        name, version, language: of the implementation; the command's where it never said.
        command: how the testee is run.
        one_shot: driven as ``testee validate PATH``.
        corpus, corpus_digest: version and SHA-256 of the corpus.
        levels: those that were run, in order.
        all_cases: every case of these levels was selected.
        results: one for each selected case, in the order of the corpus.
        problems: what went wrong outside of cases: it did not start, did not stop, claims no level.
        stale: expected failures that do not fail.
    """

    name: str
    version: str
    language: str
    command: str
    one_shot: bool
    corpus: str
    corpus_digest: str
    levels: tuple[str, ...]
    all_cases: bool
    results: tuple[Result, ...]
    problems: tuple[str, ...]
    stale: tuple[str, ...]

    @property
    def label(self) -> str:
        """Name and version."""
        return f"{self.name} {self.version}".strip()

    @property
    def failures(self) -> list[Result]:
        """Failed results, those of MUST cases first, then by level and rule."""
        failed = [result for result in self.results if result.outcome.failed]
        return sorted(failed, key=lambda r: (not r.must, LEVELS.index(r.level), rule_order(r.rules[0])))

    @property
    def unexpected(self) -> list[Result]:
        """The failures that are not listed as expected."""
        return [result for result in self.failures if not result.expected_failure]

    @property
    def executed(self) -> int:
        """Cases that were run."""
        return sum(result.outcome is not Outcome.SKIPPED for result in self.results)

    @property
    def empty_levels(self) -> list[str]:
        """Levels that have cases, none of which was run."""
        having = {result.level for result in self.results}
        executed = {result.level for result in self.results if result.outcome is not Outcome.SKIPPED}
        return [level for level in self.levels if level in having - executed]

    @property
    def passed(self) -> bool:
        """At least one case run at each level, no MUST failure but expected ones, and nothing else wrong."""
        clean = not self.problems and not self.stale and not self.empty_levels
        return clean and self.executed > 0 and not any(result.must for result in self.unexpected)

    @property
    def badge_levels(self) -> tuple[str, ...]:
        """The levels a badge may name; none unless every MUST case of every level run was exact.

        What `explore` found never makes a badge.
        """
        musts = [result for result in self.results if result.must]
        exact = all(result.outcome is Outcome.EXACT for result in musts)
        if self.corpus == EXPLORED or not (self.passed and self.all_cases and exact):
            return ()
        return complete_levels({result.level for result in musts})

    def counts(self, level: str | None = None) -> Counter[Outcome]:
        """Results by outcome, of one level or of all."""
        return Counter(result.outcome for result in self.results if level in (None, result.level))

    def to_json(self) -> dict[str, Any]:
        """The value of report.json."""
        return {
            "report": FORMAT,
            "passed": self.passed,
            "badge_levels": list(self.badge_levels),
            "counts": {outcome.value: self.counts()[outcome] for outcome in Outcome},
            **asdict(self),
        }


def read_report(path: Path) -> Report:
    """Read report.json.

    Raises:
        ValueError: not a report of this version.
        OSError: it cannot be read.
    """
    try:
        value = json.loads(path.read_bytes())
        if value["report"] != FORMAT:
            raise ValueError(f"report version {value['report']}, expected {FORMAT}")
        results = tuple(_parse_result(result) for result in value["results"])
        fields = {key: value[key] for key in Report.__dataclass_fields__}
        tuples = {key: tuple(fields[key]) for key in ("levels", "problems", "stale")}
        return Report(**{**fields, **tuples, "results": results})
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not a report: {type(error).__name__}: {error}") from error


def _parse_result(value: Mapping[str, Any]) -> Result:
    return Result(**{**value, "outcome": Outcome(value["outcome"]), "rules": tuple(value["rules"])})
