"""Every fault that SPEC names is refused, with its class and no other."""

from __future__ import annotations

import re
from itertools import combinations
from pathlib import Path

import pytest

import ternfmt
from ternfmt import FormatError, Kind
from ternfmt_conformance.files.bad_documents import DOCUMENT_CASES
from ternfmt_conformance.files.bad_headers import HEADER_CASES, Case
from ternfmt_conformance.files.bad_models import MODEL_CASES
from ternfmt_conformance.files.bad_tensors import TENSOR_CASES
from ternfmt_conformance.making.single_files import DOCUMENT_STEPS, HEADER_STEPS

CASES = [*HEADER_CASES, *DOCUMENT_CASES, *TENSOR_CASES]
SPEC = Path(__file__).parents[2].joinpath("SPEC.md").read_text(encoding="utf-8")


def fault(path: Path) -> FormatError | None:
    """What `validate` reports."""
    try:
        ternfmt.validate(path, digests=True)
    except FormatError as error:
        return error
    return None


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.kind}: {case.name}")
def test_fault_is_refused_with_its_class(case: Case, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(case.build())
    error = fault(path)
    assert error is not None
    assert error.kind is case.kind, str(error)
    assert "model.safetensors" in error.location
    assert len(error.message) > 5


@pytest.mark.parametrize("base", sorted({case.base for case in CASES}, key=lambda b: b.__name__))
def test_without_its_fault_the_file_is_valid(base, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(base().build())
    assert fault(path) is None


BY_NAME = {case.name: case for case in CASES}


@pytest.mark.parametrize(("earlier", "later"), [*combinations(HEADER_STEPS, 2), *combinations(DOCUMENT_STEPS, 2)])
def test_of_two_faults_the_earlier_step_is_reported(earlier: str, later: str, tmp_path: Path) -> None:
    one, two = BY_NAME[earlier], BY_NAME[later]
    raw = one.base()
    two.mutate(raw)
    one.mutate(raw)
    path = tmp_path / "model.safetensors"
    path.write_bytes(raw.build())
    error = fault(path)
    assert error is not None
    assert error.kind is one.kind, str(error)


def test_every_class_has_a_case() -> None:
    assert {case.kind for case in [*CASES, *MODEL_CASES]} == set(Kind)


def test_case_names_are_unique() -> None:
    names = [case.name for case in CASES]
    assert len(names) == len(set(names))


def test_every_cited_rule_exists() -> None:
    rules = set(re.findall(r"^- \*\*(S-\d+\.\d+)\*\*", SPEC, re.MULTILINE))
    assert {case.rule for case in [*CASES, *MODEL_CASES]} <= rules


def test_every_rule_that_section_10_checks_has_a_case() -> None:
    section = SPEC[SPEC.index("## 10.") : SPEC.index("## 11.")]
    checked: set[str] = set()
    for row in re.findall(r"^\|.*\| ([^|]*) \|$", section, re.MULTILINE):
        for first, last in re.findall(r"S-(\d+\.\d+)(?:\u2013S-(\d+\.\d+))?", row):
            chapter, start = first.split(".")
            stop = (last or first).split(".")[1]
            checked |= {f"S-{chapter}.{n}" for n in range(int(start), int(stop) + 1)}
    assert checked - {"S-13.1"} <= {case.rule for case in CASES}
