"""Rules against implementations: the table that both reports show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .outcome import Outcome, Result
from .report import Report
from .rules import Rule


@dataclass(frozen=True)
class Cell:
    """What one implementation makes of one rule.

    Attributes:
        exact, failed, skipped: numbers of cases.
        must_failed: failed MUST cases among them.
    """

    exact: int
    failed: int
    skipped: int
    must_failed: int

    @property
    def mark(self) -> str:
        """``pass``, ``fail``, ``warn`` (SHOULD cases only), ``skip``, or ``none`` where no case was selected."""
        if self.failed:
            return "fail" if self.must_failed else "warn"
        if self.skipped:
            return "skip"
        return "pass" if self.exact else "none"

    def __str__(self) -> str:
        total = self.exact + self.failed
        skipped = f"{self.skipped} skipped" if self.skipped else ""
        return ", ".join(filter(None, (f"{self.exact}/{total}" if total else "", skipped))) or "-"


@dataclass(frozen=True)
class Row:
    """One rule.

    Attributes:
        rule: of SPEC.md.
        cells: one for each report.
        cases: ids of its cases, in the order of the corpus.
    """

    rule: Rule
    cells: tuple[Cell, ...]
    cases: tuple[str, ...]


def make_matrix(reports: Sequence[Report], rules: Mapping[str, Rule]) -> list[Row]:
    """A row for every rule that some case cites, in SPEC's order.

    Raises:
        ValueError: a case cites a rule that SPEC.md does not have.
    """
    cited: dict[str, dict[str, list[Result | None]]] = {}
    for column, report in enumerate(reports):
        for result in report.results:
            for rule in result.rules:
                if rule not in rules:
                    raise ValueError(f"case {result.id!r} cites {rule}, which SPEC.md does not have")
                row = cited.setdefault(rule, {}).setdefault(result.id, [None] * len(reports))
                row[column] = result
    return [
        Row(
            rule,
            tuple(_cell([row[column] for row in cited[number].values()]) for column in range(len(reports))),
            tuple(cited[number]),
        )
        for number, rule in rules.items()
        if number in cited
    ]


def _cell(results: Sequence[Result | None]) -> Cell:
    found = [result for result in results if result is not None]
    failed = [result for result in found if result.outcome.failed]
    return Cell(
        sum(result.outcome is Outcome.EXACT for result in found),
        len(failed),
        sum(result.outcome is Outcome.SKIPPED for result in found),
        sum(result.must for result in failed),
    )
