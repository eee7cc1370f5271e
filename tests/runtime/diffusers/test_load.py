"""from_pretrained of ternary checkpoints: what arrives, and what is refused."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch

import ternfmt
from ternfmt import FormatError, Kind, TernaryTensor
from ternfmt_runtime import LoadError, TernaryConfig, TernaryLinear, load_into
from ternfmt_runtime.arrays import to_array

WEIGHTS = "diffusion_pytorch_model.safetensors"
TO_Q = "transformer_blocks.0.attn.to_q.weight"
TERNARY = 34


def read(folder: Path) -> dict:
    """All logical tensors, in memory."""
    with ternfmt.open(folder) as file:
        tensors = {}
        for name in file:
            value = file[name]
            tensors[name] = value if isinstance(value, TernaryTensor) else np.array(value)
        return tensors


def edit_config(folder: Path, **changes) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, **changes}))


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def test_the_tensors_are_those_of_the_file(flux_class, folder) -> None:
    model = flux_class.from_pretrained(folder)
    layers = {f"{n}.weight": m for n, m in model.named_modules() if isinstance(m, TernaryLinear)}
    with ternfmt.open(folder) as file:
        assert {name for name, info in file.tensors.items() if info.ternary} == set(layers)
        assert len(layers) == TERNARY
        for name, value in model.state_dict().items():
            assert np.array_equal(to_array(value), file.stored[name]), name
    assert not model.training
    assert model.is_quantized
    assert not any(layer.weight.requires_grad for layer in layers.values())


def test_output_is_that_of_load_into(flux_class, folder, run) -> None:
    with torch.device("meta"):
        other = flux_class.from_config(flux_class.load_config(folder))
    load_into(other, folder / WEIGHTS)
    assert torch.equal(run(flux_class.from_pretrained(folder)), run(other.eval()))


def test_a_config_that_convert_wrote(flux_class, dense_folder, tmp_path, capsys) -> None:
    from ternfmt.cli import main

    assert main(["convert", str(dense_folder), str(tmp_path / "out")]) == 0
    stated = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    assert stated == {"quant_method": "ternfmt", "format_version": "1.0"}
    model = flux_class.from_pretrained(tmp_path / "out")
    assert isinstance(model.transformer_blocks[0].attn.to_q, TernaryLinear)
    assert model.config.quantization_config.to_dict() == stated


def test_features_come_from_the_file(flux_class, copy, make_tensor, run) -> None:
    """Planes, groups and a low-rank term with K not a multiple of 4 or 16: nothing is guessed from packed shapes."""
    tensors = read(copy)
    feature = make_tensor(1, 32, 32, planes=3, group_size=16, rank=2, scale_dtype=ml_dtypes.bfloat16)
    tensors[TO_Q] = feature
    tensors["x_embedder.weight"] = make_tensor(2, 32, 8, planes=1, group_size=None, rank=0, scale_dtype=np.float32)
    ternfmt.save(copy / WEIGHTS, tensors)
    model = flux_class.from_pretrained(copy, torch_dtype=torch.bfloat16)
    layer = model.transformer_blocks[0].attn.to_q
    assert (layer.planes, layer.group_size, layer.low_rank) == (3, 16, 2)
    loaded = layer.to_ternary()
    for ours, theirs in zip(loaded.planes, feature.planes, strict=True):
        assert np.array_equal(ours.codes, theirs.codes)
        assert np.array_equal(ours.scale, theirs.scale)
        assert ours.scale.dtype == theirs.scale.dtype
    assert np.array_equal(loaded.low_rank.up, feature.low_rank.up)
    assert model.x_embedder.weight_scale.dtype == torch.float32
    assert run(model, torch.bfloat16).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_pitfall_1_scales_keep_their_dtype(flux_class, folder, dtype) -> None:
    model = flux_class.from_pretrained(folder, torch_dtype=dtype)
    layer = model.transformer_blocks[0].attn.to_q
    assert layer.weight_scale.dtype == torch.float16
    assert layer.bias.dtype == layer.compute_dtype == model.dtype == dtype
    with ternfmt.open(folder) as file:
        assert np.array_equal(to_array(layer.weight_scale), file[TO_Q].scale)


def test_compute_dtype_is_kept(flux_class, dense_folder) -> None:
    config = TernaryConfig(compute_dtype=torch.float16)
    model = flux_class.from_pretrained(dense_folder, quantization_config=config)
    assert model.transformer_blocks[0].attn.to_q.compute_dtype == torch.float16


@pytest.mark.parametrize("parallel", [False, True])
def test_pitfall_2_a_weight_and_its_scale_in_different_shards(
    flux_class, folder, tmp_path, monkeypatch, assert_same, parallel
) -> None:
    from ternfmt_runtime.diffusers_plugin import TernaryQuantizer

    model = flux_class.from_pretrained(folder)
    model.save_pretrained(tmp_path, max_shard_size="10KB")
    index = json.loads((tmp_path / "diffusion_pytorch_model.safetensors.index.json").read_text())["weight_map"]
    apart = [name for name in index if f"{name}_scale" in index and index[name] != index[f"{name}_scale"]]
    assert apart
    if parallel:
        monkeypatch.setattr("diffusers.models.modeling_utils.HF_ENABLE_PARALLEL_LOADING", True)
    threads = set()
    place = TernaryQuantizer.maybe_update_state_dict
    monkeypatch.setattr(
        TernaryQuantizer,
        "maybe_update_state_dict",
        lambda self, state: threads.add(threading.get_ident()) or place(self, state),
    )
    assert_same(flux_class.from_pretrained(tmp_path), model)
    assert (threading.get_ident() not in threads) == parallel


@pytest.mark.parametrize(
    ("suffix", "value", "kind"),
    [("", 0b10101010, Kind.CODE), ("_scale", np.nan, Kind.SCALE), ("_scale", -1, Kind.SCALE)],
)
def test_bad_codes_and_scales_are_refused(flux_class, copy, suffix, value, kind) -> None:
    with ternfmt.open(copy) as file:
        header = file.stored.headers[0]
        span = file.stored.spans[TO_Q + suffix]
        start = header.data_start + span.begin
    raw = bytearray((copy / WEIGHTS).read_bytes())
    raw[start : start + (2 if suffix else 1)] = np.array(value, np.float16 if suffix else np.uint8).tobytes()
    (copy / WEIGHTS).write_bytes(raw)
    with pytest.raises(FormatError) as caught:
        flux_class.from_pretrained(copy)
    assert caught.value.kind is kind
    assert WEIGHTS in str(caught.value)
    assert TO_Q + suffix in str(caught.value)


def test_pitfall_8_missing_codes_are_refused(flux_class, copy) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(copy / WEIGHTS)
    del tensors[TO_Q]
    with ternfmt.open(copy) as file:
        metadata = file.stored.headers[0].metadata
    save_file(tensors, copy / WEIGHTS, metadata)
    with pytest.raises(FormatError) as caught:
        flux_class.from_pretrained(copy)
    assert caught.value.kind is Kind.METADATA
    assert TO_Q in str(caught.value)


def test_pitfall_8_missing_dense_tensors_are_refused(flux_class, copy) -> None:
    tensors = read(copy)
    del tensors["proj_out.bias"]
    ternfmt.save(copy / WEIGHTS, tensors)
    with pytest.raises(LoadError, match=r"missing: 'proj_out.bias', torch.float32 \[8\]"):
        flux_class.from_pretrained(copy)


def test_a_shape_that_is_not_the_models(flux_class, copy) -> None:
    edit_config(copy, attention_head_dim=32, axes_dims_rope=[8, 12, 12])
    with pytest.raises(LoadError) as caught:
        flux_class.from_pretrained(copy)
    message = str(caught.value)
    for part in (WEIGHTS, TO_Q, "'transformer_blocks.0.attn.to_q' expects shape [64, 64], got [32, 32]", "config"):
        assert part in message


def test_a_ternary_tensor_that_the_model_lacks(flux_class, copy) -> None:
    edit_config(copy, num_layers=1)
    with pytest.raises(LoadError, match=r"has no module 'transformer_blocks.1.attn.to_q'"):
        flux_class.from_pretrained(copy)


@pytest.mark.parametrize(
    "stated",
    [
        {"format_version": "1.1"},
        {"method": "planes", "planes": 2},
        {"group_size": 64},
        {"modules_to_not_convert": ["to_q"]},
    ],
)
def test_a_config_that_disagrees_with_the_file(flux_class, copy, stated) -> None:
    edit_config(copy, quantization_config={"quant_method": "ternfmt", **stated})
    with pytest.raises(FormatError) as caught:
        flux_class.from_pretrained(copy)
    assert caught.value.kind is Kind.CONFIG
    key = list(stated)[-1]
    assert key in str(caught.value)


def test_a_ternary_file_without_quantization_config_is_an_error(flux_class, copy) -> None:
    """What somebody without this package sees: a shape that does not fit, no garbage."""
    config = json.loads((copy / "config.json").read_text())
    del config["quantization_config"]
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"expected shape torch.Size\(\[\d+, \d+\]\), but got torch.Size"):
        flux_class.from_pretrained(copy)


def test_quantising_what_is_ternary_already_is_refused(flux_class, copy) -> None:
    config = json.loads((copy / "config.json").read_text())
    del config["quantization_config"]
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="is ternary already"):
        flux_class.from_pretrained(copy, quantization_config=TernaryConfig())


def test_pitfall_7_low_cpu_mem_usage_cannot_be_switched_off(flux_class, folder) -> None:
    with pytest.raises(ValueError, match="low_cpu_mem_usage"):
        flux_class.from_pretrained(folder, low_cpu_mem_usage=False)


def test_pitfall_12_the_callers_config_is_not_changed(flux_class, dense_folder) -> None:
    config = TernaryConfig(modules_to_not_convert=["to_q"])
    before = config.to_dict()
    model = flux_class.from_pretrained(dense_folder, quantization_config=config)
    assert config.to_dict() == before
    assert config.format_version is None
    assert model.config.quantization_config is not config


def test_a_subfolder(flux_class, folder, tmp_path, assert_same) -> None:
    shutil.copytree(folder, tmp_path / "pipeline" / "transformer")
    model = flux_class.from_pretrained(tmp_path / "pipeline", subfolder="transformer")
    assert_same(model, flux_class.from_pretrained(folder))


def test_a_file_through_symbolic_links_as_in_the_hub_cache(flux_class, folder, tmp_path, assert_same) -> None:
    for source in folder.iterdir():
        (tmp_path / source.name).symlink_to(source)
    assert_same(flux_class.from_pretrained(tmp_path), flux_class.from_pretrained(folder))


def test_the_model_does_not_depend_on_the_files_codes(flux_class, copy, run) -> None:
    model = flux_class.from_pretrained(copy, torch_dtype=torch.bfloat16)
    expected = model.transformer_blocks[0].attn.to_q.to_ternary().codes.copy()
    with (copy / WEIGHTS).open("r+b") as stream:
        stream.seek(0, 2)
        size = stream.tell()
        stream.seek(size // 2)
        stream.write(b"\xaa" * (size - size // 2))
    assert np.array_equal(model.transformer_blocks[0].attn.to_q.to_ternary().codes, expected)
