"""SPEC section 11, written out once more: canonical JSON and canonical files, without ternfmt."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

from ternfmt_conformance.files.raw import ITEM_BYTES

from .expect import sha256
from .logical import Logical

ALIGNMENT = 64
ZEROS = "0" * 64
_SHORT = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r"}


def canonical_json(value: Any) -> str:
    """The one text of a value (SPEC S-11.1)."""
    if value is None or isinstance(value, bool):
        return {None: "null", False: "false", True: "true"}[value]
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        return '"' + "".join(map(_character, value)) + '"'
    if isinstance(value, Mapping):
        members = (f"{canonical_json(key)}:{canonical_json(value[key])}" for key in sorted(value))  # by code point
        return "{" + ",".join(members) + "}"
    return "[" + ",".join(map(canonical_json, value)) + "]"


def canonical_file(model: Logical) -> bytes:
    """The one file that holds a model (SPEC section 11)."""
    parts = model.parts()
    order = sorted(parts, key=lambda name: (-ITEM_BYTES[parts[name].dtype], name))
    digests: dict[str, Any] = {"header": ZEROS}
    if parts:
        digests["tensors"] = {name: sha256(part.data) for name, part in parts.items()}
    document = {**model.document(), "digests": digests}
    infos = {name: {"dtype": part.dtype, "shape": part.shape} for name, part in parts.items()}

    def header(more: Mapping[str, Mapping[str, Any]]) -> str:
        metadata = {**model.metadata, "ternfmt": canonical_json(document)}
        return canonical_json(
            {**{name: {**info, **more.get(name, {})} for name, info in infos.items()}, "__metadata__": metadata}
        )

    digests["header"] = sha256(header({}).encode("ascii"))
    offsets: dict[str, dict[str, Any]] = {}
    position = 0
    for name in order:
        end = position + len(parts[name].data)
        offsets[name] = {"data_offsets": [position, end]}
        position = end
    text = header(offsets).encode("ascii")
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    return struct.pack("<Q", len(text)) + text + b"".join(parts[name].data for name in order)


def _character(character: str) -> str:
    if character in _SHORT:
        return _SHORT[character]
    if " " <= character <= "~":
        return character
    units = character.encode("utf-16-be")
    return "".join(f"\\u{units[i : i + 2].hex()}" for i in range(0, len(units), 2))
