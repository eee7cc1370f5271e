"""report.html: one self-contained page, no script. A rule opens its text in SPEC.md and its cases."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape
from itertools import groupby

from .corpus import Corpus
from .excerpt import excerpt
from .levels import format_levels
from .matrix import Cell, Row
from .outcome import MEANINGS, Outcome, Result
from .report import Report

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --good: #1a7f37; --bad: #c62828; --warn: #9a6700; --dim: #777; }
@media (prefers-color-scheme: dark) { :root { --good: #4cc26a; --bad: #ff7b72; --warn: #d8a32a; --dim: #999; } }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 78rem; margin: 2rem auto; padding: 0 1rem; }
code, pre { font: 12.5px/1.45 ui-monospace, monospace; }
pre { overflow-x: auto; padding: .6rem; border: 1px solid var(--line); border-radius: 4px; margin: .4rem 0; }
table { border-collapse: collapse; margin: .6rem 0; }
th, td { text-align: left; padding: .15rem .8rem .15rem 0; vertical-align: top; }
td { border-top: 1px solid var(--line); overflow-wrap: anywhere; }
summary { cursor: pointer; }
details.rule > summary, .head { display: grid; gap: .8rem; padding: .2rem 0; border-top: 1px solid var(--line); }
.head { font-weight: bold; border-top: 0; position: sticky; top: 0; background: Canvas; }
details.rule[open] > summary { font-weight: bold; }
details.rule > div, details.case > div { margin: .3rem 0 1rem 1.2rem; }
.spec { white-space: pre-wrap; border-left: 3px solid var(--line); padding-left: .8rem; }
.pass { color: var(--good); } .fail { color: var(--bad); } .warn { color: var(--warn); }
.skip, .none, .dim { color: var(--dim); }
"""
_MARKS = {"pass": "✓", "fail": "✗", "warn": "!", "skip": "–", "none": "·"}


def render_html(reports: Sequence[Report], rows: Sequence[Row], corpus: Corpus) -> str:
    """One or several reports on a page.

    Args:
        reports: of one corpus.
        rows: their matrix.
        corpus: the same corpus, for the bytes of its files.
    """
    excerpts = {case.id: excerpt(case, corpus.root) for case in corpus.cases}
    columns = f"grid-template-columns: 5rem 1fr repeat({len(reports)}, minmax(7rem, max-content))"
    body = [
        "<h1>ternfmt conformance</h1>",
        f"<p>Corpus {escape(corpus.version)}, SHA-256 <code>{corpus.digest}</code></p>",
        _overview(reports),
        *(_complaints(report) for report in reports),
        "<h2>Rules</h2>",
        '<p class="dim">Numbers are exact / executed cases. A rule opens its text and its cases.</p>',
        f'<div class="head" style="{columns}"><span>rule</span><span></span>'
        + "".join(f"<span>{escape(report.label)}</span>" for report in reports)
        + "</div>",
    ]
    shown: set[str] = set()
    for section, group in groupby(rows, key=lambda row: row.rule.section):
        body.append(f"<h3>{escape(section)}</h3>")
        body += [_rule(row, reports, columns, excerpts, shown) for row in group]
    body.append("<h2>Outcomes</h2><table>")
    body += [f"<tr><td>{outcome.value}</td><td>{MEANINGS[outcome]}</td></tr>" for outcome in Outcome]
    body.append("</table>")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>ternfmt conformance: {escape(', '.join(report.label for report in reports))}</title>"
        f"<style>{_STYLE}</style></head><body>\n" + "\n".join(body) + "\n</body></html>\n"
    )


def _overview(reports: Sequence[Report]) -> str:
    head = (
        "implementation",
        "language",
        "levels run",
        "verdict",
        "exact",
        "failed",
        "skipped",
        "conforms at",
        "run as",
    )
    lines = ["<table><tr>" + "".join(f"<th>{title}</th>" for title in head) + "</tr>"]
    for report in reports:
        counts = report.counts()
        verdict = '<span class="pass">✓ pass</span>' if report.passed else '<span class="fail">✗ fail</span>'
        cells = [
            escape(report.label),
            escape(report.language),
            format_levels(report.levels),
            verdict,
            str(counts[Outcome.EXACT]),
            str(len(report.failures)),
            str(counts[Outcome.SKIPPED]),
            format_levels(report.badge_levels) or "-",
            f"<code>{escape(report.command)}</code>{' (one-shot)' if report.one_shot else ''}",
        ]
        lines.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    return "\n".join([*lines, "</table>"])


def _complaints(report: Report) -> str:
    complaints = [*report.problems, *(f"level {level}: no case was run" for level in report.empty_levels)]
    complaints += [f"{name}: listed as an expected failure, but does not fail" for name in report.stale]
    return "\n".join(f'<pre class="fail">{escape(report.label)}: {escape(text)}</pre>' for text in complaints)


def _rule(row: Row, reports: Sequence[Report], columns: str, excerpts: Mapping[str, str], shown: set[str]) -> str:
    results = [{result.id: result for result in report.results} for report in reports]
    cases = []
    for case in row.cases:
        by_report = [(report, found.get(case)) for report, found in zip(reports, results, strict=True)]
        cases.append(_case(case, by_report, None if case in shown else excerpts.get(case, "")))
        shown.add(case)
    summary = re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(row.rule.summary))
    return (
        f'<details class="rule" id="{row.rule.id}"><summary style="{columns}"><span>{row.rule.id}</span>'
        f"<span>{summary}</span>{''.join(map(_cell, row.cells))}</summary><div>"
        f'<div class="spec">{_spec(row.rule.text)}</div>{"".join(cases)}</div></details>'
    )


def _cell(cell: Cell) -> str:
    return f'<span class="{cell.mark}">{_MARKS[cell.mark]} {cell}</span>'


def _case(name: str, results: Sequence[tuple[Report, Result | None]], dump: str | None) -> str:
    """A case under one of its rules; ``dump`` is None where another rule shows its bytes."""
    found = [result for _, result in results if result is not None]
    first = found[0]
    bad = any(result.outcome.failed for result in found)
    skipped = all(result.outcome is Outcome.SKIPPED for result in found)
    mark = "fail" if bad else "skip" if skipped else "pass"
    identity = "" if dump is None else f' id="{escape(name)}"'
    lines = [
        f'<details class="case"{identity}{" open" if bad and dump is not None else ""}><summary>'
        f'<span class="{mark}">{_MARKS[mark]}</span> <code>{escape(name)}</code> {escape(first.title)}</summary><div>',
        f'<p class="dim">{first.level} {first.severity}, {escape(first.op)} <code>{escape(first.path)}</code>, rules '
        + ", ".join(f'<a href="#{rule}">{rule}</a>' for rule in first.rules)
        + "</p>",
        "<table><tr><th>implementation</th><th>outcome</th><th>expected</th><th>got</th><th>detail</th></tr>",
        *(_outcome(report, result) for report, result in results if result is not None),
        "</table>",
        f'<p>Its bytes: <a href="#{escape(name)}">above</a></p>' if dump is None else f"<pre>{escape(dump)}</pre>",
        "</div></details>",
    ]
    return "".join(lines)


def _outcome(report: Report, result: Result) -> str:
    mark = {Outcome.EXACT: "pass", Outcome.SKIPPED: "skip"}.get(result.outcome, "fail" if result.must else "warn")
    expected = " (expected failure)" if result.expected_failure else ""
    detail = f"<pre>{escape(result.detail)}</pre>" if "\n" in result.detail else escape(result.detail)
    return (
        f'<tr><td>{escape(report.label)}</td><td class="{mark}">{_MARKS[mark]} {result.outcome}{expected}</td>'
        f"<td>{escape(result.expected)}</td><td>{escape(result.got)}</td><td>{detail}</td></tr>"
    )


def _spec(markdown: str) -> str:
    """Enough Markdown for the rules of SPEC.md."""
    text = escape(markdown.removeprefix("- "), quote=False)
    text = re.sub(r"`([^`]+)`", r"<code>\1</code>", text)
    return re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", text)
