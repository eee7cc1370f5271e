"""Devices, offloading, casts and compilation of one model."""

from __future__ import annotations

import pytest
import torch

from ternfmt_runtime import TernaryLinear

CPU = torch.device("cpu")
ON_DISK = {
    "pos_embed": "cpu",
    "time_text_embed": "cpu",
    "context_embedder": "cpu",
    "x_embedder": "cpu",
    "transformer_blocks": "disk",
    "single_transformer_blocks": "cpu",
    "norm_out": "cpu",
    "proj_out": "disk",
}


@pytest.fixture
def expected(flux_class, folder, run) -> torch.Tensor:
    return run(flux_class.from_pretrained(folder))


@pytest.mark.parametrize("device_map", ["cpu", "auto", "balanced", {"": "cpu"}])
def test_device_map(flux_class, folder, run, expected, device_map) -> None:
    assert torch.equal(run(flux_class.from_pretrained(folder, device_map=device_map)), expected)


def test_pitfall_5_layers_on_disk(flux_class, folder, run, expected, tmp_path) -> None:
    model = flux_class.from_pretrained(folder, device_map=ON_DISK, offload_folder=tmp_path)
    layer = model.transformer_blocks[0].attn.to_q
    assert layer.weight.is_meta
    assert layer.weight_scale.device == CPU
    assert layer.weight_scale.dtype == torch.float16
    for _ in range(2):
        assert torch.equal(run(model), expected)
    with pytest.raises(ValueError, match="offloaded to disk"):
        model.save_pretrained(tmp_path / "saved")
    with pytest.raises(ValueError, match="its weight is offloaded"):
        model.dequantize()


def test_auto_sends_to_disk_what_memory_does_not_hold(flux_class, folder, run, expected, tmp_path) -> None:
    model = flux_class.from_pretrained(folder, device_map="auto", max_memory={"cpu": 90_000}, offload_folder=tmp_path)
    layers = [module for module in model.modules() if isinstance(module, TernaryLinear)]
    assert any(layer.weight.is_meta for layer in layers)
    assert torch.equal(run(model), expected)


@pytest.mark.parametrize(
    "settings", [{"offload_type": "block_level", "num_blocks_per_group": 1}, {"offload_type": "leaf_level"}]
)
@pytest.mark.parametrize("disk", [False, True])
def test_pitfall_14_group_offload(flux_class, folder, run, expected, tmp_path, settings, disk) -> None:
    model = flux_class.from_pretrained(folder)
    if disk:
        settings = {**settings, "offload_to_disk_path": str(tmp_path)}
    model.enable_group_offload(onload_device=CPU, offload_device=CPU, **settings)
    for _ in range(2):
        assert torch.equal(run(model), expected)


@pytest.mark.parametrize("buffers", [False, True])
def test_sequential_offload(flux_class, folder, run, expected, buffers) -> None:
    """What enable_sequential_cpu_offload does to each model. A pipeline's fails on a CPU, dense ones too."""
    from accelerate import cpu_offload

    model = flux_class.from_pretrained(folder)
    cpu_offload(model, CPU, offload_buffers=buffers)
    assert model.transformer_blocks[0].attn.to_q.weight.is_meta
    for _ in range(2):
        assert torch.equal(run(model), expected)


def test_pitfall_6_layerwise_casting_leaves_scales_alone(flux_class, folder, run) -> None:
    """Biases and dense layers go to float8 between calls; codes, scales and factors never do."""
    model = flux_class.from_pretrained(folder, torch_dtype=torch.bfloat16)
    layers = [module for module in model.modules() if isinstance(module, TernaryLinear)]
    before = [layer.to_ternary() for layer in layers]
    expected = run(model, torch.bfloat16)
    model.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.bfloat16)
    assert model.transformer_blocks[0].attn.to_q.bias.dtype == torch.float8_e4m3fn
    output = run(model, torch.bfloat16)
    assert (output - expected).norm() < 0.1 * expected.norm()
    for layer, tensor in zip(layers, before, strict=True):
        assert layer.weight_scale.dtype == torch.float16
        assert layer.compute_dtype == torch.bfloat16
        assert (layer.to_ternary().scale == tensor.scale).all()
        assert (layer.to_ternary().codes == tensor.codes).all()


@pytest.mark.parametrize("cast", [lambda m: m.half(), lambda m: m.float(), lambda m: m.to(torch.float16)])
def test_pitfall_7_casts_are_refused(flux_class, folder, cast) -> None:
    """By diffusers, for every quantised model."""
    with pytest.raises(ValueError, match="quantized model"):
        cast(flux_class.from_pretrained(folder))


def test_compile_whole_graph(flux_class, folder, run, expected) -> None:
    with torch.no_grad():
        model = flux_class.from_pretrained(folder)
        output = run(torch.compile(model, fullgraph=True, backend="aot_eager"))
    assert torch.equal(output, expected)


def test_compile_repeated_blocks(flux_class, folder, run, expected) -> None:
    with torch.no_grad():
        model = flux_class.from_pretrained(folder)
        model.compile_repeated_blocks(fullgraph=True, backend="eager")
        assert torch.equal(run(model), expected)
