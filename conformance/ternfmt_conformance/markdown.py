"""report.md: what a pull request or a release page wants to show."""

from __future__ import annotations

from collections.abc import Sequence

from .levels import format_levels
from .matrix import Row
from .outcome import Outcome, Result
from .report import Report

_MARKS = {"pass": "✓", "fail": "✗", "warn": "!", "skip": "–", "none": ""}


def render_markdown(reports: Sequence[Report], rows: Sequence[Row]) -> str:
    """One or several reports and their matrix, as Markdown."""
    lines = ["# ternfmt conformance", "", f"Corpus {reports[0].corpus}, SHA-256 `{reports[0].corpus_digest}`.", ""]
    lines += _table(
        ["implementation", "language", "levels run", "verdict", "exact", "failed", "skipped", "conforms at"],
        [_overview(report) for report in reports],
    )
    for report in reports:
        lines += _details(report)
    lines += ["## Rules", "", "✓ all exact, ✗ a MUST case failed, ! only SHOULD cases failed, – skipped", ""]
    lines += _table(
        ["rule", "", *(report.label for report in reports)],
        [[row.rule.id, row.rule.summary, *(f"{_MARKS[cell.mark]} {cell}" for cell in row.cells)] for row in rows],
    )
    return "\n".join(lines)


def _overview(report: Report) -> list[str]:
    counts = report.counts()
    return [
        report.label,
        report.language,
        format_levels(report.levels),
        "pass" if report.passed else "**fail**",
        str(counts[Outcome.EXACT]),
        str(len(report.failures)),
        str(counts[Outcome.SKIPPED]),
        format_levels(report.badge_levels) or "-",
    ]


def _details(report: Report) -> list[str]:
    lines = [f"## {_inline(report.label)}", "", f"Run as {_code(report.command)}"
             + (", one process a case." if report.one_shot else "."), ""]  # fmt: skip
    lines += [f"- {_inline(problem.splitlines()[0])}" for problem in report.problems]
    lines += [f"- level {level}: no case was run" for level in report.empty_levels]
    lines += [f"- {_code(name)} is listed as an expected failure, but does not fail" for name in report.stale]
    if report.failures:
        lines += _table(
            ["failed case", "rules", "severity", "outcome", "expected", "got", "detail"],
            [_failure(result) for result in report.failures],
        )
    elif report.results:
        lines.append("No case failed.")
    return [*lines, ""]


def _failure(result: Result) -> list[str]:
    severity = f"{result.severity}, expected to fail" if result.expected_failure else result.severity
    detail = next(iter(result.detail.splitlines()), "")[:300]
    return [result.id, ", ".join(result.rules), severity, result.outcome.value, result.expected, result.got, detail]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [
        head,
        ["---"] * len(head),
        *([cell if cell == "**fail**" else _inline(cell) for cell in row] for row in rows),
    ]
    return [*("| " + " | ".join(line) + " |" for line in lines), ""]


def _inline(text: str) -> str:
    """Plain text inside a table or a line of Markdown."""
    for character in "\\`*_<>[]|":
        text = text.replace(character, f"\\{character}")
    return " ".join(text.split())


def _code(text: str) -> str:
    """Text between enough backticks."""
    return f"`` {' '.join(text.split())} ``" if "`" in text else f"`{' '.join(text.split())}`"
