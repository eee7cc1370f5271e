"""Properties of the reference implementation that no other test holds; conformance/README.md lists all of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ternfmt
from ternfmt import FormatError, Kind, Plane, TernaryTensor
from ternfmt.canonicalize import canonicalize
from ternfmt.metadata import FEATURES
from ternfmt_conformance import strategies
from ternfmt_conformance.files.raw import RawFile, plain, tensor
from ternfmt_conformance.reference import product
from ternfmt_conformance.strategies import models, raw_files, ternary_tensors, valid_files


def contents(path: Path) -> dict[str, Any]:
    """Every value that a reader can see, in bits."""
    with ternfmt.open(path) as model:
        return {name: bits(model[name]) for name in model}


def bits(found: Any) -> tuple[Any, ...]:
    array = found.dequantize() if isinstance(found, TernaryTensor) else found
    return (array.dtype, array.shape, array.tobytes())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


def with_file(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Models, each with something made of it."""
    return models().flatmap(lambda tensors: st.tuples(st.just(tensors), strategy(tensors)))  # type: ignore[operator]


# 4, 5 ----------------------------------------------------------------------------------------------


@given(st.integers(1, 3), st.integers(1, 9), st.sampled_from(["absmean", "exact", "planes"]), st.data())
@settings(max_examples=60)
def test_what_is_written_has_no_forbidden_code_and_zero_padding(
    path: Path, n: int, k: int, method: str, data: st.DataObject
) -> None:
    rows = data.draw(st.lists(st.integers(-4, 4), min_size=n * k, max_size=n * k))
    weight = np.array(rows, np.float32).reshape(n, k) * np.float32(0.3)
    ternfmt.save(path, {"w": ternfmt.quantize(weight, method)})
    file = path.read_bytes()
    length = int.from_bytes(file[:8], "little")
    header = json.loads(file[8 : 8 + length])
    for name in ("w", "w_plane2"):
        if name in header:
            begin, end = header[name]["data_offsets"]
            packed = np.frombuffer(file[8 + length + begin : 8 + length + end], np.uint8).reshape(n, -1)
            lanes = (packed[:, :, None] >> np.array([0, 2, 4, 6], np.uint8) & 3).reshape(n, -1)
            assert not (lanes == 0b10).any()
            assert not lanes[:, k:].any()


# 7 -------------------------------------------------------------------------------------------------


@given(ternary_tensors(features=["group-scale", "planes"]), st.integers(-20, 20))
@settings(max_examples=60)
def test_scales_times_a_power_of_two_give_values_times_it(given_tensor: TernaryTensor, exponent: int) -> None:
    def scaled(factor: np.float32) -> TernaryTensor:
        planes = []
        for plane in given_tensor.planes:
            scale = plane.scale.astype(np.float32)
            scale[(scale > 65504) | (scale < 2.0**-24)] = 0.75  # nothing overflows or gets subnormal
            planes.append(Plane(plane.codes, scale * factor))
        return replace(given_tensor, planes=tuple(planes))

    factor = np.float32(2.0**exponent)
    one, other = scaled(np.float32(1)), scaled(factor)
    assert (one.dequantize() * factor).tobytes() == other.dequantize().tobytes()
    x = np.arange(2 * one.k, dtype=np.float64).reshape(2, one.k)
    np.testing.assert_array_equal(product(x, one) * float(factor), product(x, other))


# 14, 15, 16 ----------------------------------------------------------------------------------------


@given(models(), strategies.json_values)
@settings(max_examples=40)
def test_reading_and_writing_a_canonical_file_changes_no_byte(path: Path, tensors: Any, note: Any) -> None:
    ternfmt.save(path, tensors, ancillary={"note": note}, metadata={"x": "\u00e9"})
    again, canonical = path.with_name("again.safetensors"), path.with_name("canonical.safetensors")
    with ternfmt.open(path) as model:
        ternfmt.save(again, dict(model), ancillary=model.document.ancillary, metadata={"x": "\u00e9"})
    assert again.read_bytes() == path.read_bytes()
    canonical.unlink(missing_ok=True)
    canonicalize(path, canonical)
    assert canonical.read_bytes() == path.read_bytes()


@given(with_file(lambda tensors: st.tuples(valid_files(tensors), valid_files(tensors))))
@settings(max_examples=40)
def test_two_files_of_one_model_have_equal_values(path: Path, drawn: Any) -> None:
    tensors, files = drawn
    for file in files:
        path.write_bytes(file)
        assert contents(path) == {name: bits(tensor) for name, tensor in sorted(tensors.items())}


@given(models().flatmap(raw_files), st.dictionaries(st.text("xyz", min_size=1, max_size=3), strategies.json_values))
@settings(max_examples=40)
def test_unknown_ancillary_keys_survive(path: Path, raw: RawFile, unknown: dict[str, Any]) -> None:
    raw.document.update(unknown)
    for entry in raw.document["tensors"].values():
        entry.update(unknown)
    path.write_bytes(raw.build())
    destination = path.with_name("canonical.safetensors")
    destination.unlink(missing_ok=True)
    canonicalize(path, destination)
    file = destination.read_bytes()
    header = json.loads(file[8 : 8 + int.from_bytes(file[:8], "little")])
    document = json.loads(header["__metadata__"]["ternfmt"])
    for value in (document, *document["tensors"].values()):
        assert {key: value[key] for key in unknown} == unknown


@given(
    models().flatmap(raw_files), st.text(st.characters(exclude_categories=["Cs"])).filter(lambda f: f not in FEATURES)
)
@settings(max_examples=40)
def test_an_unknown_required_feature_fails(path: Path, raw: RawFile, feature: str) -> None:
    raw.document["required"].append(feature)
    path.write_bytes(raw.build())
    with pytest.raises(FormatError) as caught:
        ternfmt.open(path)
    assert caught.value.kind is Kind.FEATURE


# 17 ------------------------------------------------------------------------------------------------


@given(models().flatmap(valid_files), st.data())
@settings(max_examples=100)
def test_a_prefix_of_any_file_is_an_error(path: Path, file: bytes, data: st.DataObject) -> None:
    path.write_bytes(file[: data.draw(st.integers(0, len(file) - 1))])
    with pytest.raises(FormatError) as caught:
        ternfmt.validate(path)
    assert caught.value.kind in (Kind.PREFIX, Kind.HEADER_LEN, Kind.LAYOUT)


# 20, 21 --------------------------------------------------------------------------------------------


@given(models(), models(), models())
@settings(max_examples=40)
def test_other_tensors_do_not_alter_a_tensor(path: Path, kept: Any, one: Any, other: Any) -> None:
    seen = []
    for others in (one, other):
        ternfmt.save(path, {**{f"other.{name}": tensor for name, tensor in others.items()}, **kept})
        found = contents(path)
        seen.append({name: found[name] for name in kept})
    assert seen[0] == seen[1] == {name: bits(tensor) for name, tensor in kept.items()}


@given(with_file(valid_files), st.data())
@settings(max_examples=40)
def test_reading_on_demand_equals_reading_all(path: Path, drawn: Any, data: st.DataObject) -> None:
    tensors, file = drawn
    path.write_bytes(file)
    eager = contents(path)
    with ternfmt.open(path) as model:
        for name in data.draw(st.lists(st.sampled_from(sorted(tensors)), max_size=6) if tensors else st.just([])):
            found = model[name]
            assert bits(found) == eager[name]
            if isinstance(found, TernaryTensor):
                row = data.draw(st.integers(0, found.n - 1))
                dtype, shape, values = bits(found[row : row + 1])
                whole = np.frombuffer(eager[name][2], dtype).reshape(eager[name][1])
                assert (shape, values) == ((1, *shape[1:]), whole[row].tobytes())


# 26 ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_elements_past_two_to_the_31_are_right(path: Path) -> None:
    n, k = 129, 2**24 - 4
    assert n * k - 8 > 2**31
    raw = plain()
    raw.tensors = {"w_scale": tensor("F16", [n], b"\0\x3c" * n), "w": tensor("U8", [0, k // 4])}
    raw.document["tensors"]["w"]["shape"] = [n, k]
    raw.header_edits.append(
        lambda value: value["w"].update(shape=[n, k // 4], data_offsets=[2 * n, 2 * n + n * k // 4])
    )
    head = raw.build()
    with path.open("wb") as stream:
        stream.write(head)
        stream.truncate(len(head) + n * k // 4)
        stream.seek(len(head) + n * k // 4 - 2)
        stream.write(b"\x71\x4d")  # the last eight codes
    with ternfmt.open(path) as model:
        last = model["w"]
        assert isinstance(last, TernaryTensor)
        row = last[n - 1 :]
        assert row.unpack()[0, -8:].tolist() == [1, 0, -1, 1, 1, -1, 0, 1]
        assert np.count_nonzero(row.unpack()) == 6
        x = np.zeros((1, k))
        x[0, -8:] = 2.0 ** np.arange(8)
        assert product(x, row)[0, 0] == 1 - 4 + 8 + 16 - 32 + 128
    with path.open("r+b") as stream:
        stream.seek(-1, 2)
        stream.write(b"\x8d")
    with pytest.raises(FormatError, match=f"row {n - 1}, column {k - 1};") as caught:
        ternfmt.validate(path)
    assert caught.value.kind is Kind.CODE
