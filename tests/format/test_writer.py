"""The writer: canonical bytes (SPEC section 11), and nothing a reader would refuse."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
from hypothesis import given, settings
from hypothesis import strategies as st

import ternfmt
from ternfmt import FormatError, Kind, Plane, TernaryTensor, Writer
from ternfmt.writer import entry_of, make_document, stored_parts
from ternfmt_conformance import strategies
from ternfmt_conformance.files.raw import ITEM_BYTES, header_digest_text, sha256
from tests.format.random_tensors import random_tensor

ROOT = Path(__file__).parents[2]


def example() -> dict[str, TernaryTensor | np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "q.weight": random_tensor(rng, (3, 21)),
        "k.weight": random_tensor(rng, (2, 5, 2, 2), planes=2, group_size=16, rank=2),
        "norm": np.arange(3, dtype=np.float64),
        "bias": np.array(1, np.float32),
        "empty": np.zeros((0, 4), np.int8),
    }


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


@given(strategies.models())
@settings(max_examples=40)
def test_what_is_saved_is_read_back(tmp_path_factory, tensors) -> None:
    path = tmp_path_factory.getbasetemp() / "saved.safetensors"
    ternfmt.save(path, tensors)
    result = ternfmt.validate(path, digests=True)
    assert result.uncovered == 0
    safetensors.deserialize(path.read_bytes())
    with ternfmt.open(path) as model:
        assert list(model) == sorted(tensors)
        for name, expected in tensors.items():
            found = stored_parts(name, model[name])
            for part, data in stored_parts(name, expected).items():
                assert (found[part].dtype, found[part].shape) == (data.dtype, data.shape)
                assert found[part].tobytes() == data.tobytes()


def test_the_header_is_canonical(path: Path) -> None:
    ternfmt.save(path, example(), ancillary={"source": {"licence": "\u00e9"}}, metadata={"note": "\u00e9"})
    file = path.read_bytes()
    length = int.from_bytes(file[:8], "little")
    assert (8 + length) % 64 == 0
    raw = file[8 : 8 + length].decode("ascii")
    text = raw.rstrip(" ")
    assert len(raw) - len(text) < 64
    header = json.loads(text)
    assert text == json.dumps(header, sort_keys=True, separators=(",", ":"))
    metadata = header.pop("__metadata__")
    document = json.loads(metadata["ternfmt"])
    assert metadata["ternfmt"] == json.dumps(document, sort_keys=True, separators=(",", ":"))
    assert (metadata["format"], metadata["note"]) == ("pt", "\u00e9")
    assert document["required"] == ["group-scale", "low-rank", "planes"]
    assert list(document["tensors"]) == ["k.weight", "q.weight"]
    assert document["version"] == "1.0"


def test_data_is_laid_out_by_width_then_name_without_gaps(path: Path) -> None:
    ternfmt.save(path, example())
    file = path.read_bytes()
    length = int.from_bytes(file[:8], "little")
    header = json.loads(file[8 : 8 + length])
    del header["__metadata__"]
    order = sorted(header, key=lambda name: (-ITEM_BYTES[header[name]["dtype"]], name))
    position = 0
    for name in order:
        begin, end = header[name]["data_offsets"]
        assert begin == position
        assert (8 + length + begin) % ITEM_BYTES[header[name]["dtype"]] == 0
        position = end
    assert 8 + length + position == len(file)


def test_digests_are_complete_and_right(path: Path) -> None:
    ternfmt.save(path, example(), metadata={"note": "x"})
    file = path.read_bytes()
    length = int.from_bytes(file[:8], "little")
    header = json.loads(file[8 : 8 + length])
    document = json.loads(header["__metadata__"]["ternfmt"])
    tensors = {name: info for name, info in header.items() if name != "__metadata__"}
    assert document["digests"]["tensors"] == {
        name: sha256(file[8 + length + info["data_offsets"][0] : 8 + length + info["data_offsets"][1]])
        for name, info in tensors.items()
    }
    digest = document["digests"]["header"]
    header["__metadata__"]["ternfmt"] = header["__metadata__"]["ternfmt"].replace(digest, "0" * 64)
    assert digest == sha256(header_digest_text(header).encode())


@given(st.randoms(use_true_random=False))
@settings(max_examples=10)
def test_bytes_do_not_depend_on_any_order(tmp_path_factory, shuffler: random.Random) -> None:
    base = tmp_path_factory.getbasetemp()
    ternfmt.save(base / "one.safetensors", example(), ancillary={"a": {"x": 1, "y": 2}, "b": 3})
    names = list(example())
    shuffler.shuffle(names)
    tensors = {name: example()[name] for name in names}
    ternfmt.save(base / "two.safetensors", tensors, ancillary={"b": 3, "a": {"y": 2, "x": 1}})
    assert (base / "one.safetensors").read_bytes() == (base / "two.safetensors").read_bytes()

    parts = [(name, part) for name in names for part in stored_parts(name, tensors[name]).items()]
    shuffler.shuffle(parts)
    stored = {part: (dtype_of(data), data.shape) for _, (part, data) in parts}
    entries = {name: entry_of(t) for name, t in tensors.items() if isinstance(t, TernaryTensor)}
    document = make_document(entries, tensors, {"a": {"x": 1, "y": 2}, "b": 3})
    with Writer(base / "three.safetensors", stored, document) as writer:
        for _, (part, data) in parts:
            writer.write(part, data)
    assert (base / "one.safetensors").read_bytes() == (base / "three.safetensors").read_bytes()


def dtype_of(data: np.ndarray) -> str:
    return ternfmt.container.DTYPE_NAMES[data.dtype]


HASHED = """
import sys
import numpy as np
import ternfmt
codes, scale = np.array([[0x71, 0x03]], np.uint8), np.ones(1, np.float16)
names = {f"{i}.weight" for i in range(20)}  # in an order that depends on the seed
tensors = {name: ternfmt.TernaryTensor((1, 5), (ternfmt.Plane(codes, scale),) * 2) for name in names}
ternfmt.save(sys.argv[1], tensors, ancillary={key: key for key in names}, metadata={key: key for key in names})
"""


def test_bytes_do_not_depend_on_the_hash_seed(tmp_path: Path) -> None:
    files = set()
    for seed in ("0", "1"):
        path = tmp_path / seed
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "-c", HASHED, str(path)], cwd=ROOT, env=environment, check=True)
        files.add(path.read_bytes())
    assert len(files) == 1


def test_reading_and_writing_again_gives_the_same_bytes(path: Path, tmp_path: Path) -> None:
    ternfmt.save(path, example(), ancillary={"source": {"x": 1}}, metadata={"note": "x"})
    with ternfmt.open(path) as model:
        again = tmp_path / "again.safetensors"
        ternfmt.save(
            again, {name: model[name] for name in model}, ancillary=model.document.ancillary, metadata={"note": "x"}
        )
    assert path.read_bytes() == again.read_bytes()


def test_arrays_of_any_memory_layout_are_written(path: Path) -> None:
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    views = {"f": np.asfortranarray(array), "t": array.T, "s": array[:, ::-1, ::2], "r": array[1]}
    ternfmt.save(path, views)
    with ternfmt.open(path) as model:
        for name, view in views.items():
            np.testing.assert_array_equal(model[name], view)


# Refusals -------------------------------------------------------------------------------------------


def plane(codes: bytes = b"\x71\x03", scale: float = 1.0) -> TernaryTensor:
    return TernaryTensor((1, 5), (Plane(np.frombuffer(codes, np.uint8)[None], np.array([scale], np.float16)),))


@pytest.mark.parametrize(
    ("tensor", "kind"),
    [
        (plane(codes=b"\x72\x03"), Kind.CODE),
        (plane(codes=b"\x71\x07"), Kind.PADDING),
        (plane(scale=-0.0), Kind.SCALE),
        (plane(scale=float("nan")), Kind.SCALE),
        (plane(scale=float("inf")), Kind.SCALE),
    ],
)
def test_ternary_tensors_that_are_not_valid_are_refused(path: Path, tensor: TernaryTensor, kind: Kind) -> None:
    with pytest.raises(FormatError) as caught:
        ternfmt.save(path, {"w": tensor})
    assert caught.value.kind is kind
    assert list(path.parent.iterdir()) == []


U8 = np.zeros((1, 2), np.uint8)
F16 = np.zeros(1, np.float16)


@pytest.mark.parametrize(
    "tensors",
    [
        *({"w": plane(), f"w{suffix}": U8} for suffix in ("_scale", "_plane2", "_plane4_scale", "_lowrank_up")),
        {"w": plane(), "w_plane2": plane()},
        {"w": plane(), "w_scale": plane()},
        {"": U8},
        {"a b": U8},
        {"a\n": U8},
        {"\u00e9": U8},
        {"\U0001f600": plane()},
        {"w" * 256: U8},
        {"w" * 250: plane()},
        {"w": np.zeros(2, np.complex128)},
        {"w": np.zeros(2, ">f4")},
        {"w": np.array(["x"])},
        {"w": np.zeros([1] * 33, np.uint8)},
        {"w": U8, "w_scale": F16},  # looks like ternary codes that nobody declared
    ],
)
def test_tensors_that_no_reader_would_accept_are_refused(path: Path, tensors: dict[str, Any]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 (each for another reason)
        ternfmt.save(path, tensors)
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("ancillary", "metadata"),
    [
        ({"x": 0.5}, None),
        ({"x": [2**53]}, None),
        ({"x": {1: 2}}, None),
        ({"x": "\ud800"}, None),
        ({"\udfff": 1}, None),
        ({"x": b"x"}, None),
        ({"x": json.loads("[" * 32 + "]" * 32)}, None),
        (None, {"x": 1}),
        (None, {"x": "\ud800"}),
        (None, {1: "x"}),
        (None, {"x": "y" * (1 << 25)}),
    ],
)
def test_metadata_that_no_reader_would_accept_is_refused(path: Path, ancillary: Any, metadata: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        ternfmt.save(path, {}, ancillary=ancillary, metadata=metadata)
    assert list(path.parent.iterdir()) == []


def test_ancillary_keys_cannot_replace_the_formats_own(path: Path) -> None:
    own = {"version": "9.0", "required": ["x"], "tensors": {"x": 1}, "digests": 1}
    ternfmt.save(path, example(), ancillary=own, metadata={"ternfmt": "x"})
    assert ternfmt.validate(path, digests=True).uncovered == 0
