"""from_single_file: BFL's and ComfyUI's names."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import ternfmt
from ternfmt import FormatError, Kind, TernaryTensor
from ternfmt_runtime import LoadError, TernaryConfig, TernaryLinear
from ternfmt_runtime.row_ids import RowIds
from tests.runtime.diffusers.wide import CONFIG, WIDTH, bfl_control_lora

needs_042 = pytest.mark.usefixtures("single_file")


@pytest.fixture(scope="module")
def model(single_file, flux_class, wide_file, wide_config) -> Any:
    return flux_class.from_single_file(str(wide_file), config=wide_config, quantization_config=TernaryConfig())


def test_pitfall_9_rows_go_where_diffusers_sends_them(model, wide_tensors) -> None:
    double, single = model.transformer_blocks[0], model.single_transformer_blocks[0]
    qkv, linear1 = wide_tensors["double_blocks.0.txt_attn.qkv.weight"], wide_tensors["single_blocks.0.linear1.weight"]
    adaln = wide_tensors["final_layer.adaLN_modulation.1.weight"]
    for layer, whole, rows in [
        (double.attn.add_q_proj, qkv, np.arange(WIDTH)),
        (double.attn.add_k_proj, qkv, np.arange(WIDTH, 2 * WIDTH)),
        (double.attn.add_v_proj, qkv, np.arange(2 * WIDTH, 3 * WIDTH)),
        (single.attn.to_k, linear1, np.arange(WIDTH, 2 * WIDTH)),
        (single.proj_mlp, linear1, np.arange(3 * WIDTH, 7 * WIDTH)),
        (double.ff.net[2], wide_tensors["double_blocks.0.img_mlp.2.weight"], np.arange(WIDTH)),
        (model.norm_out.linear, adaln, np.concatenate([np.arange(WIDTH, 2 * WIDTH), np.arange(WIDTH)])),
    ]:
        assert isinstance(layer, TernaryLinear)
        assert np.array_equal(layer.weight, whole.codes[rows])
        assert np.array_equal(layer.weight_scale, whole.scale[rows])
        assert layer.weight_scale.dtype == torch.float16


def test_a_low_rank_term_is_split_with_its_rows(model, wide_tensors) -> None:
    whole = wide_tensors["double_blocks.0.img_attn.qkv.weight"]
    layer = model.transformer_blocks[0].attn.to_v
    assert layer.low_rank == 2
    assert np.array_equal(layer.weight_lowrank_down, whole.low_rank.down)
    assert np.array_equal(layer.weight_lowrank_up, whole.low_rank.up[2 * WIDTH :])


def test_everything_else_equals_the_dense_file(flux_class, model, wide_tensors, wide_config, tmp_path) -> None:
    from safetensors.torch import save_file

    dense = {}
    for name, value in wide_tensors.items():
        value = value.dequantize() if isinstance(value, TernaryTensor) else value
        dense[name] = torch.from_numpy(value).bfloat16()
    save_file(dense, tmp_path / "dense.safetensors")
    del dense
    twin = flux_class.from_single_file(
        str(tmp_path / "dense.safetensors"), config=wide_config, torch_dtype=torch.bfloat16
    )
    checked = 0
    for name, theirs in twin.state_dict().items():
        module = model.get_submodule(name.rpartition(".")[0])
        if isinstance(module, TernaryLinear) and name.endswith(".weight"):
            ours = torch.from_numpy(module.to_ternary()[:64].dequantize()).bfloat16()
            assert torch.equal(ours, theirs[:64]), name
            checked += 1
        else:
            assert torch.equal(model.state_dict()[name].bfloat16(), theirs), name
    assert checked == 21


def test_comfyui_names_give_the_same_model(flux_class, model, wide_tensors, wide_config, tmp_path, assert_same) -> None:
    path = tmp_path / "comfy.safetensors"
    ternfmt.save(path, {f"model.diffusion_model.{name}": value for name, value in wide_tensors.items()})
    other = flux_class.from_single_file(str(path), config=wide_config, quantization_config=TernaryConfig())
    assert_same(other, model)


@needs_042
def test_dtype(flux_class, wide_file, wide_config) -> None:
    model = flux_class.from_single_file(
        str(wide_file), config=wide_config, quantization_config=TernaryConfig(), torch_dtype=torch.bfloat16
    )
    layer = model.single_transformer_blocks[0].proj_out
    assert layer.bias.dtype == layer.compute_dtype == model.dtype == torch.bfloat16
    assert layer.weight_scale.dtype == torch.float16


def test_saved_under_diffusers_names(flux_class, model, tmp_path, assert_same) -> None:
    """The config is recorded, which diffusers forgets for single files."""
    model.save_pretrained(tmp_path)
    assert ternfmt.validate(tmp_path).ternary == 21
    assert_same(flux_class.from_pretrained(tmp_path), model)


@needs_042
def test_without_a_config_for_quantisation(flux_class, wide_file, wide_config) -> None:
    """diffusers asks for one with GGUF files, too."""
    with pytest.raises(ValueError, match=r"expected shape torch.Size\(\[18432, 3072\]\), but got"):
        flux_class.from_single_file(str(wide_file), config=wide_config)


@needs_042
def test_a_state_dict_has_no_shapes(flux_class, wide_file, wide_config) -> None:
    from safetensors.torch import load_file

    with pytest.raises(ValueError, match="the path of the safetensors file"):
        flux_class.from_single_file(load_file(wide_file), config=wide_config, quantization_config=TernaryConfig())


def test_a_dense_file_is_quantised(flux_class, dense_folder, assert_same) -> None:
    path = dense_folder / "diffusion_pytorch_model.safetensors"
    dtype = torch.bfloat16
    ours = flux_class.from_single_file(
        str(path), config=str(dense_folder), quantization_config=TernaryConfig(), torch_dtype=dtype
    )
    theirs = flux_class.from_pretrained(dense_folder, quantization_config=TernaryConfig(), torch_dtype=dtype)
    assert_same(ours, theirs)
    assert ours.config.quantization_config == theirs.config.quantization_config


def test_older_diffusers(flux_class, wide_file, wide_config, monkeypatch) -> None:
    monkeypatch.setattr("diffusers.__version__", "0.41.3")
    with pytest.raises(ValueError, match=r"flux.safetensors: .*needs diffusers 0.42, this is 0.41.3: update"):
        flux_class.from_single_file(str(wide_file), config=wide_config, quantization_config=TernaryConfig())


@needs_042
def test_bad_codes(flux_class, wide_file, wide_config, tmp_path) -> None:
    with ternfmt.open(wide_file) as file:
        span = file.stored.spans["single_blocks.0.linear1.weight"]
        start = file.stored.headers[0].data_start + span.begin
    path = tmp_path / "bad.safetensors"
    raw = bytearray(wide_file.read_bytes())
    raw[start] = 0b10
    path.write_bytes(raw)
    with pytest.raises(FormatError) as caught:
        flux_class.from_single_file(str(path), config=wide_config, quantization_config=TernaryConfig())
    assert caught.value.kind is Kind.CODE
    assert "bad.safetensors" in str(caught.value)


@needs_042
def test_a_config_of_another_model(flux_class, wide_file, tmp_path) -> None:
    (tmp_path / "config.json").write_text(
        json.dumps({**CONFIG, "attention_head_dim": 64, "axes_dims_rope": [8, 28, 28]})
    )
    with pytest.raises(LoadError, match=r"expects shape \[1536, 1536\], got \[3072, 3072\]"):
        flux_class.from_single_file(str(wide_file), config=str(tmp_path), quantization_config=TernaryConfig())


def test_row_ids_survive_what_converters_do(make_tensor: Callable[..., TernaryTensor]) -> None:
    ids = RowIds()
    a, b = (make_tensor(seed, 12, 35, rank=0) for seed in (0, 1))
    first, second = ids.stand_in(a), ids.stand_in(b)
    q, _, v = torch.chunk(first, 3, dim=0)
    joined = ids.resolve(torch.cat([v, second[:5], q]))
    expected = ternfmt.concatenate_rows([a[8:], b[:5], a[:4]])
    for ours, theirs in zip(joined.planes, expected.planes, strict=True):
        assert np.array_equal(ours.codes, theirs.codes)
        assert np.array_equal(ours.scale, theirs.scale)
    with pytest.raises(ValueError, match="row by row"):
        ids.resolve(first.T)
    with pytest.raises(ValueError, match="low-rank"):
        ids.resolve(torch.cat([first, ids.stand_in(make_tensor(2, 12, 35))]))


@needs_042
@torch.no_grad()
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")
def test_pitfall_3_a_bfl_control_lora(make_pipeline, flux_class, wide_file, wide_config) -> None:
    model = flux_class.from_single_file(str(wide_file), config=wide_config, quantization_config=TernaryConfig())
    layers = model.transformer_blocks[0].attn.to_k, model.single_transformer_blocks[0].proj_mlp
    x = torch.randn(2, WIDTH)
    base = [layer(x) for layer in layers]
    state = bfl_control_lora()
    expected = []
    for name, rows in (
        ("double_blocks.0.img_attn.qkv", slice(WIDTH, 2 * WIDTH)),
        ("single_blocks.0.linear1", slice(3 * WIDTH, None)),
    ):
        a, b = state[f"{name}.lora_A.weight"], state[f"{name}.lora_B.weight"]
        expected.append(x @ a.T @ b[rows].T)
    make_pipeline(model).load_lora_weights(dict(state))
    layers = model.transformer_blocks[0].attn.to_k, model.single_transformer_blocks[0].proj_mlp
    for layer, before, delta in zip(layers, base, expected, strict=True):
        assert isinstance(layer.base_layer, TernaryLinear)
        torch.testing.assert_close(layer(x), before + delta)
    assert model.x_embedder.in_features == 16
