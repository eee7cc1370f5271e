"""Validate a whole model: every check of SPEC section 10, in its order."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .check import check_header_digest, tensor_digest
from .errors import FormatError, Kind
from .reader import Model, open_model


@dataclass(frozen=True)
class Validation:
    """What a successful validation covered.

    Attributes:
        files: files read.
        ternary: ternary tensors checked.
        dense: dense tensors, whose values are not checked (SPEC section 15).
        digests_checked: stored tensors whose digest matched; None when digests were not asked for.
        uncovered: stored tensors that no digest covers; None when digests were not asked for.
    """

    files: int
    ternary: int
    dense: int
    digests_checked: int | None = None
    uncovered: int | None = None


def validate(
    path: str | Path,
    digests: bool = False,
    *,
    shard: bool | None = None,
    strict_links: bool = False,
) -> Validation:
    """Check a file, an index or a folder completely.

    Args:
        path: a safetensors file, an index JSON or a model folder.
        digests: also compare SHA-256 digests.
        shard: as for `ternfmt.open`.
        strict_links: as for `ternfmt.open`.

    Raises:
        FormatError: the first fault, in SPEC's order.
        OSError: a file cannot be read.
    """
    with open_model(path, shard=shard, strict_links=strict_links) as model:
        for name in sorted(model.document.entries):
            model.check(name)
        ternary = sum(info.ternary for info in model.tensors.values())
        checked, uncovered = _check_digests(model) if digests else (None, None)
        return Validation(len(model.source.files), ternary, len(model.tensors) - ternary, checked, uncovered)


def _check_digests(model: Model) -> tuple[int, int]:
    for header, document in zip(model.stored.headers, model.documents, strict=True):
        if document.header_digest is not None:
            check_header_digest(header, document.header_digest)
    covered = sorted(name for name in model.document.tensor_digests if name in model.stored.spans)
    for name in covered:
        actual = tensor_digest(model.stored[name])
        expected = model.document.tensor_digests[name]
        if actual != expected:
            raise FormatError(
                Kind.DIGEST,
                f"{model.stored.spans[name].file}: {name!r}",
                f"SHA-256 {actual}, expected {expected}",
            )
    return len(covered), len(model.stored.spans) - len(covered)
