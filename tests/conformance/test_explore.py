"""``ternfmt conformance explore`` finds a planted fault, makes it small and saves it as a case."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

import pytest

from ternfmt.cli import main
from ternfmt_conformance.corpus import load_corpus
from tests.conformance.fakes import one_shot_fake

REFERENCE = "ternfmt_conformance.reference:Reference"


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]):
    def call(*arguments: str) -> Done:
        try:
            code = main(["conformance", *arguments])
        except SystemExit as stop:
            code = int(stop.code or 0)
        return Done(code, *capsys.readouterr())

    return call


@pytest.fixture
def explore(run, tmp_path: Path):
    def call(impl: str, *arguments: str) -> Done:
        return run("explore", "--impl", impl, "--out", str(tmp_path / "found"), *arguments)

    return call


@pytest.fixture
def plant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A testee that is our reference but for the methods given."""

    def write(methods: str) -> str:
        text = """\
            import numpy as np
            from pathlib import Path
            from ternfmt_conformance.python_adapter import Rejected
            from ternfmt_conformance.reference import Reference

            class Planted(Reference):
                implementation = {"name": "planted", "version": "1", "language": "Python"}
            """
        (tmp_path / "planted.py").write_text(dedent(text) + methods)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        return "planted:Planted"

    return write


LETS_PADDING_THROUGH = """
    def validate(self, path, **rest):
        try:
            super().validate(path, **rest)
        except Rejected as rejected:
            if rejected.kind != "PADDING":
                raise
"""


def test_a_planted_fault_is_found_made_small_and_saved(plant, explore, run, tmp_path: Path) -> None:
    impl = plant(LETS_PADDING_THROUGH)
    done = explore(impl, "--seed", "1", "--examples", "2000")
    assert done.code == 1
    assert "difference after" in done.out
    assert "right, says the reference: PADDING" in done.out
    corpus = load_corpus(tmp_path / "found")
    (case,) = corpus.cases
    assert (case.level, case.rules, case.expect) == ("R2", ("S-3.5",), {"class": "PADDING"})
    file = corpus.root / case.path
    assert file.stat().st_size < 400
    header = json.loads(file.read_bytes()[8 : 8 + int.from_bytes(file.read_bytes()[:8], "little")])
    assert len(header) == 3  # one ternary tensor and the metadata
    again = next(line for line in done.out.splitlines() if line.startswith("  again: "))
    words = shlex.split(again.removeprefix("  again: "))
    assert words[:2] == ["ternfmt", "conformance"]
    assert run(*words[2:]).code == 1
    assert run("run", "--impl", REFERENCE, "--vectors", str(corpus.root)).code == 0


@pytest.mark.parametrize(
    ("methods", "op", "level"),
    [
        (
            """
    def unpack(self, path, tensor, plane, rows, out):
        super().unpack(path, tensor, plane, (rows[0], max(rows)), out)
        if rows[0] > 0:
            Path(out).write_bytes(b"")
""",
            "unpack",
            "R2",
        ),
        (
            """
    def dequantize(self, path, tensor, dtype, out):
        super().dequantize(path, tensor, "F32", out)
        if dtype != "F32":
            cut = np.fromfile(out, np.uint32) >> 16
            Path(out).write_bytes(cut.astype(np.uint16).tobytes())
""",
            "dequantize",
            "R2",
        ),
        (
            """
    def matmul(self, path, tensor, x, m, dtype, out):
        super().matmul(path, tensor, x, m, dtype, out)
        y = np.fromfile(out, np.float32)
        Path(out).write_bytes(np.abs(y).tobytes())
""",
            "matmul",
            "R4",
        ),
        (
            """
    def describe(self, path):
        return [t for t in super().describe(path) if t["shape"] != []]
""",
            "describe",
            "R2",
        ),
        (
            """
    def validate(self, path, **rest):
        if path.endswith(".index.json"):
            raise ZeroDivisionError
        super().validate(path, **rest)
""",
            "validate",
            "R3",
        ),
    ],
    ids=["unpack", "dequantize", "matmul", "describe", "crash"],
)
def test_wrong_values_are_found(
    plant, explore, run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, methods: str, op: str, level: str
) -> None:
    monkeypatch.setattr("ternfmt_conformance.explore.search.SHRINK_SECONDS", 4.0)
    done = explore(plant(methods), "--json", "--examples", "3000", "--seed", "3")
    assert done.code == 1
    found = json.loads(done.out)
    assert (found["case"]["op"], found["case"]["level"]) == (op, level)
    assert [answer["implementation"].split()[0] for answer in found["answers"]] == ["planted", "ternfmt"]
    assert run(*shlex.split(found["again"])[2:]).code == 1
    assert run("run", "--impl", REFERENCE, "--vectors", str(tmp_path / "found")).code == 0


def test_the_one_it_is_compared_with_may_be_wrong(plant, explore) -> None:
    impl = plant("""
    def validate(self, path, **rest):
        pass
""")
    done = explore(REFERENCE, "--against", impl, "--examples", "200")
    assert done.code == 1
    assert "--impl planted:Planted" in done.out


def test_a_one_shot_reader(explore, run, tmp_path: Path) -> None:
    command = one_shot_fake(tmp_path, "answer = {'ok': True} if open(request['path'], 'rb').read(9)[8:] else answer")
    done = explore(shlex.join(command.words), "--one-shot", "--level", "R0", "--examples", "300")
    assert done.code == 1
    again = next(line for line in done.out.splitlines() if line.startswith("  again: "))
    assert "--one-shot --level R0" in again
    assert run(*shlex.split(again.removeprefix("  again: "))[2:]).code == 1
    # The same seed finds the same case, and it is not saved twice.
    assert explore(shlex.join(command.words), "--one-shot", "--level", "R0", "--examples", "300") == done
    assert len(load_corpus(tmp_path / "found").cases) == 1


def test_no_difference(explore, tmp_path: Path) -> None:
    done = explore(REFERENCE, "--examples", "20")
    assert done.code == 0
    assert done.out.startswith("no difference: 20 examples at R0-R4 in ")
    assert not (tmp_path / "found").exists()
    assert json.loads(explore(REFERENCE, "--budget", "1", "--json").out)["ok"] is True


def test_features_that_one_lacks_are_left_out(plant, explore) -> None:
    impl = plant(
        """
    features = ("planes",)
    def validate(self, path, **rest):
        super().validate(path, **rest)
        text = Path(path).read_bytes() if Path(path).is_file() else b""
        if b"group_size" in text or b"low_rank" in text:
            raise Rejected("FEATURE")
"""
    )
    assert explore(impl, "--examples", "150").code == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ("explore",),
        ("explore", "--impl", "'"),
        ("explore", "--impl", "x", "--against", ""),
        ("explore", "--impl", "x", "--budget", "0"),
        ("explore", "--impl", "x", "--examples", "0"),
        ("explore", "--impl", "x", "--level", "W1"),
        ("explore", "--impl", "x", "--seed", "one"),
        ("explore", "--impl", "x", "--out", str(Path(__file__).parent)),
    ],
)
def test_usage(run, arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert done.code == 2
    assert "usage: ternfmt conformance" in done.err


def test_what_does_not_start_is_said(explore) -> None:
    done = explore("/nothing/here")
    assert done.code == 1
    assert "did not start" in done.err


def test_without_hypothesis_it_says_what_to_install() -> None:
    code = f"""
import sys
sys.path[:] = {sys.path!r}
sys.modules["hypothesis"] = None
from ternfmt.cli import main
main(["conformance", "explore", "--impl", {REFERENCE!r}])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert "pip install 'ternfmt[conformance]'" in done.stderr
