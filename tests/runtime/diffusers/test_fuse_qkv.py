"""fuse_qkv_projections: packed rows, one after another."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ternfmt_runtime import TernaryConfig, TernaryLinear
from ternfmt_runtime.fuse_qkv import join


@torch.no_grad()
def test_flux(flux_class, folder, run) -> None:
    model = flux_class.from_pretrained(folder)
    attention = model.transformer_blocks[0].attn
    before = run(model)
    model.fuse_qkv_projections()
    assert attention.fused_projections
    for fused, parts in (
        ("to_qkv", ("to_q", "to_k", "to_v")),
        ("to_added_qkv", ("add_q_proj", "add_k_proj", "add_v_proj")),
    ):
        layer = getattr(attention, fused)
        assert isinstance(layer, TernaryLinear)
        assert torch.equal(layer.weight, torch.cat([getattr(attention, part).weight for part in parts]))
        assert torch.equal(layer.weight_scale, torch.cat([getattr(attention, part).weight_scale for part in parts]))
    torch.testing.assert_close(run(model), before, rtol=1e-4, atol=2e-6)
    model.fuse_qkv_projections()
    model.unfuse_qkv_projections()
    assert not hasattr(attention, "to_qkv")
    assert torch.equal(run(model), before)


@torch.no_grad()
def test_a_dense_model_is_fused_as_ever(flux_class, dense_folder, run) -> None:
    model = flux_class.from_pretrained(dense_folder)
    before = run(model)
    model.fuse_qkv_projections()
    assert type(model.transformer_blocks[0].attn.to_qkv) is nn.Linear
    torch.testing.assert_close(run(model), before, rtol=1e-4, atol=2e-6)


@torch.no_grad()
def test_after_fuse_lora(make_pipeline, flux_class, folder, run) -> None:
    """Only two of three projections have a low-rank term."""
    model = flux_class.from_pretrained(folder)
    pipeline = make_pipeline(model)
    state = {}
    for name, rank in ("to_q", 2), ("to_v", 3):
        key = f"transformer.transformer_blocks.0.attn.{name}"
        state |= {f"{key}.lora_A.weight": torch.randn(rank, 32) / 8, f"{key}.lora_B.weight": torch.randn(32, rank) / 8}
    pipeline.load_lora_weights(state)
    pipeline.fuse_lora(components=["transformer"])
    with pytest.raises(ValueError, match=r"to_qkv of to_q, to_k, to_v: they are .*Unload adapters first"):
        model.fuse_qkv_projections()
    pipeline.unload_lora_weights()
    before = run(model)
    model.fuse_qkv_projections()
    assert model.transformer_blocks[0].attn.to_qkv.low_rank == 5
    torch.testing.assert_close(run(model), before, rtol=1e-4, atol=2e-6)


def make_attention(**settings: Any) -> Any:
    from diffusers.models.attention_processor import Attention

    return Attention(32, heads=2, dim_head=16, bias=True, **settings)


@pytest.mark.parametrize("settings", [{}, {"cross_attention_dim": 24}])
def test_the_attention_of_older_models(settings) -> None:
    from ternfmt_runtime import quantize_

    attention = make_attention(**settings)
    dense = make_attention(**settings)
    dense.fuse_projections()
    quantize_(attention)
    attention.fuse_projections(fuse=True)
    fused = "to_kv" if settings else "to_qkv"
    assert isinstance(getattr(attention, fused), TernaryLinear)
    assert type(getattr(dense, fused)) is nn.Linear


def test_mixed_layers_are_named(flux_class, dense_folder) -> None:
    config = TernaryConfig(modules_to_not_convert=["to_k"])
    model = flux_class.from_pretrained(dense_folder, quantization_config=config)
    with pytest.raises(ValueError, match=r"to_qkv of to_q, to_k, to_v: they are TernaryLinear, Linear, TernaryLinear"):
        model.fuse_qkv_projections()


def test_layers_that_do_not_fit_together(make_tensor) -> None:
    layers = [TernaryLinear.from_ternary(make_tensor(p, 12, 35, planes=p, rank=0)) for p in (1, 2)]
    with pytest.raises(ValueError, match=r"cannot fuse these: expected .*planes"):
        join(layers, "these")
    with_bias = TernaryLinear.from_ternary(make_tensor(0, 12, 35), nn.Parameter(torch.ones(12)))
    with pytest.raises(ValueError, match="some have a bias"):
        join([layers[0], with_bias], "these")


@torch.no_grad()
@pytest.mark.parametrize("ranks", [(0, 0), (2, 0), (2, 3)])
def test_join(make_tensor, check_output, ranks) -> None:
    layers = [
        TernaryLinear.from_ternary(make_tensor(seed, 12, 35, rank=rank), nn.Parameter(torch.randn(12)))
        for seed, rank in enumerate(ranks)
    ]
    joined = join(layers, "these")
    x = torch.randn(5, 35)
    check_output(joined, x, joined(x))
    weights = [layer.to_ternary().dequantize() for layer in layers]
    assert np.array_equal(joined.to_ternary().dequantize(), np.concatenate(weights))
