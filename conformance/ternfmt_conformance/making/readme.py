"""README.md of the corpus: what it is, and one line for every file."""

from __future__ import annotations

from collections import Counter

from ternfmt_conformance.levels import LEVELS

from .collect import VERSION, Collector

INTRODUCTION = """\
# The conformance corpus of ternfmt, version {version}

{cases} cases in {files} files. `conformance/make_vectors.py` makes all of this; do not edit it by hand.

- `cases.jsonl`: one case a line, of the form that `../cases.schema.json` states: a request of
  [PROTOCOL.md](../PROTOCOL.md) and the one right answer. Paths are relative to this folder.
- `manifest.json`: SHA-256 of every file, and `digest`, one for all of them: SHA-256 of the canonical JSON
  (SPEC S-11.1) of the object `files`.
- A case with a `recipe` names files that are not here: huge sparse files, symbolic links, names that some
  file systems do not have. The runner makes them in a folder of the case's own.

| level | cases | of them at fault |
|---|---|---|
{levels}

## Files

Each with what the first of its cases is about, and the rules that decide it.

| file | | rules |
|---|---|---|
{lines}
"""


def make_readme(corpus: Collector) -> str:
    """The README of a corpus."""
    count = Counter(case["level"] for case in corpus.cases)
    faults = Counter(case["level"] for case in corpus.cases if "class" in case["expect"])
    levels = [f"| {level} | {count[level]} | {faults[level]} |" for level in LEVELS]
    lines = [f"| {name} | {_cell(title)} | {' '.join(rules)} |" for name, title, rules in _lines(corpus)]
    return INTRODUCTION.format(
        version=VERSION,
        cases=len(corpus.cases),
        files=len(corpus.files),
        levels="\n".join(levels),
        lines="\n".join(lines),
    )


def _lines(corpus: Collector) -> list[tuple[str, str, list[str]]]:
    users: dict[str, tuple[str, list[str]]] = {}
    for case in corpus.cases:
        if "recipe" not in case:
            for key in ("path", "x", "logical"):
                users.setdefault(case.get(key, ""), (case["title"], case["rules"]))
            for key in ("y", "a"):
                users.setdefault(str(case["expect"].get(key, "")), (case["title"], case["rules"]))
    lines = []
    for name in sorted(corpus.files):
        found = [place for place in (name, *_parents(name)) if place in users]
        siblings = [users[other] for other in users if other and other.rpartition("/")[0] == name.rpartition("/")[0]]
        title, rules = users[found[0]] if found else siblings[0]
        lines.append((name, title, rules))
    return lines


def _parents(name: str) -> list[str]:
    parts = name.split("/")
    return ["/".join(parts[:end]) for end in range(len(parts) - 1, 0, -1)]


def _cell(title: str) -> str:
    return title.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*").replace("_", "\\_")
