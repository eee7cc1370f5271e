"""Testees that know no more than ``validate PATH``."""

from __future__ import annotations

from pathlib import Path

import pytest

from ternfmt_conformance.command import Command
from ternfmt_conformance.outcome import Outcome
from tests.conformance.conftest import RunFake
from tests.conformance.fakes import one_shot_fake, script
from tests.conformance.test_testees import SHORT, outcomes


def test_one_shot(tmp_path: Path, run_fake: RunFake) -> None:
    report = run_fake(one_shot_fake(tmp_path), one_shot=True, levels=("R0",))
    assert outcomes(report) == {}
    assert report.passed
    assert report.badge_levels == ("R0",)


def test_one_shot_skips_what_cannot_be_asked(tmp_path: Path, run_fake: RunFake) -> None:
    report = run_fake(one_shot_fake(tmp_path), one_shot=True)
    assert report.levels == ("R0", "R1", "R2", "R3")
    assert outcomes(report)["r2/describe"] is Outcome.SKIPPED
    assert outcomes(report)["r3/links"] is Outcome.SKIPPED
    assert outcomes(report)["r2/code"] is Outcome.WRONGLY_ACCEPTED


@pytest.mark.parametrize(
    ("behaviour", "outcome"),
    [
        ("if is_about('json'): sys.exit(2)", Outcome.CRASH),
        ("if is_about('json'): os.abort()", Outcome.CRASH),
        ("if is_about('json'): sys.exit(1)", Outcome.GARBAGE),
        ("if is_about('json'): print('Error: bad JSON'); sys.exit(1)", Outcome.GARBAGE),
        ("if is_about('json'): print('SIZE'); sys.exit(1)", Outcome.WRONG_CLASS),
        ("if is_about('json'): sys.exit(0)", Outcome.WRONGLY_ACCEPTED),
        ("if is_about('json'): time.sleep(60)", Outcome.TIMEOUT),
    ],
)
def test_one_bad_run_costs_one_case(tmp_path: Path, run_fake: RunFake, behaviour: str, outcome: Outcome) -> None:
    report = run_fake(one_shot_fake(tmp_path, behaviour), one_shot=True, levels=("R0",), timeout=SHORT)
    assert outcomes(report) == {"r0/json": outcome}
    assert not report.passed


def test_one_shot_hanging_or_accepting_everything(tmp_path: Path, run_fake: RunFake) -> None:
    report = run_fake(script(tmp_path, "import time; time.sleep(60)"), one_shot=True, timeout=SHORT)
    assert "the testee did not start" in report.problems[0]
    report = run_fake(Command("true", ("true",)), one_shot=True, levels=("R0",))
    assert set(outcomes(report).values()) == {Outcome.WRONGLY_ACCEPTED}
    report = run_fake(Command("false", ("false",)), one_shot=True, levels=("R0",))
    assert set(outcomes(report).values()) == {Outcome.GARBAGE}
