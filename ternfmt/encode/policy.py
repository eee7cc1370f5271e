"""Which tensors become ternary."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from ..container import DTYPES, Span
from ..limits import K_MAX
from .weights import WEIGHT_DTYPES

_EMBEDDING = re.compile(r"embed|^wte$|^wpe$|^shared$|^relative_attention_bias$|^lm_head$")
_NORM = re.compile(r"norm|^ln(_|\d|$)", re.IGNORECASE)


@dataclass(frozen=True)
class Choice:
    """What becomes of one source tensor.

    Attributes:
        ternary: quantised; else copied as it is.
        reason: why, in words for people.
    """

    ternary: bool
    reason: str


def choose(spans: Mapping[str, Span], include: Sequence[str] = (), exclude: Sequence[str] = ()) -> dict[str, Choice]:
    """Decide for every tensor of a checkpoint.

    Args:
        spans: the source's stored tensors.
        include: glob patterns on full names; given any, they take the place of the default rule
            (2-D ``*.weight`` that is neither an embedding nor a norm).
        exclude: glob patterns of tensors to keep dense in any case.

    Raises:
        ValueError: a pattern matches no tensor.
    """
    for pattern in (*include, *exclude):
        if not any(fnmatchcase(name, pattern) for name in spans):
            raise ValueError(f"pattern {pattern!r} matches none of the {len(spans)} tensors")
    return {name: _choose(name, span, include, exclude) for name, span in spans.items()}


def _choose(name: str, span: Span, include: Sequence[str], exclude: Sequence[str]) -> Choice:
    if DTYPES[span.dtype] not in WEIGHT_DTYPES:
        return Choice(False, f"dtype {span.dtype} is not F32, F16 or BF16")
    if len(span.shape) < 2 or 0 in span.shape:
        return Choice(False, f"shape {list(span.shape)} has no rows and columns")
    columns = 1
    for dimension in span.shape[1:]:
        columns *= dimension
    if columns > K_MAX:
        return Choice(False, f"{columns} columns, more than {K_MAX}")
    for pattern in exclude:
        if fnmatchcase(name, pattern):
            return Choice(False, f"excluded by {pattern!r}")
    if include:
        for pattern in include:
            if fnmatchcase(name, pattern):
                return Choice(True, f"included by {pattern!r}")
        return Choice(False, "not included")
    modules = name.split(".")
    if len(span.shape) != 2 or modules[-1] != "weight":
        return Choice(False, "not a 2-D tensor named *.weight")
    if any(map(_EMBEDDING.search, modules[:-1])):
        return Choice(False, "an embedding")
    if any(map(_NORM.search, modules[-2:-1])):
        return Choice(False, "a norm")
    return Choice(True, "2-D *.weight")
