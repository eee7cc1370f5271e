"""The four reports, the badge, and several runs in one table."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from ternfmt_conformance.badge import render_badge
from ternfmt_conformance.corpus import Corpus
from ternfmt_conformance.levels import complete_levels, format_levels, levels_up_to
from ternfmt_conformance.matrix import Cell
from ternfmt_conformance.publish import write_matrix, write_run
from ternfmt_conformance.report import Report, read_report
from tests.conformance import mini
from tests.conformance.conftest import RunFake
from tests.conformance.fakes import fake, script

REFUSAL = "answer['error'] = {'class': 'NAME', 'detail': '<b>&\\x01\\ud800 | `x`'}"


@pytest.fixture
def wrong(tmp_path: Path, run_fake: RunFake) -> Report:
    """Wrong on one case, skips one."""
    behaviour = f"if is_about('json'): {REFUSAL}\nif is_about('empty'): answer = {{'skipped': True}}"
    return run_fake(fake(tmp_path, behaviour))


class Tags(HTMLParser):
    """Collects tags, and checks that they close in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_html(tmp_path: Path, wrong: Report, corpus: Corpus) -> None:
    write_run(wrong, corpus, tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    tags = Tags()
    tags.feed(page)
    tags.close()
    assert tags.open == []
    assert not {"script", "link", "img", "iframe"} & {tag for tag, _ in tags.seen}
    links = [attributes["href"] or "" for _, attributes in tags.seen if "href" in attributes]
    ids = [attributes["id"] for _, attributes in tags.seen if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {link.removeprefix("#") for link in links} <= set(ids)  # nothing outside of the page
    assert not re.search(r"url\(|@import", page)
    assert "no <code>\\u</code> escape" not in page  # S-1.3 has no case here
    assert "padding cannot hide a second document" in page  # the text of S-1.4
    assert "00000000  02 00 00 00 00 00 00 00 7b 5d" in page  # the bytes of r0/json
    assert "wrong-class" in page
    assert "&lt;b&gt;&amp;" in page
    assert "<b>" not in page


def test_junit(tmp_path: Path, wrong: Report, corpus: Corpus) -> None:
    write_run(wrong, corpus, tmp_path / "out")
    root = ET.parse(tmp_path / "out" / "junit.xml").getroot()
    suite = root.find("testsuite")
    assert suite is not None
    assert suite.attrib == {"name": "R0", "tests": "5", "failures": "1", "errors": "0", "skipped": "1"}
    failure = suite.find("testcase[@name='r0/json']/failure")
    assert failure is not None
    assert failure.attrib["message"] == "wrong-class: expected JSON, got NAME"


def test_a_testee_that_does_not_start_has_reports_too(tmp_path: Path, run_fake: RunFake, corpus: Corpus) -> None:
    report = run_fake(script(tmp_path, "print('hello')"))
    write_run(report, corpus, tmp_path / "out")
    root = ET.parse(tmp_path / "out" / "junit.xml").getroot()
    assert root.find("testsuite/testcase/error") is not None
    for name in ("report.html", "report.md", "report.json"):
        assert "did not start" in (tmp_path / "out" / name).read_text(encoding="utf-8")


def test_json_round_trip(tmp_path: Path, wrong: Report, corpus: Corpus) -> None:
    write_run(wrong, corpus, tmp_path / "out")
    path = tmp_path / "out" / "report.json"
    assert read_report(path) == wrong
    value = json.loads(path.read_text())
    assert value["passed"] is False
    assert value["counts"]["wrong-class"] == 1
    for text in ("", "[]", "{}", json.dumps({**value, "report": 2}), json.dumps({**value, "results": [{}]})):
        path.write_text(text)
        with pytest.raises(ValueError, match="not a report"):
            read_report(path)


def test_several_runs(tmp_path: Path, wrong: Report, run_fake: RunFake, corpus: Corpus) -> None:
    right = run_fake(fake(tmp_path, before="greeting['implementation']['name'] = 'other'"))
    write_matrix([wrong, right], corpus, tmp_path / "out")
    text = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "| fake 1 | Python | R0 | **fail** | 3 | 1 | 1 | - |" in text
    assert "| other 1 | Python | R0 | pass | 5 | 0 | 0 | R0 |" in text
    assert re.search(r"^\| S-1\.4 \| .* \| ✗ 0/1 \| ✓ 1/1 \|$", text, re.MULTILINE)
    assert re.search(r"^\| S-1\.1 \| .* \| – 1 skipped \| ✓ 1/1 \|$", text, re.MULTILINE)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"report.md", "report.html"}


def test_reports_of_another_corpus_are_refused(tmp_path: Path, wrong: Report) -> None:
    other = mini.write(tmp_path / "vectors", mini.cases()[:3])
    with pytest.raises(ValueError, match="is on corpus"):
        write_matrix([wrong], other, tmp_path / "out")


def test_cases_cite_rules_that_exist(tmp_path: Path, run_fake: RunFake) -> None:
    lines = mini.cases()[:1]
    lines[0]["rules"] = ["S-1.99"]
    other = mini.write(tmp_path / "vectors", lines)
    report = run_fake(fake(tmp_path), corpus=other)
    with pytest.raises(ValueError, match=r"S-1\.99"):
        write_matrix([report], other, tmp_path / "out")


def test_an_old_badge_goes(tmp_path: Path, wrong: Report, run_fake: RunFake, corpus: Corpus) -> None:
    badge = tmp_path / "out" / "badge.svg"
    write_run(run_fake(fake(tmp_path)), corpus, badge.parent)
    assert ET.parse(badge).getroot().attrib["aria-label"] == "ternfmt 0.1: R0"
    write_run(wrong, corpus, badge.parent)
    assert not badge.exists()


def test_badge_is_xml() -> None:
    ET.fromstring(render_badge("1.0", ("R0", "R1", "W1")))


def test_levels() -> None:
    assert levels_up_to(["R2", "S"]) == ("R0", "R1", "R2", "S")
    assert levels_up_to([]) == ()
    assert complete_levels({"R0", "R2", "W1", "W2"}) == ("R0", "W1", "W2")
    assert format_levels(("R0", "R1", "R2", "R4", "W2", "S")) == "R0-R2, R4, W2, S"
    assert format_levels(()) == ""


def test_cells() -> None:
    assert (Cell(2, 0, 0, 0).mark, str(Cell(2, 0, 0, 0))) == ("pass", "2/2")
    assert (Cell(2, 1, 0, 0).mark, str(Cell(2, 1, 0, 0))) == ("warn", "2/3")
    assert (Cell(2, 1, 4, 1).mark, str(Cell(2, 1, 4, 1))) == ("fail", "2/3, 4 skipped")
    assert (Cell(0, 0, 1, 0).mark, str(Cell(0, 0, 1, 0))) == ("skip", "1 skipped")
    assert (Cell(0, 0, 0, 0).mark, str(Cell(0, 0, 0, 0))) == ("none", "-")
