"""`quantize` on a torch device gives numpy's bytes. The torch code runs on the CPU here; a GPU runs the same code."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ternfmt.encode import device as module
from ternfmt.encode.device import quantizer
from ternfmt.encode.quantize import quantize
from ternfmt.encode.weights import WeightError
from ternfmt.tensor import TernaryTensor

BF16 = np.dtype(ml_dtypes.bfloat16)
HALF = [np.dtype(np.float16), BF16]
METHODS = ["exact", "absmean"]
on_torch = quantizer("cpu")


def assert_same_bytes(found: TernaryTensor, expected: TernaryTensor) -> None:
    assert found.shape == expected.shape
    assert found.group_size == expected.group_size
    for plane, other in zip(found.planes, expected.planes, strict=True):
        assert plane.scale.dtype == other.scale.dtype
        assert plane.scale.tobytes() == other.scale.tobytes()
        assert plane.codes.tobytes() == other.codes.tobytes()


@st.composite
def weights(draw, dtype: np.dtype) -> np.ndarray:
    """Any finite bit patterns, or a bell, which the device's own path takes."""
    shape = (draw(st.integers(1, 4)), draw(st.integers(1, 300)))
    if draw(st.booleans()):
        values = draw(hnp.arrays(np.uint16, shape)).view(dtype)
        return np.where(np.isfinite(values.astype(np.float64)), values, dtype.type(1))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return (rng.standard_t(4, shape) * 10.0 ** draw(st.integers(-6, 3))).astype(dtype)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", HALF, ids=str)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_same_bytes_for_any_weights(method: str, dtype: np.dtype, data: st.DataObject) -> None:
    weight = data.draw(weights(dtype))
    assert_same_bytes(on_torch(weight, method), quantize(weight, method))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_ordinary_layers_stay_on_the_device(method: str, dtype: np.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    weight = (np.random.default_rng(0).standard_normal((257, 1027)) * 0.02).astype(dtype)
    expected = quantize(weight, method)
    monkeypatch.delattr(module, "quantize")
    assert_same_bytes(on_torch(weight, method), expected)


@pytest.mark.parametrize("scale_dtype", [np.float32, np.float16, BF16], ids=str)
@pytest.mark.parametrize("size", [1e-9, 1.0, 1e6])
def test_scales_are_stored_by_the_same_rules(scale_dtype, size: float) -> None:
    weight = (np.random.default_rng(1).standard_normal((5, 600)) * size).astype(BF16)
    weight[2] = 0
    assert_same_bytes(on_torch(weight, scale_dtype=scale_dtype), quantize(weight, scale_dtype=scale_dtype))


def test_what_the_device_cannot_do_exactly_the_host_does() -> None:
    rng = np.random.default_rng(2)
    single = rng.standard_normal((6, 200)).astype(np.float32)
    half = single.astype(BF16).reshape(6, 50, 2, 2)
    assert_same_bytes(on_torch(single), quantize(single))
    assert_same_bytes(on_torch(half), quantize(half))
    assert_same_bytes(on_torch(half, group_size=64), quantize(half, group_size=64))
    assert_same_bytes(on_torch(half, "planes", planes=3), quantize(half, "planes", planes=3))
    wide = np.ones((2, 64), BF16)
    wide[0, :3] = [1e-30, 3e20, -7e-9]
    assert_same_bytes(on_torch(wide, "absmean"), quantize(wide, "absmean"))


def test_a_weight_that_may_not_be_written_is_left_alone() -> None:
    weight = np.random.default_rng(3).standard_normal((4, 400)).astype(BF16)
    before = weight.copy()
    weight.flags.writeable = False
    on_torch(weight)
    assert weight.tobytes() == before.tobytes()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_weight_that_is_not_finite_names_its_place(value: float) -> None:
    weight = np.ones((4, 500), BF16)
    weight[2, 7] = value
    with pytest.raises(WeightError, match=r"'x': expected finite weights, got .* at row 2, column 7"):
        on_torch(weight, name="x")


@pytest.mark.parametrize("name", ["toaster", "cuda:99", "mps:7"])
def test_a_device_that_is_not_there_is_named(name: str) -> None:
    with pytest.raises(ValueError, match=rf"device '{name}': torch .* cannot use it here"):
        quantizer(name)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_cuda_gives_the_same_bytes(method: str, dtype: np.dtype) -> None:
    weight = (np.random.default_rng(4).standard_t(3, (3072, 3072)) * 0.02).astype(dtype)
    assert_same_bytes(quantizer("cuda")(weight, method), quantize(weight, method))
