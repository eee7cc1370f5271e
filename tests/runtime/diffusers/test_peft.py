"""LoRA through PEFT: training beside ternary layers, and merging into them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ternfmt_runtime import TernaryLinear

RANK = 4


def assert_close(ours: Tensor, theirs: Tensor) -> None:
    """Within what two orders of summation in float32 lose."""
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=2e-6)


def test_gradients_reach_the_adapters(flux_class, folder, run) -> None:
    """As in diffusers' training scripts: add_adapter, train, save the adapter."""
    from peft import LoraConfig

    model = flux_class.from_pretrained(folder)
    model.requires_grad_(False)
    model.add_adapter(LoraConfig(r=RANK, target_modules=["to_q", "ff.net.2", "proj_mlp"]))
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert trainable
    assert all("lora_" in name for name in trainable)
    optimizer = torch.optim.SGD(trainable.values(), lr=1.0)
    losses = []
    for _ in range(3):
        loss = run(model).square().mean()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in trainable.values())
    assert losses[-1] < losses[0]


def test_gradients_equal_those_of_the_dequantised_model(flux_class, folder, run) -> None:
    from peft import LoraConfig

    grads = []
    for dense in (False, True):
        model = flux_class.from_pretrained(folder)
        if dense:
            model.dequantize()
        model.requires_grad_(False)
        torch.manual_seed(0)
        model.add_adapter(LoraConfig(r=RANK, target_modules=["to_q", "to_k"], init_lora_weights="gaussian"))
        run(model).square().mean().backward()
        grads.append([p.grad for p in model.parameters() if p.requires_grad])
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_adapters_get_the_models_dtype(flux_class, folder, dtype) -> None:
    from peft import LoraConfig

    model = flux_class.from_pretrained(folder, torch_dtype=dtype)
    model.add_adapter(LoraConfig(r=RANK, target_modules=["to_q"]))
    layer = model.transformer_blocks[0].attn.to_q
    assert layer.lora_A["default"].weight.dtype == dtype
    x = torch.randn(2, 32, dtype=dtype)
    assert layer(x).dtype == dtype


@pytest.mark.parametrize("settings", [{"use_dora": True}, {"init_lora_weights": "pissa"}])
def test_what_needs_the_dense_weight_is_refused(flux_class, folder, settings) -> None:
    from peft import LoraConfig

    model = flux_class.from_pretrained(folder)
    with pytest.raises(ValueError, match=r"needs the dense weight.*dequantize the model first"):
        model.add_adapter(LoraConfig(r=RANK, target_modules=["to_q"], **settings))


def peft_layer(make_tensor: Callable, rank: int = 0, k: int = 35, **settings: Any) -> Any:
    """PEFT's own model around one ternary layer, with adapters that do something."""
    from peft import LoraConfig, get_peft_model

    layer = TernaryLinear.from_ternary(make_tensor(0, 12, k, rank=rank), torch.nn.Parameter(torch.ones(12)))
    config = LoraConfig(r=RANK, target_modules=["0"], init_lora_weights=False, **settings)
    return get_peft_model(torch.nn.Sequential(layer), config)


@torch.no_grad()
@pytest.mark.parametrize("rank", [0, 3])
@pytest.mark.parametrize("settings", [{}, {"lora_bias": True}, {"use_rslora": True, "lora_alpha": 5}])
def test_merge_through_peft(make_tensor, rank, settings) -> None:
    model = peft_layer(make_tensor, rank, **settings)
    base = model.base_model.model[0].base_layer
    before = base.to_ternary()
    x = torch.randn(5, 35)
    beside = model(x)
    model.merge_adapter()
    assert base.low_rank == RANK + rank
    assert_close(model(x), beside)
    model.unmerge_adapter()
    after = base.to_ternary()
    assert base.low_rank == (rank or None)
    if rank:
        assert (after.low_rank.down == before.low_rank.down).all()
        assert after.low_rank.up.dtype == before.low_rank.up.dtype
    assert_close(model(x), beside)
    merged = model.merge_and_unload()
    assert isinstance(merged[0], TernaryLinear)
    assert_close(merged(x), beside)


def test_a_rank_that_cannot_be_stored(make_tensor) -> None:
    model = peft_layer(make_tensor, k=3)
    with pytest.raises(ValueError, match="would have rank 4; at most K = 3"):
        model.merge_adapter()


def test_safe_merge_finds_nan(make_tensor) -> None:
    model = peft_layer(make_tensor)
    with torch.no_grad():
        model.base_model.model[0].lora_A["default"].weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match="NaNs detected"):
        model.merge_adapter(safe_merge=True)


def test_other_kinds_of_adapters_fail(make_tensor) -> None:
    """PEFT makes them in the shape of the packed weight."""
    from peft import LoHaConfig, get_peft_model

    layer = TernaryLinear.from_ternary(make_tensor(0, 12, 35, rank=0))
    model = get_peft_model(torch.nn.Sequential(layer), LoHaConfig(r=2, target_modules=["0"]))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        model(torch.randn(2, 35))
