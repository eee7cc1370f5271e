"""Faults that show in SPEC section 10, steps 1 to 11."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

from ternfmt.errors import Kind
from ternfmt.limits import INTEGER_MAX, NAME_MAX, RANK_MAX

from ..files.raw import ITEM_BYTES, RawFile
from ..optional import st
from .fault import Fault, edit_info, entries, filled, has_tensors, header_bytes

_TWIN = "\x01twin"
"""Stands for the second of two equal keys until the JSON is text."""

_characters = st.characters(exclude_categories=["Cs"])


def _cut_in_prefix(draw: st.DrawFn, raw: RawFile) -> None:
    raw.cut = draw(st.integers(0, 7))


def _cut_in_header(draw: st.DrawFn, raw: RawFile) -> None:
    raw.cut = draw(st.integers(8, 7 + header_bytes(raw)))


def _cut_in_data(draw: st.DrawFn, raw: RawFile) -> None:
    raw.cut = draw(st.integers(8 + header_bytes(raw), len(raw.build()) - 1))


def _state_length(draw: st.DrawFn, raw: RawFile) -> None:
    raw.length = draw(st.just(0) | st.integers(len(raw.build()) - 7, 2**64 - 1))


def _not_utf8(draw: st.DrawFn, raw: RawFile) -> None:
    _insert(draw, raw, range(0x80, 0x100))


def _control_character(draw: st.DrawFn, raw: RawFile) -> None:
    _insert(draw, raw, [c for c in range(0x20) if c not in b"\t\n\r"])


def _insert(draw: st.DrawFn, raw: RawFile, values: Collection[int]) -> None:
    byte, at = bytes([draw(st.sampled_from(list(values)))]), draw(st.integers(0, header_bytes(raw)))
    raw.byte_edits.append(lambda header: header[:at] + byte + header[at:])


def _twice_in_header(draw: st.DrawFn, raw: RawFile) -> None:
    where = draw(st.sampled_from([None, "__metadata__", *raw.tensors]))
    key = draw(st.sampled_from(list(_member(raw.header_value(), where))))
    raw.header_edits.append(lambda value: _add_twin(_member(value, where), key))
    raw.header_texts.append((json.dumps(_TWIN), _spelled(draw, key)))


def _member(value: dict[str, Any], key: str | None) -> dict[str, Any]:
    found: dict[str, Any] = value if key is None else value[key]
    return found


def _twice_in_document(draw: st.DrawFn, raw: RawFile) -> None:
    value = draw(st.sampled_from([raw.document, *entries(raw).values()]))
    key = draw(st.sampled_from(list(value)))
    _add_twin(value, key)
    raw.document_texts.append((json.dumps(_TWIN), _spelled(draw, key)))


def _add_twin(value: dict[str, Any], key: str) -> None:
    value[_TWIN] = value[key]


def _spelled(draw: st.DrawFn, key: str) -> str:
    """A key in JSON, perhaps with its first character escaped."""
    return f'"\\u{ord(key[0]):04x}{key[1:]}"' if draw(st.booleans()) else json.dumps(key)


def _rename(draw: st.DrawFn, raw: RawFile) -> None:
    old = draw(st.sampled_from(list(raw.tensors)))
    unprintable = st.text(_characters, max_size=3).filter(lambda name: not all("!" <= c <= "~" for c in name))
    new = draw(st.just("") | unprintable | st.integers(NAME_MAX + 1, NAME_MAX + 9).map(lambda length: "n" * length))
    raw.header_edits.append(lambda value: value.update({new: value.pop(old)}))


def _change_keys(draw: st.DrawFn, raw: RawFile) -> None:
    key = draw(st.sampled_from(["dtype", "shape", "data_offsets", "Shape", ""]))
    edit_info(draw, raw, raw.tensors, lambda info: info.pop(key) if key in info else info.update({key: 0}))


def _change_dtype(draw: st.DrawFn, raw: RawFile) -> None:
    texts = st.text(_characters, max_size=4).filter(lambda text: text not in ITEM_BYTES)
    bad = draw(st.sampled_from(["u8", "F4", "I64 ", None, 8, ["U8"]]) | texts)
    edit_info(draw, raw, raw.tensors, lambda info: info.update(dtype=bad))


def _change_number(draw: st.DrawFn, raw: RawFile) -> None:
    values: list[Any] = [None, True, "1", [], {}, -1, 0.5, 1.0, 1e9]
    _put_number(draw, raw, draw(st.sampled_from(values)))


def _too_large(draw: st.DrawFn, raw: RawFile) -> None:
    _put_number(draw, raw, draw(st.integers(INTEGER_MAX + 1, 10**31)))


def _put_number(draw: st.DrawFn, raw: RawFile, new: Any) -> None:
    """Replace a number of a tensor's value, or add a dimension."""
    key, at = draw(st.sampled_from([("shape", 0), ("shape", 5), ("data_offsets", 0), ("data_offsets", 1)]))
    edit_info(draw, raw, raw.tensors, lambda info: info.update({key: [*info[key][:at], new, *info[key][at + 1 :]]}))


def _change_count(draw: st.DrawFn, raw: RawFile) -> None:
    offsets: list[Any] = [[], [0], [0, 0, 0], {}]
    values = [{"data_offsets": value} for value in offsets] + [{"shape": [1] * (RANK_MAX + 1)}, {"shape": None}]
    new = draw(st.sampled_from(values))
    edit_info(draw, raw, raw.tensors, lambda info: info.update(new))


def _large_product(draw: st.DrawFn, raw: RawFile) -> None:
    shape = draw(st.permutations([0, 2 ** draw(st.integers(27, 53)) - 1, 2**27]))
    edit_info(draw, raw, raw.tensors, lambda info: info.update(shape=shape))


def _move(draw: st.DrawFn, raw: RawFile) -> None:
    name = draw(st.sampled_from(filled(raw)))
    begin = raw.offset(name)
    to = draw(st.integers(0, begin + 64).filter(lambda to: to != begin))
    offsets = [to, to + len(raw.tensors[name].data)]
    raw.header_edits.append(lambda value: value[name].update(data_offsets=offsets))


def _reverse(draw: st.DrawFn, raw: RawFile) -> None:
    edit_info(draw, raw, filled(raw), lambda info: info["data_offsets"].reverse())


def _append(draw: st.DrawFn, raw: RawFile) -> None:
    more = draw(st.binary(min_size=1, max_size=64))
    raw.data_edits.append(lambda data: data.extend(more))


def _misalign(draw: st.DrawFn, raw: RawFile) -> None:
    spaces = draw(st.sampled_from([1, 3, 5, 7]))
    raw.byte_edits.append(lambda header: header + b" " * spaces)


def _has_wide(raw: RawFile) -> bool:
    return any(ITEM_BYTES[stored.dtype] > 1 for stored in raw.tensors.values())


def _resize(draw: st.DrawFn, raw: RawFile) -> None:
    name, at = draw(st.sampled_from(filled(raw))), draw(st.integers(0, 3))
    old, more = raw.tensors[name].shape, draw(st.integers(1, 9))
    shape = [size + more if axis == at % len(old) else size for axis, size in enumerate(old)] or [1 + more]
    raw.header_edits.append(lambda value: value[name].update(shape=shape))


CONTAINER_FAULTS = (
    Fault("cut in the prefix", Kind.PREFIX, "S-1.1", _cut_in_prefix),
    Fault("cut in the header", Kind.HEADER_LEN, "S-1.2", _cut_in_header),
    Fault("header length", Kind.HEADER_LEN, "S-1.2", _state_length),
    Fault("byte that is not UTF-8", Kind.ENCODING, "S-1.3", _not_utf8),
    Fault("control character", Kind.JSON, "S-1.4", _control_character),
    Fault("key twice in the header", Kind.DUPLICATE, "S-1.6", _twice_in_header),
    Fault("key twice in the document", Kind.DUPLICATE, "S-2.2", _twice_in_document),
    Fault("tensor name", Kind.NAME, "S-1.7", _rename, has_tensors),
    Fault("keys of a tensor's value", Kind.TENSOR_INFO, "S-1.8", _change_keys, has_tensors),
    Fault("dtype", Kind.TENSOR_INFO, "S-1.9", _change_dtype, has_tensors),
    Fault("number of a tensor's value", Kind.TENSOR_INFO, "S-1.8", _change_number, has_tensors),
    Fault("how many numbers", Kind.TENSOR_INFO, "S-1.8", _change_count, has_tensors),
    Fault("integer too large", Kind.OVERFLOW, "S-1.10", _too_large, has_tensors),
    Fault("product too large", Kind.OVERFLOW, "S-1.10", _large_product, has_tensors),
    Fault("data elsewhere", Kind.LAYOUT, "S-1.11", _move, filled),
    Fault("end before begin", Kind.LAYOUT, "S-1.11", _reverse, filled),
    Fault("cut in the data", Kind.LAYOUT, "S-1.11", _cut_in_data, filled),
    Fault("bytes after the data", Kind.LAYOUT, "S-1.11", _append),
    Fault("misaligned data", Kind.LAYOUT, "S-1.12", _misalign, _has_wide),
    Fault("shape of another size", Kind.SIZE, "S-1.13", _resize, filled),
)
