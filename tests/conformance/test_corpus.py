"""The case format, the manifest and recipes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from ternfmt_conformance.corpus import CASES, MANIFEST, Corpus, CorpusError, load_corpus, make_manifest
from ternfmt_conformance.locate import find_spec
from ternfmt_conformance.recipe import make_files
from ternfmt_conformance.rules import parse_rules, rule_order
from tests.conformance import mini

ROOT = Path(__file__).parents[2]
SCHEMA = json.loads((ROOT / "conformance" / "cases.schema.json").read_text())
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("case", mini.cases(), ids=lambda case: case["id"])
def test_cases_obey_the_schema(case: dict[str, Any]) -> None:
    VALIDATOR.validate(case)


@pytest.mark.parametrize(
    "change",
    [
        {"expect": {"class": "BROKEN"}},
        {"expect": {"ok": False}},
        {"expect": {"sha256": "0" * 64}},
        {"expect": {"ok": True, "class": "JSON"}},
        {"level": "R5"},
        {"severity": "MAY"},
        {"rules": []},
        {"rules": ["1.2"]},
        {"path": "/etc/passwd"},
        {"tensor": "w"},
        {"read_as": "model"},
        {"budget": {}},
        {"recipe": {"a": {"size": 12, "writes": []}}},
        {"surprise": 1},
    ],
    ids=str,
)
def test_the_schema_refuses(change: dict[str, Any]) -> None:
    assert not VALIDATOR.is_valid({**mini.cases()[0], **change})


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda root: (root / mini.PLAIN).unlink(), "absent"),
        (lambda root: (root / mini.PLAIN).write_bytes(b"x"), "does not have the SHA-256"),
        (lambda root: (root / CASES).write_text(""), "does not have the SHA-256"),
        (lambda root: (root / "new.safetensors").touch(), "not listed"),
        (lambda root: (root / MANIFEST).unlink(), "absent"),
        (lambda root: (root / MANIFEST).write_text("{}"), "KeyError"),
        (lambda root: (root / MANIFEST).write_text("[]"), "TypeError"),
        (lambda root: edit_manifest(root, protocol=2), "this runner knows 1"),
        (lambda root: edit_manifest(root, digest="0" * 64), "its files give"),
        (lambda root: edit_manifest(root, files={}), "its files give"),
        (lambda root: edit_cases(root, lambda cases: cases[0].pop("rules")), "KeyError: 'rules'"),
        (lambda root: edit_cases(root, lambda cases: cases[0].update(level="R9")), "level 'R9'"),
        (lambda root: edit_cases(root, lambda cases: cases[0].update(path="gone")), "'gone' is not in"),
        (lambda root: edit_cases(root, lambda cases: cases.append(cases[0])), "two cases are called"),
    ],
)
def test_a_damaged_corpus_is_refused(tmp_path: Path, damage: Callable[[Path], None], words: str) -> None:
    root = tmp_path / "vectors"
    mini.write(root)
    damage(root)
    with pytest.raises(CorpusError, match=words):
        load_corpus(root)


def edit_manifest(root: Path, **changes: Any) -> None:
    value = json.loads((root / MANIFEST).read_text())
    (root / MANIFEST).write_text(json.dumps({**value, **changes}))


def edit_cases(root: Path, edit: Callable[[list[dict[str, Any]]], Any]) -> None:
    cases = mini.cases()
    edit(cases)
    (root / CASES).write_text("".join(json.dumps(case) + "\n" for case in cases))
    (root / MANIFEST).write_text(json.dumps(make_manifest(root, "0.1")))


def test_recipes(tmp_path: Path, corpus: Corpus) -> None:
    recipe = {
        "huge": {
            "size": "8589934592",
            "writes": [
                {"offset": "0", "hex": "0102"},
                {"offset": "8589934590", "hex": "ff"},
                {"offset": "4", "hex": "abcd", "repeat": "1500000"},
            ],
        },
        "sub/copy.safetensors": {"copy": mini.PLAIN},
        "sub/link.safetensors": {"link": "copy.safetensors"},
    }
    make_files(recipe, tmp_path, corpus.root)
    with (tmp_path / "huge").open("rb") as stream:
        assert stream.read(8) == bytes.fromhex("01020000abcdabcd")
        stream.seek(4 + 3_000_000 - 2)
        assert stream.read(4) == bytes.fromhex("abcd0000")
        stream.seek(8589934590)
        assert stream.read() == b"\xff\0"
    assert (tmp_path / "huge").stat().st_blocks * 512 < 10_000_000
    assert (tmp_path / "sub/link.safetensors").is_symlink()
    assert (tmp_path / "sub/link.safetensors").read_bytes() == (corpus.root / mini.PLAIN).read_bytes()


@pytest.mark.parametrize(
    "recipe",
    [
        {"../out": {"size": "1", "writes": []}},
        {"a": {"size": "1", "writes": [{"offset": "0", "hex": "0000"}]}},
    ],
)
def test_faulty_recipes(tmp_path: Path, corpus: Corpus, recipe: dict[str, Any]) -> None:
    folder = tmp_path / "made"
    folder.mkdir()
    with pytest.raises(CorpusError):
        make_files(recipe, folder, corpus.root)


def test_every_rule_of_the_specification_is_found() -> None:
    text = find_spec().read_text(encoding="utf-8")
    rules = parse_rules(text)
    assert sorted(rules, key=rule_order) == list(rules)
    assert len(rules) == text.count("\n- **S-")
    assert rules["S-1.9"].section.startswith("1. ")
    assert "| 8 | `U64` `I64` `F64` `C64` |" in rules["S-1.9"].text
    assert "S-1.10" not in rules["S-1.9"].text
    assert rules["S-1.1"].summary.startswith("A file is at least 8 bytes.")
    assert not any(set("`") & set(rule.summary) for rule in rules.values())
