"""Write reports to a folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from .badge import render_badge
from .corpus import Corpus
from .html import render_html
from .junit import render_junit
from .locate import find_spec
from .markdown import render_markdown
from .matrix import make_matrix
from .report import Report
from .rules import parse_rules

BADGE = "badge.svg"


def write_run(report: Report, corpus: Corpus, folder: Path) -> list[Path]:
    """Write report.json, junit.xml, report.md, report.html and, where earned, badge.svg; an old badge goes.

    Raises:
        ValueError: a case cites a rule that SPEC.md does not have.
        OSError: the folder cannot be written.
    """
    written = write_matrix([report], corpus, folder)
    written.append(_write(folder / "report.json", json.dumps(report.to_json(), indent=1) + "\n"))
    written.append(_write(folder / "junit.xml", render_junit(report)))
    if report.badge_levels:
        written.append(_write(folder / BADGE, render_badge(report.corpus, report.badge_levels)))
    else:
        (folder / BADGE).unlink(missing_ok=True)
    return written


def write_matrix(reports: Sequence[Report], corpus: Corpus, folder: Path) -> list[Path]:
    """Write report.md and report.html on one or several runs.

    Raises:
        ValueError: the reports are of another corpus, or a case cites a rule that SPEC.md does not have.
        OSError: the folder cannot be written.
    """
    for report in reports:
        if report.corpus_digest != corpus.digest:
            raise ValueError(
                f"{report.label}: its report is on corpus {report.corpus_digest[:12]}, {corpus.root} is "
                f"{corpus.digest[:12]}: run it again, or give the corpus with --vectors"
            )
    rows = make_matrix(reports, parse_rules(find_spec().read_text(encoding="utf-8")))
    folder.mkdir(parents=True, exist_ok=True)
    return [
        _write(folder / "report.md", render_markdown(reports, rows)),
        _write(folder / "report.html", render_html(reports, rows, corpus)),
    ]


def _write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8", errors="replace")
    return path
