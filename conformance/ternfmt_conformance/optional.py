"""Hypothesis, which only `strategies`, `faults` and `explore` need."""

from __future__ import annotations

try:
    import hypothesis
    from hypothesis import strategies as st
except ImportError as error:
    raise ImportError("Hypothesis is not installed: pip install 'ternfmt[conformance]'") from error

__all__ = ["hypothesis", "st"]
