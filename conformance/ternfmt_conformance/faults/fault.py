"""What a single fault is, and what faults are made of."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from ternfmt.errors import Kind

from ..files.raw import RawFile
from ..optional import st


@dataclass(frozen=True)
class Faulty:
    """A file with one fault.

    Attributes:
        file: its bytes.
        kind: the class that SPEC section 10 gives it.
        rule: the rule that it breaks.
        name: the fault in a few words.
    """

    file: bytes
    kind: Kind
    rule: str
    name: str


def anywhere(raw: RawFile) -> bool:
    """Every valid file can have this fault."""
    return True


@dataclass(frozen=True)
class Fault:
    """A way to break one rule.

    Attributes:
        name: in a few words; unique.
        kind: the class that a reader must report.
        rule: the rule that is broken.
        make: changes a valid file.
        applies: whether a valid file can have the fault.
    """

    name: str
    kind: Kind
    rule: str
    make: Callable[[st.DrawFn, RawFile], None]
    applies: Callable[[RawFile], Any] = anywhere


def has_tensors(raw: RawFile) -> bool:
    """Whether the file holds any tensor."""
    return bool(raw.tensors)


def filled(raw: RawFile) -> list[str]:
    """The tensors that hold data."""
    return [name for name, stored in raw.tensors.items() if stored.data]


def entries(raw: RawFile) -> dict[str, dict[str, Any]]:
    """The ternary tensors' entries; changes are changes of the file."""
    found: dict[str, dict[str, Any]] = raw.document["tensors"]
    return found


def header_bytes(raw: RawFile) -> int:
    """H."""
    return int.from_bytes(raw.build()[:8], "little")


def edit_info(draw: st.DrawFn, raw: RawFile, names: Collection[str], edit: Callable[[dict[str, Any]], Any]) -> None:
    """Change what the header says of one of some tensors."""
    name = draw(st.sampled_from(list(names)))
    raw.header_edits.append(lambda value: edit(value[name]))
