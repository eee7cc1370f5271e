"""Headers: the fast column-wise reader against the plain one, and canonical headers."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable

import pytest
import safetensors
from hypothesis import given, settings
from hypothesis import strategies as st

from ternfmt import FormatError, container
from ternfmt.container import (
    DTYPES,
    Header,
    build_header,
    header_at_once,
    layout,
    parse_header,
)
from ternfmt.limits import HEADER_MAX, INTEGER_MAX
from ternfmt_conformance.files.raw import ITEM_BYTES

names = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=6)
dtypes = st.sampled_from(sorted(ITEM_BYTES))
tensors = st.dictionaries(names, st.tuples(dtypes, st.lists(st.integers(0, 4), max_size=3).map(tuple)), max_size=5)

odd = st.sampled_from(
    [
        *("-1", "0", "-0", "1", "2", "8", "64", "1.0", "1e1", "NaN", "9" * 16, "9" * 40, str(INTEGER_MAX), str(2**64)),
        *("true", "null", '"U8"', '"\u00e9"', "[]", "[[]]", "{}", '{"dtype":"U8"}', '""', r'"\ud800"', '"', "]"),
    ]
)
"""JSON of what a header may hold by mistake, and some that is not JSON."""

Pairs = list[tuple[str, str]]
"""A JSON object as keys and the texts of their values, so that it can be wrong in any way."""


def header_of(found: dict[str, tuple[str, tuple[int, ...]]]) -> tuple[dict[str, Pairs], int]:
    """A right header's entries, and how many bytes of data they want."""
    offsets = layout(found)
    entries = {
        name: [
            ("data_offsets", json.dumps(list(offsets[name]))),
            ("dtype", json.dumps(dtype)),
            ("shape", json.dumps(list(shape))),
        ]
        for name, (dtype, shape) in found.items()
    }
    return entries, max((end for _, end in offsets.values()), default=0)


def object_text(pairs: Pairs) -> str:
    return "{" + ",".join(f"{json.dumps(key)}:{value}" for key, value in pairs) + "}"


def text_of(entries: Iterable[tuple[str, Pairs]], *more: tuple[str, str]) -> str:
    text = object_text([*((name, object_text(pairs)) for name, pairs in entries), *more])
    return text + " " * (-(8 + len(text.encode())) % 64)


def at_once(text: str, data: int) -> Header | None:
    start = 8 + len(text.encode())
    return header_at_once(text, start, start + data, "x")


def plainly(text: str, data: int) -> Header | None:
    """The header as it is read without the fast way; None for any error."""
    raw = text.encode("utf-8", "surrogatepass")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(container, "header_at_once", lambda *_: None)
        try:
            return parse_header(raw, 8 + len(raw) + data, "x")
        except FormatError:
            return None


def assert_agree(text: str, data: int) -> None:
    fast = at_once(text, data)
    assert fast is None or fast == plainly(text, data)


@given(tensors, st.data())
@settings(max_examples=400)
def test_both_ways_of_reading_agree(found, data: st.DataObject) -> None:
    by_name, size = header_of(found)
    entries = list(by_name.items())
    assert plainly(text_of(entries), size) is not None
    assert_agree(text_of(entries), size)
    metadata = data.draw(st.lists(st.tuples(st.sampled_from(["a", "b", "\u00e9"]), odd), max_size=2))
    more = data.draw(
        st.sampled_from([[], [("__metadata__", object_text(metadata))], [("__metadata__", data.draw(odd))]])
    )
    for _ in range(data.draw(st.integers(0, 2)) if entries else 0):
        i = data.draw(st.integers(0, len(entries) - 1))
        name, pairs = entries[i][0], list(entries[i][1])
        j = data.draw(st.integers(0, len(pairs) - 1)) if pairs else None
        match data.draw(st.sampled_from(["twice", "key twice", "key gone", "key moved", "value", "number", "entry"])):
            case "twice":
                entries.append(entries[i])
            case "key twice" if j is not None:
                pairs.append(pairs[j])
            case "key gone" if j is not None:
                del pairs[j]
            case "key moved" if j is not None:
                pairs.append(pairs.pop(j))
            case "value" if j is not None:
                pairs[j] = (pairs[j][0], data.draw(odd))
            case "number" if j is not None:
                pairs[j] = (pairs[j][0], f"[{data.draw(odd)}, {data.draw(odd)}]")
            case "entry":
                more.append((name, data.draw(odd)))
        entries[i] = (name, pairs)
    assert_agree(text_of(entries, *more), size + data.draw(st.sampled_from([0, 0, 0, 1, -1])))


@given(tensors.filter(bool), st.permutations(["data_offsets", "dtype", "shape"]), st.booleans())
def test_files_without_zero_dimensions_are_read_the_fast_way(found, order: list[str], with_metadata: bool) -> None:
    found = {name: (dtype, tuple(d or 1 for d in shape)) for name, (dtype, shape) in found.items()}
    by_name, size = header_of(found)
    entries = [(name, sorted(pairs, key=lambda pair: order.index(pair[0]))) for name, pairs in by_name.items()]
    text = text_of(entries, *[("__metadata__", '{"format":"pt"}')] * with_metadata)
    assert at_once(text, size) is not None
    assert at_once(text, size) == plainly(text, size)


def test_tensors_may_lie_in_another_order_than_the_header_has() -> None:
    by_name, size = header_of({"a": ("U8", (3,)), "b": ("F16", (2,)), "c": ("F32", (1,))})
    text = text_of(reversed(by_name.items()))
    assert at_once(text, size) == plainly(text, size) is not None


@pytest.mark.parametrize(
    "offsets", [((0, 4), (0, 4)), ((0, 4), (5, 9)), ((0, 8), (4, 8)), ((1, 5), (5, 9)), ((4, 8), (8, 4))]
)
def test_neither_way_reads_holes_or_overlaps(offsets: tuple[tuple[int, int], ...]) -> None:
    entries = [
        (name, [("data_offsets", json.dumps(pair)), ("dtype", '"U8"'), ("shape", f"[{pair[1] - pair[0]}]")])
        for name, pair in zip("ab", offsets, strict=True)
    ]
    for size in (8, 9):
        assert at_once(text_of(entries), size) is None
        assert plainly(text_of(entries), size) is None


@pytest.mark.parametrize("bad", ["", " ", "\u00e9", "x" * 256, "x\n"])
def test_neither_way_reads_a_bad_name(bad: str) -> None:
    by_name, size = header_of({"a": ("U8", (1,))})
    text = text_of([(bad, by_name["a"])])
    assert at_once(text, size) is None
    assert plainly(text, size) is None


def test_the_product_may_overflow_64_bits_to_the_true_size() -> None:
    by_name, size = header_of({"a": ("U8", (16,))})
    by_name["a"][2] = ("shape", f"[{2**32 + 4}, {2**32 + 4}]")  # = 2^64 + 2^35 + 16
    assert at_once(text_of(by_name.items()), size) is None
    assert plainly(text_of(by_name.items()), size) is None


@given(tensors, st.dictionaries(st.text(max_size=3), st.just("\u00e9\n"), max_size=2))
@settings(max_examples=60)
def test_canonical_headers_are_read_back(found, metadata: dict[str, str]) -> None:
    metadata = {key: value for key, value in metadata.items() if key.isprintable()}
    raw = build_header(found, metadata)
    (length,) = struct.unpack("<Q", raw[:8])
    assert len(raw) % 64 == 0
    assert length == len(raw) - 8
    _, size = header_of(found)
    header = parse_header(raw[8:], len(raw) + size, "x")
    assert {name: (span.dtype, span.shape) for name, span in header.spans.items()} == found
    assert header.metadata == metadata
    text = raw[8:].decode("ascii").rstrip(" ")
    assert len(raw) - 8 - len(text) < 64
    assert text == json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"))
    safetensors.deserialize(raw + bytes(size))


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
