"""``dtype=`` and ``device_map=``, saving and dequantising what they made."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM

import ternfmt
from ternfmt import FormatError
from ternfmt.canonicalize import canonicalize
from ternfmt.encode.settings import Settings
from ternfmt_runtime import TernaryLinear
from tests.runtime.transformers.conftest import check_layers, run, same_bytes
from tests.runtime.transformers.test_errors import copy_with, tamper

pytest.importorskip("accelerate")

DISK = {
    "model.embed_tokens": "cpu",
    "model.layers.0": "disk",
    "model.layers.1": "cpu",
    "model.norm": "cpu",
    "model.rotary_emb": "cpu",
    "lm_head": "disk",
}
T5_DISK = {
    "shared": "cpu",
    "encoder.embed_tokens": "cpu",
    "encoder.block": "disk",
    "encoder.final_layer_norm": "cpu",
    "encoder.dropout": "cpu",
    "decoder": "cpu",
    "lm_head": "cpu",
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_dtype_leaves_scales_alone(dtype: torch.dtype, ternary: Callable[..., Path]) -> None:
    folder = ternary("bert", Settings(scale_dtype="F32"))
    model = AutoModel.from_pretrained(folder, dtype=dtype)
    check_layers(model, folder)
    layer = model.encoder.layer[0].intermediate.dense
    assert (layer.bias.dtype, layer.compute_dtype, layer.weight_scale.dtype) == (dtype, dtype, torch.float32)
    assert run(model).dtype == dtype
    assert model.dequantize().encoder.layer[0].intermediate.dense.weight.dtype == dtype


def test_to_leaves_scales_alone(ternary: Callable[..., Path]) -> None:
    folder = ternary("llama", Settings(scale_dtype="F32"))
    model = AutoModelForCausalLM.from_pretrained(folder).to("cpu", torch.float16)
    check_layers(model, folder)
    assert run(model).dtype == torch.float16


def test_compute_dtype_is_of_the_layer_alone(ternary: Callable[..., Path], tmp_path: Path) -> None:
    """Biases have the model's dtype, loaded and quantised on the fly alike."""
    copy = copy_with(
        ternary("bert"),
        tmp_path / "t",
        config={"quantization_config": {"quant_method": "ternfmt", "compute_dtype": "bfloat16"}},
    )
    layer = AutoModel.from_pretrained(copy).encoder.layer[0].intermediate.dense
    assert (layer.bias.dtype, layer.compute_dtype) == (torch.float32, torch.bfloat16)


@pytest.mark.parametrize("device_map", ["cpu", "auto", {"": "cpu"}, DISK], ids=["cpu", "auto", "dict", "disk"])
def test_device_map(device_map: str | dict[str, str], ternary: Callable[..., Path], tmp_path: Path) -> None:
    folder = ternary("llama", Settings("planes", group_size=16))
    model = AutoModelForCausalLM.from_pretrained(folder, device_map=device_map, offload_folder=tmp_path / "offload")
    assert torch.equal(run(model), run(AutoModelForCausalLM.from_pretrained(folder)))


@pytest.mark.filterwarnings("ignore:Attempting to save a model with offloaded modules:UserWarning:transformers")
@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_disk_offload_saves_the_same_bytes(kind: str, ternary: Callable[..., Path], tmp_path: Path) -> None:
    auto, settings, device_map = {
        "llama": (AutoModelForCausalLM, Settings(), DISK),
        "t5": (AutoModelForSeq2SeqLM, Settings(), T5_DISK),
    }[kind]
    folder = ternary(kind, settings)
    model = auto.from_pretrained(folder, device_map=device_map, offload_folder=tmp_path / "offload")
    offloaded = [m for m in model.modules() if isinstance(m, TernaryLinear) and m.weight.is_meta]
    assert len(offloaded) == {"llama": 7, "t5": 14}[kind]
    assert not any(layer.weight_scale.is_meta for layer in offloaded)
    assert torch.equal(run(model), run(auto.from_pretrained(folder)))
    model.save_pretrained(tmp_path / "saved")
    canonicalize(tmp_path / "saved", tmp_path / "canonical")
    assert same_bytes(tmp_path / "canonical", folder)
    with pytest.raises(ValueError, match="device_map spread the model over several devices"):
        model.dequantize()


def test_offloaded_codes_are_checked(ternary: Callable[..., Path], tmp_path: Path) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    folder = tamper(ternary("llama"), tmp_path / "t", lambda tensors: tensors[name][3].fill_(0b10))
    with pytest.raises(FormatError, match=rf"CODE: .*'{name}'"):
        AutoModelForCausalLM.from_pretrained(folder, device_map=DISK, offload_folder=tmp_path / "offload")


@pytest.mark.parametrize("dtype", [None, torch.float32, "float32"])
def test_dequantize(dtype: torch.dtype | str | None, ternary: Callable[..., Path], tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(ternary("llama", dtype=torch.bfloat16))
    model.dequantize(dtype=dtype)
    expected = torch.bfloat16 if dtype is None else torch.float32
    assert {p.dtype for p in model.parameters()} == {expected}
    model.save_pretrained(tmp_path)
    assert "quantization_config" not in json.loads((tmp_path / "config.json").read_text())
    with pytest.raises(FormatError, match="STRIPPED"):
        ternfmt.validate(tmp_path)
    assert torch.equal(run(AutoModelForCausalLM.from_pretrained(tmp_path)), run(model))
