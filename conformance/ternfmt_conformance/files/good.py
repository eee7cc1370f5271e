"""Files that SPEC allows and a reader may stumble over: container, metadata, values."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from ternfmt.limits import HEADER_MAX, INTEGER_MAX

from .bad_headers import first, in_string, nested
from .raw import (
    DROP,
    ITEM_BYTES,
    Mutation,
    RawFile,
    add_digests,
    both,
    digested,
    document,
    document_text,
    entry,
    features,
    header,
    header_bytes,
    header_digested,
    info,
    metadata,
    plain,
    poke,
    put,
    put_first,
    setting,
    tensor,
    text,
    without,
)


@dataclass(frozen=True)
class Good:
    """A valid file: ``mutate`` changes ``base`` within what the rules allow."""

    name: str
    rule: str
    mutate: Mutation
    base: Callable[[], RawFile] = plain

    def build(self) -> bytes:
        raw = self.base()
        self.mutate(raw)
        return raw.build()


def matrix(n: int, k: int, data: bytes) -> Mutation:
    """Let ``w`` be of shape [n, k], its codes these bytes, its scales 1.0."""
    return both(
        put("w_scale", "F16", [n], struct.pack(f"<{n}e", *[1.0] * n)),
        put("w", "U8", [n, -(-k // 4)], data),
        entry(shape=[n, k]),
    )


FEATURE_KEYS = {"group_size": "group-scale", "planes": "planes", "low_rank": "low-rank"}


def only(*keys: str) -> Mutation:
    """`features` with none but these of its features."""

    def edit(raw: RawFile) -> None:
        for key in FEATURE_KEYS.keys() - set(keys):
            del raw.document["tensors"]["w"][key]
            raw.document["required"].remove(FEATURE_KEYS[key])
        groups = [2, 2] if "group_size" in keys else [2]
        for name in [name for name in raw.tensors if name.endswith("_scale")]:
            data = raw.tensors[name].data[: 8 if "group_size" in keys else 4]
            raw.tensors[name] = tensor("F16", groups, data)
        if "planes" not in keys:
            without("w_plane2")(raw), without("w_plane2_scale")(raw)
        if "low_rank" not in keys:
            without("w_lowrank_down")(raw), without("w_lowrank_up")(raw)

    return edit


def scale_dtype(dtype: str) -> Mutation:
    """Store the scales and low-rank factors as this dtype, all values kept: they are short binary fractions."""

    def edit(raw: RawFile) -> None:
        for name, stored in raw.tensors.items():
            if stored.dtype == "F16":
                values = struct.unpack(f"<{len(stored.data) // 2}e", stored.data)
                data = struct.pack(f"<{len(values)}f", *values)
                if dtype == "BF16":
                    data = b"".join(data[i + 2 : i + 4] for i in range(0, len(data), 4))
                raw.tensors[name] = tensor(dtype, stored.shape, data)
        raw.tensors = dict(sorted(raw.tensors.items(), key=lambda item: -ITEM_BYTES[item[1].dtype]))

    return edit


def reversed_data(raw: RawFile) -> None:
    """Tensors' data in the opposite order, which happens to be aligned, too."""
    raw.tensors = dict(reversed(raw.tensors.items()))


def in_reverse(value: dict[str, Any]) -> None:
    """Let the members of an object stand in the opposite order."""
    members = list(reversed(value.items()))
    value.clear()
    value.update(members)


def as_safetensors_writes(raw: RawFile) -> None:
    """Widest dtypes first, ties by name; compact JSON; padding to a multiple of 8."""
    raw.tensors = dict(sorted(raw.tensors.items(), key=lambda item: (-ITEM_BYTES[item[1].dtype], item[0])))
    compact = json.dumps(raw.header_value(), separators=(",", ":")).encode()
    raw.byte_edits.append(lambda _: compact + b" " * (-len(compact) % 8))


def repeated_digest(raw: RawFile) -> None:
    """The header's digest stands a second time in the document: both give way to zeros (SPEC S-8.2)."""
    raw.document["note"] = "0" * 64
    add_digests(raw)
    raw.document["note"] = raw.document["digests"]["header"]


FOUR_PLANES = both(
    entry(planes=4),
    *(put_first(f"w_plane{p}_scale", "F16", [2, 2]) for p in (3, 4)),
    *(put(f"w_plane{p}", "U8", [2, 5]) for p in (3, 4)),
)
NAMES_BY_CODE_POINT = {"\uffff": "below", "\U00010000": "above", "\x7f": "/", '\u00e9\n"\\': "\b\f\r\t\x00\x1f\u2028"}

CONTAINER = [
    Good("plain", "S-1.14", both()),
    Good(
        "other key order in tensors", "S-1.14", header(lambda value: value.update(b=dict(reversed(value["b"].items()))))
    ),
    Good(
        "tensors before metadata",
        "S-1.14",
        header(lambda value: value.update({"__metadata__": value.pop("__metadata__")})),
    ),
    Good("data in other order", "S-1.14", reversed_data, features),
    Good("header's order is not that of the data", "S-1.14", header(in_reverse), features),
    Good("8 spaces more", "S-1.14", setting(extra_padding=8)),
    Good("4 spaces more", "S-1.14", setting(extra_padding=4)),
    Good(
        "no padding",
        "S-1.4",
        both(
            without("b"),
            without("w_scale"),
            without("w"),
            document(tensors={}),
            header_bytes(lambda raw: raw.rstrip(b" ")),
        ),
    ),
    Good("header of 2^25 bytes", "S-1.2", header_bytes(lambda raw: raw.ljust(HEADER_MAX))),
    Good("white space in the header", "S-1.14", first(b"{", b"{\r\n\t    ")),
    Good("escaped name", "S-1.14", text('"b"', r'"\u0062"')),
    Good("escaped keys of a tensor", "S-1.14", first(b'"dtype"', rb'"\u0064type"')),
    Good("escaped metadata key", "S-1.14", text('"ternfmt"', r'"tern\u0066mt"')),
    Good("escaped surrogate pair", "S-1.3", in_string(rb"\ud83d\ude00 \uD83D\uDE00")),
    Good("escaped backslash before u", "S-1.3", in_string(rb"\\ud83d \\\\ude00")),
    Good("all escapes", "S-1.4", in_string(rb"\"\\\/\b\f\n\r\t\u0000\u00e9\uFFFF")),
    Good("UTF-8", "S-1.3", in_string("\u00e9\u20ac\U0001f600\ufeff\uffff".encode())),
    Good("DEL in a string", "S-1.4", in_string(b"\x7f")),
    Good(
        "keys equal but for case or form", "S-1.6", metadata(Format="x", **{"\u00e9": "composed", "e\u0301": "apart"})
    ),
    Good("one key in two objects", "S-1.6", metadata(w="x", dtype="x", shape="x")),
    Good("longest name", "S-1.7", text('"b"', f'"{"b" * 255}"')),
    Good("every character of a name", "S-1.7", text('"b"', json.dumps("".join(map(chr, range(0x21, 0x7F)))))),
    Good("names that mean something elsewhere", "S-1.7", text('"b"', '"../__proto__"')),
    *(
        Good(f"tensor called {name}", "S-1.7", text('"b"', f'"{name}"'))
        for name in ("__proto__", "constructor", "toString", "0", "__metadata", "hasOwnProperty")
    ),
    *(Good(f"dense {dtype}", "S-1.9", put_first("d", dtype, [2, 4])) for dtype in ITEM_BYTES),
    *(Good(f"dense {dtype} of rank 0", "S-1.13", put_first("d", dtype, [])) for dtype in ("F32", "C64")),
    *(Good(f"dense {shape}", "S-1.13", put_first("d", "F64", shape)) for shape in ([0], [3, 0], [0, 2**40])),
    Good("dense of rank 32", "S-1.8", put_first("d", "F64", [1] * 32)),
    Good("largest dimension beside zeros", "S-1.10", both(put("d", "U8", [0]), info("d", shape=[0, 1, INTEGER_MAX]))),
    Good("two zero-size tensors in one place", "S-1.11", both(put("d", "U8", [0]), put("e", "U8", [0]))),
    Good(
        "zero-size tensor between two others",
        "S-1.11",
        both(without("b"), put_first("d", "F32", [0]), put_first("b", "F32", [2])),
    ),
    Good("no dense tensors", "S-1.11", without("b")),
    Good("no tensors", "S-1.11", both(setting(tensors={}), document(tensors={}))),
]

METADATA = [
    Good("no other metadata", "S-2.1", metadata(format=DROP)),
    Good("more metadata", "S-2.1", metadata(note="x\n\u00fc\U0001f600")),
    Good("document with spaces after it", "S-2.2", document_text('"exact"}}', '"exact"}}   ')),
    Good(
        "document with white space in it",
        "S-2.2",
        document_text('{"version"', b'{\\n\\t "version"'.decode("unicode_escape")),
    ),
    Good("document nests 32 deep", "S-2.2", both(document(note="@"), document_text('"@"', nested(31)))),
    Good("document in escapes", "S-2.2", document_text('"encoding": "int2"', r'"\u0065ncoding": "in\u00742"')),
    Good("later minor version", "S-13.1", document(version="1.999")),
    Good("minor version of 20 digits", "S-13.1", document(version="1.99999999999999999999")),
    Good("feature listed, not used", "S-5.1", document(required=["planes"])),
    Good("all features listed in another order", "S-5.1", document(required=["planes", "low-rank", "group-scale"])),
    Good("unknown keys", "S-2.5", both(document(note=[None, True, -1, {"x": "0.5"}]), entry(error="0.25"))),
    Good("ancillary keys of any form", "S-2.3", document(producer=1, source=None, encoder=[])),
    Good("unknown key in digests", "S-2.5", document(digests={"tensors": {}, "note": 1})),
    Good(
        "ancillary keys named like others", "S-2.5", both(document(shape=1, group_size=2), entry(version=2, required=3))
    ),
    Good("largest and smallest integer", "S-2.3", document(note=[INTEGER_MAX, -INTEGER_MAX])),
    Good("numbers as text", "S-2.3", both(document(note="1.5"), document_text('"1.5"', '"-0 1.5 NaN"'))),
    Good("rank 3", "S-2.4", entry(shape=[2, 5, 1])),
    Good("rank 32", "S-2.4", entry(shape=[2] + [1] * 30 + [5])),
    Good(
        "tensors out of order",
        "S-10.5",
        both(
            put_first("v_scale", "F16", [2]),
            put("v", "U8", [2, 2]),
            lambda raw: raw.document.update(
                tensors={"w": raw.document["tensors"]["w"], "v": {"encoding": "int2", "shape": [2, 5]}}
            ),
        ),
    ),
    Good("plane 5 is no derived name", "S-6.1", put("w_plane5", "U8", [1])),
    Good("plane 1 is no derived name", "S-6.1", both(put("w_plane1", "U8", [1]), put("w_plane02", "U8", [1]))),
    Good("derived names of dense tensors", "S-6.1", put("b_plane2", "U8", [1])),
    Good("tensor that a derived name starts with", "S-6.1", put("w_plane", "U8", [1])),
    Good(
        "longest derived name",
        "S-6.2",
        both(
            lambda raw: raw.document.update(tensors={"n" * 249: raw.document["tensors"]["w"]}),
            text('"w"', f'"{"n" * 249}"'),
            text('"w_scale"', f'"{"n" * 249}_scale"'),
        ),
    ),
    Good("scale beside bytes of rank 1", "S-6.3", both(put("v_scale", "F16", [2]), put("v", "U8", [2]))),
    Good("scale beside bytes of other rows", "S-6.3", both(put("v_scale", "F16", [3]), put("v", "U8", [2, 1]))),
    Good("scale of rank 0 beside bytes", "S-6.3", both(put("v_scale", "F16", []), put("v", "U8", [1, 1]))),
    Good("scale F8 beside bytes", "S-6.3", both(put("v_scale", "F8_E4M3", [2]), put("v", "U8", [2, 1]))),
    Good("scale beside I8", "S-6.3", both(put("v_scale", "F16", [2]), put("v", "I8", [2, 1]))),
    Good("one group", "S-5.2", both(only("group_size"), entry(group_size=32), put("w_scale", "F16", [2, 1])), features),
    Good(
        "largest group",
        "S-5.2",
        both(only("group_size"), entry(group_size=2**24 - 16), put("w_scale", "F16", [2, 1])),
        features,
    ),
    Good(
        "low-rank term of rank K",
        "S-5.4",
        both(
            only("low_rank"),
            entry(low_rank=18),
            put_first("w_lowrank_down", "F16", [18, 18]),
            put_first("w_lowrank_up", "F16", [2, 18]),
        ),
        features,
    ),
    Good(
        "low-rank factors F32 beside scales F16",
        "S-5.4",
        both(
            only("low_rank"),
            put_first("w_lowrank_down", "F32", [1, 18]),
            put_first("w_lowrank_up", "F32", [2, 1]),
        ),
        features,
    ),
    *(
        Good("features: " + ", ".join(keys), "S-5.5", only(*keys), features)
        for size in range(3)
        for keys in combinations(FEATURE_KEYS, size)
    ),
    Good("all features", "S-5.5", both(), features),
    Good("four planes", "S-5.3", FOUR_PLANES, features),
]

# The first byte of a row is 0x71 = +1 0 -1 +1, where there are as many.
VALUES = [
    *(Good(f"K = {k}", "S-3.4", matrix(1, k, bytes([0x71, 0x4D][: -(-k // 4)]))) for k in (4, 8)),
    Good("K = 1, N = 1", "S-3.5", matrix(1, 1, b"\x03")),
    Good("K = 2", "S-3.5", matrix(1, 2, b"\x0d")),
    Good("K = 3", "S-3.5", matrix(1, 3, b"\x31")),
    Good("K = 5", "S-3.5", matrix(2, 5, b"\x71\x03\x1d\x01")),
    Good("K = 6", "S-3.5", matrix(2, 6, b"\x71\x0d\x1d\x07")),
    Good("K = 7", "S-3.5", matrix(2, 7, b"\x31\x3d\xff\x1f")),
    Good("N = 1", "S-3.3", matrix(1, 5, b"\x71\x03")),
    Good("many rows", "S-3.3", matrix(300, 1, bytes([0, 1, 3] * 100))),
    Good(
        "every byte of valid codes",
        "S-3.1",
        matrix(1, 324, bytes(b for b in range(256) if all(b >> lane & 3 != 2 for lane in (0, 2, 4, 6)))),
    ),
    Good("convolution", "S-3.4", both(matrix(2, 18, features().tensors["w"].data), entry(shape=[2, 2, 3, 3]))),
    Good("a row of zeros with scale 0", "S-4.4", both(poke("w_scale", 2, b"\0\0"), poke("w", 2, b"\0\0"))),
    Good("codes under scale 0", "S-4.4", poke("w_scale", 2, b"\0\0")),
    Good("zero codes under a scale", "S-4.4", poke("w", 2, b"\0\0")),
    *(Good(f"scales of 0 {dtype}", "S-4.2", put_first("w_scale", dtype, [2])) for dtype in ("F32", "BF16")),
    Good("subnormal scale", "S-4.2", poke("w_scale", 0, b"\1\0")),
    Good("largest scale", "S-4.2", poke("w_scale", 0, b"\xff\x7b")),
    *(
        Good(f"scale {dtype}", "S-4.1", put("w_scale", dtype, [2], data))
        for dtype, data in [
            ("F16", struct.pack("<2e", 0.1, 3.0)),
            ("BF16", bytes.fromhex("cd3d4040")),
            ("F32", struct.pack("<2f", 0.1, 1e-42)),
        ]
    ),
    Good("largest scale F32", "S-4.2", put("w_scale", "F32", [2], bytes.fromhex("ffff7f7f01000000"))),
    Good("largest scale BF16", "S-4.2", put("w_scale", "BF16", [2], bytes.fromhex("7f7f0100"))),
    *(
        Good(
            f"scales and factors {dtype}: " + ", ".join(keys), "S-5.5", both(only(*keys), scale_dtype(dtype)), features
        )
        for dtype in ("BF16", "F32")
        for size in range(1, 4)
        for keys in combinations(FEATURE_KEYS, size)
    ),
    Good("NaN in low-rank factors", "S-5.4", poke("w_lowrank_up", 0, b"\0\x7e"), features),
    Good("NaN in dense tensors", "S-4.2", poke("b", 0, b"\0\0\xc0\x7f")),
    Good("digests", "S-8.3", both(), digested),
    Good("header digest alone", "S-8.2", both(), header_digested),
    Good(
        "digests of some tensors",
        "S-8.3",
        lambda raw: (
            raw.document["digests"].update(tensors={"b": raw.document["digests"]["tensors"]["b"]}, header=DROP)
            or raw.document["digests"].pop("header")
        ),
        digested,
    ),
    Good("digests, the data in another order", "S-8.2", lambda raw: reorder(raw), digested),
    Good(
        "digests, header with white space and escapes",
        "S-8.2",
        both(first(b"{", b"{ \n"), first(b'"dtype"', rb'"\u0064type"')),
        digested,
    ),
    Good("header digest twice in the document", "S-8.2", repeated_digest),
    Good(
        "header digest over keys beyond ASCII",
        "S-8.2",
        lambda raw: (raw.metadata.update(NAMES_BY_CODE_POINT), add_digests(raw)),
    ),
    Good("digests, features", "S-8.1", lambda raw: add_digests(raw), features),
    Good("as safetensors writes", "S-1.14", as_safetensors_writes),
    Good("as safetensors writes, features", "S-1.14", as_safetensors_writes, features),
]


def reorder(raw: RawFile) -> None:
    """Another order in which all tensors are aligned."""
    raw.tensors = {name: raw.tensors[name] for name in ("w_scale", "w", "b")}


GOOD = [*CONTAINER, *METADATA, *VALUES]
