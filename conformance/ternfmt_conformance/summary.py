"""What ``ternfmt conformance run`` says on a terminal."""

from __future__ import annotations

from collections.abc import Callable

from ternfmt.cli.output import print_table

from .levels import format_levels
from .locate import find_spec
from .outcome import Outcome, Result
from .report import Report
from .rules import parse_rules

LISTED_MAX = 20
"""Failures that are listed; the reports have all of them."""

DETAIL_CHARACTERS = 1500


def print_summary(report: Report, reproduce: Callable[[Result], str]) -> None:
    """Print counts by level, the failures, and the first failing rule with the command that shows it again."""
    print(f"{report.label}: corpus {report.corpus} ({report.corpus_digest[:12]})")
    if report.results:
        _print_counts(report)
    for result in report.unexpected[:LISTED_MAX]:
        print(f"  {result.outcome:<16} {result.id} ({result.severity} {result.rules[0]}): "
              f"expected {result.expected}, got {result.got}")  # fmt: skip
    if len(report.unexpected) > LISTED_MAX:
        print(f"  ... and {len(report.unexpected) - LISTED_MAX} more")
    for problem in report.problems:
        print(f"  {problem}")
    for level in report.empty_levels:
        print(f"  level {level}: no case was run")
    for name in report.stale:
        print(f"  {name}: listed as an expected failure, but does not fail: take it off the list")
    if report.unexpected:
        _print_first(report.unexpected[0], reproduce)
    print(_verdict(report))


def _print_counts(report: Report) -> None:
    rows = []
    for level in report.levels:
        counts = report.counts(level)
        total = sum(counts.values())
        failed = sum(count for outcome, count in counts.items() if outcome.failed)
        rows.append([level, *map(str, (total, counts[Outcome.EXACT], failed, counts[Outcome.SKIPPED]))])
    print_table(["level", "cases", "exact", "failed", "skipped"], rows)


def _print_first(result: Result, reproduce: Callable[[Result], str]) -> None:
    rule = parse_rules(find_spec().read_text(encoding="utf-8")).get(result.rules[0])
    print(f"\nfirst failing rule: {result.rules[0]}  {rule.summary if rule else ''}")
    print(f"  case: {result.id}, {result.title}")
    print(f"  expected {result.expected}, got {result.got}")
    if result.detail:
        print("  " + result.detail[:DETAIL_CHARACTERS].replace("\n", "\n  "))
    print(f"  again: {reproduce(result)}\n")


def _verdict(report: Report) -> str:
    if not report.passed:
        musts = sum(result.must for result in report.unexpected)
        return f"FAIL: {musts} MUST cases failed" if musts else "FAIL"
    text = f"pass: {report.executed} cases run at {format_levels(report.levels)}"
    if report.badge_levels:
        return f"{text}; conforms at {format_levels(report.badge_levels)}"
    reasons = []
    if not report.all_cases:
        reasons.append("only some cases were selected")
    if report.counts()[Outcome.SKIPPED]:
        reasons.append(f"{report.counts()[Outcome.SKIPPED]} cases were skipped")
    if any(result.expected_failure and result.must for result in report.results):
        reasons.append("MUST cases fail as expected")
    return f"{text}; no badge: {', '.join(reasons)}" if reasons else text
