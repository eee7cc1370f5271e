"""ternfmt-metadata.schema.json says what the reader's checks of the metadata document say."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings

import ternfmt
from ternfmt import FormatError, Kind
from ternfmt.limits import GROUP_MULTIPLE, INTEGER_MAX, K_MAX, PLANES_MAX, RANK_MAX
from ternfmt.metadata import FEATURES
from ternfmt_conformance import strategies
from ternfmt_conformance.files.bad_documents import DOCUMENT_CASES
from ternfmt_conformance.files.bad_headers import Case
from ternfmt_conformance.files.good import GOOD, Good

SCHEMA = json.loads(Path(__file__).parents[2].joinpath("ternfmt-metadata.schema.json").read_text(encoding="utf-8"))
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def document_of(file: bytes) -> Any:
    (length,) = struct.unpack("<Q", file[:8])
    return json.loads(json.loads(file[8 : 8 + length])["__metadata__"]["ternfmt"])


# What a schema cannot say (S-2.6): how numbers are written, products, and limits that depend on them.
BEYOND_SCHEMA = {
    "logical shape with 5.0",
    "logical shape [2, 4096, 4096]",
    "logical shape [1073741824, 8388608]",
    "logical shape [9007199254740991, 2]",
    "group_size 16.0",
    "low_rank 19",
    "ancillary number 1.0",
    "ancillary number 1e3",
    "ancillary number -0",
    "ancillary number -0.0",
    'ancillary number {"x": [-0]}',
}
BAD = [case for case in DOCUMENT_CASES if case.kind in (Kind.METADATA, Kind.VERSION, Kind.FEATURE)]


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("case", BAD, ids=lambda case: case.name)
def test_bad_documents_are_refused(case: Case) -> None:
    assert VALIDATOR.is_valid(document_of(case.build())) == (case.name in BEYOND_SCHEMA)


def test_what_the_schema_cannot_say_is_among_the_bad_documents() -> None:
    assert {case.name for case in BAD} >= BEYOND_SCHEMA


@pytest.mark.parametrize("good", [good for good in GOOD if "2^25" not in good.name], ids=lambda good: good.name)
def test_valid_documents_are_accepted(good: Good) -> None:
    raw = good.base()
    good.mutate(raw)
    VALIDATOR.validate(document_of(raw.build()))


@given(strategies.models())
@settings(max_examples=40)
def test_what_the_writer_writes_is_accepted(tmp_path_factory, tensors) -> None:
    path = tmp_path_factory.getbasetemp() / "schema.safetensors"
    ternfmt.save(path, tensors, ancillary={"source": {"licence": "apache-2.0"}, "note": [1, None]})
    VALIDATOR.validate(document_of(path.read_bytes()))


@given(strategies.json_values)
def test_ancillary_values_that_the_schema_accepts_are_read(tmp_path_factory, value: Any) -> None:
    VALIDATOR.validate({"version": "1.0", "required": [], "tensors": {}, "note": value})
    path = tmp_path_factory.getbasetemp() / "ancillary.safetensors"
    ternfmt.save(path, {}, ancillary={"note": value})
    with ternfmt.open(path) as model:
        assert model.document.ancillary["note"] == value


def test_limits_are_those_of_the_spec() -> None:
    entry = SCHEMA["$defs"]["entry"]["properties"]
    assert set(SCHEMA["properties"]["required"]["items"]["enum"]) == FEATURES
    assert entry["shape"]["maxItems"] == RANK_MAX
    assert entry["shape"]["items"]["maximum"] == entry["low_rank"]["maximum"] == K_MAX
    assert entry["shape"]["prefixItems"][0]["maximum"] == INTEGER_MAX
    assert (entry["group_size"]["multipleOf"], entry["group_size"]["maximum"]) == (GROUP_MULTIPLE, K_MAX)
    assert entry["planes"]["maximum"] == PLANES_MAX
    assert SCHEMA["$defs"]["ancillary"]["maximum"] == -SCHEMA["$defs"]["ancillary"]["minimum"] == INTEGER_MAX


def test_the_writer_refuses_what_its_own_reader_would() -> None:
    with pytest.raises((FormatError, TypeError)):
        ternfmt.save("never-written.safetensors", {}, ancillary={"note": 2**53})
    assert not Path("never-written.safetensors").exists()
