"""Which tensors of the output share a file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ...index import FILE_SUFFIX, INDEX_SUFFIX

_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) *([KMGT]?)B?", re.IGNORECASE)
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


@dataclass(frozen=True)
class OutputFile:
    """A file of the output.

    Attributes:
        name: plain file name.
        tensors: names of its tensors, ascending; the parts of a ternary tensor stay together.
    """

    name: str
    tensors: tuple[str, ...]


def parse_size(text: str) -> int:
    """Bytes: ``5GB``, ``500MB``, ``1.5 GB``, ``1000000``; units are decimal, as on the Hub.

    Raises:
        ValueError: none of these, or zero.
    """
    match = _SIZE.fullmatch(text.strip())
    size = int(float(match[1]) * _UNITS[match[2].upper()]) if match else 0
    if not size:
        raise ValueError(f"{text!r}: expected a size such as 5GB or 500MB")
    return size


def assign_files(sizes: Mapping[str, int], limit: int | None, stem: str) -> tuple[OutputFile, ...]:
    """Fill files one after another, tensors by ascending name, so that the source's own files do not show.

    Args:
        sizes: bytes of each tensor.
        limit: bytes of a file; a larger tensor has a file of its own; None puts all into one.
        stem: files are STEM.safetensors, or STEM-00001-of-0000n.safetensors.
    """
    groups: list[list[str]] = [[]]
    room = limit
    for name in sorted(sizes):
        if room is not None and limit is not None:
            if groups[-1] and sizes[name] > room:
                groups.append([])
                room = limit
            room -= sizes[name]
        groups[-1].append(name)
    if len(groups) == 1:
        return (OutputFile(stem + FILE_SUFFIX, tuple(groups[0])),)
    return tuple(
        OutputFile(f"{stem}-{number:05}-of-{len(groups):05}{FILE_SUFFIX}", tuple(names))
        for number, names in enumerate(groups, start=1)
    )


def index_name(stem: str) -> str:
    """The index beside several files."""
    return stem + INDEX_SUFFIX
