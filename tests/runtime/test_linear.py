"""TernaryLinear: forward and gradients, state dict, casts, copies."""

from __future__ import annotations

import copy
import io
import pickle
import shutil

import ml_dtypes
import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import ternfmt
from ternfmt import TernaryTensor
from ternfmt_kernels.contract import FLOAT_DTYPES
from ternfmt_runtime import TernaryLinear
from ternfmt_runtime.arrays import to_array

SCALE_DTYPES = (np.dtype(np.float32), np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16))


def make_bias(n: int = 12, dtype: torch.dtype = torch.float32) -> nn.Parameter:
    return nn.Parameter(torch.linspace(-1, 1, n).to(dtype))


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 40),
    k=st.integers(3, 100),
    planes=st.integers(1, 4),
    group_size=st.none() | st.sampled_from([16, 64]),
    rank=st.integers(0, 3),
    scale_dtype=st.sampled_from(SCALE_DTYPES),
    x_dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    bias_dtype=st.none() | st.sampled_from(FLOAT_DTYPES),
    leading=st.lists(st.integers(0, 4), max_size=2),
)
def test_forward_is_within_the_bound(
    make_tensor,
    check_output,
    seed: int,
    n: int,
    k: int,
    planes: int,
    group_size: int | None,
    rank: int,
    scale_dtype: np.dtype,
    x_dtype: torch.dtype,
    bias_dtype: torch.dtype | None,
    leading: list[int],
) -> None:
    tensor = make_tensor(seed, n, k, planes, group_size, rank, scale_dtype)
    bias = None if bias_dtype is None else make_bias(n, bias_dtype)
    layer = TernaryLinear.from_ternary(tensor, bias)
    x = torch.from_numpy(np.random.default_rng(seed).standard_normal((*leading, k))).to(x_dtype)
    y = layer(x)
    assert y.dtype == x_dtype
    check_output(layer, x, y)


@pytest.mark.parametrize("rank", [0, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_are_those_of_the_dense_layer(make_tensor, rank: int, dtype: torch.dtype) -> None:
    layer = TernaryLinear.from_ternary(make_tensor(1, rank=rank), make_bias())
    dense = layer.dequantize()
    dense.bias = nn.Parameter(layer.bias.detach().clone())
    x = torch.randn(2, 5, 35).to(dtype).requires_grad_()
    x32 = x.detach().float().requires_grad_()
    probe = torch.randn(2, 5, 12)
    (layer(x) * probe).sum().backward()
    (dense(x32) * probe).sum().backward()
    tolerance = {"rtol": 1e-4, "atol": 1e-4}
    if dtype == torch.bfloat16:
        tolerance = {"rtol": 2.0**-6, "atol": 2.0**-3}
    assert x.grad.dtype == dtype
    torch.testing.assert_close(x.grad.float(), x32.grad, **tolerance)
    torch.testing.assert_close(layer.bias.grad, dense.bias.grad, **tolerance)
    assert [name for name, p in layer.named_parameters() if p.requires_grad] == ["bias"]


def test_state_dict_is_the_file(make_tensor, tmp_path) -> None:
    layer = TernaryLinear.from_ternary(make_tensor(2), make_bias())
    path = tmp_path / "model.safetensors"
    ternfmt.save(path, {"weight": layer.to_ternary(), "bias": to_array(layer.bias)})
    state = layer.state_dict()
    stored = safetensors.torch.load_file(path)
    assert set(state) == set(stored)
    for name, value in state.items():
        assert value.dtype == stored[name].dtype
        assert torch.equal(value, stored[name])
    other = TernaryLinear(35, 12, planes=2, group_size=16, low_rank=3)
    other.load_state_dict(stored)
    x = torch.randn(4, 35)
    assert torch.equal(layer(x), other(x))


@pytest.mark.parametrize(
    "cast",
    [
        lambda layer: layer.half(),
        lambda layer: layer.to(torch.float16),
        lambda layer: nn.Sequential(layer).to("cpu", torch.float16)[0],
    ],
)
def test_casts_touch_the_bias_only(make_tensor, cast) -> None:
    layer = TernaryLinear.from_ternary(
        make_tensor(3, scale_dtype=SCALE_DTYPES[0]), make_bias(), compute_dtype=torch.float32
    )
    layer(torch.ones(1, 35)).sum().backward()
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    layer = cast(layer)
    for name, value in layer.state_dict().items():
        if name == "bias":
            assert value.dtype == torch.float16
        else:
            assert value.dtype == before[name].dtype
            assert torch.equal(value, before[name])
    assert layer.bias.grad.dtype == torch.float16
    assert layer.compute_dtype == layer.dequantize().weight.dtype == torch.float16


def test_storage_casts_leave_compute_dtype(make_tensor) -> None:
    layer = TernaryLinear.from_ternary(make_tensor(3), make_bias(), compute_dtype=torch.bfloat16)
    layer.to(torch.float8_e4m3fn)
    assert (layer.bias.dtype, layer.compute_dtype) == (torch.float8_e4m3fn, torch.bfloat16)
    assert layer.weight_scale.dtype == torch.float16


def test_moves_everything(make_tensor) -> None:
    layer = TernaryLinear.from_ternary(make_tensor(3), make_bias()).to("meta", torch.bfloat16)
    assert {value.device.type for value in layer.state_dict().values()} == {"meta"}
    assert layer.weight_scale.dtype == torch.float16
    assert layer(torch.empty(2, 35, device="meta")).shape == (2, 12)


def test_meta_construction_matches_from_ternary(make_tensor) -> None:
    built = TernaryLinear(35, 12, planes=2, group_size=16, low_rank=3, compute_dtype=torch.bfloat16, device="meta")
    loaded = TernaryLinear.from_ternary(make_tensor(4), make_bias(dtype=torch.bfloat16))
    described = {k: (v.dtype, v.shape) for k, v in loaded.state_dict().items()}
    assert described == {k: (v.dtype, v.shape) for k, v in built.state_dict().items()}
    assert repr(built) == (
        "TernaryLinear(in_features=35, out_features=12, bias=True, planes=2, group_size=16, "
        "low_rank=3, scale_dtype=torch.float16, compute_dtype=torch.bfloat16)"
    )


@pytest.mark.parametrize(
    "duplicate",
    [
        copy.deepcopy,
        lambda layer: pickle.loads(pickle.dumps(layer)),
        lambda layer: torch.load(saved(layer), weights_only=False),
    ],
)
def test_copies(make_tensor, duplicate) -> None:
    layer = TernaryLinear.from_ternary(make_tensor(5), make_bias())
    twin = duplicate(layer)
    x = torch.randn(3, 35)
    assert torch.equal(layer(x), twin(x))
    assert twin.weight.data_ptr() != layer.weight.data_ptr()
    assert twin.to_ternary().group_size == 16


def saved(layer: nn.Module) -> io.BytesIO:
    stream = io.BytesIO()
    torch.save(layer, stream)
    stream.seek(0)
    return stream


@pytest.mark.parametrize("dtype", FLOAT_DTYPES)
def test_dequantize_gives_the_bits_of_the_format(make_tensor, dtype: torch.dtype) -> None:
    tensor = make_tensor(6)
    dense = TernaryLinear.from_ternary(tensor, compute_dtype=dtype).dequantize()
    expected = tensor.dequantize(to_array(torch.empty(0, dtype=dtype)).dtype)
    assert dense.weight.dtype == dtype
    assert np.array_equal(to_array(dense.weight), expected)
    assert dense.bias is None


def test_autocast_changes_nothing(make_tensor) -> None:
    layer = TernaryLinear.from_ternary(make_tensor(7), make_bias())
    x = torch.randn(4, 35)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(x), layer(x.clone()))
        y = layer(x)
    assert torch.equal(y, layer(x))


def test_uint8_activations_are_refused(make_tensor) -> None:
    """Some models cast activations to the weight's dtype; codes are not a dtype to compute in."""
    layer = TernaryLinear.from_ternary(make_tensor(8))
    with pytest.raises(ValueError, match=r"x: expected torch.float32 .* got torch.uint8"):
        layer(torch.zeros(2, 35).to(layer.weight.dtype))


def test_rank_other_than_two_is_refused(make_tensor) -> None:
    tensor = make_tensor(9)
    convolution = TernaryTensor((12, 7, 5), tensor.planes, 16)
    with pytest.raises(ValueError, match=r"expected a weight \[out, in\], got shape \[12, 7, 5\]"):
        TernaryLinear.from_ternary(convolution)


@pytest.mark.parametrize(
    "backend",
    ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)],
)
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_compile_without_graph_breaks(make_tensor, backend: str) -> None:
    if backend == "inductor" and shutil.which("g++") is None:
        pytest.skip("needs a C++ compiler")
    layer = TernaryLinear.from_ternary(make_tensor(10), make_bias())
    model = nn.Sequential(layer, nn.GELU())
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    x = torch.randn(4, 35, requires_grad=True)
    torch.testing.assert_close(compiled(x), model(x))
    compiled(x).sum().backward()
    assert x.grad is not None
