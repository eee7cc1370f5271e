"""SPEC Appendix B's examples are what they claim, read with ternfmt and by Appendix A's pseudo-code."""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path

import numpy as np
import pytest
import safetensors

import ternfmt
from ternfmt import FormatError, TernaryTensor
from ternfmt.pack import pack
from ternfmt_conformance.files.decode import Decoder, Forbidden
from ternfmt_conformance.files.raw import ITEM_BYTES, RawFile, Tensor, header_digest_text, sha256

SPEC = Path(__file__).parents[2].joinpath("SPEC.md").read_text(encoding="utf-8")
APPENDIX = SPEC[SPEC.index("## Appendix B.") :]


def blocks(info: str) -> dict[str, tuple[dict[str, str], str]]:
    """Fenced blocks whose info string starts with ``info=``: name -> (its other words, text)."""
    found = {}
    for line, text in re.findall(r"^```\w+ (.*)\n((?:.*\n)*?)```$", APPENDIX, re.MULTILINE):
        words = dict(word.split("=") for word in line.split())
        if info in words:
            found[words.pop(info)] = (words, text)
    return found


FILES, TENSORS, VALUES, TEXTS, DIGESTS = map(blocks, ("file", "tensors", "of", "digest-text", "digest"))


def hexdump(text: str) -> bytes:
    """The bytes of a dump; its offsets and characters must agree with them."""
    data = b""
    for line in text.splitlines():
        match = re.fullmatch(r"([0-9a-f]{8})  ((?:[0-9a-f]{2} ?){1,16}) +\|(.{1,16})\|", line)
        assert match is not None, line
        assert int(match[1], 16) == len(data)
        row = bytes.fromhex(match[2])
        assert match[3] == "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in row)
        data += row
    return data


def file_of(name: str) -> bytes:
    """A file that holds a block's tensors."""
    words, text = TENSORS[name]
    shape = [int(dimension) for dimension in words["shape"].split(",")]
    entry = {"shape": shape, "encoding": "int2"}
    entry |= {key: int(words[key]) for key in ("group_size", "planes") if key in words}
    required = [feature for key, feature in (("group_size", "group-scale"), ("planes", "planes")) if key in words]
    scale_shape = [shape[0]]
    if "group_size" in words:
        scale_shape.append(-(-shape[1] // int(words["group_size"])))
    tensors = {}
    for line in sorted(text.splitlines(), key=lambda line: "_scale" not in line):
        stored, *digits = line.split()
        data = bytes.fromhex("".join(digits))
        if stored.endswith("_scale"):
            tensors[stored] = Tensor(words["scale"], scale_shape, data)
        else:
            tensors[stored] = Tensor("U8", [shape[0], len(data) // shape[0]], data)
    return RawFile(tensors, {"version": "1.0", "required": required, "tensors": {"w": entry}}).build()


def test_the_smallest_file(tmp_path: Path) -> None:
    file = hexdump(FILES["smallest"][1])
    path = tmp_path / "model.safetensors"
    path.write_bytes(file)
    assert ternfmt.validate(path) == ternfmt.Validation(files=1, ternary=1, dense=0)
    assert len(safetensors.deserialize(file)) == 2
    with ternfmt.open(path) as model:
        assert model["w"].dequantize().tolist() == Decoder(file).weights("w").tolist() == [[1.0]]
    (length,) = struct.unpack("<Q", file[:8])
    header = json.loads(file[8 : 8 + length])
    text = json.dumps(header, sort_keys=True, separators=(",", ":"))
    assert file[8 : 8 + length].decode() == text + " " * (-(8 + len(text)) % 64)
    assert f"The header length is 0x{length:x} = {length}, so that the data begins at byte {8 + length};" in APPENDIX


@pytest.mark.parametrize("name", VALUES)
def test_values(name: str, tmp_path: Path) -> None:
    expected = [float(word) for word in VALUES[name][1].split()]
    file = file_of(name)
    path = tmp_path / "model.safetensors"
    path.write_bytes(file)
    ternfmt.validate(path)
    with ternfmt.open(path) as model:
        weight = model["w"]
        assert isinstance(weight, TernaryTensor)
        assert weight.dequantize().ravel().tolist() == expected
    assert Decoder(file).weights("w").ravel().tolist() == expected


@pytest.mark.parametrize("name", [name for name, (words, _) in TENSORS.items() if "error" in words])
def test_files_at_fault(name: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(file_of(name))
    expected = TENSORS[name][0]["error"]
    with pytest.raises(FormatError) as caught:
        ternfmt.validate(path)
    assert caught.value.kind == expected
    if expected == "CODE":
        with pytest.raises(Forbidden):
            Decoder(file_of(name)).weights("w")


@pytest.mark.parametrize("name", TEXTS)
def test_the_headers_digest(name: str, tmp_path: Path) -> None:
    text = TEXTS[name][1].rstrip("\n")
    digest = DIGESTS[name][1].strip()
    assert sha256(text.encode()) == digest

    # A file with that header: the data of B.1, the metadata of the text.
    value = json.loads(text)
    plain = hexdump(FILES[name][1])
    (length,) = struct.unpack("<Q", plain[:8])
    value["w_scale"]["data_offsets"], value["w"]["data_offsets"] = [0, 2], [2, 3]
    assert header_digest_text(value) == text
    value["__metadata__"]["ternfmt"] = value["__metadata__"]["ternfmt"].replace("0" * 64, digest)
    header = json.dumps(value).encode().ljust(1024)
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + plain[8 + length :])
    result = ternfmt.validate(path, digests=True)
    assert (result.digests_checked, result.uncovered) == (2, 0)


def test_every_block_is_checked() -> None:
    assert len(FILES) + len(TENSORS) + len(VALUES) + len(TEXTS) + len(DIGESTS) == APPENDIX.count("\n```") // 2
    assert VALUES.keys() | {name for name, (words, _) in TENSORS.items() if "error" in words} == TENSORS.keys()


def test_the_example_of_section_3() -> None:
    row = pack(np.array([[1, 0, -1, 1, -1]], np.int8)).tobytes()
    for byte, value in enumerate(row):
        bits = " ".join(f"{value >> shift & 3:02b}" for shift in (6, 4, 2, 0))
        assert f"byte {byte}   {bits}      bits 7..0 = 0x{value:02X}" in SPEC


def test_the_dtypes_of_section_1() -> None:
    rows = re.findall(r"^  \| (\d) \| (.*) \|$", SPEC, re.MULTILINE)
    table = {name: int(size) for size, names in rows for name in re.findall(r"`(\w+)`", names)}
    assert table == ITEM_BYTES
