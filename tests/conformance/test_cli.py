"""``ternfmt conformance``: exit codes, and what it says."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path

import pytest

from ternfmt.cli import main
from ternfmt_conformance.command import Command
from ternfmt_conformance.corpus import Corpus
from tests.conformance.fakes import fake, one_shot_fake


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], corpus: Corpus):
    def call(*arguments: str) -> Done:
        try:
            code = main(["conformance", *arguments, "--vectors", str(corpus.root)])
        except SystemExit as stop:
            code = int(stop.code or 0)
        return Done(code, *capsys.readouterr())

    return call


def text(command: Command) -> str:
    return shlex.join(command.words)


def test_pass(tmp_path: Path, run) -> None:
    done = run("run", "--impl", text(fake(tmp_path)), "--report", str(tmp_path / "out"))
    assert done.code == 0
    assert "pass: 5 cases run at R0; conforms at R0" in done.out
    assert done.err == ""
    names = {"report.json", "report.md", "report.html", "junit.xml", "badge.svg"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names


def test_failure_names_the_rule_and_the_command_that_shows_it_again(tmp_path: Path, run) -> None:
    impl = text(fake(tmp_path, "if request['op'] == 'validate' and not is_about('plain'): answer = {'ok': True}"))
    done = run("run", "--impl", impl, "--timeout", "5")
    assert done.code == 1
    assert "first failing rule: S-1.1  A file is at least 8 bytes." in done.out
    assert "expected PREFIX, got ok" in done.out
    assert done.out.splitlines()[-1] == "FAIL: 3 MUST cases failed"
    again = next(line for line in done.out.splitlines() if line.startswith("  again: "))
    command = shlex.split(again.removeprefix("  again: "))
    assert command[:2] == ["ternfmt", "conformance"]
    done = run(*command[2:])
    assert done.code == 1
    assert done.out.splitlines()[-1] == "FAIL: 1 MUST cases failed"


def test_one_shot_again(tmp_path: Path, run) -> None:
    impl = text(one_shot_fake(tmp_path, "answer = {'ok': True}"))
    done = run("run", "--impl", impl, "--one-shot", "--level", "R0")
    again = next(line for line in done.out.splitlines() if line.startswith("  again: "))
    done = run(*shlex.split(again.removeprefix("  again: "))[2:])
    assert "FAIL: 1 MUST cases failed" in done.out


def test_no_start(run) -> None:
    done = run("run", "--impl", "/nothing/here")
    assert done.code == 1
    assert "the testee did not start" in done.out
    assert done.out.splitlines()[-1] == "FAIL"


def test_json(tmp_path: Path, run) -> None:
    done = run("run", "--json", "--impl", text(fake(tmp_path)))
    assert json.loads(done.out)["badge_levels"] == ["R0"]


def test_expected_failures(tmp_path: Path, run) -> None:
    (tmp_path / "list").write_text("# known\nr0/json  # issue 7\n\n")
    impl = text(fake(tmp_path, "if is_about('json'): answer = {'ok': True}"))
    arguments = ("--expected-failures", str(tmp_path / "list"))
    done = run("run", "--impl", impl, *arguments)
    assert done.code == 0
    assert "no badge: MUST cases fail as expected" in done.out
    done = run("run", "--impl", text(fake(tmp_path)), *arguments)
    assert done.code == 1
    assert "r0/json: listed as an expected failure, but does not fail" in done.out


@pytest.mark.parametrize(
    "arguments",
    [
        ("run",),
        ("run", "--impl", ""),
        ("run", "--impl", "'"),
        ("run", "--impl", "x", "--level", "R7"),
        ("run", "--impl", "x", "--timeout", "0"),
        ("report", "--out", "x"),
    ],
)
def test_usage(run, arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert done.code == 2
    assert "usage: ternfmt conformance" in done.err


def test_report_and_list(tmp_path: Path, run) -> None:
    for name in ("a", "b"):
        run("run", "--impl", text(fake(tmp_path)), "--report", str(tmp_path / name))
    reports = [str(tmp_path / name / "report.json") for name in ("a", "b")]
    done = run("report", *reports, "--out", str(tmp_path / "both"))
    assert done.code == 0
    assert (tmp_path / "both" / "report.html").is_file()
    assert run("report", str(tmp_path / "a" / "report.md"), "--out", str(tmp_path / "both")).code == 1
    done = run("list", "--level", "R1", "--case", "r1/*")
    assert done.out.splitlines()[1].split()[:4] == ["r1/version", "R1", "MUST", "S-13.1"]


def test_a_damaged_corpus(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["conformance", "list", "--vectors", str(tmp_path)]) == 1
    assert "a corpus is a folder with manifest.json" in capsys.readouterr().err
