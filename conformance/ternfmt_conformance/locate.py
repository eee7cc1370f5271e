"""Where SPEC.md and the corpus are: inside the installed package, or in the checkout around it."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def find_spec() -> Path:
    """SPEC.md.

    Raises:
        FileNotFoundError: neither packaged nor in a checkout.
    """
    return _first(PACKAGE / "SPEC.md", PACKAGE.parents[1] / "SPEC.md")


def find_vectors() -> Path:
    """The folder of cases.jsonl.

    Raises:
        FileNotFoundError: neither packaged nor in a checkout.
    """
    return _first(PACKAGE / "vectors", PACKAGE.parent / "vectors")


def _first(*candidates: Path) -> Path:
    for candidate in candidates:
        if candidate.exists():
            return candidate
    raise FileNotFoundError(f"no {candidates[0].name} at {' or '.join(map(str, candidates))}: give --vectors")
