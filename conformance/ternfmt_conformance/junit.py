"""junit.xml: a suite for each level, for CI systems."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree as ET

from .outcome import Outcome, Result
from .report import Report

_FAILURES = (Outcome.WRONG_CLASS, Outcome.WRONGLY_ACCEPTED, Outcome.WRONGLY_REJECTED, Outcome.WRONG_VALUE)


def render_junit(report: Report) -> str:
    """The report as JUnit XML.

    Wrong answers are failures, everything else that went wrong is an error; expected failures, and failed SHOULD
    cases, are skipped.
    """
    root = ET.Element("testsuites", name=f"ternfmt conformance: {report.label}")
    for level in dict.fromkeys(result.level for result in report.results):
        _add_suite(root, level, [result for result in report.results if result.level == level])
    complaints = [*report.problems, *(f"{name}: an expected failure that does not fail" for name in report.stale)]
    complaints += [f"no case of level {level} was run" for level in report.empty_levels]
    if complaints:
        suite = ET.SubElement(root, "testsuite", name="run", tests=str(len(complaints)), errors=str(len(complaints)))
        for complaint in complaints:
            case = ET.SubElement(suite, "testcase", classname="run", name=complaint.splitlines()[0])
            ET.SubElement(case, "error", message=complaint.splitlines()[0]).text = complaint
    ET.indent(root)
    return ET.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _add_suite(root: ET.Element, level: str, results: Sequence[Result]) -> None:
    suite = ET.SubElement(root, "testsuite", name=level)
    tags = []
    for result in results:
        case = ET.SubElement(
            suite,
            "testcase",
            classname=f"{level}.{result.rules[0]}",
            name=result.id,
            time=f"{result.seconds or 0:.6f}",
        )
        tag = _tag(result)
        if tag:
            tags.append(tag)
            message = f"{result.outcome}: expected {result.expected}, got {result.got}"
            ET.SubElement(case, tag, message=message).text = result.detail
    suite.set("tests", str(len(results)))
    for tag, attribute in (("failure", "failures"), ("error", "errors"), ("skipped", "skipped")):
        suite.set(attribute, str(tags.count(tag)))


def _tag(result: Result) -> str | None:
    if result.outcome is Outcome.EXACT:
        return None
    if result.outcome is Outcome.SKIPPED or result.expected_failure or not result.must:
        return "skipped"
    return "failure" if result.outcome in _FAILURES else "error"
