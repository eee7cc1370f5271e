"""Tiny models of three kinds, calls for them, and folders to convert."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ternfmt.encode.data.model import LoadedModel, make_loaded

VOCABULARY = 96

MISSING = [name for name in ("diffusers", "transformers", "tokenizers") if importlib.util.find_spec(name) is None]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave these tests out where a library is missing."""
    for item in items:
        if MISSING and Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.skip(reason=f"needs {', '.join(MISSING)}"))


def make_flux() -> nn.Module:
    from diffusers import FluxTransformer2DModel

    return FluxTransformer2DModel(
        in_channels=8,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=12,
        pooled_projection_dim=10,
        axes_dims_rope=(2, 2, 4),
    )


def make_bert() -> nn.Module:
    from transformers import BertConfig, BertModel

    return BertModel(BertConfig(**_sizes(), max_position_embeddings=64))


def make_llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig(**_sizes(), num_key_value_heads=1, max_position_embeddings=64))


def _sizes() -> dict[str, int]:
    return {
        "vocab_size": VOCABULARY,
        "hidden_size": 16,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "intermediate_size": 24,
    }


def flux_call(seed: int, rows: int = 2) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    return {
        "hidden_states": draw(rows, 4, 8),
        "encoder_hidden_states": draw(rows, 3, 12),
        "pooled_projections": draw(rows, 10),
        "timestep": draw(rows).sigmoid(),
        "img_ids": torch.arange(12.0).reshape(4, 3),
        "txt_ids": torch.zeros(3, 3),
    }


def token_call(seed: int, rows: int = 2) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    return {"input_ids": torch.randint(0, VOCABULARY, (rows, 5 + seed), generator=generator)}


KINDS: dict[str, tuple[Callable[[], nn.Module], Callable[..., dict[str, Any]], str]] = {
    "flux": (make_flux, flux_call, "transformer_blocks"),
    "bert": (make_bert, token_call, "encoder.layer"),
    "llama": (make_llama, token_call, "layers"),
}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def load() -> Callable[..., LoadedModel]:
    """A tiny model of a kind, its linears in blocks (or all) ternary."""

    def make(kind: str, *, everything: bool = False) -> LoadedModel:
        torch.manual_seed(0)
        build, _, blocks = KINDS[kind]
        model = build()
        linears = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
        return make_loaded(model, [f"{name}.weight" for name in linears if everything or blocks in name])

    return make


@pytest.fixture
def calls_of() -> Callable[..., list[dict[str, Any]]]:
    """Some calls of a kind of model."""
    return lambda kind, count=3: [KINDS[kind][1](seed) for seed in range(count)]


def save_tokenizer(folder: Path) -> None:
    """A tokenizer of words, with [CLS] and [SEP] around a sentence."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "a", "of", "and", "is", "in", "to", "was", "not", "what", "how"]
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, "[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]"
    ).save_pretrained(folder)


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A folder with a tiny model as save_pretrained writes it, tokenizer included; not to be changed by tests."""
    made: dict[str, Path] = {}

    def make(kind: str) -> Path:
        if kind not in made:
            torch.manual_seed(0)
            made[kind] = tmp_path_factory.mktemp(kind)
            KINDS[kind][0]().save_pretrained(made[kind])
            if kind != "flux":
                save_tokenizer(made[kind])
        return made[kind]

    return make


@pytest.fixture(scope="session")
def pipeline_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny pipeline of the sample model's kind, untrained; not to be changed by tests."""
    from sample_flux.model import make_models, save_pipeline

    tiny = {"num_layers": 1, "num_single_layers": 1}
    torch.manual_seed(0)
    transformer, text_encoder = make_models(**tiny)
    models = nn.ModuleDict({"transformer": transformer, "text_encoder": text_encoder})
    folder = tmp_path_factory.mktemp("pipeline") / "tiny"
    save_pipeline(models.state_dict(), folder, **tiny)
    return folder


@pytest.fixture(scope="session", autouse=True)
def modules_cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Where diffusers copies the code of pipeline folders."""
    if MISSING:
        yield
        return
    from diffusers.utils import dynamic_modules_utils

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dynamic_modules_utils, "HF_MODULES_CACHE", str(tmp_path_factory.mktemp("modules")))
        yield
