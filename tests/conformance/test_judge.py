"""Right values pass, wrong values do not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ternfmt_conformance.corpus import Case, Corpus
from ternfmt_conformance.judge import judge
from ternfmt_conformance.outcome import Outcome
from ternfmt_conformance.product import product_fault
from tests.conformance import mini


def find(corpus: Corpus, name: str) -> Case:
    return next(case for case in corpus.cases if case.id == name)


def verdict(corpus: Corpus, name: str, answer: dict[str, Any], out: Path) -> Outcome:
    case = find(corpus, name)
    return judge(case, answer, case.expect, corpus.root, out).outcome


def test_describe(corpus: Corpus, tmp_path: Path) -> None:
    def outcome(tensors: Any) -> Outcome:
        return verdict(corpus, "r2/describe", {"ok": True, "tensors": tensors}, tmp_path / "out")

    assert outcome(mini.DESCRIPTION) is Outcome.EXACT
    wrong: list[Any] = [None, {}, [], mini.DESCRIPTION[:1], mini.DESCRIPTION[::-1], [*mini.DESCRIPTION, {}], ["b", "w"]]
    wrong += [[mini.DESCRIPTION[0], {**mini.DESCRIPTION[1], **change}] for change in (
        {"planes": "1"}, {"planes": True}, {"shape": [2, 5]}, {"dtype": "F32"}, {"codes_sha256": []}, {"more": 1},
    )]  # fmt: skip
    for tensors in wrong:
        assert outcome(tensors) is Outcome.WRONG_VALUE


@pytest.mark.parametrize("name", ["r2/unpack", "r2/dequantize", "w2/encode", "w1/encode", "r4/exact"])
@pytest.mark.parametrize("data", [None, b"", b"\1" * 24])
def test_wrong_output(corpus: Corpus, tmp_path: Path, name: str, data: bytes | None) -> None:
    if data is not None:
        (tmp_path / "out").write_bytes(data)
    assert verdict(corpus, name, {"ok": True}, tmp_path / "out") is Outcome.WRONG_VALUE


@pytest.mark.parametrize(
    ("change", "right"),
    [
        (lambda data: data, True),
        (lambda data: data.replace(b'"note":"n"', b'"note":"m"'), False),
        (lambda data: data.replace(b'\\"conformance\\"', b'\\"conformancE\\"'), False),
        (lambda data: data.replace(b"\x71", b"\x73"), False),
    ],
)
def test_encode(corpus: Corpus, tmp_path: Path, change: Any, right: bool) -> None:
    from ternfmt_conformance.reference import Reference

    out = tmp_path / "out.safetensors"
    Reference().encode(str(corpus.root / "logical.json"), str(out))
    out.write_bytes(change(out.read_bytes()))
    assert verdict(corpus, "w1/encode", {"ok": True}, out) is (Outcome.EXACT if right else Outcome.WRONG_VALUE)


def test_the_bound_of_products(tmp_path: Path) -> None:
    y, a = np.array([1.0, -3.0, 0.0]), np.array([2.0, 3.0, 0.0])
    (tmp_path / "y").write_bytes(y.tobytes())
    (tmp_path / "a").write_bytes(a.tobytes())
    bounded = {"y": "y", "a": "a", "terms": "100"}
    exact = {"y": "y", "exact": True}

    def right(got: Any, expect: dict[str, Any]) -> bool:
        return product_fault(np.asarray(got, "<f4").tobytes(), expect, tmp_path) is None

    assert right(y, exact)
    assert right(y, bounded)
    assert right([1.0 + 10e-6, -3.0 - 10e-6, 0.0], bounded)
    assert right([1.0, -3.0, -0.0], exact)
    for wrong in ([1.0 + 20e-6, -3.0, 0.0], [1.0, -3.0, 1e-30], [np.nan, -3.0, 0.0], [1.0, -np.inf, 0.0], [1.0], []):
        assert not right(wrong, bounded)
    assert not right([np.nextafter(np.float32(1), np.float32(2)), -3.0, 0.0], exact)
