"""The reference implementation as a testee, and the adapter around Python objects."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ternfmt
from ternfmt_conformance import python_adapter
from ternfmt_conformance.command import parse_command
from ternfmt_conformance.corpus import Corpus
from ternfmt_conformance.files.raw import features
from ternfmt_conformance.levels import LEVELS
from ternfmt_conformance.outcome import Outcome
from ternfmt_conformance.python_adapter import Rejected
from ternfmt_conformance.reference import product
from tests.conformance import mini
from tests.conformance.conftest import RunFake

REFERENCE = "ternfmt_conformance.reference:Reference"


def test_the_reference_passes(run_fake: RunFake) -> None:
    report = run_fake(parse_command(REFERENCE))
    assert [(r.id, r.detail) for r in report.results if r.outcome is not Outcome.EXACT] == []
    assert report.passed
    assert report.badge_levels == LEVELS


def test_the_reference_one_shot(run_fake: RunFake) -> None:
    report = run_fake(parse_command(REFERENCE), one_shot=True, levels=("R1",), pattern="r1/*")
    assert report.failures == []
    assert report.passed


def test_product_against_dequantised_weights(tmp_path: Path) -> None:
    path = tmp_path / "features.safetensors"
    path.write_bytes(features().build())
    x = np.arange(-27.0, 27.0).reshape(3, 18)
    with ternfmt.open(path) as model:
        tensor = model["w"]
        assert isinstance(tensor, ternfmt.TernaryTensor)
        assert np.array_equal(product(x, tensor), x @ tensor.dequantize(np.float64).T)
        assert product(x[:0], tensor).shape == (0, 2)


class Partial:
    implementation = {"name": "partial", "version": "1", "language": "Python"}  # noqa: RUF012
    levels = ["R0"]  # noqa: RUF012
    features: list[str] = []  # noqa: RUF012

    def validate(self, path: str, read_as: str, digests: bool, strict_links: bool) -> None:
        print("talking")
        if path == "refuse":
            raise Rejected("JSON", "no")
        if path == "later":
            raise NotImplementedError("later")
        if path == "break":
            raise RuntimeError("oh")

    def unpack(self, path: str, tensor: str, plane: int, rows: tuple[int, int], out: str) -> None:
        assert (plane, rows) == (1, (0, 1 << 60))


def serve(*requests: dict[str, Any]) -> list[dict[str, Any]]:
    lines = [json.dumps({"id": i, **request}).encode() for i, request in enumerate(requests)]
    answers = io.BytesIO()
    python_adapter.serve(Partial(), lines, answers)
    return [json.loads(line) for line in answers.getvalue().splitlines()]


def test_the_python_adapter() -> None:
    options = {"op": "validate", "read_as": "auto", "digests": False, "strict_links": False}
    paths = ("fine", "refuse", "later", "break")
    unpack = {"op": "unpack", "path": "x", "tensor": "w", "plane": 1, "rows": ["0", str(1 << 60)], "out": "y"}
    greeting, *answers = serve(
        {"op": "start", "protocol": 1},
        *({**options, "path": path} for path in paths),
        unpack,
        {"op": "describe", "path": "x"},
        {"op": "stop"},
        {"op": "never reached"},
    )
    assert greeting["implementation"]["name"] == "partial"
    assert answers[:3] == [
        {"id": 1, "ok": True},
        {"id": 2, "ok": False, "error": {"class": "JSON", "detail": "no"}},
        {"id": 3, "skipped": True, "reason": "later"},
    ]
    assert answers[3]["errored"]
    assert "RuntimeError: oh" in answers[3]["detail"]
    assert answers[4:] == [
        {"id": 5, "ok": True},
        {"id": 6, "skipped": True, "reason": "describe is not implemented"},
        {"id": 7, "ok": True},
    ]


def test_the_python_adapter_refuses_another_protocol() -> None:
    assert serve({"op": "start", "protocol": 2})[0]["errored"]


def test_what_an_implementation_prints_is_no_answer(tmp_path: Path, corpus: Corpus) -> None:
    command = parse_command(REFERENCE)
    source = "from ternfmt_conformance.reference import Reference\nprint('loaded')\n"
    source += (
        "class Loud(Reference):\n    def validate(self, **k):\n        print('hello')\n        super().validate(**k)\n"
    )
    (tmp_path / "loud.py").write_text(source)
    requests = [{"id": 0, "op": "start", "protocol": 1}, {"id": 1, "op": "describe", "path": "x"}]
    done = subprocess.run(
        [*command.words[:-1], "loud:Loud"],
        input="".join(json.dumps(request) + "\n" for request in requests),
        env=dict(command.environment),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert [json.loads(line)["id"] for line in done.stdout.splitlines()] == [0, 1]
    assert "loaded" in done.stderr
    one_shot = subprocess.run(
        [*command.words, "validate", str(corpus.root / mini.PLAIN)],
        env=dict(command.environment),
        check=False,
        capture_output=True,
        text=True,
    )
    assert (one_shot.returncode, one_shot.stdout, one_shot.stderr) == (0, "", "")


@pytest.mark.parametrize("arguments", [[], ["nothing"], ["a:b", "check", "x"], ["a:b", "validate"]])
def test_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert python_adapter.main(arguments) == 2
    assert "usage" in capsys.readouterr().err


def test_the_suite_imports_no_torch() -> None:
    code = "import ternfmt_conformance.cli, ternfmt_conformance.reference, sys; print('torch' in sys.modules)"
    environment = dict(parse_command(REFERENCE).environment)
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
