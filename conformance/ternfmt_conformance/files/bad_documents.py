"""Faults in the metadata document: SPEC section 10, steps 13 to 20."""

from __future__ import annotations

from typing import Any

from ternfmt import Kind
from ternfmt.limits import INTEGER_MAX

from .bad_headers import Case, nested
from .raw import (
    DROP,
    Mutation,
    both,
    digested,
    document,
    document_text,
    entry,
    features,
    header,
    metadata,
    plain,
    put,
    put_first,
    without,
)


def number(text: str) -> Mutation:
    """Write an ancillary value as this text."""
    return both(document(note="@"), document_text('"@"', text))


def digests(**changes: Any) -> Mutation:
    return lambda raw: raw.document["digests"].update(changes)


def set_document(text: str) -> Mutation:
    return metadata(ternfmt=text)


STRIPPED = [
    Case("no __metadata__", "S-2.2", Kind.STRIPPED, header(lambda value: value.pop("__metadata__"))),
    Case("__metadata__ without ternfmt", "S-2.2", Kind.STRIPPED, metadata(ternfmt=DROP)),
    Case("__metadata__ empty", "S-2.2", Kind.STRIPPED, metadata(ternfmt=DROP, format=DROP)),
]

TEXT = [
    *(
        Case(f"document {what}", "S-2.2", Kind.JSON, set_document(text))
        for what, text in {
            "is not JSON": "version 1.0",
            "is empty": "",
            "is an array": "[]",
            "is a string": '"1.0"',
            "starts with a space": " {}",
            "starts with a byte order mark": "\ufeff{}",
            "ends with a newline": "{}\n",
            "holds NaN": '{"version": NaN}',
            "nests 33 deep": '{"version": ' + nested(32) + "}",
            "nests 100,000 deep": '{"version": ' + nested(100_000) + "}",
            "holds 33 digits": '{"version": ' + "1" * 33 + "}",
            "holds 5,000 digits": '{"version": ' + "1" * 5000 + "}",
        }.items()
    ),
    Case(
        "document has a lone surrogate",
        "S-2.2",
        Kind.ENCODING,
        document_text('"method"', r'"\ud83d"'),
    ),
    *(
        Case(f"document has {what} twice", "S-2.2", Kind.DUPLICATE, document_text(old, new))
        for what, old, new in [
            ("a key", '"encoder"', '"encoder": 1, "encoder"'),
            ("an escaped key", '"encoder"', r'"\u0065ncoder": 1, "encoder"'),
            ("an entry", '"w": {', '"w": {}, "w": {'),
            ("a key of an entry", '"encoding"', '"encoding": "int2", "encoding"'),
            ("an ancillary key", '"method"', '"method": 1, "method"'),
        ]
    ),
]

VERSION = [
    Case("version absent", "S-2.3", Kind.METADATA, document(version=DROP)),
    *(
        Case(f"version {value!r}", "S-2.3", Kind.METADATA, document(version=value))
        for value in (
            *(None, 1, ["1.0"], "", "1", "1.", ".0", "1.0.0", "01.0", "1.00", "v1.0", "1.0 "),
            *(" 1.0", "1.0\n", "-1.0", "\uff11.0", "1,0"),
        )
    ),
    Case(
        "version a number, not a string",
        "S-2.3",
        Kind.METADATA,
        document_text('"version": "1.0"', '"version": 1.0'),
    ),
    *(
        Case(f"version {value}", "S-13.1", Kind.VERSION, document(version=value))
        for value in ("2.0", "0.9", "10.0", "0.0", "99999999999999999999.0")
    ),
]

REQUIRED = [
    Case("required absent", "S-2.3", Kind.METADATA, document(required=DROP)),
    *(
        Case(f"required {value!r}", "S-2.3", Kind.METADATA, document(required=value))
        for value in (None, {}, "planes", [1], [None], [["planes"]], ["planes", "planes"])
    ),
    *(
        Case(name, "S-5.1", Kind.FEATURE, document(required=[value]))
        for name, value in {
            "unknown feature": "rotation",
            "private feature": "example.org/rotation",
            "feature in upper case": "PLANES",
            "empty feature": "",
        }.items()
    ),
]

SHAPE = [
    *(
        Case(f"logical shape {value!r}", "S-2.4", Kind.METADATA, both(entry(shape=value), put("w", "U8", [2, 1])))
        for value in ([2], [2, 0], [2, True])
    ),
    *(
        Case(f"logical shape {value!r}"[:48], "S-2.4", Kind.METADATA, entry(shape=value))
        for value in (
            *(None, 10, "2,5", [], [10], [0, 5], [2, -5], [2, "5"], [[2, 5]]),
            *([2, 5] + [1] * 31, [2, 2**24], [2, 2**12, 2**12], [2**30, 2**23], [INTEGER_MAX, 2]),
        )
    ),
    Case("logical shape with 5.0", "S-2.4", Kind.METADATA, document_text("[2, 5]", "[2, 5.0]")),
    Case("logical shape absent", "S-2.4", Kind.METADATA, entry(shape=DROP)),
    Case("encoding absent", "S-2.4", Kind.METADATA, entry(encoding=DROP)),
    *(
        Case(f"encoding {value!r}", "S-2.4", Kind.METADATA, entry(encoding=value))
        for value in (None, 2, "int4", "INT2", "int2 ")
    ),
    *(
        Case(f"entry {value!r}", "S-2.4", Kind.METADATA, document(tensors={"w": value}))
        for value in (None, [], {}, "int2")
    ),
]

FEATURE_KEYS = [
    Case(f"{key} {value!r}", rule, Kind.METADATA, entry(**{key: value}), features)
    for key, rule, values in [
        ("group_size", "S-5.2", (None, 0, -16, 8, 17, 2**24, "16", True, [16])),
        ("planes", "S-5.3", (None, 0, 1, "2", True)),
        ("low_rank", "S-5.4", (None, -1, 19, "1", True)),
    ]
    for value in values
] + [
    # All tensors are there that these entries call for.
    Case(
        "planes 5",
        "S-5.3",
        Kind.METADATA,
        both(
            entry(planes=5),
            *(put_first(f"w_plane{p}_scale", "F16", [2, 2]) for p in (3, 4, 5)),
            *(put(f"w_plane{p}", "U8", [2, 5]) for p in (3, 4, 5)),
        ),
        features,
    ),
    Case(
        "low_rank 0",
        "S-5.4",
        Kind.METADATA,
        both(entry(low_rank=0), put_first("w_lowrank_down", "F16", [0, 18]), put_first("w_lowrank_up", "F16", [2, 0])),
        features,
    ),
    Case("group_size 16.0", "S-5.2", Kind.METADATA, document_text('"group_size": 16', '"group_size": 16.0'), features),
]

FORM = [
    Case("tensors absent", "S-2.3", Kind.METADATA, both(document(tensors=DROP), without("w"), without("w_scale"))),
    Case("tensors array", "S-2.3", Kind.METADATA, document(tensors=[])),
    Case("tensors null", "S-2.3", Kind.METADATA, document(tensors=None)),
    *(
        Case(f"ancillary number {text}", "S-2.3", Kind.METADATA, number(text))
        for text in (
            *("0.5", "1.0", "1e3", "1E-2", "-0", "-0.0", str(INTEGER_MAX + 1), str(-INTEGER_MAX - 1)),
            *("[[0.5]]", '{"x": [-0]}'),
        )
    ),
    Case(
        "ancillary number in an entry",
        "S-2.3",
        Kind.METADATA,
        document_text('"encoding"', '"error": 0.25, "encoding"'),
    ),
    Case(
        "ancillary number in an entry like one that has it as a string",
        "S-2.3",
        Kind.METADATA,
        both(
            document(tensors={"v": {"@": 1}, "w": {"@@": 1}}),
            document_text('{"@": 1}', '{"shape": [2, 5], "encoding": "int2", "error": "0.25"}'),
            document_text('{"@@": 1}', '{"shape": [2, 5], "encoding": "int2", "error": 0.25}'),
            put_first("v_scale", "F16", [2]),
            put("v", "U8", [2, 2]),
        ),
    ),
    Case(
        "number in digests",
        "S-2.3",
        Kind.METADATA,
        both(digests(note="@"), document_text('"@"', "0.5")),
        digested,
    ),
]

DIGEST_FORM = [
    Case(name, "S-8.1", Kind.METADATA, mutation, digested)
    for name, mutation in {
        "digests null": document(digests=None),
        "digests array": document(digests=[]),
        "digests.tensors null": digests(tensors=None),
        "digests.tensors array": digests(tensors=[]),
        "tensor digest null": digests(tensors={"w": None}),
        "tensor digest of 63 digits": digests(tensors={"w": "0" * 63}),
        "tensor digest of 65 digits": digests(tensors={"w": "0" * 65}),
        "tensor digest in upper case": digests(tensors={"w": "A" * 64}),
        "tensor digest with a newline": digests(tensors={"w": "0" * 64 + "\n"}),
        "header digest null": digests(header=None),
        "header digest in upper case": digests(header="A" * 64),
        "header digest with a prefix": digests(header="sha256:" + "0" * 64),
    }.items()
]

NOT_LISTED = [
    Case("planes not listed", "S-5.1", Kind.FEATURE, entry(planes=2), plain),
    *(
        Case(
            f"{feature} used, not listed",
            "S-5.1",
            Kind.FEATURE,
            lambda raw, feature=feature: raw.document["required"].remove(feature),
            features,
        )
        for feature in ("group-scale", "planes", "low-rank")
    ),
]

DOCUMENT_CASES = [*(STRIPPED + TEXT + VERSION + REQUIRED + SHAPE + FEATURE_KEYS + FORM + DIGEST_FORM + NOT_LISTED)]
