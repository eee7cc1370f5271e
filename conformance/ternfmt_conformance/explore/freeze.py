"""Save a difference as a case: files, a line of cases.jsonl, and what the reference answers."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..corpus import CASES, EXPLORED, MANIFEST, load_corpus, make_manifest
from ..python_adapter import answer
from ..reference import Reference
from .ask import Said, make_request, said
from .place import OP_RULES, RULES, features_of
from .search import Difference

_ID_CHARACTERS = 10


@dataclass(frozen=True)
class Frozen:
    """A saved case.

    Attributes:
        path: of the file or folder.
        line: of cases.jsonl.
        right: what the reference answers.
    """

    path: Path
    line: Mapping[str, Any]
    right: Said


def check_folder(root: Path) -> None:
    """See that findings can be saved here: in a folder that is absent, empty or has findings in it.

    Raises:
        ValueError: the folder holds something else.
    """
    if (root / MANIFEST).is_file() and load_corpus(root).version == EXPLORED:
        return
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise ValueError(f"{root}: holds something else: give another folder")


def freeze(found: Difference, root: Path) -> Frozen:
    """Add a case to the folder of findings, or find it there.

    Raises:
        OSError: the folder cannot be written.
    """
    name = _digest(found)
    folder = root / name
    if not folder.exists():
        found.subject.write(folder)
    path = folder / found.subject.path
    relative = path.relative_to(root).as_posix()
    with tempfile.TemporaryDirectory() as scratch:
        request, out = make_request(found.question, path, Path(scratch))
        value = answer(Reference(), request)
        right = said(value, found.question, out)
        arguments: dict[str, Any] = {"path": relative, **found.question.arguments}
        if found.question.x is not None:
            arguments["x"] = _write(root / f"{name}.x", found.question.x)
        expect = _expect(value, found, out, root / f"{name}.y")
    line = {
        "id": f"{found.level}/{name}",
        "title": f"found by exploring: {found.question.op}, {right.outcome}",
        "level": found.level,
        "severity": "MUST",
        "rules": [RULES.get(right.outcome, OP_RULES[found.question.op])],
        "op": found.question.op,
        **arguments,
        "expect": expect,
    }
    features = features_of(path, found.subject)
    if features:
        line["features"] = features
    cases = root / CASES
    lines = cases.read_text(encoding="utf-8").splitlines() if cases.exists() else []
    if all(json.loads(other)["id"] != line["id"] for other in lines):
        cases.write_text("\n".join([*lines, json.dumps(line)]) + "\n", encoding="utf-8")
    (root / MANIFEST).write_text(json.dumps(make_manifest(root, EXPLORED), indent=1) + "\n", encoding="utf-8")
    return Frozen(path, line, right)


def _digest(found: Difference) -> str:
    """A name for what is asked, the same whenever it is found again."""
    digest = hashlib.sha256(repr((found.subject.path, found.question)).encode())
    for name, data in sorted(found.subject.files.items()):
        digest.update(repr((name, data)).encode())
    return digest.hexdigest()[:_ID_CHARACTERS]


def _expect(value: Mapping[str, Any], found: Difference, out: Path, y: Path) -> dict[str, Any]:
    if "error" in value:
        return {"class": value["error"]["class"]}
    if found.question.op == "describe":
        return {"tensors": value["tensors"]}
    if found.question.op == "validate":
        return {"ok": True}
    if found.question.op == "matmul":
        return {"y": _write(y, np.fromfile(out, "<f4").astype("<f8").tobytes()), "exact": True}
    return {"sha256": hashlib.sha256(out.read_bytes()).hexdigest()}


def _write(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    return path.name
