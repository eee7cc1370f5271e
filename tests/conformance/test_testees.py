"""Whatever a testee does is reported as that, and never as a pass."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from ternfmt_conformance.command import Command
from ternfmt_conformance.memory import can_measure
from ternfmt_conformance.outcome import Outcome
from ternfmt_conformance.report import Report
from ternfmt_conformance.runner import run_suite
from ternfmt_conformance.settings import Settings
from tests.conformance import mini
from tests.conformance.conftest import RunFake
from tests.conformance.fakes import fake, one_shot_fake, script

needs_proc = pytest.mark.skipif(not can_measure(), reason="needs /proc")
SHORT = 4.0


def outcomes(report: Report) -> dict[str, Outcome]:
    """Those that are not exact."""
    return {result.id: result.outcome for result in report.results if result.outcome is not Outcome.EXACT}


def detail(report: Report, case: str) -> str:
    return next(result.detail for result in report.results if result.id == case)


def test_a_right_testee_passes(tmp_path: Path, run_fake: RunFake) -> None:
    report = run_fake(fake(tmp_path))
    assert outcomes(report) == {}
    assert report.executed == 5
    assert report.passed
    assert report.badge_levels == ("R0",)
    assert (report.name, report.version, report.language) == ("fake", "1", "Python")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import sys; sys.exit('no such model')", "exit code 1:\nno such model"),
        ("import os; os.abort()", "SIGABRT"),
        ("", "exit code 0"),
        ("print('hello', flush=True); input()", "expected one line of JSON, got 'hello"),
        ("print('[' * 100000, flush=True); input()", "expected one line of JSON"),
        ("import sys; sys.stdout.buffer.write(b'\\xff\\n'); sys.stdout.flush(); input()", "expected one line of JSON"),
        ("print('[1]', flush=True); input()", "expected a JSON object"),
        ("print('{}', flush=True); input()", "expected the answer to request 0"),
        ("import os, time; os.close(1); time.sleep(60)", "closed its output without an answer"),
        ("import time; time.sleep(60)", "no answer when its time was up"),
        ("while True: print('x' * 1000)", "expected one line of JSON"),
    ],
)
def test_not_starting(tmp_path: Path, run_fake: RunFake, text: str, words: str) -> None:
    report = run_fake(script(tmp_path, text), timeout=SHORT)
    assert len(report.problems) == 1
    assert "the testee did not start" in report.problems[0]
    assert words in report.problems[0]
    assert report.results == ()
    assert not report.passed
    assert report.badge_levels == ()


def test_no_such_program(tmp_path: Path, run_fake: RunFake) -> None:
    for one_shot in (False, True):
        report = run_fake(Command("x", (str(tmp_path / "nothing"),)), one_shot=one_shot)
        assert "could not be started" in report.problems[0]
        assert not report.passed


@pytest.mark.parametrize(
    ("before", "words"),
    [
        ("greeting['protocol'] = 2", "expected protocol 1"),
        ("greeting['protocol'] = True", "expected protocol 1"),
        ("greeting = {'errored': True, 'detail': 'protocol 1 is too old'}", "protocol 1 is too old"),
        ("greeting['implementation'] = 'fake'", "expected implementation"),
        ("del greeting['implementation']['version']", "expected implementation"),
        ("greeting['levels'] = ['R9']", "expected levels"),
        ("greeting['levels'] = 'R0'", "expected levels"),
        ("del greeting['features']", "expected features"),
    ],
)
def test_wrong_greetings(tmp_path: Path, run_fake: RunFake, before: str, words: str) -> None:
    report = run_fake(fake(tmp_path, before=before))
    assert words in report.problems[0]
    assert not report.passed


def test_claiming_nothing_is_not_a_pass(tmp_path: Path, run_fake: RunFake) -> None:
    report = run_fake(fake(tmp_path, before="greeting['levels'] = []"))
    assert report.problems == ("no case was selected",)
    assert not report.passed


def test_a_level_asked_for_must_be_claimed(tmp_path: Path, run_fake: RunFake) -> None:
    report = run_fake(fake(tmp_path), levels=("R1",))
    assert report.problems == ("the testee does not claim level R1",)
    assert not report.passed
    assert run_fake(fake(tmp_path), levels=("R0",)).passed


@pytest.mark.parametrize(
    ("behaviour", "outcome"),
    [
        ("if is_about('json'): os.abort()", Outcome.CRASH),
        ("if is_about('json'): os._exit(0)", Outcome.CRASH),
        ("if is_about('json'): answer = {'errored': True, 'detail': 'stack'}", Outcome.CRASH),
        ("if is_about('json'): print('debug:', end='')", Outcome.GARBAGE),
        ("if is_about('json'): answer = {}", Outcome.GARBAGE),
        ("if is_about('json'): answer = {'ok': 'false'}", Outcome.GARBAGE),
        ("if is_about('json'): answer = {'ok': 1}", Outcome.GARBAGE),
        ("if is_about('json'): answer = {'ok': False}", Outcome.GARBAGE),
        ("if is_about('json'): answer = {'ok': False, 'error': 'JSON'}", Outcome.GARBAGE),
        ("if is_about('json'): request['id'] += 1", Outcome.GARBAGE),
        ("if is_about('json'): request['id'] = str(request['id'])", Outcome.GARBAGE),
        ("if is_about('json'): time.sleep(60)", Outcome.TIMEOUT),
        ("if is_about('json'): answer['error']['class'] = 'NAME'", Outcome.WRONG_CLASS),
        ("if is_about('json'): answer['error']['class'] = 'BadJson'", Outcome.WRONG_CLASS),
        ("if is_about('json'): answer = {'ok': True}", Outcome.WRONGLY_ACCEPTED),
        ("if is_about('json'): answer = {'skipped': True, 'reason': 'later'}", Outcome.SKIPPED),
    ],
)
def test_one_bad_answer_costs_one_case(tmp_path: Path, run_fake: RunFake, behaviour: str, outcome: Outcome) -> None:
    report = run_fake(fake(tmp_path, behaviour), timeout=SHORT)
    assert outcomes(report) == {"r0/json": outcome}
    assert report.passed == (outcome is Outcome.SKIPPED)
    assert report.badge_levels == ()


def test_an_answer_too_many_is_garbage(tmp_path: Path, run_fake: RunFake) -> None:
    report = run_fake(fake(tmp_path, "if is_about('empty'): say(**answer)"))
    assert outcomes(report) == {"r0/json": Outcome.GARBAGE}


def test_being_too_strict(tmp_path: Path, run_fake: RunFake) -> None:
    refuse = "answer = {'ok': False, 'error': {'class': 'LAYOUT', 'detail': 'no'}}"
    report = run_fake(fake(tmp_path, f"if is_about('plain'): {refuse}"))
    assert outcomes(report) == {"r0/plain": Outcome.WRONGLY_REJECTED, "r0/soft": Outcome.WRONGLY_REJECTED}
    assert [result.id for result in report.failures] == ["r0/plain", "r0/soft"]  # MUST before SHOULD


def test_last_words_are_kept(tmp_path: Path, run_fake: RunFake) -> None:
    report = run_fake(fake(tmp_path, "if is_about('json'): sys.exit('index out of range')"))
    assert detail(report, "r0/json") == "ended by itself: exit code 1:\nindex out of range"


def test_a_loud_standard_error_blocks_nothing(tmp_path: Path, run_fake: RunFake) -> None:
    assert run_fake(fake(tmp_path, "sys.stderr.write('x' * 1_000_000)")).passed


def test_not_starting_again(tmp_path: Path, run_fake: RunFake) -> None:
    mark = tmp_path / "mark"
    before = f"if os.path.exists({str(mark)!r}): sys.exit('license expired')\nopen({str(mark)!r}, 'w')"
    report = run_fake(fake(tmp_path, "if is_about('empty'): os.abort()", before=before))
    assert list(outcomes(report)) == ["r0/empty", "r0/json", "r0/long", "r0/soft"]
    assert set(outcomes(report).values()) == {Outcome.CRASH}
    assert detail(report, "r0/json").startswith("did not start again: ended by itself: exit code 1:\nlicense expired")
    assert not report.passed


def test_hanging_for_ever_ends(tmp_path: Path, run_fake: RunFake) -> None:
    behaviour = "if request['op'] == 'validate': time.sleep(60)"
    before = "greeting['levels'] += ['R1', 'R2']"
    report = run_fake(fake(tmp_path, behaviour, before=before), timeout=2.0)
    assert detail(report, "r2/code").startswith("not tried")
    assert {r.outcome for r in report.results} == {Outcome.TIMEOUT}


@needs_proc
def test_the_memory_cap(tmp_path: Path, run_fake: RunFake) -> None:
    behaviour = "if is_about('json'): hoard = b'x' * 300_000_000; time.sleep(60)"
    report = run_fake(fake(tmp_path, behaviour), memory_cap=100_000_000)
    assert outcomes(report) == {"r0/json": Outcome.OVER_BUDGET}
    assert "the cap is 100000000" in detail(report, "r0/json")


@needs_proc
def test_the_memory_of_children_counts(tmp_path: Path, run_fake: RunFake) -> None:
    hoard = "import time; hoard = b'x' * 300_000_000; time.sleep(60)"
    behaviour = f"""
        if is_about('json'):
            import subprocess
            subprocess.run([sys.executable, '-c', {hoard!r}])
    """
    report = run_fake(fake(tmp_path, behaviour), memory_cap=100_000_000)
    assert outcomes(report) == {"r0/json": Outcome.OVER_BUDGET}


@needs_proc
def test_nothing_is_left_running(tmp_path: Path, run_fake: RunFake) -> None:
    behaviour = f"""
        if is_about('json'):
            import subprocess
            child = subprocess.Popen(['sleep', '60'])
            print(child.pid, file=open({str(tmp_path / "pid")!r}, 'w'), flush=True)
            time.sleep(60)
    """
    report = run_fake(fake(tmp_path, behaviour), timeout=SHORT)
    assert outcomes(report) == {"r0/json": Outcome.TIMEOUT}
    status = Path("/proc", (tmp_path / "pid").read_text().strip(), "status")
    deadline = time.monotonic() + 5
    while status.exists() and "State:\tZ" not in status.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("budget", "behaviour"),
    [
        ({"seconds": 0.1}, "if is_about('empty'): time.sleep(0.2)"),
        pytest.param({"memory_bytes": "50000000"}, "if is_about('empty'): len(b'x' * 90_000_000)", marks=needs_proc),
    ],
)
def test_budgets(tmp_path: Path, run_fake: RunFake, budget: dict[str, object], behaviour: str) -> None:
    lines = [case for case in mini.cases() if case["id"] in ("r0/plain", "r0/empty")]
    lines[1]["budget"] = budget
    corpus = mini.write(tmp_path / "vectors", lines)
    assert run_suite(corpus, Settings(fake(tmp_path))).passed
    report = run_suite(corpus, Settings(fake(tmp_path, behaviour)))
    assert outcomes(report) == {"r0/empty": Outcome.OVER_BUDGET}
    one_shot = run_suite(corpus, Settings(one_shot_fake(tmp_path), levels=("R0",), one_shot=True))
    assert one_shot.passed


def test_skipping_everything_is_not_a_pass(tmp_path: Path, run_fake: RunFake) -> None:
    report = run_fake(fake(tmp_path, "if request['op'] == 'validate': answer = {'skipped': True}"))
    assert report.executed == 0
    assert report.empty_levels == ["R0"]
    assert not report.passed


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [
        ("if request['op'] == 'stop': time.sleep(60)", "no answer when its time was up"),
        ("if request['op'] == 'stop': sys.exit(0)", "exit code 0"),
        ("if request['op'] == 'stop': say(**answer); print('leak', file=sys.stderr); sys.exit(23)", "23:\nleak"),
        ("if request['op'] == 'stop': say(**answer); time.sleep(60)", "still running"),
    ],
)
def test_not_stopping(tmp_path: Path, run_fake: RunFake, behaviour: str, words: str) -> None:
    report = run_fake(fake(tmp_path, behaviour), timeout=SHORT)
    assert outcomes(report) == {}
    assert words in report.problems[0]
    assert not report.passed
    assert report.badge_levels == ()


def test_expected_failures(tmp_path: Path, run_fake: RunFake) -> None:
    wrong = fake(tmp_path, "if is_about('json'): answer = {'ok': True}")
    report = run_fake(wrong, expected_failures=frozenset({"r0/json"}))
    assert report.passed
    assert report.unexpected == []
    assert [result.id for result in report.failures] == ["r0/json"]
    assert report.badge_levels == ()
    stale = run_fake(wrong, expected_failures=frozenset({"r0/json", "r0/empty", "r0/gone", "r2/code"}))
    assert stale.stale == ("r0/empty", "r0/gone")  # r2/code was not run
    assert not stale.passed


def test_only_should_cases_failing_is_a_pass(tmp_path: Path, run_fake: RunFake) -> None:
    refuse = "answer = {'ok': False, 'error': {'class': 'LAYOUT'}}"
    before = "count = 0"
    report = run_fake(fake(tmp_path, f"count += is_about('plain')\nif count == 2: {refuse}", before=before))
    assert outcomes(report) == {"r0/soft": Outcome.WRONGLY_REJECTED}
    assert report.passed
    assert report.badge_levels == ("R0",)


def test_a_selection_earns_no_badge(tmp_path: Path, run_fake: RunFake) -> None:
    report = run_fake(fake(tmp_path), pattern="r0/j*")
    assert [result.id for result in report.results] == ["r0/json"]
    assert report.passed
    assert report.badge_levels == ()
    assert not run_fake(fake(tmp_path), pattern="nothing").passed


def test_lacking_a_feature_means_answering_feature(tmp_path: Path, run_fake: RunFake) -> None:
    before = "greeting['levels'] = ['R2']; greeting['features'] = ['planes']"
    answers = "answer = {'ok': False, 'error': {'class': 'FEATURE'}}"
    behaviour = f"if is_about('features'): {answers}"
    report = run_fake(fake(tmp_path, behaviour, before=before), pattern="r2/features")
    assert outcomes(report) == {}
    report = run_fake(fake(tmp_path, before=before), pattern="r2/features")
    assert outcomes(report) == {"r2/features": Outcome.WRONGLY_ACCEPTED}


def test_the_scratch_folder_goes(tmp_path: Path, run_fake: RunFake) -> None:
    seen = tmp_path / "seen"
    run_fake(
        fake(tmp_path, f"if request.get('path', '').endswith('/a'): open({str(seen)!r}, 'w').write(request['path'])")
    )
    assert not os.path.exists(seen.read_text())
