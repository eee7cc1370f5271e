"""``quantization_config=TernaryConfig(...)`` for dense checkpoints."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    MixtralConfig,
    MixtralForCausalLM,
)

import ternfmt
from ternfmt.canonicalize import canonicalize
from ternfmt.encode.settings import Settings
from ternfmt_runtime import TernaryConfig, TernaryLinear
from tests.runtime.transformers.conftest import run, same_bytes

CASES = {
    "llama": (AutoModelForCausalLM, TernaryConfig(), Settings()),
    "bert": (AutoModel, TernaryConfig(method="absmean", group_size=16), Settings("absmean", group_size=16)),
    "t5": (AutoModelForSeq2SeqLM, TernaryConfig(method="planes", planes=2), Settings("planes")),
}


def ternary_layers(model: torch.nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, TernaryLinear)]


@pytest.mark.parametrize("kind", CASES)
def test_same_bytes_as_convert(
    kind: str, dense: Callable[..., Path], ternary: Callable[..., Path], tmp_path: Path
) -> None:
    auto, config, settings = CASES[kind]
    model = auto.from_pretrained(dense(kind), quantization_config=config)
    assert not model.training
    model.save_pretrained(tmp_path / "saved")
    canonicalize(tmp_path / "saved", tmp_path / "canonical")
    assert same_bytes(tmp_path / "canonical", ternary(kind, settings))
    loaded = auto.from_pretrained(tmp_path / "saved")
    assert torch.equal(run(loaded), run(model))
    assert loaded.config.quantization_config.to_dict() == model.config.quantization_config.to_dict()


def test_modules_to_not_convert_and_compute_dtype(dense: Callable[..., Path]) -> None:
    config = TernaryConfig(modules_to_not_convert=["self_attn", "model.layers.0.*"], compute_dtype=torch.bfloat16)
    model = AutoModelForCausalLM.from_pretrained(dense("llama"), quantization_config=config)
    assert ternary_layers(model) == [f"model.layers.1.mlp.{name}_proj" for name in ("gate", "up", "down")]
    assert model.model.layers[1].mlp.up_proj.compute_dtype == torch.bfloat16
    assert model.dtype == torch.float32


def test_dtype(dense: Callable[..., Path]) -> None:
    model = AutoModelForCausalLM.from_pretrained(
        dense("llama"), quantization_config=TernaryConfig(), dtype=torch.bfloat16
    )
    layer = model.model.layers[0].mlp.up_proj
    assert (model.dtype, layer.compute_dtype) == (torch.bfloat16, torch.bfloat16)
    assert layer.weight_scale.dtype == torch.float16


def test_sharded_source(dense: Callable[..., Path], tmp_path: Path) -> None:
    AutoModelForCausalLM.from_pretrained(dense("llama")).save_pretrained(tmp_path, max_shard_size="30KB")
    one = AutoModelForCausalLM.from_pretrained(dense("llama"), quantization_config=TernaryConfig())
    many = AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=TernaryConfig())
    assert torch.equal(run(one), run(many))


def test_a_new_head_stays_dense(dense: Callable[..., Path]) -> None:
    """Its weight is in no checkpoint; what would be quantised is noise."""
    model = AutoModelForSequenceClassification.from_pretrained(dense("bert"), quantization_config=TernaryConfig())
    assert "classifier" not in ternary_layers(model)
    assert len(ternary_layers(model)) == 12
    assert run(model).isfinite().all()


def test_gpt2_stays_dense(dense: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its weights are Conv1D: [in, out], so dimension 0 is not the output's (SPEC S-2.4)."""
    logging.getLogger("transformers").addHandler(caplog.handler)
    model = AutoModelForCausalLM.from_pretrained(dense("gpt2"), quantization_config=TernaryConfig())
    logging.getLogger("transformers").removeHandler(caplog.handler)
    assert "GPT2LMHeadModel has no nn.Linear to quantise" in caplog.text
    assert ternary_layers(model) == []
    model.save_pretrained(tmp_path)
    assert ternfmt.validate(tmp_path).ternary == 0
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(run(loaded), run(AutoModelForCausalLM.from_pretrained(dense("gpt2"))))


def test_experts_stay_dense(tmp_path: Path) -> None:
    """transformers joins them into 3-D parameters and takes them apart again on saving."""
    config = MixtralConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=96,
        num_local_experts=2,
    )
    MixtralForCausalLM(config).save_pretrained(tmp_path / "dense")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "dense", quantization_config=TernaryConfig())
    assert ternary_layers(model) == [f"model.layers.0.self_attn.{name}_proj" for name in "qkvo"]
    model.save_pretrained(tmp_path / "ternary")
    assert ternfmt.validate(tmp_path / "ternary").ternary == 4
    assert torch.equal(run(AutoModelForCausalLM.from_pretrained(tmp_path / "ternary")), run(model))


def test_a_bad_weight_is_named(dense: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """transformers logs what an operation raises, and raises an error of its own."""
    source = dense("llama")
    tensors = safetensors.torch.load_file(source / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 4] = torch.nan
    safetensors.torch.save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    (tmp_path / "config.json").write_bytes((source / "config.json").read_bytes())
    logging.getLogger("transformers").addHandler(caplog.handler)
    with pytest.raises(RuntimeError, match="look at the `CONVERSION` entries"):
        AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=TernaryConfig())
    logging.getLogger("transformers").removeHandler(caplog.handler)
    assert "WeightError" in caplog.text
    assert "model.layers.1.mlp.up_proj.weight" in caplog.text


def test_a_ternary_file_is_not_quantised_again(ternary: Callable[..., Path], tmp_path: Path) -> None:
    folder = ternary("llama")
    config = json.loads((folder / "config.json").read_text())
    del config["quantization_config"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    with pytest.raises(ValueError, match=r"model\.safetensors is ternary already.*add \"quantization_config\""):
        AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=TernaryConfig())


def test_disk_needs_a_converted_model(dense: Callable[..., Path], tmp_path: Path) -> None:
    device_map = {"model.embed_tokens": "cpu", "model.layers": "disk", "model.norm": "cpu", "lm_head": "cpu"}
    device_map["model.rotary_emb"] = "cpu"
    with pytest.raises(ValueError, match="ternfmt convert SRC DST"):
        AutoModelForCausalLM.from_pretrained(
            dense("llama"), quantization_config=TernaryConfig(), device_map=device_map, offload_folder=tmp_path
        )
