"""Adapters on packed layers: PEFT, Trainer, and transformers' own adapter methods."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

import ternfmt
from tests.runtime.transformers.conftest import VOCABULARY, check_layers, run

peft = pytest.importorskip("peft")
pytest.importorskip("accelerate")

# transformers' own Trainer calls its own deprecated property.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning:transformers")


def lora() -> Any:
    return peft.LoraConfig(r=4, lora_alpha=32, target_modules=["q_proj", "v_proj", "down_proj"])


def train(model: nn.Module, folder: Path) -> Trainer:
    tokens = torch.arange(8) % VOCABULARY
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=3,
        per_device_train_batch_size=2,
        learning_rate=0.02,
        report_to=[],
        save_steps=3,
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=[{"input_ids": tokens, "labels": tokens}] * 6)
    trainer.train()
    return trainer


def test_trainer_with_peft(ternary: Callable[..., Path], tmp_path: Path) -> None:
    folder = ternary("llama")
    base = AutoModelForCausalLM.from_pretrained(folder)
    before = run(base)
    model = peft.get_peft_model(base, lora())
    assert torch.equal(run(model), before)
    train(model, tmp_path / "run")
    model.eval()
    after = run(model)
    assert not torch.allclose(after, before)
    trained = {name: p for name, p in model.named_parameters() if "lora_B" in name}
    assert len(trained) == 6
    assert all(p.abs().sum() > 0 for p in trained.values())
    with model.disable_adapter():
        assert torch.equal(run(model), before)  # codes, scales and dense layers are as they were

    (checkpoint,) = (tmp_path / "run").glob("checkpoint-*")
    fresh = AutoModelForCausalLM.from_pretrained(folder)
    assert torch.equal(run(peft.PeftModel.from_pretrained(fresh, checkpoint)), after)
    unloaded = model.unload()
    check_layers(unloaded, folder)
    unloaded.save_pretrained(tmp_path / "unloaded")
    assert torch.equal(run(AutoModelForCausalLM.from_pretrained(tmp_path / "unloaded")), before)


def test_gradients_are_those_of_the_dequantised_twin(ternary: Callable[..., Path]) -> None:
    gradients = []
    for dequantize in (False, True):
        base = AutoModelForCausalLM.from_pretrained(ternary("llama"))
        if dequantize:
            base.dequantize()
        torch.manual_seed(1)
        model = peft.get_peft_model(base, lora())
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(parameter, std=0.02)
        tokens = torch.arange(14).view(2, 7)
        model(tokens, labels=tokens).loss.backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.requires_grad})
    assert len(gradients[0]) == 12
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-3, atol=1e-6)


def test_transformers_adapter_methods(ternary: Callable[..., Path], tmp_path: Path) -> None:
    folder = ternary("llama")
    model = AutoModelForCausalLM.from_pretrained(folder)
    before = run(model)
    model.add_adapter(lora())
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.2)
    adapted = run(model)
    assert not torch.allclose(adapted, before)
    model.save_pretrained(tmp_path)
    assert not list(tmp_path.glob("model*.safetensors"))
    fresh = AutoModelForCausalLM.from_pretrained(folder)
    fresh.load_adapter(str(tmp_path))
    assert torch.equal(run(fresh), adapted)
    fresh.disable_adapters()
    assert torch.equal(run(fresh), before)


def test_a_merged_adapter_is_saved_with_the_model(ternary: Callable[..., Path], tmp_path: Path) -> None:
    """As the low-rank term of its layers: codes cannot take it up."""
    base = AutoModelForCausalLM.from_pretrained(ternary("llama"))
    model = peft.get_peft_model(base, lora())
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.2)
    adapted = run(model)
    merged = model.merge_and_unload()
    assert merged.model.layers[0].mlp.down_proj.low_rank == 4
    torch.testing.assert_close(run(merged), adapted, rtol=1e-4, atol=1e-5)
    merged.save_pretrained(tmp_path)
    with ternfmt.open(tmp_path) as file:
        assert file.document.required == ("low-rank",)
    assert torch.equal(run(AutoModelForCausalLM.from_pretrained(tmp_path)), run(merged))


def test_trainer_without_adapters_raises(ternary: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="attach trainable adapters"):
        train(AutoModelForCausalLM.from_pretrained(ternary("llama")), tmp_path)
