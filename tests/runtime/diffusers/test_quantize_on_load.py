"""A dense checkpoint and a TernaryConfig: quantised while it is loaded."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

import ternfmt
from ternfmt import WeightError
from ternfmt_runtime import LoadError, TernaryConfig, TernaryLinear
from ternfmt_runtime.arrays import to_array

TERNARY = 34


def ternary_names(model) -> set[str]:
    return {name for name, module in model.named_modules() if isinstance(module, TernaryLinear)}


@pytest.mark.parametrize(
    "settings",
    [{}, {"method": "absmean"}, {"method": "planes"}, {"method": "planes", "planes": 3, "group_size": 16}],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_equals_quantize(flux_class, dense_folder, run, settings, dtype) -> None:
    """The weights are quantised as the file has them, float32, whatever dtype the model gets."""
    config = TernaryConfig(**settings)
    model = flux_class.from_pretrained(dense_folder, quantization_config=config, torch_dtype=dtype)
    layer = model.transformer_blocks[1].ff.net[2]
    with torch.no_grad():
        dense = flux_class.from_pretrained(dense_folder).transformer_blocks[1].ff.net[2].weight
    expected = ternfmt.quantize(to_array(dense), **settings)
    for ours, theirs in zip(layer.to_ternary().planes, expected.planes, strict=True):
        assert np.array_equal(ours.codes, theirs.codes)
        assert np.array_equal(ours.scale, theirs.scale)
    assert len(ternary_names(model)) == TERNARY
    assert model.dtype == layer.compute_dtype == layer.bias.dtype == dtype
    assert run(model, dtype).isfinite().all()


def test_what_lies_outside_of_the_blocks_stays_dense(flux_class, dense_folder) -> None:
    model = flux_class.from_pretrained(dense_folder, quantization_config=TernaryConfig())
    dense = {n for n, m in model.named_modules() if type(m) is torch.nn.Linear}
    assert len(dense) == 10
    assert {"x_embedder", "context_embedder", "proj_out", "norm_out.linear"} <= dense


def test_modules_to_not_convert(flux_class, dense_folder) -> None:
    config = TernaryConfig(modules_to_not_convert=["norm1", "transformer_blocks.1.*", "single_transformer_blocks"])
    model = flux_class.from_pretrained(dense_folder, quantization_config=config)
    names = ternary_names(model)
    assert len(names) == 13
    assert "transformer_blocks.0.norm1.linear" not in names
    assert "transformer_blocks.0.norm1_context.linear" in names


def test_the_saved_model_says_how_it_was_made(flux_class, dense_folder, tmp_path, assert_same) -> None:
    config = TernaryConfig(method="planes", group_size=32, modules_to_not_convert=["norm"])
    model = flux_class.from_pretrained(dense_folder, quantization_config=config)
    model.save_pretrained(tmp_path)
    stated = json.loads((tmp_path / "config.json").read_text())["quantization_config"]
    assert stated == {**config.to_dict(), "format_version": "1.0"}
    with ternfmt.open(tmp_path) as file:
        assert file.document.ancillary["encoder"] == {"method": "planes", "planes": 2, "group_size": 32}
    assert_same(flux_class.from_pretrained(tmp_path), model)


def test_a_weight_that_is_not_finite_is_named(flux_class, dense_folder, tmp_path) -> None:
    model = flux_class.from_pretrained(dense_folder)
    with torch.no_grad():
        model.transformer_blocks[0].attn.to_k.weight[3, 5] = float("nan")
    model.save_pretrained(tmp_path)
    with pytest.raises(WeightError, match=r"transformer_blocks.0.attn.to_k.weight"):
        flux_class.from_pretrained(tmp_path, quantization_config=TernaryConfig())


def test_pitfall_8_a_tensor_that_the_dense_checkpoint_lacks(flux_class, dense_folder, tmp_path) -> None:
    """Of dense models diffusers leaves it on the meta device, with a warning."""
    from safetensors.torch import load_file, save_file

    shutil.copy(dense_folder / "config.json", tmp_path)
    tensors = load_file(dense_folder / "diffusion_pytorch_model.safetensors")
    del tensors["transformer_blocks.0.attn.to_k.weight"]
    save_file(tensors, tmp_path / "diffusion_pytorch_model.safetensors", {"format": "pt"})
    with pytest.raises(LoadError, match=r"the dense checkpoint .*\n.*missing: 'transformer_blocks.0.attn.to_k.weight'"):
        flux_class.from_pretrained(tmp_path, quantization_config=TernaryConfig())


def test_the_disk_is_no_place_for_weights_that_are_yet_dense(flux_class, dense_folder, tmp_path) -> None:
    places = dict.fromkeys(["pos_embed", "time_text_embed", "context_embedder", "x_embedder", "norm_out"], "cpu")
    places |= {"transformer_blocks": "disk", "single_transformer_blocks": "cpu", "proj_out": "cpu"}
    with pytest.raises(ValueError, match="ternfmt convert SRC DST"):
        flux_class.from_pretrained(
            dense_folder, quantization_config=TernaryConfig(), device_map=places, offload_folder=tmp_path
        )


def test_auto_device_map_counts_what_the_weights_will_take(flux_class, dense_folder, tmp_path) -> None:
    """With memory for the ternary model only, nothing is sent to disk."""
    ternary = flux_class.from_pretrained(dense_folder, quantization_config=TernaryConfig())
    size = sum(t.nbytes for t in ternary.state_dict().values())
    dense = sum(t.nbytes for t in flux_class.from_pretrained(dense_folder).state_dict().values())
    assert 2 * size < dense
    model = flux_class.from_pretrained(
        dense_folder, quantization_config=TernaryConfig(), device_map="auto", max_memory={"cpu": int(1.5 * size)}
    )
    assert len(ternary_names(model)) == TERNARY
