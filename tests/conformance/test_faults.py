"""The strategies make what they say: every fault has its class, and nothing else changes a file's meaning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import safetensors
from hypothesis import given, settings
from hypothesis import strategies as st

import ternfmt
from ternfmt import FormatError
from ternfmt_conformance.faults import FAULTS, Fault, changed_files, changed_models, faulty_files
from ternfmt_conformance.rules import parse_rules
from ternfmt_conformance.strategies import models, raw_files, ternary_tensors

SPEC = Path(__file__).parents[2].joinpath("SPEC.md").read_text(encoding="utf-8")


def kind_of(path: Path) -> Any:
    try:
        ternfmt.validate(path)
    except FormatError as error:
        return error.kind
    return None


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
@given(st.data())
@settings(max_examples=15)
def test_a_fault_is_refused_with_its_class(tmp_path: Path, fault: Fault, data: st.DataObject) -> None:
    raw = data.draw(models().flatmap(raw_files).filter(fault.applies))
    path = tmp_path / "model.safetensors"
    path.write_bytes(raw.build())
    assert kind_of(path) is None
    data.draw(st.composite(lambda draw: fault.make(draw, raw))())
    path.write_bytes(raw.build())
    assert kind_of(path) is fault.kind


@given(faulty_files())
@settings(max_examples=100)
def test_faulty_files_say_what_is_wrong(tmp_path: Path, faulty: Any) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(faulty.file)
    assert kind_of(path) is faulty.kind
    assert (faulty.name, faulty.kind, faulty.rule) in {(fault.name, fault.kind, fault.rule) for fault in FAULTS}


@given(changed_files())
@settings(max_examples=100)
def test_what_is_accepted_after_changes_safetensors_accepts_too(tmp_path: Path, file: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(file)
    if kind_of(path) is None:
        safetensors.deserialize(file)


@given(changed_models())
@settings(max_examples=60)
def test_changed_models_are_refused_or_valid(tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes]) -> None:
    folder = tmp_path_factory.mktemp("changed")
    for name, data in files.items():
        (folder / name).write_bytes(data)
    kind_of(folder)


@given(ternary_tensors(features=["planes"], round_scales=True))
@settings(max_examples=40)
def test_features_and_scales_are_as_asked(tensor: Any) -> None:
    assert tensor.group_size is None
    assert tensor.low_rank is None
    for plane in tensor.planes:
        assert set(plane.scale.astype(float).tolist()) <= {0, 0.125, 0.25, 0.5, 1, 2, 4, 8}


def test_names_are_unique_and_rules_exist() -> None:
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)
    assert {fault.rule for fault in FAULTS} <= set(parse_rules(SPEC))
