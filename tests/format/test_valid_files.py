"""What SPEC allows is read, and read as SPEC Appendix A decodes it."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

import ternfmt
from ternfmt import TernaryTensor
from ternfmt.limits import HEADER_MAX, INTEGER_MAX
from tests.format import strategies
from tests.format.bad_headers import extra, first, in_string, nested, value_of
from tests.format.bad_tensors import UNDECLARED
from tests.format.raw import (
    DROP,
    ITEM_BYTES,
    Mutation,
    RawFile,
    both,
    declare,
    digested,
    document,
    document_text,
    entry,
    features,
    header,
    header_bytes,
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
from tests.format.reference import Decoder


@dataclass(frozen=True)
class Good:
    name: str
    mutate: Mutation
    base: Callable[[], RawFile] = plain


def matrix(n: int, k: int, data: bytes) -> Mutation:
    """Let ``w`` be of shape [n, k], its codes these bytes, its scales 1.0."""
    return both(
        put("w_scale", "F16", [n], struct.pack(f"<{n}e", *[1.0] * n)),
        put("w", "U8", [n, -(-k // 4)], data),
        entry(shape=[n, k]),
    )


def only(*keys: str) -> Mutation:
    """`features` with none but these of its features."""

    def edit(raw: RawFile) -> None:
        names = {"group_size": "group-scale", "planes": "planes", "low_rank": "low-rank"}
        for key in names.keys() - set(keys):
            del raw.document["tensors"]["w"][key]
            raw.document["required"].remove(names[key])
        groups = [2, 2] if "group_size" in keys else [2]
        for name in [name for name in raw.tensors if name.endswith("_scale")]:
            data = raw.tensors[name].data[: 8 if "group_size" in keys else 4]
            raw.tensors[name] = tensor("F16", groups, data)
        if "planes" not in keys:
            without("w_plane2")(raw), without("w_plane2_scale")(raw)
        if "low_rank" not in keys:
            without("w_lowrank_down")(raw), without("w_lowrank_up")(raw)

    return edit


FOUR_PLANES = both(
    entry(planes=4),
    *(put_first(f"w_plane{p}_scale", "F16", [2, 2]) for p in (3, 4)),
    *(put(f"w_plane{p}", "U8", [2, 5]) for p in (3, 4)),
)
GOOD = [
    Good("plain", both()),
    Good("all features", both(), features),
    Good("digests", both(), digested),
    *(Good(f"K = {k}", matrix(1, k, bytes([0x71, 0x4D][: -(-k // 4)]))) for k in (4, 8)),
    Good("K = 1, N = 1", matrix(1, 1, b"\x03")),
    Good("K = 2", matrix(1, 2, b"\x0d")),
    Good("K = 3", matrix(1, 3, b"\x31")),
    Good("K = 7", matrix(2, 7, b"\x31\x3d\xff\x1f")),
    Good("N = 1", matrix(1, 5, b"\x71\x03")),
    Good("many rows", matrix(300, 1, bytes([0, 1, 3] * 100))),
    Good("a row of zeros with scale 0", both(poke("w_scale", 2, b"\0\0"), poke("w", 2, b"\0\0"))),
    Good("codes under scale 0", poke("w_scale", 2, b"\0\0")),
    Good("zero codes under a scale", poke("w", 2, b"\0\0")),
    Good("subnormal scale", poke("w_scale", 0, b"\1\0")),
    Good("largest scale", poke("w_scale", 0, b"\xff\x7b")),
    *(
        Good(f"scale {dtype}", put("w_scale", dtype, [2], data))
        for dtype, data in [
            ("F16", struct.pack("<2e", 0.1, 3.0)),
            ("BF16", bytes.fromhex("cd3d4040")),
            ("F32", struct.pack("<2f", 0.1, 1e-42)),
        ]
    ),
    Good("rank 3", entry(shape=[2, 5, 1])),
    Good("rank 32", entry(shape=[2] + [1] * 30 + [5])),
    Good("convolution", both(matrix(2, 18, features().tensors["w"].data), entry(shape=[2, 2, 3, 3]))),
    *(
        Good("features: " + ", ".join(keys), only(*keys), features)
        for keys in [
            *((), ("group_size",), ("planes",), ("low_rank",)),
            *(("group_size", "planes"), ("group_size", "low_rank"), ("planes", "low_rank")),
        ]
    ),
    Good("four planes", FOUR_PLANES, features),
    Good("one group", both(only("group_size"), entry(group_size=32), put("w_scale", "F16", [2, 1])), features),
    Good(
        "largest group", both(only("group_size"), entry(group_size=2**24 - 16), put("w_scale", "F16", [2, 1])), features
    ),
    Good(
        "low-rank term of rank K",
        both(
            only("low_rank"),
            entry(low_rank=18),
            put_first("w_lowrank_down", "F16", [18, 18]),
            put_first("w_lowrank_up", "F16", [2, 18]),
        ),
        features,
    ),
    Good("feature listed, not used", document(required=["planes"])),
    Good("NaN in low-rank factors", poke("w_lowrank_up", 0, b"\0\x7e"), features),
    Good("NaN in dense tensors", poke("b", 0, b"\0\0\xc0\x7f")),
    Good("later minor version", document(version="1.999")),
    Good("no dense tensors", without("b")),
    Good("no tensors", both(setting(tensors={}), document(tensors={}))),
    Good("no other metadata", metadata(format=DROP)),
    Good("more metadata", metadata(note="x\n\u00fc\U0001f600")),
    Good("unknown keys", both(document(note=[None, True, -1, {"x": "0.5"}]), entry(error="0.25"))),
    Good("ancillary keys of any form", document(producer=1, source=None, encoder=[])),
    Good("unknown key in digests", document(digests={"tensors": {}, "note": 1})),
    Good("largest and smallest integer", document(note=[INTEGER_MAX, -INTEGER_MAX])),
    Good("numbers as text", both(document(note="1.5"), document_text('"1.5"', '"-0 1.5 NaN"'))),
    Good("document with spaces after it", document_text('"exact"}}', '"exact"}}   ')),
    Good(
        "document with white space in it",
        document_text('{"version"', b'{\\n\\t "version"'.decode("unicode_escape")),
    ),
    Good("document nests 32 deep", both(document(note="@"), document_text('"@"', nested(31)))),
    Good("escaped name", text('"b"', r'"\u0062"')),
    Good("escaped surrogate pair", in_string(rb"\ud83d\ude00 \uD83D\uDE00")),
    Good("escaped backslash before u", in_string(rb"\\ud83d \\\\ude00")),
    Good("all escapes", in_string(rb"\"\\\/\b\f\n\r\t\u0000\u00e9\uFFFF")),
    Good("UTF-8", in_string("\u00e9\u20ac\U0001f600\ufeff\uffff".encode())),
    Good("white space in the header", first(b"{", b"{\r\n\t    ")),
    Good("other key order in tensors", header(lambda value: value.update(b=dict(reversed(value["b"].items()))))),
    Good("tensors before metadata", header(lambda value: value.update({"__metadata__": value.pop("__metadata__")}))),
    Good("8 spaces more", setting(extra_padding=8)),
    Good("4 spaces more", setting(extra_padding=4)),
    Good("longest name", text('"b"', f'"{"b" * 255}"')),
    Good("every character of a name", text('"b"', json.dumps("".join(map(chr, range(0x21, 0x7F)))))),
    Good("names that mean something elsewhere", text('"b"', '"../__proto__"')),
    Good("plane 5 is no derived name", put("w_plane5", "U8", [1])),
    Good("derived names of dense tensors", put("b_plane2", "U8", [1])),
    Good(
        "longest derived name",
        both(
            lambda raw: raw.document.update(tensors={"n" * 249: raw.document["tensors"]["w"]}),
            text('"w"', f'"{"n" * 249}"'),
            text('"w_scale"', f'"{"n" * 249}_scale"'),
        ),
    ),
    Good("scale beside bytes of rank 1", both(put("v_scale", "F16", [2]), put("v", "U8", [2]))),
    Good("scale beside bytes of other rows", both(put("v_scale", "F16", [3]), put("v", "U8", [2, 1]))),
    Good("scale of rank 0 beside bytes", both(put("v_scale", "F16", []), put("v", "U8", [1, 1]))),
    Good("scale F8 beside bytes", both(put("v_scale", "F8_E4M3", [2]), put("v", "U8", [2, 1]))),
    Good("scale beside I8", both(put("v_scale", "F16", [2]), put("v", "I8", [2, 1]))),
    *(Good(f"dense {dtype}", put_first("d", dtype, [2, 4])) for dtype in ITEM_BYTES),
    *(Good(f"dense {dtype} of rank 0", put_first("d", dtype, [])) for dtype in ("F32", "C64")),
    *(Good(f"dense {shape}", put_first("d", "F64", shape)) for shape in ([0], [3, 0], [0, 2**40], [1] * 32)),
    Good("largest dimension beside zeros", both(put("d", "U8", [0]), info("d", shape=[0, 1, INTEGER_MAX]))),
    Good("two zero-size tensors in one place", both(put("d", "U8", [0]), put("e", "U8", [0]))),
    Good("data in other order", lambda raw: raw.__dict__.update(tensors=dict(reversed(raw.tensors.items()))), features),
    Good("header of 2^25 bytes", header_bytes(lambda raw: raw.ljust(HEADER_MAX))),
]


@pytest.mark.parametrize("good", GOOD, ids=lambda good: good.name)
def test_file_is_valid_and_decodes_as_appendix_a_says(good: Good, tmp_path: Path) -> None:
    raw = good.base()
    good.mutate(raw)
    file = raw.build()
    path = tmp_path / "model.safetensors"
    path.write_bytes(file)
    ternfmt.validate(path, digests=True)
    accepted_by_safetensors = dict(safetensors.deserialize(file))
    decoder = Decoder(file)
    with ternfmt.open(path) as model:
        assert set(model.stored.spans) == set(accepted_by_safetensors)
        for name, stored in accepted_by_safetensors.items():
            assert model.stored[name].tobytes() == bytes(stored["data"])
            assert list(model.stored[name].shape) == stored["shape"]
        for name in decoder.document["tensors"]:
            weight = model[name]
            assert isinstance(weight, TernaryTensor)
            assert_same_bits(weight.dequantize(), decoder.weights(name))


def assert_same_bits(actual: np.ndarray, expected: np.ndarray) -> None:
    assert actual.dtype == expected.dtype
    assert actual.shape == expected.shape
    nan = np.isnan(expected)
    np.testing.assert_array_equal(np.isnan(actual), nan)
    assert actual[~nan].tobytes() == expected[~nan].tobytes()


@given(strategies.models().flatmap(lambda model: st.tuples(st.just(model), strategies.valid_files(model))))
@settings(max_examples=60)
def test_any_order_white_space_and_escapes_give_the_same_tensors(tmp_path_factory, given_file) -> None:
    tensors, file = given_file
    path = tmp_path_factory.mktemp("any") / "model.safetensors"
    path.write_bytes(file)
    ternfmt.validate(path)
    safetensors.deserialize(file)
    with ternfmt.open(path) as model:
        assert list(model) == sorted(tensors)
        for name, expected in tensors.items():
            actual = model[name]
            if isinstance(expected, TernaryTensor):
                assert actual.dequantize().tobytes() == expected.dequantize().tobytes()
                assert model.tensors[name].nbytes == expected.nbytes
            else:
                assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape)
                assert actual.tobytes() == expected.tobytes()


def test_files_that_safetensors_writes_are_valid(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    parts = {
        "w": np.array([[0x71, 0x03]], np.uint8),
        "w_scale": np.array([0.5], np.float16),
        "b": np.arange(3, dtype=np.float32),
    }
    described = {"version": "1.0", "required": [], "tensors": {"w": {"shape": [1, 5], "encoding": "int2"}}}
    safetensors.numpy.save_file(parts, path, metadata={"format": "pt", "ternfmt": json.dumps(described)})
    assert ternfmt.validate(path) == ternfmt.Validation(files=1, ternary=1, dense=1)
    with ternfmt.open(path) as model:
        np.testing.assert_array_equal(model["w"].dequantize(), [[0.5, 0, -0.5, 0.5, -0.5]])


@pytest.mark.parametrize(
    "fault",
    [
        text('{"format"', '{"format": "np", "format"'),
        extra('"w_scale": {"dtype": "F16", "shape": [2], "data_offsets": [8, 12]}'),
        header_bytes(lambda raw: raw[:-1] + b"\n"),
        setting(extra_padding=1),
        declare("w_scale", shape=[2, 5], encoding="int2"),
        value_of("shape", "[2, 2]" + " " * 40),
        UNDECLARED[0].mutate,
        poke("w", 0, b"\2"),
    ],
)
def test_safetensors_accepts_more(fault: Mutation) -> None:
    """Faults that wrapping the safetensors library would let through."""
    raw = plain()
    fault(raw)
    assert len(safetensors.deserialize(raw.build())) >= 3


def test_bfloat16_values_are_those_of_ml_dtypes() -> None:
    raw = bytes.fromhex("cd3d4040")
    np.testing.assert_array_equal(np.frombuffer(raw, ml_dtypes.bfloat16).astype(np.float32), [0.10009765625, 3.0])
