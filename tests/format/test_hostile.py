"""Whatever the bytes, a reader ends with a value or a `FormatError`, in bounded memory (SPEC S-9.1)."""

from __future__ import annotations

import re
import struct
import tracemalloc
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ternfmt
from ternfmt import FormatError, Kind, TernaryTensor
from ternfmt.container import parse_header
from ternfmt.metadata import parse_document
from ternfmt_conformance.files.raw import digested, features, plain
from tests.format.random_tensors import random_tensor


def contents(path: Path) -> dict[str, tuple]:
    """Every value of a model that a reader can see."""
    values = {}
    with ternfmt.open(path) as model:
        for name, tensor in model.tensors.items():
            found = model[name]
            array = found.dequantize() if isinstance(found, TernaryTensor) else found
            values[name] = (tensor.dtype, tensor.shape, array.tobytes())
    return values


@pytest.mark.parametrize("base", [plain, features, digested])
def test_every_prefix_of_a_file_is_an_error(base, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    file = base().build()
    for length in range(len(file)):
        path.write_bytes(file[:length])
        with pytest.raises(FormatError):
            ternfmt.validate(path)


def test_every_changed_bit_of_a_canonical_file_is_found_or_harmless(tmp_path: Path) -> None:
    """SPEC S-8.3: no flip changes a value unnoticed."""
    path = tmp_path / "model.safetensors"
    rng = np.random.default_rng(0)
    ternfmt.save(path, {"w": random_tensor(rng, (2, 5)), "b": np.array([1.5], np.float32)})
    original = contents(path)
    file = path.read_bytes()
    refused = 0
    with path.open("r+b", buffering=0) as stream:
        for at in range(len(file)):
            for bit in range(8):
                overwrite(stream, at, file[at] ^ 1 << bit)
                try:
                    ternfmt.validate(path, digests=True)
                except FormatError:
                    refused += 1
                else:
                    assert contents(path) == original, f"byte {at}, bit {bit}"
            overwrite(stream, at, file[at])
    assert refused > 0.9 * 8 * len(file)


def overwrite(stream: BinaryIO, at: int, byte: int) -> None:
    stream.seek(at)
    stream.write(bytes([byte]))


def refused_or_valid(path: Path, file: bytes) -> None:
    path.write_bytes(file)
    try:
        ternfmt.validate(path, digests=True)
    except FormatError:
        return
    contents(path)


@given(st.binary(max_size=200))
@settings(max_examples=200)
def test_random_files_are_refused(tmp_path_factory, file: bytes) -> None:
    refused_or_valid(tmp_path_factory.getbasetemp() / "random.safetensors", file)


@given(st.text(max_size=100))
@settings(max_examples=100)
def test_random_headers_are_refused(tmp_path_factory, text: str) -> None:
    header = b"{" + text.encode("utf-8", "replace")
    path = tmp_path_factory.getbasetemp() / "random.safetensors"
    refused_or_valid(path, struct.pack("<Q", len(header)) + header)


@given(st.data())
@settings(max_examples=250)
def test_files_with_a_few_changed_bytes_are_refused_or_valid(tmp_path_factory, data: st.DataObject) -> None:
    file = bytearray(data.draw(st.sampled_from([plain, features, digested]))().build())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(file) - 1))
        file[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2) | st.sampled_from(list(SPICES)))
    refused_or_valid(tmp_path_factory.getbasetemp() / "changed.safetensors", bytes(file))


SPICES = [b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":", b"-", b"0", b"9" * 20, b"1e9", b".5", b"null", b"\\u0000"]


# Memory ---------------------------------------------------------------------------------------------

SIZE = 1 << 18


def filled(unit: str) -> str:
    """An object of SIZE characters, full of one kind of value."""
    return '{"a":[' + ",".join([unit] * (SIZE // (len(unit) + 1))) + "]}"


def members(value: str) -> str:
    count = SIZE // (9 + len(value))
    return "{" + ",".join(f'"{i:05x}":{value}' for i in range(count)) + "}"


SHAPES = {
    "small integers": filled("7"),
    "large integers": filled("12345678901234567"),
    "minus zeros": filled("-0"),
    "fractions": filled("1.5"),
    "strings": filled('"ab"'),
    "escapes": filled('"\\n"'),
    "wide characters": filled('"\U0001f600\u00e9\u00e9\u00e9\u00e9"'),
    "one wide character": '{"a":"\U0001f600' + "x" * SIZE + '"}',
    "empty arrays": filled("[]"),
    "empty objects": filled("{}"),
    "pairs of arrays": filled("[[]]"),
    "deep arrays": filled("[" * 30 + "]" * 30),
    "small objects": filled('{"":0}'),
    "deep objects": filled('{"":' * 30 + "0" + "}" * 30),
    "too deep": '{"a":' + "[" * (SIZE // 2) + "]" * (SIZE // 2) + "}",
    "keys": members("0"),
    "keys of arrays": members("[]"),
    "keys of objects": members("{}"),
    "zero-size tensors": members('{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'),
    "tensors of rank 32": members('{"dtype":"U8","shape":[%s],"data_offsets":[0,0]}' % ",".join("0" * 32)),  # noqa: UP031
    "spaces": "{" + " " * SIZE + "}",
    "one digit after another": '{"a":' + "1" * SIZE + "}",
    "one string": '{"a":"' + "x" * SIZE + '"}',
    "one array left open": '{"a":[' + "0," * (SIZE // 2),
}


SPEC = Path(__file__).parents[2].joinpath("SPEC.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("shape", SHAPES)
def test_a_hostile_header_takes_bounded_memory(shape: str) -> None:
    match = re.search(r"at\s+most\s+the\s+files\s+read\s+plus\s+(\d+)\s+times\s+their\s+headers", SPEC)
    assert match is not None
    raw = SHAPES[shape].encode()
    tracemalloc.start()
    with pytest.raises(FormatError):
        parse_document(parse_header(raw, 8 + len(raw), "x"))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    factor = (len(raw) + peak) / len(raw)
    assert factor <= int(match[1])


def test_the_message_for_a_hostile_value_is_short(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    for key in ("version", "required", "tensors", "digests"):
        raw = plain()
        raw.document[key] = [["x" * 100] * 1000]
        path.write_bytes(raw.build())
        with pytest.raises(FormatError) as caught:
            ternfmt.open(path)
        assert caught.value.kind is Kind.METADATA
        assert len(str(caught.value)) < 2000
