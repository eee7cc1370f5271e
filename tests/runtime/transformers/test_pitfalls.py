"""The pitfalls that were seen in these versions of transformers, by their number in the project's list.

Numbers 3, 6, 9 and 14 are of diffusers alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors
import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

import ternfmt
from ternfmt import FormatError
from ternfmt.encode.settings import Settings
from ternfmt_runtime import LoadError, TernaryConfig, TernaryLinear
from tests.runtime.transformers.conftest import check_layers, run
from tests.runtime.transformers.test_errors import NAME, copy_with, tamper


def test_1_scales_are_not_cast(ternary: Callable[..., Path]) -> None:
    """T5 asks for float32 in `wo`, scales included, when it is loaded in float16."""
    folder = ternary("t5", Settings())
    model = AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float16)
    check_layers(model, folder)
    layer = model.encoder.block[0].layer[1].DenseReluDense
    assert (layer.wo.weight_scale.dtype, layer.wi_0.weight_scale.dtype) == (torch.float16, torch.float16)
    assert (layer.wo.compute_dtype, layer.wi_0.compute_dtype) == (torch.float32, torch.float16)


@pytest.mark.parametrize("sequential", ["0", "1"])
def test_2_weight_and_scale_in_different_shards(
    sequential: str, ternary: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_DEACTIVATE_ASYNC_LOAD", sequential)
    folder = ternary("llama")
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    with safetensors.safe_open(folder / "model.safetensors", "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
        metadata = file.metadata()
    weight_map = {}
    for i, last in enumerate(("_scale", "")):
        shard = f"model-0000{i + 1}-of-00002.safetensors"
        held = {n: t for n, t in tensors.items() if n.endswith("_scale") == (last == "_scale")}
        safetensors.torch.save_file(held, tmp_path / shard, metadata)
        weight_map.update(dict.fromkeys(held, shard))
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(run(model), run(AutoModelForCausalLM.from_pretrained(folder)))


def test_4_t5_does_not_cast_activations_to_bytes(ternary: Callable[..., Path]) -> None:
    """It casts them to the dtype of `wo.weight`, unless that is int8."""
    model = AutoModelForSeq2SeqLM.from_pretrained(ternary("t5", Settings()))
    layer = model.encoder.block[0].layer[1].DenseReluDense
    assert layer.wo.weight.dtype == torch.int8
    assert model.state_dict()["encoder.block.0.layer.1.DenseReluDense.wo.weight"].dtype == torch.uint8
    x = torch.randn(2, 3, 32)
    seen = []
    layer.wo.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    y = layer(x)
    expected = layer.act(layer.wi_0(x)) * layer.wi_1(x)
    assert torch.equal(seen[0], expected)
    torch.testing.assert_close(y, layer.wo.dequantize()(expected), rtol=1e-4, atol=1e-5)


def test_4_other_casts_to_bytes_raise() -> None:
    layer = TernaryLinear(8, 8)
    with pytest.raises(ValueError, match=r"x: expected torch\.float32 .*, got torch\.uint8"):
        layer(torch.ones(2, 8).to(layer.weight.dtype))


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_5_codes_are_not_drawn_at_random(kind: str, ternary: Callable[..., Path]) -> None:
    """Neither by the layer's parent, as T5's attention does."""
    model = {"llama": AutoModelForCausalLM, "t5": AutoModelForSeq2SeqLM}[kind].from_pretrained(
        ternary(kind, Settings())
    )
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.initialize_weights()
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_7_casts_that_transformers_refuses(ternary: Callable[..., Path]) -> None:
    """`.to(dtype)` works."""
    model = AutoModelForCausalLM.from_pretrained(ternary("llama"))
    for cast in (model.half, model.float):
        with pytest.raises(ValueError, match="not supported for quantized model"):
            cast()
    assert run(model.to(torch.bfloat16)).dtype == torch.bfloat16


def test_8_a_missing_codes_tensor_raises(ternary: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=NAME):
        AutoModelForCausalLM.from_pretrained(tamper(ternary("llama"), tmp_path / "t", lambda t: t.pop(NAME)))
    folder = copy_with(ternary("llama"), tmp_path / "u", lambda tensors: tensors.pop(NAME))
    with pytest.raises(LoadError, match=f"missing: '{NAME}'"):
        AutoModelForCausalLM.from_pretrained(folder)


def test_10_dequantize_leaves_no_trace(ternary: Callable[..., Path], tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(ternary("llama")).dequantize()
    assert not hasattr(model, "hf_quantizer")
    assert not model.is_quantized
    assert not hasattr(model.config, "quantization_config")
    assert not hasattr(model, "quantization_method")
    model.half().float().save_pretrained(tmp_path)
    assert "quantization_config" not in json.loads((tmp_path / "config.json").read_text())


def test_11_metadata_in_any_order(ternary: Callable[..., Path], tmp_path: Path) -> None:
    """safetensors writes two metadata keys in random order: files are valid, and canonical after canonicalize."""
    model = AutoModelForCausalLM.from_pretrained(ternary("llama"))
    headers = set()
    for i in range(12):
        model.save_pretrained(tmp_path / str(i))
        assert ternfmt.validate(tmp_path / str(i)).ternary == 14
        headers.add((tmp_path / str(i) / "model.safetensors").read_bytes())
    assert len(headers) == 2


def test_12_the_callers_config_stays_as_it_is(dense: Callable[..., Path], ternary: Callable[..., Path]) -> None:
    config = TernaryConfig(modules_to_not_convert=["lm_head"])
    before = config.to_dict()
    model = AutoModelForCausalLM.from_pretrained(dense("llama"), quantization_config=config)
    assert model.config.quantization_config is not config
    model.config.quantization_config.modules_to_not_convert.append("mlp")
    assert config.to_dict() == before
    assert config.format_version is None


def test_13_a_tied_head_stays_dense(dense: Callable[..., Path], tmp_path: Path) -> None:
    source = dense("llama", tie_word_embeddings=True)
    model = AutoModelForCausalLM.from_pretrained(source, quantization_config=TernaryConfig())
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert sum(isinstance(module, TernaryLinear) for module in model.modules()) == 14
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    assert torch.equal(run(loaded), run(model))


def test_13_a_ternary_head_cannot_be_tied(dense: Callable[..., Path], tmp_path: Path) -> None:
    from ternfmt.encode.convert import convert
    from ternfmt.encode.plan import plan_conversion

    convert(plan_conversion(dense("llama"), Settings(include=("*proj.weight", "lm_head.weight"))), tmp_path / "t")
    assert isinstance(AutoModelForCausalLM.from_pretrained(tmp_path / "t").lm_head, TernaryLinear)
    tied = copy_with(tmp_path / "t", tmp_path / "u", config={"tie_word_embeddings": True})
    with pytest.raises(LoadError, match=r"'lm_head\.weight'.*ties 'lm_head'.*set tie_word_embeddings to false"):
        AutoModelForCausalLM.from_pretrained(tied)
