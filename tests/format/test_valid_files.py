"""What SPEC allows is read, and read as SPEC Appendix A decodes it."""

from __future__ import annotations

import json
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
from ternfmt_conformance import strategies
from ternfmt_conformance.files.bad_headers import extra, value_of
from ternfmt_conformance.files.bad_tensors import UNDECLARED
from ternfmt_conformance.files.decode import Decoder
from ternfmt_conformance.files.good import GOOD, Good
from ternfmt_conformance.files.raw import (
    Mutation,
    declare,
    header_bytes,
    plain,
    poke,
    setting,
    text,
)


@pytest.mark.parametrize("good", GOOD, ids=lambda good: good.name)
def test_file_is_valid_and_decodes_as_appendix_a_says(good: Good, tmp_path: Path) -> None:
    file = good.build()
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
        for name in decoder.entries:
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
