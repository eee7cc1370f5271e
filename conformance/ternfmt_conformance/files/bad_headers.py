"""Faults in a file's container: SPEC section 10, steps 1 to 12."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ternfmt import Kind
from ternfmt.limits import HEADER_MAX, INTEGER_MAX

from .raw import (
    DROP,
    Mutation,
    RawFile,
    both,
    header,
    header_bytes,
    info,
    metadata,
    plain,
    put,
    setting,
    text,
)


@dataclass(frozen=True)
class Case:
    """One fault: ``mutate`` makes it in the valid file ``base``."""

    name: str
    rule: str
    kind: Kind
    mutate: Mutation
    base: Callable[[], RawFile] = plain

    def build(self) -> bytes:
        raw = self.base()
        self.mutate(raw)
        return raw.build()


def repadded(edit: Callable[[bytes], bytes]) -> Mutation:
    """Change the header's JSON text, and pad it anew, so that the data stays aligned."""

    def apply(raw: bytes) -> bytes:
        edited = edit(raw.rstrip(b" "))
        return edited + b" " * (-(8 + len(edited)) % 64)

    return header_bytes(apply)


def first(old: bytes, new: bytes) -> Mutation:
    """Replace bytes of the header where they occur first."""

    def edit(raw: bytes) -> bytes:
        assert old in raw
        return raw.replace(old, new, 1)

    return repadded(edit)


def append(data: bytes) -> Mutation:
    """End the header with these bytes instead of spaces."""
    return header_bytes(lambda raw: raw[: -len(data)] + data)


def length(stated: int) -> Mutation:
    return setting(length=stated)


def longer(more: int) -> Mutation:
    """State that many bytes more than the header has."""

    def edit(raw: RawFile) -> None:
        raw.length = int.from_bytes(raw.build()[:8], "little") + more

    return edit


def value_of(key: str, json_text: str) -> Mutation:
    """Write a value of tensor ``w`` as this text."""
    return both(info("w", **{key: "@"}), text('"@"', json_text))


def extra(json_text: str) -> Mutation:
    """Add a member to the header's object."""
    return first(b'{"__metadata__"', b"{" + json_text.encode() + b', "__metadata__"')


def in_string(raw: bytes) -> Mutation:
    """Put bytes into a string of ``__metadata__``."""
    mark = f"<{raw.hex()}>"
    return both(metadata(**{mark: mark + mark}), first(f"{mark}{mark}".encode(), raw))


def rename(json_name: str) -> Mutation:
    """Write the name of the dense tensor as this text."""
    return text('"b"', f'"{json_name}"')


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


MIDDLE = {"dtype": "U8", "shape": [0], "data_offsets": [4, 4]}

PREFIX = [
    Case("empty file", "S-1.1", Kind.PREFIX, setting(cut=0)),
    Case("one byte", "S-1.1", Kind.PREFIX, setting(cut=1)),
    Case("seven bytes", "S-1.1", Kind.PREFIX, setting(cut=7)),
    Case("length 0", "S-1.2", Kind.HEADER_LEN, length(0)),
    Case("length 2^64-1", "S-1.2", Kind.HEADER_LEN, length(2**64 - 1)),
    Case("length 2^64-8", "S-1.2", Kind.HEADER_LEN, length(2**64 - 8)),
    Case("length 2^63", "S-1.2", Kind.HEADER_LEN, length(2**63)),
    Case("length right but for bit 32", "S-1.2", Kind.HEADER_LEN, longer(1 << 32)),
    Case("length right but for bit 63", "S-1.2", Kind.HEADER_LEN, longer(1 << 63)),
    Case("eight bytes", "S-1.2", Kind.HEADER_LEN, setting(cut=8)),
    Case("header one past the end", "S-1.2", Kind.HEADER_LEN, setting(tensors={}, cut=-1)),
    Case(
        "header over the cap, bytes present",
        "S-1.2",
        Kind.HEADER_LEN,
        header_bytes(lambda raw: raw.ljust(HEADER_MAX + 1)),
    ),
]

ENCODING = [
    Case(name, "S-1.3", Kind.ENCODING, mutation)
    for name, mutation in {
        "byte order mark": repadded(lambda raw: b"\xef\xbb\xbf" + raw),
        "UTF-16": header_bytes(lambda raw: raw.decode().encode("utf-16")),
        "byte 0xff": in_string(b"\xff"),
        "lone continuation byte": in_string(b"\x80"),
        "truncated sequence": in_string(b"\xe2\x82"),
        "overlong NUL": in_string(b"\xc0\x80"),
        "overlong slash": in_string(b"\xe0\x80\xaf"),
        "encoded surrogate": in_string(b"\xed\xa0\x80"),
        "past U+10FFFF": in_string(b"\xf4\x90\x80\x80"),
    }.items()
]

JSON = [
    Case(name, rule, Kind.JSON, mutation)
    for name, rule, mutation in [
        ("leading space", "S-1.4", repadded(lambda raw: b" " + raw)),
        ("leading newline", "S-1.4", repadded(lambda raw: b"\n" + raw)),
        ("only spaces", "S-1.4", header_bytes(lambda raw: b" " * len(raw))),
        ("array", "S-1.4", header_bytes(lambda _: b"[]")),
        ("string", "S-1.4", header_bytes(lambda _: b'"w"')),
        ("null", "S-1.4", header_bytes(lambda _: b"null")),
        ("trailing newline", "S-1.4", append(b"\n")),
        ("trailing tab", "S-1.4", append(b"\t")),
        ("trailing NUL", "S-1.4", append(b"\0")),
        ("trailing no-break space", "S-1.4", append("\u00a0".encode())),
        ("second object", "S-1.4", append(b"{}")),
        ("second closing brace", "S-1.4", append(b"}")),
        ("unclosed object", "S-1.4", repadded(lambda raw: raw[:-1])),
        ("trailing comma", "S-1.4", repadded(lambda raw: raw[:-1] + b",}")),
        ("comment", "S-1.4", first(b"{", b"{/**/")),
        ("single quotes", "S-1.4", text('"b"', "'b'")),
        ("control character in a string", "S-1.4", in_string(b"\n")),
        ("unknown escape", "S-1.4", in_string(rb"\x41")),
        ("short unicode escape", "S-1.4", in_string(rb"\u12")),
        ("signed unicode escape", "S-1.4", in_string(rb"\u+123")),
        ("plus sign", "S-1.4", value_of("shape", "[+2, 2]")),
        ("leading zero", "S-1.4", value_of("shape", "[02, 2]")),
        ("fraction without digits", "S-1.4", value_of("shape", "[2., 2]")),
        ("number without integer part", "S-1.4", value_of("shape", "[.5, 2]")),
        ("hexadecimal", "S-1.4", value_of("shape", "[0x2, 2]")),
        ("true of Python", "S-1.4", value_of("shape", "True")),
        ("NaN", "S-1.5", value_of("shape", "[NaN, 2]")),
        ("Infinity", "S-1.5", value_of("shape", "[Infinity, 2]")),
        ("-Infinity", "S-1.5", value_of("shape", "[-Infinity, 2]")),
        ("33 containers deep", "S-1.5", value_of("shape", nested(31))),
        ("100,000 containers deep", "S-1.5", value_of("shape", nested(100_000))),
        ("integer of 33 digits", "S-1.5", value_of("shape", f"[{'1' * 33}]")),
        ("integer of a sign and 32 digits", "S-1.5", value_of("shape", f"[-{'1' * 32}]")),
        ("integer of 5,000 digits", "S-1.5", value_of("shape", f"[{'1' * 5000}]")),
        ("fraction of 33 characters", "S-1.5", value_of("shape", f"[1.{'1' * 31}]")),
        ("exponent of 5,000 digits", "S-1.5", value_of("shape", f"[1e{'1' * 5000}]")),
    ]
]

SURROGATES = [
    Case(name, "S-1.3", Kind.ENCODING, in_string(raw))
    for name, raw in {
        "high surrogate alone": rb"\ud83d",
        "low surrogate alone": rb"\ude00",
        "reversed pair": rb"\ude00\ud83d",
        "high surrogate twice": rb"\ud83d\ud83d\ude00",
        "high surrogate, then a letter": rb"\ud83dx\ude00",
        "high surrogate, then another escape": rb"\ud83d\n",
        "upper-case digits": rb"\uDBFF",
        "pair across two strings": rb'\ud83d", "more": "\ude00',
    }.items()
]

B = '{"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}'
DUPLICATE = [
    Case(name, "S-1.6", Kind.DUPLICATE, mutation)
    for name, mutation in {
        "tensor name twice": extra(f'"w": {B}'),
        "tensor name and its escape": extra(rf'"\u0062": {B}'),
        "metadata twice": extra('"__metadata__": {"format": "pt"}'),
        "metadata key twice": text('{"format"', '{"format": "pt", "format"'),
        "metadata key and its escape": text('{"format"', r'{"\u0066ormat": "pt", "format"'),
        "dtype twice": text('{"dtype": "F32"', '{"dtype": "F32", "dtype": "F32"'),
        "emoji and its escapes": both(
            metadata(note="@"), text('"note": "@"', '"\U0001f600": "", "\\ud83d\\ude00": ""')
        ),
    }.items()
]

NAME = [
    Case(f"name with {what}", "S-1.7", Kind.NAME, rename(name))
    for what, name in {
        "no characters": "",
        "a space": "b b",
        "NUL": r"b\u0000",
        "a newline": r"b\n",
        "DEL": "b\x7f",
        "an umlaut": "b\u00fc",
        "an escaped umlaut": r"b\u00fc",
        "an emoji": "\U0001f600",
        "256 characters": "b" * 256,
    }.items()
]

TENSOR_INFO = [
    *(
        Case(f"tensor is {value}", "S-1.8", Kind.TENSOR_INFO, text(B, value))
        for value in ("null", "[]", "{}", "1", '"F32"')
    ),
    Case("dtype missing", "S-1.8", Kind.TENSOR_INFO, info("w", dtype=DROP)),
    Case("shape missing", "S-1.8", Kind.TENSOR_INFO, info("w", shape=DROP)),
    Case("data_offsets missing", "S-1.8", Kind.TENSOR_INFO, info("w", data_offsets=DROP)),
    Case("one key too many", "S-1.8", Kind.TENSOR_INFO, info("w", note="x")),
    *(
        Case(f"shape {value[:24]}", "S-1.8", Kind.TENSOR_INFO, value_of("shape", value))
        for value in (
            *("null", "4", '"2,2"', "{}", "[2.0, 2]", "[2e0, 2]", "[-2, -2]", "[2, -0]"),
            *('["2", 2]', "[true, 2]", "[null]", "[[2, 2]]", str([1] * 31 + [2, 2])),
        )
    ),
    *(
        Case(f"data_offsets {value}", "S-1.8", Kind.TENSOR_INFO, value_of("data_offsets", value))
        for value in ("null", "[]", "[12]", "[12, 16, 16]", "[12.0, 16]", "[12, 1.6e1]", "[-1, 16]")
    ),
    Case("data_offsets [-0, 8]", "S-1.8", Kind.TENSOR_INFO, text("[0, 8]", "[-0, 8]")),
    *(
        Case(f"dtype {value}", "S-1.9", Kind.TENSOR_INFO, value_of("dtype", value))
        for value in ("null", "8", '"u8"', '"F4"', '"F6_E2M3"', '"I4"', '""', '"U8 "')
    ),
]

HUGE = 2**52
OVERFLOW = [
    Case(f"shape {shape}", "S-1.10", Kind.OVERFLOW, info(name, shape=shape))
    for name, shape in [
        ("w", [INTEGER_MAX + 1]),
        ("w", [2**64]),
        ("w", [10**31]),
        ("w", [2**32, 2**32]),
        ("w", [2**62 + 1, 4]),
        ("b", [2**51]),
    ]
] + [
    *(
        Case(
            f"zero-size tensor of shape {shape}",
            "S-1.10",
            Kind.OVERFLOW,
            both(put("z", "U8", [0]), info("z", shape=shape)),
        )
        for shape in ([HUGE, HUGE, 0], [HUGE, 0, HUGE], [0, HUGE, HUGE], [0, INTEGER_MAX + 1])
    ),
    Case("end past 2^53-1", "S-1.10", Kind.OVERFLOW, info("w", data_offsets=[12, INTEGER_MAX + 1])),
    Case("begin past 2^53-1", "S-1.10", Kind.OVERFLOW, info("w", data_offsets=[2**64 - 1, 16])),
]

LAYOUT = [
    Case(name, rule, Kind.LAYOUT, mutation)
    for name, rule, mutation in [
        ("overlap", "S-1.11", info("w_scale", data_offsets=[6, 12])),
        ("same bytes twice", "S-1.11", header(lambda value: value.update(c=value["b"]))),
        ("gap", "S-1.11", setting(data_edits=[lambda data: data.__setitem__(slice(8, 8), bytes(4))])),
        ("gap between tensors", "S-1.11", header(lambda value: value.pop("w_scale"))),
        ("first tensor not at 0", "S-1.11", info("b", data_offsets=[4, 8])),
        ("end before begin", "S-1.11", info("w", data_offsets=[16, 12])),
        (
            "end before begin, where the file ends",
            "S-1.11",
            both(info("w", data_offsets=[12, 8]), setting(data_edits=[lambda data: data.__delitem__(slice(8, None))])),
        ),
        ("zero-size tensor inside another", "S-1.11", header(lambda value: value.update(z=MIDDLE))),
        ("trailing byte", "S-1.11", setting(data_edits=[lambda data: data.append(0)])),
        ("one byte short", "S-1.11", setting(cut=-1)),
        ("no data", "S-1.11", setting(data_edits=[lambda data: data.clear()])),
        (
            "bytes but no tensors",
            "S-1.11",
            header(lambda value: [value.pop(name) for name in ("b", "w", "w_scale")]),
        ),
        ("header length odd", "S-1.12", setting(extra_padding=1)),
        ("header length a multiple of 2 only", "S-1.12", setting(extra_padding=2)),
        ("F16 after one byte", "S-1.12", both(put("c", "U8", [1]), put("d", "F16", [1]))),
        ("zero-size tensor misaligned", "S-1.12", both(put("c", "U8", [1]), put("d", "F16", [0]))),
    ]
]

SIZE = [
    Case(name, "S-1.13", Kind.SIZE, mutation)
    for name, mutation in {
        "span longer than shape": info("b", shape=[1]),
        "span shorter than shape": info("b", shape=[3]),
        "dtype too wide": info("b", dtype="F64"),
        "dtype too narrow": info("b", dtype="F16"),
        "rank 0 with two elements": info("b", shape=[]),
        "rank 0 without data": both(put("s", "U8", [0]), info("s", shape=[])),
        "zero dimension with data": info("b", shape=[2, 0]),
        "largest product": info("w", shape=[INTEGER_MAX]),
        "largest product beside a zero": info("w", shape=[INTEGER_MAX, 0, 1]),
    }.items()
]

METADATA = [
    Case(f"__metadata__ {what}", "S-2.1", Kind.METADATA, mutation)
    for what, mutation in {
        "null": header(lambda value: value.update(__metadata__=None)),
        "array": header(lambda value: value.update(__metadata__=[])),
        "string": header(lambda value: value.update(__metadata__="pt")),
        "with a number": metadata(note=1),
        "with null": metadata(note=None),
        "with an object": metadata(ternfmt={"version": "1.0"}),
        "with a number that is not an integer": both(metadata(note="@"), text('"@"', "1.0")),
    }.items()
]

HEADER_CASES = [
    *(PREFIX + ENCODING + JSON + SURROGATES + DUPLICATE),
    *(NAME + TENSOR_INFO + OVERFLOW + LAYOUT + SIZE + METADATA),
]
