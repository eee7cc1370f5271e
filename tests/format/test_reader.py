"""Opening is lazy, arrays outlive the model, and importing is light."""

from __future__ import annotations

import pickle
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

import ternfmt
from ternfmt import FormatError, Kind, TensorInfo, TernaryTensor
from ternfmt_conformance.files.raw import RawFile, Tensor, features, plain, tensor


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    path.write_bytes(features().build())
    return path


def test_a_model_is_a_mapping_of_logical_tensors(path: Path) -> None:
    with ternfmt.open(path) as model:
        assert list(model) == ["w"]
        assert len(model) == 1
        assert "w" in model
        assert "w_scale" not in model
        assert model.tensors["w"] == TensorInfo("w", True, (2, 18), "F16", 76, str(path), 2, 16, 1)
        assert model.tensors["w"].size == 36
        with pytest.raises(KeyError):
            model["w_scale"]
        with pytest.raises(KeyError):
            model.check("b")
        model.check("w")


def test_dense_tensors_are_arrays(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(plain().build())
    with ternfmt.open(str(path)) as model:
        np.testing.assert_array_equal(model["b"], np.array([1.5, -2], np.float32))
        assert list(model) == ["b", "w"]


def test_arrays_are_read_only_and_stay_valid_after_close(path: Path) -> None:
    with ternfmt.open(path) as model:
        weight = model["w"]
        assert isinstance(weight, TernaryTensor)
        before = weight.dequantize()
    assert weight.dequantize().tobytes() == before.tobytes()
    with pytest.raises(ValueError, match="read-only"):
        weight.codes[0, 0] = 0


def test_a_closed_model_raises(path: Path) -> None:
    model = ternfmt.open(path)
    model["w"]
    model.close()
    with pytest.raises(ValueError, match="closed"):
        model["w"]
    with pytest.raises(ValueError, match="closed"):
        model.check("w")
    model.close()


def test_a_file_that_shrank_is_an_error(path: Path) -> None:
    with ternfmt.open(path) as model:
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(FormatError) as caught:
            model["w"]
    assert caught.value.kind is Kind.LAYOUT


def test_opening_reads_no_data(tmp_path: Path) -> None:
    """Not even of a tensor of 1 GiB, of which a slice then costs what the slice costs."""
    n, k = 1 << 16, 1 << 16
    big = RawFile(
        {"w_scale": tensor("F16", [n]), "w": Tensor("U8", [n, k // 4], b"")},
        {"version": "1.0", "required": [], "tensors": {"w": {"shape": [n, k], "encoding": "int2"}}},
    )
    end = 2 * n + n * k // 4
    big.header_edits.append(lambda value: value["w"].update(data_offsets=[2 * n, end]))
    path = tmp_path / "model.safetensors"
    raw = big.build()
    with path.open("wb") as stream:
        stream.write(raw)
        stream.truncate(len(raw) - 2 * n + end)  # sparse: the codes are all zero
    tracemalloc.start()
    with ternfmt.open(path) as model:
        values = model["w"][n - 2 : n].dequantize()
        _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert values.shape == (2, k)
    assert peak < 32 * 1024 + 2 * k * 32


def test_a_header_as_large_as_that_of_flux_opens(tmp_path: Path) -> None:
    raw = RawFile({}, {"version": "1.0", "required": [], "tensors": {}})
    for i in range(552):
        name = f"transformer_blocks.{i}.weight"
        raw.tensors[name + "_scale"] = tensor("F32", [2])
        raw.document["tensors"][name] = {"shape": [2, 5], "encoding": "int2"}
    for i in range(551):
        raw.tensors[f"norm.{i}"] = tensor("F32", [1])
    for name in raw.document["tensors"]:
        raw.tensors[name] = tensor("U8", [2, 2])
    assert len(raw.tensors) == 1655
    path = tmp_path / "model.safetensors"
    path.write_bytes(raw.build())
    assert ternfmt.validate(path) == ternfmt.Validation(files=1, ternary=552, dense=551)


def run(code: str) -> str:
    root = Path(__file__).parents[2]
    return subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True).stdout


def test_importing_ternfmt_imports_no_framework() -> None:
    loaded = run("import sys, ternfmt; print(*sys.modules)").split()
    heavy = {"torch", "triton", "diffusers", "transformers", "safetensors", "rich", "jsonschema"}
    assert not heavy & {name.split(".")[0] for name in loaded}


def test_everything_public_is_there() -> None:
    assert set(ternfmt.__all__) <= set(dir(ternfmt))


def test_errors_carry_kind_location_and_message() -> None:
    error = FormatError(Kind.CODE, "file: 'w'", "forbidden")
    assert str(error) == f"{error}" == "CODE: file: 'w': forbidden"
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.kind, copy.location, copy.message) == (error.kind, error.location, error.message)
    assert isinstance(error, ValueError)
