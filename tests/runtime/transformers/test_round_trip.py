"""Folders that `ternfmt convert` wrote: load, save, load; the same tensors and outputs every time."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
)

import ternfmt
from ternfmt.canonicalize import canonicalize
from ternfmt.encode.settings import Settings
from ternfmt_runtime import TernaryLinear, load_into
from tests.runtime.transformers.conftest import MODELS, check_layers, run, same_bytes

CASES = {
    "llama": (AutoModelForCausalLM, "llama", Settings(), 14, {}),
    "llama-tied": (AutoModelForCausalLM, "llama", Settings(), 14, {"tie_word_embeddings": True}),
    "llama-planes": (AutoModelForCausalLM, "llama", Settings("planes", 3, group_size=16), 14, {}),
    "llama-f32": (AutoModelForCausalLM, "llama", Settings(scale_dtype="F32"), 14, {}),
    "llama-bf16": (AutoModelForCausalLM, "llama", Settings(), 14, {"dtype": torch.bfloat16}),
    "bert": (AutoModel, "bert", Settings(), 12, {}),
    "t5": (AutoModelForSeq2SeqLM, "t5", Settings(), 36, {}),
    "t5-f16": (AutoModelForSeq2SeqLM, "t5", Settings(), 36, {"dtype": torch.float16}),
}


@pytest.mark.parametrize("case", CASES)
def test_convert_load_save_load(case: str, ternary: Callable[..., Path], tmp_path: Path) -> None:
    auto, kind, settings, count, changes = CASES[case]
    folder = ternary(kind, settings, **changes)
    model = auto.from_pretrained(folder)
    assert len(check_layers(model, folder)) == count
    assert model.dtype == changes.get("dtype", torch.float32)
    output = run(model)
    assert output.isfinite().all()

    model.save_pretrained(tmp_path / "one")
    assert ternfmt.validate(tmp_path / "one").ternary == count
    canonicalize(tmp_path / "one", tmp_path / "canonical")
    assert same_bytes(tmp_path / "canonical", folder)
    configs = [json.loads((f / "config.json").read_text()) for f in (folder, tmp_path / "one")]
    assert configs[0]["quantization_config"] == configs[1]["quantization_config"]

    model.save_pretrained(tmp_path / "shards", max_shard_size="10KB")
    assert ternfmt.validate(tmp_path / "shards").files > 1
    again = auto.from_pretrained(tmp_path / "shards")
    check_layers(again, folder)
    assert torch.equal(run(again), output)


@pytest.mark.parametrize("kind", ["llama", "bert", "t5"])
def test_output_is_that_of_the_dequantised_twin(kind: str, ternary: Callable[..., Path]) -> None:
    auto, _, settings, _, _ = CASES[kind]
    model = auto.from_pretrained(ternary(kind, settings))
    output = run(model)
    model.dequantize()
    assert not any(isinstance(module, TernaryLinear) for module in model.modules())
    torch.testing.assert_close(run(model), output, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_output_is_that_of_load_into(kind: str, ternary: Callable[..., Path]) -> None:
    model = MODELS[kind]().eval()
    load_into(model, ternary(kind))
    assert torch.equal(run(model), run(CASES[kind][0].from_pretrained(ternary(kind))))


def test_low_rank_terms_are_read_from_the_file(
    make_tensor: Callable[..., ternfmt.TernaryTensor], ternary: Callable[..., Path], tmp_path: Path
) -> None:
    source = ternary("llama")
    model = AutoModelForCausalLM.from_pretrained(source)
    name = "model.layers.1.mlp.down_proj.weight"
    with ternfmt.open(source) as file:
        tensors = {key: file[key] for key in file}
        tensors[name] = make_tensor(0, 32, 72, planes=2, group_size=16, rank=3)
        ternfmt.save(tmp_path / "model.safetensors", tensors)
    (tmp_path / "config.json").write_bytes((source / "config.json").read_bytes())
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    check_layers(loaded, tmp_path)
    layer = loaded.get_submodule(name.removesuffix(".weight"))
    assert (layer.planes, layer.group_size, layer.low_rank) == (2, 16, 3)
    assert layer.weight_lowrank_up.dtype == torch.bfloat16
    assert not torch.equal(run(loaded), run(model))
    loaded.save_pretrained(tmp_path / "saved")
    canonicalize(tmp_path / "saved", tmp_path / "canonical")
    assert (tmp_path / "canonical" / "model.safetensors").read_bytes() == (tmp_path / "model.safetensors").read_bytes()


def test_sharded_conversion(dense: Callable[..., Path], ternary: Callable[..., Path], tmp_path: Path) -> None:
    from ternfmt.encode.convert import convert
    from ternfmt.encode.plan import plan_conversion

    AutoModelForCausalLM.from_pretrained(dense("llama")).save_pretrained(tmp_path / "dense", max_shard_size="30KB")
    convert(plan_conversion(tmp_path / "dense", Settings(shard_bytes=30_000)), tmp_path / "ternary")
    assert ternfmt.validate(tmp_path / "ternary").files > 1
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "ternary")
    assert torch.equal(run(model), run(AutoModelForCausalLM.from_pretrained(ternary("llama"))))


def test_what_the_file_says_beside_the_tensors_survives(ternary: Callable[..., Path], tmp_path: Path) -> None:
    folder = ternary("llama")
    with ternfmt.open(folder) as file:
        source = {"model": "example/tiny", "licence": "apache-2.0"}
        tensors = {key: file[key] for key in file}
        ternfmt.save(tmp_path / "model.safetensors", tensors, ancillary={"source": source}, metadata={"note": "kept"})
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    AutoModelForCausalLM.from_pretrained(tmp_path).save_pretrained(tmp_path / "saved")
    with ternfmt.open(tmp_path / "saved") as file:
        assert file.document.ancillary["source"] == source
        assert file.document.ancillary["producer"]["name"] == "ternfmt"
        assert file.stored.headers[0].metadata["note"] == "kept"


def test_generate(ternary: Callable[..., Path]) -> None:
    model = AutoModelForCausalLM.from_pretrained(ternary("llama"))
    tokens = torch.tensor([[5, 6, 7]])
    generated = model.generate(tokens, max_new_tokens=6, do_sample=False, pad_token_id=0, eos_token_id=None)
    expected = tokens
    for _ in range(6):
        with torch.no_grad():
            expected = torch.cat([expected, model(expected).logits[:, -1:].argmax(-1)], 1)
    assert torch.equal(generated, expected)


def test_models_without_or_with_another_head(ternary: Callable[..., Path], tmp_path: Path) -> None:
    """transformers strips the base model's prefix from names; saving goes by the new ones."""
    folder = ternary("llama")
    base = AutoModel.from_pretrained(folder)
    assert type(base).__name__ == "LlamaModel"
    whole = AutoModelForCausalLM.from_pretrained(folder)
    assert torch.equal(run(base), run(whole.model))
    base.save_pretrained(tmp_path / "base")
    assert ternfmt.validate(tmp_path / "base").ternary == 14
    assert torch.equal(run(AutoModel.from_pretrained(tmp_path / "base")), run(base))
    classifier = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=3, pad_token_id=0)
    assert run(classifier).shape == (2, 3)
    assert sum(isinstance(m, TernaryLinear) for m in classifier.modules()) == 14


def test_key_mapping(ternary: Callable[..., Path], tmp_path: Path) -> None:
    """Names that the caller maps; saved under the file's names again."""
    folder = ternary("bert")
    with ternfmt.open(folder) as file:
        tensors = {key.replace("encoder.", "tower."): file[key] for key in file}
        ternfmt.save(tmp_path / "model.safetensors", tensors)
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    model = AutoModel.from_pretrained(tmp_path, key_mapping={"^tower": "encoder"})
    assert torch.equal(run(model), run(AutoModel.from_pretrained(folder)))
    model.save_pretrained(tmp_path / "saved")
    with ternfmt.open(tmp_path / "saved") as file:
        assert set(file) == set(tensors)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies(duplicate: Callable[[nn.Module], nn.Module], ternary: Callable[..., Path], tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(ternary("llama"))
    twin = duplicate(model)
    assert torch.equal(run(model), run(twin))
    twin.save_pretrained(tmp_path)
    assert ternfmt.validate(tmp_path).ternary == 14


def test_compiles_without_graph_breaks(ternary: Callable[..., Path]) -> None:
    model = AutoModelForCausalLM.from_pretrained(ternary("llama", num_hidden_layers=1))
    assert model.hf_quantizer.is_compileable
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(run(compiled), run(model))


def test_t5_feed_forward_compiles_without_graph_breaks(ternary: Callable[..., Path]) -> None:
    layer = AutoModelForSeq2SeqLM.from_pretrained(ternary("t5", Settings())).encoder.block[0].layer[1]
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    x = torch.randn(2, 3, 32)
    torch.testing.assert_close(compiled(x), layer(x))
