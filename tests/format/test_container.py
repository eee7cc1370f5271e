"""Headers: the fast column-wise reader against the plain one, and canonical headers."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest
import safetensors
from hypothesis import given, settings
from hypothesis import strategies as st

from ternfmt import FormatError
from ternfmt.container import (
    DTYPES,
    Span,
    build_header,
    layout,
    parse_header,
    spans_at_once,
    spans_one_by_one,
)
from ternfmt.limits import HEADER_MAX, INTEGER_MAX
from ternfmt.strict_json import NonInteger
from ternfmt_conformance.files.raw import ITEM_BYTES

names = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=6)
dtypes = st.sampled_from(sorted(ITEM_BYTES))
tensors = st.dictionaries(names, st.tuples(dtypes, st.lists(st.integers(0, 4), max_size=3).map(tuple)), max_size=5)

DATA_START = 64


def header_of(found: dict[str, tuple[str, tuple[int, ...]]]) -> tuple[dict[str, Any], int]:
    """The header's JSON value and the file's size."""
    offsets = layout(found)
    value = {
        name: {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets[name])}
        for name, (dtype, shape) in found.items()
    }
    return value, DATA_START + max((end for _, end in offsets.values()), default=0)


def one_by_one(value: Any, file_size: int, data_start: int = DATA_START) -> dict[str, Span] | None:
    try:
        return spans_one_by_one(value, data_start, file_size, "x")
    except FormatError:
        return None


def assert_agree(value: dict[str, Any], file_size: int, data_start: int = DATA_START) -> None:
    fast = spans_at_once(value, data_start, file_size, "x")
    assert fast is None or fast == one_by_one(value, file_size, data_start)


odd = st.one_of(
    st.sampled_from([-1, 0, 1, 2, 3, 8, 64, INTEGER_MAX, 2**53, 2**64, NonInteger("2.0"), True, None, "U8"]),
    st.builds(list),
    st.builds(dict),
)


@given(tensors, st.data())
@settings(max_examples=250)
def test_both_ways_of_reading_agree(found, data: st.DataObject) -> None:
    value, size = header_of(found)
    expected = one_by_one(value, size)
    assert expected is not None
    assert_agree(value, size)
    names = list(value)
    for _ in range(data.draw(st.integers(1, 2)) if names else 0):
        info = value[data.draw(st.sampled_from(names))]
        if not isinstance(info, dict):
            continue
        key = data.draw(st.sampled_from(["dtype", "shape", "data_offsets", "other", "tensor"]))
        part = info.get(key)
        if key == "tensor":
            value[names[0]] = data.draw(odd)
        elif isinstance(part, list) and part and data.draw(st.booleans()):
            part[data.draw(st.integers(0, len(part) - 1))] = data.draw(odd)
        elif isinstance(part, list) and data.draw(st.booleans()):
            part.append(data.draw(odd))
        elif key in info and data.draw(st.booleans()):
            del info[key]
        else:
            info[key] = data.draw(st.one_of(odd, dtypes))
    assert_agree(value, size + data.draw(st.integers(-1, 1)), DATA_START + data.draw(st.integers(-1, 1)))


@given(tensors.filter(bool))
def test_files_without_zero_dimensions_are_read_the_fast_way(found) -> None:
    found = {name: (dtype, tuple(d or 1 for d in shape)) for name, (dtype, shape) in found.items()}
    value, size = header_of(found)
    assert spans_at_once(value, DATA_START, size, "x") is not None


@pytest.mark.parametrize("bad", ["", " ", "\u00e9", "x" * 256, "x\n"])
def test_neither_way_reads_a_bad_name(bad: str) -> None:
    value, size = header_of({"a": ("U8", (1,))})
    value = {bad: value["a"]}
    assert spans_at_once(value, DATA_START, size, "x") is None
    assert one_by_one(value, size) is None


def test_the_product_may_overflow_64_bits_to_the_true_size() -> None:
    value, size = header_of({"a": ("U8", (16,))})
    value["a"]["shape"] = [2**32 + 4, 2**32 + 4]  # = 2^64 + 2^35 + 16
    assert_agree(value, size)
    assert one_by_one(value, size) is None


@given(tensors, st.dictionaries(st.text(max_size=3), st.just("\u00e9\n"), max_size=2))
@settings(max_examples=60)
def test_canonical_headers_are_read_back(found, metadata: dict[str, str]) -> None:
    metadata = {key: value for key, value in metadata.items() if key.isprintable()}
    raw = build_header(found, metadata)
    (length,) = struct.unpack("<Q", raw[:8])
    assert len(raw) % 64 == 0
    assert length == len(raw) - 8
    _, size = header_of(found)
    header = parse_header(raw[8:], len(raw) + size - DATA_START, "x")
    assert {name: (span.dtype, span.shape) for name, span in header.spans.items()} == found
    assert header.metadata == metadata
    text = raw[8:].decode("ascii").rstrip(" ")
    assert len(raw) - 8 - len(text) < 64
    assert text == json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"))
    safetensors.deserialize(raw + bytes(size - DATA_START))


@given(tensors)
def test_canonical_order_is_by_width_then_name(found) -> None:
    offsets = layout(found)
    order = sorted(found, key=lambda name: (-ITEM_BYTES[found[name][0]], name))
    assert list(offsets) == order
    position = 0
    for name in order:
        begin, end = offsets[name]
        assert begin == position
        assert begin % ITEM_BYTES[found[name][0]] == 0
        position = end


def test_dtypes_are_those_of_the_spec() -> None:
    assert {name: dtype.itemsize for name, dtype in DTYPES.items()} == ITEM_BYTES


@pytest.mark.parametrize(
    "found",
    [
        {"": ("U8", (1,))},
        {"a b": ("U8", (1,))},
        {"\u00e9": ("U8", (1,))},
        {"x" * 256: ("U8", (1,))},
        {"x": ("U4", (1,))},
        {"x": ("U8", (1,) * 33)},
    ],
)
def test_what_cannot_be_stored_is_refused(found) -> None:
    with pytest.raises((ValueError, KeyError)):
        build_header(found, {})


def test_an_over_long_header_is_refused() -> None:
    with pytest.raises(ValueError, match="smaller shards"):
        build_header({}, {"x": "y" * HEADER_MAX})
