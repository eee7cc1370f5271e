"""What a trainable ternary layer computes, its gradients, and what it writes."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ternfmt.encode.distilled import reference
from ternfmt.encode.distilled.frozen import FrozenLinear, unpack
from ternfmt.encode.distilled.latent import LatentLinear, codes_of, start_latent
from ternfmt.encode.distilled.layer import TORCH_DTYPES, round_scale
from ternfmt.encode.quantize import quantize
from ternfmt.encode.scales import store_scales
from ternfmt.tensor import TernaryTensor

few = settings(max_examples=25, deadline=None)
planes = pytest.mark.parametrize("planes", [1, 2, 3])


def weights(n: int, k: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, k, generator=torch.Generator().manual_seed(seed)) * 0.1


def scales(n: int, planes: int) -> torch.Tensor:
    return torch.tensor([0.13, 0.07, 0.031])[:planes, None] * torch.linspace(0.8, 1.2, n)


def exact(weight: torch.Tensor, planes: int = 1) -> TernaryTensor:
    return quantize(weight.numpy(), "planes" if planes > 1 else "exact", planes=planes)


def dequantized(tensor: TernaryTensor) -> torch.Tensor:
    return torch.from_numpy(tensor.dequantize())


@planes
def test_forward_and_gradients_are_the_obvious_ones(planes):
    layer = LatentLinear(weights(5, 12), scales(5, planes), torch.zeros(5))
    weight, scale = layer.weight.detach().clone().requires_grad_(), layer.scale().detach().requires_grad_()
    x, wanted = weights(7, 12, 1), weights(7, 5, 2)
    (layer(x) - wanted).square().sum().backward()
    (x @ reference.quantised(weight, scale).T - wanted).square().sum().backward()
    torch.testing.assert_close(layer(x), x @ reference.quantised(weight, scale).T)
    torch.testing.assert_close(layer.weight.grad, weight.grad)
    # d/d log s = s d/ds; the rounding to F16 is passed through
    torch.testing.assert_close(layer.log_scale.grad, scale.grad * layer.log_scale.exp())


def test_a_soft_layer_is_between_latent_and_ternary_weights():
    layer, x = LatentLinear(weights(5, 12), scales(5, 1)), weights(7, 12, 1)
    ternary, latent = layer(x), x @ layer.weight.T
    layer.hardness = torch.tensor(0.25)
    torch.testing.assert_close(layer(x), 0.75 * latent + 0.25 * ternary)
    layer(x).sum().backward()
    assert layer.weight.grad is not None
    torch.testing.assert_close(layer.weight.grad, x.sum(0).expand(5, 12))  # both parts pass it on as it is


@few
@given(st.integers(1, 3), st.integers(0, 2**31))
def test_codes_are_the_nearest(planes, seed):
    weight, scale = weights(3, 6, seed), scales(3, planes)
    weight[0, 0], weight[1, 1], weight[2, 2] = 0.0, scale[0, 1] / 2, -scale[0, 2] / 2  # on thresholds
    ours = codes_of(weight, scale)
    value = (ours * scale[..., None]).sum(0)
    obvious = (reference.nearest(weight, scale) * scale[..., None]).sum(0)
    torch.testing.assert_close((value - weight).abs(), (obvious - weight).abs())
    if planes == 1:
        assert ours.equal(reference.nearest(weight, scale).to(torch.int8))


@planes
def test_a_start_keeps_the_codes_and_stays_near_the_weights(planes):
    weight = weights(6, 40)
    tensor = exact(weight, planes)
    latent, scale = start_latent(weight, tensor)
    torch.testing.assert_close(
        LatentLinear(latent, scale).quantised(), dequantized(tensor), atol=0, rtol=1e-6 if planes > 1 else 0
    )
    assert (latent - weight).abs().max() <= 0.1 * scale.max()  # these codes are the nearest: only the margin moved


def test_a_start_from_other_codes_moves_weights_no_further_than_needed():
    weight = torch.tensor([[0.9, 0.2, -0.8, 0.0]])
    tensor = exact(torch.tensor([[1.0, 1.0, 1.0, -1.0]]))
    latent, scale = start_latent(weight, tensor)
    assert codes_of(latent, scale).tolist() == [[[1, 1, 1, -1]]]
    assert latent[0, 0] == weight[0, 0]
    assert 0.5 < latent[0, 1] < 0.7
    assert 0.5 < latent[0, 2] < 0.7


@planes
@pytest.mark.parametrize("scale_dtype", [None, "F16", "BF16", "F32"])
def test_what_is_written_is_what_forward_uses(planes, scale_dtype):
    layer = LatentLinear(weights(5, 13), scales(5, planes), scale_dtype=scale_dtype)
    tensor = layer.to_ternary()
    assert tensor.scale.dtype.name == {"F32": "float32", "BF16": "bfloat16"}.get(scale_dtype, "float16")
    assert dequantized(tensor).equal(layer.quantised())


@few
@given(
    st.lists(st.floats(2**-20, 2**17, width=32), min_size=1, max_size=5), st.sampled_from([None, "F16", "F32", "BF16"])
)
def test_scales_round_as_everywhere(values, dtype):
    numpy_dtype = {"F32": np.float32, "BF16": "bfloat16"}.get(dtype, np.float16)
    expected = store_scales(np.array(values), np.dtype(numpy_dtype)).astype(np.float32)
    assert round_scale(torch.tensor(values), dtype).tolist() == expected.tolist()


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_compilers_do_not_leave_the_rounding_out(dtype):
    logs = torch.linspace(-6, 0, 1000)
    compiled = torch.compile(lambda values: round_scale(values.exp(), dtype) * 3)
    stored = logs.exp().to(TORCH_DTYPES[dtype]).float()
    torch.testing.assert_close(compiled(logs), stored * 3, rtol=0, atol=0)


@pytest.mark.parametrize("factor", [1e-6, torch.tensor([[1e-4], [1.0], [1e-5]])])
def test_a_start_keeps_scales_that_f16_cannot_hold(factor):
    tensor = exact(weights(3, 40) * factor)
    written = LatentLinear(*start_latent(weights(3, 40) * factor, tensor)).to_ternary()
    assert written.scale.dtype == tensor.scale.dtype == np.float32
    torch.testing.assert_close(dequantized(written), dequantized(tensor), atol=0, rtol=1e-5)


@pytest.mark.parametrize("scale_dtype", [None, "F16"])
def test_scales_that_f16_cannot_hold_are_f32(scale_dtype):
    layer = LatentLinear(weights(2, 8) * 1e6, torch.tensor([[1e5, 3.0]]), scale_dtype=scale_dtype)
    assert layer.to_ternary().scale.dtype == np.float32
    assert dequantized(layer.to_ternary()).equal(layer.quantised())


def test_a_row_of_zeros_has_scale_zero():
    weight = weights(3, 8)
    weight[1] = 0
    tensor = LatentLinear(*start_latent(weight, exact(weight))).to_ternary()
    assert tensor.scale.dtype == np.float16
    assert tensor.scale[1] == 0
    assert tensor.scale[[0, 2]].min() > 0


@pytest.mark.parametrize("planes", [1, 2])
def test_frozen_layers_compute_the_same_and_have_the_same_gradients(planes):
    weight, bias = weights(5, 13), torch.arange(5.0)
    branch = (weights(2, 13, 3), weights(5, 2, 4))
    tensor = exact(weight, planes)
    latent = LatentLinear(*start_latent(weight, tensor), bias, low_rank=branch)
    frozen = FrozenLinear(tensor, bias, low_rank=branch)
    x, y = (weights(4, 13, 5).requires_grad_() for _ in range(2))
    latent(x).square().sum().backward()
    frozen(y).square().sum().backward()
    torch.testing.assert_close(frozen(y), latent(x))
    torch.testing.assert_close(y.grad, x.grad)
    for name in ("log_scale", "bias", "down", "up"):
        torch.testing.assert_close(getattr(frozen, name).grad, getattr(latent, name).grad, msg=name)
    torch.testing.assert_close(
        torch.from_numpy(frozen.to_ternary().dequantize()), torch.from_numpy(latent.to_ternary().dequantize())
    )


def test_unpack_is_the_format():
    tensor = exact(weights(4, 11))
    assert unpack(torch.from_numpy(tensor.codes), 11, torch.int8).numpy().tolist() == tensor.unpack().tolist()


def test_training_moves_codes_towards_what_is_wanted():
    torch.manual_seed(0)
    goal = torch.randint(-1, 2, (8, 12)) * 0.1
    layer = LatentLinear(weights(8, 12), torch.full((1, 8), 0.12))
    optimizer = torch.optim.AdamW([{"params": [layer.weight]}, {"params": [layer.log_scale]}], lr=5e-3)
    for _ in range(300):
        x = torch.randn(32, 12)
        loss = nn.functional.mse_loss(layer(x), x @ goal.T)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (layer.quantised() - goal).abs().mean() < 0.005
