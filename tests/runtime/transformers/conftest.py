"""Tiny models, converted folders and comparisons for the transformers plug-in's tests."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import ternfmt
from ternfmt.encode.convert import convert
from ternfmt.encode.plan import plan_conversion
from ternfmt.encode.settings import Settings

collect_ignore_glob = [] if importlib.util.find_spec("transformers") else ["test_*.py"]

VOCABULARY = 96


def _llama(**changes: Any) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = {
        "hidden_size": 32,
        "intermediate_size": 72,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 64,
    }
    return LlamaForCausalLM(LlamaConfig(**{**config, **changes}))


def _bert(**changes: Any) -> nn.Module:
    """The shape of all-MiniLM: BERT without a head."""
    from transformers import BertConfig, BertModel

    config = {
        "hidden_size": 36,
        "intermediate_size": 72,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": 64,
    }
    return BertModel(BertConfig(**{**config, **changes}))


def _t5(**changes: Any) -> nn.Module:
    from transformers import T5Config, T5ForConditionalGeneration

    config = {
        "d_model": 32,
        "d_kv": 8,
        "d_ff": 64,
        "num_layers": 2,
        "num_heads": 4,
        "vocab_size": VOCABULARY,
        "feed_forward_proj": "gated-gelu",
        "decoder_start_token_id": 0,
    }
    return T5ForConditionalGeneration(T5Config(**{**config, **changes}))


def _gpt2(**changes: Any) -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": VOCABULARY, "n_positions": 64}
    return GPT2LMHeadModel(GPT2Config(**{**config, **changes}))


MODELS: dict[str, Callable[..., nn.Module]] = {"llama": _llama, "bert": _bert, "t5": _t5, "gpt2": _gpt2}


def run(model: nn.Module) -> Tensor:
    """The model's logits, or hidden states where it has no head."""
    tokens = torch.arange(14).view(2, 7) % (VOCABULARY - 2) + 1
    arguments = {"input_ids": tokens}
    if model.config.is_encoder_decoder:
        arguments["decoder_input_ids"] = tokens[:, :5]
    with torch.no_grad():
        return model(**arguments)[0]


def same_bytes(one: Path, other: Path) -> bool:
    """Whether two folders hold the same safetensors files."""
    files = [{p.name: p.read_bytes() for p in folder.glob("*.safetensors")} for folder in (one, other)]
    return files[0] == files[1]


def check_layers(model: nn.Module, folder: Path, prefix: str = "") -> list[str]:
    """Every ternary tensor of the folder is in the model, part by part; returns their names."""
    state, names = model.state_dict(), []
    with ternfmt.open(folder) as file:
        for name, info in file.tensors.items():
            if info.ternary:
                names.append(name)
                layer = model.get_submodule(f"{prefix}{name}".removesuffix(".weight"))
                assert type(layer).__name__.endswith("TernaryLinear")
        for name, span in file.stored.spans.items():
            value = state[f"{prefix}{name}"]
            assert span.shape == tuple(value.shape)
            if any(name.startswith(ternary) for ternary in names):
                stored = file.stored[name]
                assert np.array_equal(value.contiguous().view(torch.uint8).numpy(), stored.view(np.uint8))
    return names


@pytest.fixture(scope="session")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A folder with a dense model of a kind and changes to its configuration, as save_pretrained writes it."""
    made: dict[str, Path] = {}

    def make(kind: str, dtype: torch.dtype = torch.float32, **changes: Any) -> Path:
        key = repr((kind, dtype, changes))
        if key not in made:
            torch.manual_seed(0)
            made[key] = tmp_path_factory.mktemp(kind)
            MODELS[kind](**changes).to(dtype).save_pretrained(made[key])
        return made[key]

    return make


@pytest.fixture(scope="session")
def ternary(dense: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A folder that `ternfmt convert` made of a dense one; not to be changed by tests."""
    made: dict[str, Path] = {}

    def make(kind: str, settings: Settings | None = None, **changes: Any) -> Path:
        key = repr((kind, settings, changes))
        if key not in made:
            made[key] = tmp_path_factory.mktemp("ternary") / kind
            convert(plan_conversion(dense(kind, **changes), settings or Settings()), made[key])
        return made[key]

    return make


@pytest.fixture(autouse=True)
def quiet() -> None:
    """No progress bars."""
    from transformers.utils import logging

    logging.disable_progress_bar()
