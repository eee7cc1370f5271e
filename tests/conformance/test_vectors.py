"""The committed corpus is what its script makes, and cites every rule that a case can show."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import safetensors.numpy

from ternfmt_conformance.corpus import MANIFEST, load_corpus
from ternfmt_conformance.files.good import as_safetensors_writes
from ternfmt_conformance.files.raw import plain
from ternfmt_conformance.levels import LEVELS
from ternfmt_conformance.making.build import write_corpus
from ternfmt_conformance.making.canonical import canonical_json
from ternfmt_conformance.making.collect import slug, sparse
from ternfmt_conformance.recipe import make_files
from ternfmt_conformance.rules import parse_rules
from ternfmt_conformance.settings import MEMORY_CAP_BYTES

ROOT = Path(__file__).parents[2]
VECTORS = ROOT / "conformance" / "vectors"
CASES = [json.loads(line) for line in VECTORS.joinpath("cases.jsonl").read_text(encoding="utf-8").splitlines()]
RULES = parse_rules(ROOT.joinpath("SPEC.md").read_text(encoding="utf-8"))

# What no request of PROTOCOL.md can show, and why.
NOT_TESTABLE = {
    "S-2.6": "says where the JSON Schema is; the tests of ternfmt-metadata.schema.json compare the two",
    "S-4.5": "binds who chooses scales; `encode` is given codes and scales",
    "S-10.6": "about failures of the operating system, which an archive cannot cause",
    "S-12.4": "asks an implementation to say something, in words of its own",
    "S-13.2": "binds later versions of SPEC.md",
}


def contents(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_the_script_makes_the_committed_corpus(tmp_path: Path) -> None:
    write_corpus(tmp_path)
    made, committed = contents(tmp_path), contents(VECTORS)
    changed = [name for name in made.keys() | committed.keys() if made.get(name) != committed.get(name)]
    assert not changed, "run `python conformance/make_vectors.py`, and look at what has changed"


def test_the_runner_takes_it() -> None:
    assert len(load_corpus(VECTORS).cases) == len(CASES)


def test_every_case_is_of_the_schemas_form() -> None:
    schema = json.loads(ROOT.joinpath("conformance", "cases.schema.json").read_text(encoding="utf-8"))
    validator = jsonschema.Draft202012Validator(schema)
    for case in CASES:
        validator.validate(case)


def test_every_rule_is_cited_or_cannot_be_shown() -> None:
    cited = {rule for case in CASES for rule in case["rules"]}
    assert cited <= RULES.keys()
    assert RULES.keys() - cited == NOT_TESTABLE.keys()


def test_every_class_has_a_case() -> None:
    schema = json.loads(ROOT.joinpath("conformance", "cases.schema.json").read_text(encoding="utf-8"))
    assert {case["expect"]["class"] for case in CASES if "class" in case["expect"]} == set(
        schema["$defs"]["class"]["enum"]
    )


def test_its_size() -> None:
    count = Counter(case["level"] for case in CASES)
    assert list(count) == list(LEVELS)
    faults = {
        case["path"]
        for case in CASES
        if case["op"] == "validate" and "class" in case["expect"] and "recipe" not in case
    }
    assert len(faults) >= 150
    assert sum(map(len, contents(VECTORS).values())) < 2_000_000


def test_the_memory_cap_lies_above_every_budget() -> None:
    largest = max(int(case["budget"]["memory_bytes"]) for case in CASES if "budget" in case)
    assert largest + (256 << 20) < MEMORY_CAP_BYTES
    protocol = ROOT.joinpath("conformance", "PROTOCOL.md").read_text(encoding="utf-8")
    assert f"Over {MEMORY_CAP_BYTES >> 20} MiB" in protocol
    assert f"The largest is {largest >> 20} MiB" in protocol


def test_names_are_distinct_on_every_file_system() -> None:
    names = list(contents(VECTORS))
    assert len({name.lower() for name in names}) == len(names)
    assert all(name.isascii() and len(name) < 200 for name in names)
    assert len({case["id"].lower() for case in CASES}) == len(CASES)


def test_its_readme_has_a_line_for_every_file() -> None:
    lines = VECTORS.joinpath("README.md").read_text(encoding="utf-8").splitlines()
    listed = [line.split(" | ")[0].removeprefix("| ") for line in lines if line.count("|") >= 4]
    expected = contents(VECTORS).keys() - {"README.md", "cases.jsonl", MANIFEST}
    assert expected <= set(listed)


def test_a_file_of_the_corpus_is_what_safetensors_writes(tmp_path: Path) -> None:
    raw = plain()
    raw.metadata = {}  # its order of two keys is not fixed
    as_safetensors_writes(raw)
    dtypes = {"U8": np.uint8, "F16": np.float16, "F32": np.float32}
    arrays = {
        name: np.frombuffer(stored.data, dtypes[stored.dtype]).reshape(stored.shape)
        for name, stored in plain().tensors.items()
    }
    path = tmp_path / "model.safetensors"
    safetensors.numpy.save_file(arrays, path, metadata={"ternfmt": json.dumps(raw.document)})
    assert path.read_bytes() == raw.build()


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        False,
        0,
        -1,
        2**53 - 1,
        "",
        'a"\\/\b\t\n\f\r\x00\x1f\x7f\u00e9\U0001f600',
        [],
        {},
        [1, [2]],
        {"b": 1, "a": {}},
    ],
)
def test_canonical_json_is_that_of_the_standard_library(value: Any) -> None:
    assert canonical_json(value) == json.dumps(value, sort_keys=True, separators=(",", ":"))


@pytest.mark.parametrize(
    "data", [b"", b"\0", b"a" * 64, b"ab" * 40 + b"\0" * 100 + b"c" * 70 + b"\0", b"x" + b"\0" * 63]
)
def test_a_recipe_makes_what_it_was_made_from(tmp_path: Path, data: bytes) -> None:
    make_files({"x": sparse(data)}, tmp_path, VECTORS)
    assert (tmp_path / "x").read_bytes() == data


def test_a_slug_keeps_what_tells_titles_apart() -> None:
    titles = [
        "version '1.0'",
        "version '1.0 '",
        "version 1.0",
        "shape []",
        "shape {}",
        "shape [[2]]",
        "shape [2]",
        "-1",
        "1",
    ]
    assert len({slug(title) for title in titles}) == len(titles)
