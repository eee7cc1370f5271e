"""The frozen corpus: cases.jsonl, the files it names, and the manifest that pins them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ternfmt.strict_json import canonical

from .levels import LEVELS

CASES = "cases.jsonl"
MANIFEST = "manifest.json"
EXPLORED = "explored"
"""Version of a corpus that `explore` saved: it never makes a badge."""
MANIFEST_PROTOCOL = 1

_FILE_KEYS = ("x", "logical")
_EXPECT_FILE_KEYS = ("y", "a")
_COMMON_KEYS = frozenset(("id", "title", "level", "severity", "rules", "op", "features", "budget", "recipe", "expect"))


class CorpusError(ValueError):
    """A corpus that is damaged or not of the stated form."""


@dataclass(frozen=True)
class Budget:
    """What an answer may take.

    Attributes:
        seconds: wall time, or None.
        memory_bytes: growth of the peak resident memory, or None.
    """

    seconds: float | None
    memory_bytes: int | None


@dataclass(frozen=True)
class Case:
    """One line of cases.jsonl; see cases.schema.json.

    Attributes:
        id, title, level, severity, rules, op: as in the schema.
        arguments: the keys that depend on ``op``, paths still relative.
        expect: the right answer.
        features: those that the answer depends on.
        budget: what the answer may take, or None.
        recipe: files to make, by name, or None.
    """

    id: str
    title: str
    level: str
    severity: str
    rules: tuple[str, ...]
    op: str
    arguments: Mapping[str, Any]
    expect: Mapping[str, Any]
    features: tuple[str, ...] = ()
    budget: Budget | None = None
    recipe: Mapping[str, Any] | None = None

    @property
    def path(self) -> str:
        """The file or folder that the case is about."""
        return str(self.arguments.get("path", self.arguments.get("logical")))


@dataclass(frozen=True)
class Corpus:
    """A checked corpus.

    Attributes:
        root: the folder of cases.jsonl.
        version: of the corpus, e.g. ``"1.0"``.
        digest: one SHA-256 for all its files.
        cases: in the order of cases.jsonl.
    """

    root: Path
    version: str
    digest: str
    cases: tuple[Case, ...]


def load_corpus(root: Path) -> Corpus:
    """Read a corpus and compare every file with the manifest.

    Raises:
        CorpusError: a file is missing, changed or not in the manifest, or a case is not of the stated form.
        OSError: the corpus cannot be read.
    """
    manifest = _read_manifest(root)
    files: dict[str, str] = manifest["files"]
    for name, expected in files.items():
        if not (root / name).is_file():
            raise CorpusError(f"{root / name}: listed in {MANIFEST}, but absent")
        if file_digest(root / name) != expected:
            raise CorpusError(f"{root / name}: does not have the SHA-256 of {MANIFEST}: fetch the corpus again")
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if path.is_file() and name not in files and name != MANIFEST and not path.name.startswith("."):
            raise CorpusError(f"{path}: not listed in {MANIFEST}")
    cases = tuple(
        _parse_case(line, f"{root / CASES}:{number}")
        for number, line in enumerate((root / CASES).read_text(encoding="utf-8").splitlines(), start=1)
    )
    for case in cases:
        _check_files(case, files)
    if len({case.id for case in cases}) != len(cases):
        twice = next(case.id for case in cases if [other.id for other in cases].count(case.id) > 1)
        raise CorpusError(f"{root / CASES}: two cases are called {twice!r}")
    return Corpus(root, manifest["corpus"], manifest["digest"], cases)


def make_manifest(root: Path, version: str) -> dict[str, Any]:
    """The manifest of the files under ``root``; names that start with a dot are left out."""
    files = {
        path.relative_to(root).as_posix(): file_digest(path)
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name != MANIFEST and not path.name.startswith(".")
    }
    return {"protocol": MANIFEST_PROTOCOL, "corpus": version, "files": files, "digest": files_digest(files)}


def files_digest(files: Mapping[str, str]) -> str:
    """SHA-256 of the canonical JSON (SPEC S-11.1) of file name -> digest."""
    return hashlib.sha256(canonical(dict(files)).encode("ascii")).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, 64 lower-case hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _read_manifest(root: Path) -> dict[str, Any]:
    path = root / MANIFEST
    if not path.is_file():
        raise CorpusError(f"{path}: absent; a corpus is a folder with {MANIFEST} and {CASES}")
    try:
        manifest = json.loads(path.read_bytes())
        protocol, version, files, digest = (manifest[key] for key in ("protocol", "corpus", "files", "digest"))
        actual = files_digest(files)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorpusError(f"{path}: {type(error).__name__}: {error}") from error
    if protocol != MANIFEST_PROTOCOL:
        raise CorpusError(f"{path}: protocol {protocol}; this runner knows {MANIFEST_PROTOCOL}")
    if digest != actual or not isinstance(version, str):
        raise CorpusError(f"{path}: digest {digest}, its files give {actual}")
    if CASES not in files:
        raise CorpusError(f"{path}: does not list {CASES}")
    return dict(manifest)


def _parse_case(line: str, location: str) -> Case:
    try:
        value = json.loads(line)
        budget = value.get("budget")
        case = Case(
            value["id"],
            value["title"],
            value["level"],
            value["severity"],
            tuple(value["rules"]),
            value["op"],
            {key: item for key, item in value.items() if key not in _COMMON_KEYS},
            value["expect"],
            tuple(value.get("features", ())),
            None if budget is None else _parse_budget(budget),
            value.get("recipe"),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorpusError(f"{location}: {type(error).__name__}: {error}; see cases.schema.json") from error
    if case.level not in LEVELS or case.severity not in ("MUST", "SHOULD") or not case.rules:
        raise CorpusError(f"{location}: level {case.level!r}, severity {case.severity!r}, rules {list(case.rules)}")
    return case


def _parse_budget(value: Mapping[str, Any]) -> Budget:
    seconds, memory = value.get("seconds"), value.get("memory_bytes")
    return Budget(None if seconds is None else float(seconds), None if memory is None else int(memory))


def _check_files(case: Case, files: Mapping[str, str]) -> None:
    """Every file that a case names must be one that the manifest pins."""
    names = [case.arguments[key] for key in _FILE_KEYS if key in case.arguments]
    names += [case.expect[key] for key in _EXPECT_FILE_KEYS if key in case.expect]
    if case.recipe is not None:
        names += [part["copy"] for part in case.recipe.values() if "copy" in part]
    elif "path" in case.arguments:
        names.append(case.path)
    for name in names:
        if name not in files and not any(file.startswith(f"{name}/") for file in files):
            raise CorpusError(f"case {case.id!r}: {name!r} is not in {MANIFEST}")
