"""Gathers files and cases, gives them their names, and writes them out."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from ternfmt_conformance.corpus import CASES, MANIFEST, make_manifest
from ternfmt_conformance.levels import LEVELS

VERSION = "1.0"
"""Of the corpus. Cases are only ever added under a version: an id keeps its meaning."""

INLINE_BYTES = 16 << 10
"""A larger file is kept as a recipe."""

_RUN = re.compile(rb"(.)\1{63}", re.DOTALL)
_SPELLED = [  # what would be lost in a file name
    (r"(?<= ['\"]) | (?=['\"]$)", " space "),
    (r"(?<=[a-z])'(?=[a-z])", ""),
    (r"['\"]", " quote "),
    (r"\[\]", " empty array "),
    (r"\{\}", " empty object "),
    (r"\[\[", " array in array "),
    (r"\[(?=[^-\d])|\[(?=-?\d+\])", " array of "),
    (r"(?<![\w.])-(?=[\dI.])", " minus "),
    (r"\+", " plus "),
    (r"/", " slash "),
    (r"\\", " backslash "),
    (r":(?! )", " colon "),
]

Recipe = dict[str, dict[str, Any]]


class Collector:
    """The corpus in the making.

    Attributes:
        files: path -> bytes.
        cases: lines of cases.jsonl.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.cases: list[dict[str, Any]] = []

    def file(self, path: str, data: bytes) -> str:
        """Add a file; the same bytes under one path may be added again. Returns the path."""
        assert len(data) <= INLINE_BYTES, f"{path}: {len(data)} bytes; make it a recipe"
        assert self.files.setdefault(path, data) == data, f"{path}: two files of one name"
        return path

    def place(self, path: str, data: bytes) -> dict[str, Any]:
        """Add a file, or leave it to a recipe if it is large: the ``path`` and ``recipe`` of its cases."""
        if len(data) <= INLINE_BYTES:
            return {"path": self.file(path, data)}
        name = path.rsplit("/", 1)[-1]
        return {"path": name, "recipe": {name: sparse(data)}}

    def case(
        self,
        name: str,
        title: str,
        level: str,
        rules: Sequence[str],
        op: str,
        expect: Mapping[str, Any],
        *,
        severity: str = "MUST",
        features: Collection[str] = (),
        **arguments: Any,
    ) -> None:
        """Add a case; its id is the level and ``name``. Arguments that are None are left out."""
        line = {
            "id": f"{level}/{name}",
            "title": title,
            "level": level,
            "severity": severity,
            "rules": list(dict.fromkeys(rules)),
            "op": op,
            **{key: value for key, value in arguments.items() if value is not None},
            **({"features": sorted(features)} if features else {}),
            "expect": dict(expect),
        }
        assert all(line["id"] != other["id"] for other in self.cases), f"two cases are called {line['id']!r}"
        self.cases.append(line)

    def write(self, root: Path, readme: str) -> None:
        """Write the corpus into a folder that is empty or absent."""
        lines = sorted(self.cases, key=lambda case: LEVELS.index(case["level"]))
        text = "".join(json.dumps(line) + "\n" for line in lines)
        for name, data in {**self.files, CASES: text.encode(), "README.md": readme.encode()}.items():
            target = root / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        (root / MANIFEST).write_text(json.dumps(make_manifest(root, VERSION), indent=1) + "\n")


def slug(title: str) -> str:
    """A file name from a title: lower case, words joined by hyphens."""
    text = "".join(c if c.isascii() else f" u{ord(c):04x} " for c in title)
    for pattern, words in _SPELLED:
        text = re.sub(pattern, words, text)
    return re.sub(r"[^a-z0-9._]+", "-", text.lower()).strip("-.")


def sparse(data: bytes) -> dict[str, Any]:
    """A recipe's part that makes these bytes: runs of one byte are written once."""
    writes: list[dict[str, str]] = []

    def add(offset: int, unit: bytes, repeat: int = 1) -> None:
        if unit.strip(b"\0"):
            times = {"repeat": str(repeat)} if repeat > 1 else {}
            writes.append({"offset": str(offset), "hex": unit.hex(), **times})

    position = 0
    while run := _RUN.search(data, position):
        add(position, data[position : run.start()])
        rest = data[run.start() :]
        length = len(rest) - len(rest.lstrip(run[1]))
        add(run.start(), run[1], length)
        position = run.start() + length
    add(position, data[position:])
    return {"size": str(len(data)), "writes": writes}
