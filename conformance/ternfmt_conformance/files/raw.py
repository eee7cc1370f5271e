"""Files from JSON-able pieces, made without ternfmt, with every lever needed to make one fault."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from typing import Any

ITEM_BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 8),
}
DROP: Any = object()
"""In place of a value: remove the key."""


@dataclass(frozen=True)
class Tensor:
    dtype: str
    shape: list[int]
    data: bytes


def tensor(dtype: str, shape: list[int], data: bytes | None = None) -> Tensor:
    """A tensor that holds zeros where no data is given."""
    return Tensor(dtype, shape, bytes(prod(shape) * ITEM_BYTES[dtype]) if data is None else data)


@dataclass
class RawFile:
    """What a file is made of; `build` joins it.

    Attributes:
        tensors: name -> tensor, in the order of their data.
        document: JSON value of the metadata document; DROP leaves it out.
        metadata: the other values of ``__metadata__``.
        header_edits: change the header's JSON value in place.
        document_texts, header_texts: (old, new) replacements in the JSON texts.
        byte_edits: change the finished header's bytes, padding included.
        extra_padding: spaces past the multiple of 64.
        length: H as the prefix states it.
        data_edits: change the data section.
        cut: keep that many bytes of the file.
    """

    tensors: dict[str, Tensor]
    document: Any
    metadata: dict[str, Any] = field(default_factory=lambda: {"format": "pt"})
    header_edits: list[Callable[[dict[str, Any]], None]] = field(default_factory=list)
    document_texts: list[tuple[str, str]] = field(default_factory=list)
    header_texts: list[tuple[str, str]] = field(default_factory=list)
    byte_edits: list[Callable[[bytes], bytes]] = field(default_factory=list)
    extra_padding: int = 0
    length: int | None = None
    data_edits: list[Callable[[bytearray], None]] = field(default_factory=list)
    cut: int | None = None

    def header_value(self) -> dict[str, Any]:
        value: dict[str, Any] = {"__metadata__": dict(self.metadata)}
        if self.document is not DROP:
            text = replaced(json.dumps(self.document), self.document_texts)
            value["__metadata__"]["ternfmt"] = text
        position = 0
        for name, stored in self.tensors.items():
            end = position + len(stored.data)
            value[name] = {
                "dtype": stored.dtype,
                "shape": stored.shape,
                "data_offsets": [position, end],
            }
            position = end
        for edit in self.header_edits:
            edit(value)
        return value

    def build(self) -> bytes:
        header = replaced(json.dumps(self.header_value()), self.header_texts).encode()
        header += b" " * (-(8 + len(header)) % 64 + self.extra_padding)
        for edit_bytes in self.byte_edits:
            header = edit_bytes(header)
        data = bytearray(b"".join(stored.data for stored in self.tensors.values()))
        for edit_data in self.data_edits:
            edit_data(data)
        length = len(header) if self.length is None else self.length
        return (struct.pack("<Q", length) + header + data)[: self.cut]

    def offset(self, name: str) -> int:
        """Where a tensor's data begins in the data section."""
        names = list(self.tensors)
        return sum(len(self.tensors[before].data) for before in names[: names.index(name)])


Mutation = Callable[[RawFile], None]
"""Makes one fault in a valid file."""


def replaced(text: str, replacements: list[tuple[str, str]]) -> str:
    for old, new in replacements:
        assert text.count(old) == 1, f"{old!r} occurs {text.count(old)} times in {text}"
        text = text.replace(old, new)
    return text


def updated(value: dict[str, Any], changes: dict[str, Any]) -> None:
    value.update(changes)
    for key in [key for key, new in value.items() if new is DROP]:
        del value[key]


# Mutations -----------------------------------------------------------------------------------------


def text(old: str, new: str) -> Mutation:
    """Replace text in the header's JSON."""
    return lambda raw: raw.header_texts.append((old, new))


def document_text(old: str, new: str) -> Mutation:
    """Replace text in the metadata document's JSON."""
    return lambda raw: raw.document_texts.append((old, new))


def header(edit: Callable[[dict[str, Any]], Any]) -> Mutation:
    """Change the header's JSON value."""
    return lambda raw: raw.header_edits.append(edit)


def header_bytes(edit: Callable[[bytes], bytes]) -> Mutation:
    return lambda raw: raw.byte_edits.append(edit)


def info(name: str, **changes: Any) -> Mutation:
    """Change what the header says of a tensor."""
    return header(lambda value: updated(value[name], changes))


def metadata(**changes: Any) -> Mutation:
    """Change ``__metadata__``."""
    return header(lambda value: updated(value["__metadata__"], changes))


def document(**changes: Any) -> Mutation:
    """Change keys of the metadata document."""
    return lambda raw: updated(raw.document, changes)


def entry(**changes: Any) -> Mutation:
    """Change keys of the entry of ``w``."""
    return lambda raw: updated(raw.document["tensors"]["w"], changes)


def declare(name: str, **value: Any) -> Mutation:
    """Add an entry."""
    return lambda raw: raw.document["tensors"].update({name: value})


def put(name: str, dtype: str, shape: list[int], data: bytes | None = None) -> Mutation:
    """Add or replace a tensor."""
    return lambda raw: raw.tensors.update({name: tensor(dtype, shape, data)})


def put_first(name: str, dtype: str, shape: list[int]) -> Mutation:
    """Add or replace a tensor, its data before all others: there it is aligned whatever its dtype."""

    def edit(raw: RawFile) -> None:
        rest = {other: stored for other, stored in raw.tensors.items() if other != name}
        raw.tensors = {name: tensor(dtype, shape), **rest}

    return edit


def without(name: str) -> Mutation:
    return lambda raw: updated(raw.tensors, {name: DROP})


def poke(name: str, at: int, new: bytes) -> Mutation:
    """Overwrite bytes of a tensor's data."""

    def edit(raw: RawFile) -> None:
        def write(data: bytearray) -> None:
            begin = raw.offset(name) + at
            data[begin : begin + len(new)] = new

        raw.data_edits.append(write)

    return edit


def setting(**attributes: Any) -> Mutation:
    """Set attributes of the file."""
    return lambda raw: raw.__dict__.update(attributes)


def both(*mutations: Mutation) -> Mutation:
    """Several changes that make one fault."""

    def apply(raw: RawFile) -> None:
        for mutation in mutations:
            mutation(raw)

    return apply


# Valid files to make faults in ---------------------------------------------------------------------


def plain() -> RawFile:
    """One ternary tensor of shape [2, 5], scales 1.0 and 0.5, and a dense bias."""
    return RawFile(
        {
            "b": tensor("F32", [2], struct.pack("<2f", 1.5, -2.0)),
            "w_scale": tensor("F16", [2], struct.pack("<2e", 1.0, 0.5)),
            "w": tensor("U8", [2, 2], bytes([0x71, 0x03, 0x1D, 0x01])),
        },
        {
            "version": "1.0",
            "required": [],
            "tensors": {"w": {"shape": [2, 5], "encoding": "int2"}},
            "encoder": {"method": "exact"},
        },
    )


def features() -> RawFile:
    """One ternary tensor of shape [2, 18] with two groups, two planes and a low-rank term."""
    rows = bytes([0x71, 0x03, 0x1D, 0x01, 0x0D, 0x4D, 0xC1, 0x34, 0x43, 0x07])
    return RawFile(
        {
            "w_lowrank_down": tensor("F16", [1, 18], struct.pack("<18e", *range(18))),
            "w_lowrank_up": tensor("F16", [2, 1], struct.pack("<2e", 0.25, -0.125)),
            "w_plane2_scale": tensor("F16", [2, 2], struct.pack("<4e", 0.5, 0.25, 0.125, 2.0)),
            "w_scale": tensor("F16", [2, 2], struct.pack("<4e", 1.0, 2.0, 4.0, 8.0)),
            "w": tensor("U8", [2, 5], rows),
            "w_plane2": tensor("U8", [2, 5], rows[5:] + rows[:5]),
        },
        {
            "version": "1.0",
            "required": ["group-scale", "low-rank", "planes"],
            "tensors": {
                "w": {
                    "shape": [2, 18],
                    "encoding": "int2",
                    "group_size": 16,
                    "planes": 2,
                    "low_rank": 1,
                }
            },
        },
    )


def digested() -> RawFile:
    """`plain` with all digests."""
    return add_digests(plain())


def add_digests(raw: RawFile) -> RawFile:
    """Digests of every tensor and of the header (SPEC S-8.2)."""
    tensors = {name: sha256(stored.data) for name, stored in raw.tensors.items()}
    raw.document["digests"] = {"tensors": tensors, "header": "0" * 64}
    raw.document["digests"]["header"] = sha256(header_digest_text(raw.header_value()).encode())
    return raw


def header_digest_text(value: dict[str, Any]) -> str:
    """The text of SPEC S-8.2, of a header that holds zeros where its digest will stand."""
    view = {name: {key: part for key, part in item.items() if key != "data_offsets"} for name, item in value.items()}
    return json.dumps(view, sort_keys=True, separators=(",", ":"))


def header_digested() -> RawFile:
    """`plain` with a digest of the header alone."""
    raw = digested()
    del raw.document["digests"]["tensors"]
    raw.document["digests"]["header"] = "0" * 64
    raw.document["digests"]["header"] = sha256(header_digest_text(raw.header_value()).encode())
    return raw


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
