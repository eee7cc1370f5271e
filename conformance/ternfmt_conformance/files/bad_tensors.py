"""Faults between document and tensors, and in the data: SPEC section 10, steps 21 to 25."""

from __future__ import annotations

import struct

from ternfmt import Kind

from .bad_headers import Case
from .raw import (
    Mutation,
    both,
    declare,
    digested,
    document,
    entry,
    features,
    header_digested,
    poke,
    put,
    put_first,
    without,
)


def scale_dtype(dtype: str, data: bytes) -> Mutation:
    return put("w_scale", dtype, [2], data)


LIKE_W = {"shape": [2, 5], "encoding": "int2"}

NAME = [
    Case("derived name over-long", "S-6.2", Kind.NAME, declare("v" * 250, **LIKE_W)),
    Case(
        "derived name over-long only with planes",
        "S-6.2",
        Kind.NAME,
        declare("v" * 243, **LIKE_W, planes=2),
        features,
    ),
    *(
        Case(f"name of an absent tensor has {what}", "S-6.2", Kind.NAME, declare(name, **LIKE_W))
        for what, name in {
            "no characters": "",
            "a space": "v v",
            "an umlaut": "\u00fc",
            "256 characters": "v" * 256,
        }.items()
    ),
    Case("scale declared", "S-6.1", Kind.NAME, declare("w_scale", **LIKE_W)),
    Case("plane declared", "S-6.1", Kind.NAME, declare("w_plane2", **LIKE_W), features),
    Case("absent plane declared", "S-6.1", Kind.NAME, declare("w_plane4", **LIKE_W)),
    Case("low-rank factor declared", "S-6.1", Kind.NAME, declare("w_lowrank_up", **LIKE_W), features),
    Case("codes of an uncalled-for plane", "S-6.1", Kind.NAME, put("w_plane2", "U8", [2, 2])),
    *(
        Case(f"{suffix} present, not called for", "S-6.1", Kind.NAME, put("w" + suffix, "U8", [1]))
        for suffix in (
            *("_plane2_scale", "_plane3", "_plane3_scale", "_plane4", "_plane4_scale"),
            *("_lowrank_down", "_lowrank_up"),
        )
    ),
    Case("third of two planes present", "S-6.1", Kind.NAME, put("w_plane3", "U8", [1]), features),
]

ABSENT = [
    Case("codes absent", "S-3.3", Kind.METADATA, without("w")),
    *(
        Case(f"{name} absent", rule, Kind.METADATA, without(name), features)
        for name, rule in {
            "w_plane2": "S-5.3",
            "w_lowrank_down": "S-5.4",
            "w_lowrank_up": "S-5.4",
        }.items()
    ),
    Case("declared tensor absent", "S-3.3", Kind.METADATA, declare("v", **LIKE_W)),
    Case(
        "digest of an absent tensor",
        "S-8.4",
        Kind.METADATA,
        document(digests={"tensors": {"v": "0" * 64}}),
    ),
    Case(
        "digest of a logical tensor that is not stored",
        "S-8.4",
        Kind.METADATA,
        document(digests={"tensors": {"": "0" * 64}}),
    ),
]

WRONG = [
    Case("codes of rank 1", "S-3.3", Kind.METADATA, put("w", "U8", [4])),
    *(
        Case(f"codes {dtype} {shape}", "S-3.3", Kind.METADATA, put("w", dtype, shape))
        for dtype, shape in [
            ("I8", [2, 2]),
            ("U8", [2, 1]),
            ("U8", [2, 3]),
            ("U8", [2, 5]),
            ("U8", [1, 4]),
            ("U8", [4, 1]),
            ("U8", [2, 2, 1]),
            ("U8", []),
            ("U8", [0, 2]),
        ]
    ),
    *(
        Case(f"{name} {dtype} {shape}", rule, Kind.METADATA, put(name, dtype, shape), features)
        for name, rule, dtype, shape in [
            ("w_plane2", "S-5.3", "I8", [2, 5]),
            ("w_plane2", "S-5.3", "U8", [2, 6]),
            ("w_lowrank_down", "S-5.4", "F16", [18, 1]),
            ("w_lowrank_down", "S-5.4", "F16", [2, 18]),
            ("w_lowrank_down", "S-5.4", "U8", [1, 18]),
            ("w_lowrank_down", "S-5.4", "BF16", [1, 18]),
            ("w_lowrank_up", "S-5.4", "BF16", [2, 1]),
            ("w_lowrank_up", "S-5.4", "F16", [1, 2]),
            ("w_lowrank_up", "S-5.4", "F16", [2]),
        ]
    ),
    Case(
        "low-rank factors both F64",
        "S-5.4",
        Kind.METADATA,
        both(put_first("w_lowrank_up", "F64", [2, 1]), put_first("w_lowrank_down", "F64", [1, 18])),
        features,
    ),
]

UNDECLARED = [
    Case(
        f"codes beside a scale {dtype} {shape}, not declared",
        "S-6.3",
        Kind.METADATA,
        both(put_first("v_scale", dtype, shape), put("v", "U8", [2, 3])),
    )
    for dtype, shape in [
        ("F16", [2]),
        ("F32", [2]),
        ("BF16", [2]),
        ("F16", [2, 4]),
        ("F32", [2, 1, 1]),
    ]
] + [
    Case(
        "codes of no rows beside a scale, not declared",
        "S-6.3",
        Kind.METADATA,
        both(put_first("v_scale", "F16", [0]), put("v", "U8", [0, 4])),
    ),
    Case(
        "codes of no columns beside a scale, not declared",
        "S-6.3",
        Kind.METADATA,
        both(put_first("v_scale", "F16", [2]), put("v", "U8", [2, 0])),
    ),
    Case("entry removed", "S-6.3", Kind.METADATA, document(tensors={})),
]

SCALE_TENSOR = [
    Case("scale absent", "S-4.1", Kind.SCALE, without("w_scale")),
    Case("scale of dtype F64", "S-4.1", Kind.SCALE, put_first("w_scale", "F64", [2])),
    *(
        Case(f"scale {dtype} {shape}", "S-4.1", Kind.SCALE, put("w_scale", dtype, shape))
        for dtype, shape in [
            ("U16", [2]),
            ("I32", [2]),
            ("F8_E4M3", [2]),
            ("F16", []),
            ("F16", [1]),
            ("F16", [4]),
            ("F16", [2, 1]),
            ("F16", [1, 2]),
        ]
    ),
    *(
        Case(f"group scale {dtype} {shape}", "S-5.2", Kind.SCALE, put("w_scale", dtype, shape), features)
        for dtype, shape in [("F16", [2]), ("F16", [4]), ("F16", [2, 1]), ("F16", [2, 2, 1])]
    ),
    Case("scale of plane 2 absent", "S-5.3", Kind.SCALE, without("w_plane2_scale"), features),
    *(
        Case(f"scale of plane 2 {dtype} {shape}", "S-5.3", Kind.SCALE, put("w_plane2_scale", dtype, shape), features)
        for dtype, shape in [("BF16", [2, 2]), ("F32", [2, 2]), ("F16", [2]), ("F16", [2, 1])]
    ),
]

SCALE_VALUE = [
    *(
        Case(f"{name} scale", "S-4.2", Kind.SCALE, poke("w_scale", 2, struct.pack("<e", value)))
        for name, value in {
            "NaN": float("nan"),
            "infinite": float("inf"),
            "minus infinite": -float("inf"),
            "negative": -0.5,
            "-0.0": -0.0,
            "negative subnormal": -(2**-24),
        }.items()
    ),
    *(
        Case(f"{dtype} scale {name}", "S-4.2", Kind.SCALE, scale_dtype(dtype, one + bad))
        for dtype, one, name, bad in [
            ("F32", bytes.fromhex("0000803f"), "NaN", bytes.fromhex("0000c07f")),
            ("F32", bytes.fromhex("0000803f"), "signalling NaN", bytes.fromhex("0100807f")),
            ("F32", bytes.fromhex("0000803f"), "-0.0", bytes.fromhex("00000080")),
            ("BF16", bytes.fromhex("803f"), "NaN", bytes.fromhex("c07f")),
            ("BF16", bytes.fromhex("803f"), "infinite", bytes.fromhex("807f")),
            ("BF16", bytes.fromhex("803f"), "-0.0", bytes.fromhex("0080")),
        ]
    ),
    Case("NaN scale of plane 2", "S-4.2", Kind.SCALE, poke("w_plane2_scale", 6, b"\0\x7e"), features),
    Case("NaN scale of the last group", "S-4.2", Kind.SCALE, poke("w_scale", 6, b"\0\x7e"), features),
]

CODES = [
    *(
        Case(f"forbidden code in {where}", "S-3.2", Kind.CODE, poke("w", at, bytes([byte])))
        for where, at, byte in [
            ("the first lane", 0, 0b10),
            ("the second lane", 0, 0b1000),
            ("the fourth lane", 0, 0b1000_0000),
            ("the last lane before the padding", 1, 0b10),
            ("every lane", 2, 0b1010_1010),
            ("the last row", 3, 0b10),
        ]
    ),
    Case("forbidden code in plane 2", "S-3.2", Kind.CODE, poke("w_plane2", 4, b"\x02"), features),
    *(
        Case(f"padding {byte:#010b}", "S-3.5", Kind.PADDING, poke("w", 1, bytes([byte | 0b11])))
        for byte in (0b0100, 0b1100, 0b1000, 0b01_0000, 0b1000_0000)
    ),
    Case("padding in the last lane", "S-3.5", Kind.PADDING, poke("w", 1, b"\x43")),
    Case("padding in the last row", "S-3.5", Kind.PADDING, poke("w", 3, b"\x05")),
    Case("padding of two lanes in plane 2", "S-3.5", Kind.PADDING, poke("w_plane2", 4, b"\x10"), features),
]

# Within step 24: by name, then by plane, then scale, code, padding.
ORDER = [
    Case(
        "padding in an earlier row, code in a later one",
        "S-3.2",
        Kind.CODE,
        both(poke("w", 1, b"\x07"), poke("w", 2, b"\x02")),
    ),
    Case(
        "padding of plane 1, scale of plane 2",
        "S-3.5",
        Kind.PADDING,
        both(poke("w", 4, b"\x10"), poke("w_plane2_scale", 0, b"\0\x7e")),
        features,
    ),
    *(
        Case(
            f"padding of {name}, scale of w",
            "S-3.5",
            Kind.PADDING,
            both(
                put_first(f"{name}_scale", "F16", [2]),
                put(name, "U8", [2, 2]),
                declare(name, **LIKE_W),
                poke(name, 1, b"\x04"),
                poke("w_scale", 0, b"\0\x7e"),
            ),
        )
        for name in ("v", "Z")
    ),
]

DIGEST = [
    Case("tensor digest differs", "S-8.1", Kind.DIGEST, document(digests={"tensors": {"b": "0" * 64}})),
    Case("changed weight", "S-8.1", Kind.DIGEST, poke("w", 0, b"\x70"), digested),
    Case("changed dense value", "S-8.1", Kind.DIGEST, poke("b", 0, b"\1"), digested),
    Case("header digest differs", "S-8.2", Kind.DIGEST, document(digests={"header": "0" * 64})),
    Case("changed ancillary key", "S-8.2", Kind.DIGEST, document(encoder={"method": "Exact"}), digested),
    Case("changed metadata", "S-8.2", Kind.DIGEST, lambda raw: raw.metadata.update(format="np"), digested),
    Case(
        "changed name",
        "S-8.2",
        Kind.DIGEST,
        both(without("b"), put_first("c", "F32", [2])),
        header_digested,
    ),
    Case("changed logical shape of equal K", "S-8.2", Kind.DIGEST, entry(shape=[2, 1, 5]), digested),
]


TENSOR_CASES = [*(NAME + ABSENT + WRONG + UNDECLARED + SCALE_TENSOR + SCALE_VALUE + CODES + ORDER + DIGEST)]
